"""The IDGI study: what is computed for one network and a few photographs.

The protocol is that of Singhi & Kumari (TMLR 2024) over Yang et al. (CVPR 2023), in two modes: "released", with the
defects of the released code, and "corrected".
"""

from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib import InputError
from lib.attribution import IDGI, Attribution, Blur, Guided, Riemann, SquaredGradient, Straight, attribute
from lib.attribution.gradients import random_maps
from lib.data.imagenet import Photograph, load_image
from lib.experiments.subjects import Key, batch, network_named, score_rows
from lib.metrics.information import Revealed, blurred, information_curves
from lib.metrics.insertion import insertion
from lib.metrics.pic import aggregate_curves, pic
from lib.metrics.stability import jpeg, mse_l1, mse_signed, spearman, topk_overlap
from lib.models.zoo import Network, best_device

CONFIDENT = 0.8  # probability above which an image takes part in AIC and SIC (TMLR code proba_filterer.py:87)
ALL_METRICS = "AIC, SIC and insertion"
BATCH = 16  # photographs that a network is asked about at once
CURVE_POINTS = 100  # points of the stored information curves


def prediction_units(photos: list[Photograph], networks: list[str], size: int = 16 * BATCH) -> dict[str, tuple]:
    """Units of `predicted`, {name: (network, photographs)}; at multiples of BATCH their rows are equal to the bit."""
    groups = [photos[start : start + size] for start in range(0, len(photos), size)]
    return {f"{name}-{group[0].id}-{len(group)}": (name, group) for name in networks for group in groups}


def predicted(name: str, photos: list[Photograph], *, weights: str = "") -> pd.DataFrame:
    """One row per photograph: its class, the network's, the probability of its class, and whether it takes part.

    `used` is ALL_METRICS (correct, p > .8), "insertion" (correct) or "no" (misclassified).
    """
    network = network_named(name, weights)
    rows = []
    for start in range(0, len(photos), BATCH):
        group = photos[start : start + BATCH]
        x, target = batch(network, group)
        with torch.no_grad():
            probability = network.model(x).softmax(1)
        own = probability.gather(1, target[:, None])[:, 0]
        for photo, label, p in zip(group, probability.argmax(1).tolist(), own.tolist(), strict=True):
            used = ALL_METRICS if p > CONFIDENT else "insertion"
            rows.append((photo.id, photo.label, name, label, p, used if label == photo.label else "no"))
    return pd.DataFrame(rows, columns=["image", "label", "model", "predicted", "probability", "used"])


def idgi_walks(network: Network, steps: int, mode: str) -> Iterator[tuple[str, object, Mapping]]:
    """(name, path, rules) of the three base methods with and without IDGI, in one mode."""
    guided = {"fraction": 0.5, "max_dist": 1.0}  # the study's choice (gig.py:50)
    if mode == "corrected":
        rules = {"riemann": Riemann("trapezoid"), "idgi": IDGI(), "squared_gradient": SquaredGradient()}
        yield "straight", Straight(steps), rules
        yield "blur", Blur(steps), rules
        # The path chooses each step by the gradient at its beginning, so that is the gradient that counts.
        yield "guided", Guided(steps, **guided), rules | {"riemann": Riemann("left")}
        return
    std = torch.tensor(network.std, device=best_device()).view(-1, 1, 1)
    idgi = IDGI(scale=std)  # the released code takes gradients with respect to normalised images
    yield "straight", Straight(steps, released=True), {"riemann": Riemann("right"), "idgi": idgi}
    # It walks from the sharp end to the blurred one, so that its left end is our right one.
    blur_rules = {"riemann": Riemann("left"), "idgi": IDGI("right", scale=std)}
    yield "blur", Blur(steps, released=True), blur_rules
    path = Guided(steps, **guided, released=True, scale=std)
    yield "guided", path, {"riemann": Riemann("left"), "idgi": IDGI()}


def pixel_maps(result: Attribution, path: str, mode: str, steps: int) -> dict[Key, Tensor]:
    """The signed sums over channels (B, H, W) of a walk's maps, and the sum of absolute values of the base method's.

    Released maps are stored as float16, as script.py:68 does, with the ties and zeros this makes.
    """
    maps = {}
    for key in result.sums:
        rule, n = key if isinstance(key, tuple) else (key, steps)
        maps[path, rule, n, mode] = result[key].sum(1)
        if rule == "riemann" and mode == "corrected":
            maps[path, "riemann_abs", n, mode] = result[key].abs().sum(1)
    return {key: each.half().float() if mode == "released" else each for key, each in maps.items()}


def idgi_units(photos: list[Photograph], seen: pd.DataFrame, name: str, size: int) -> dict[str, tuple]:
    """The units of one network: {name: (network, photographs, which are confident)}, `size` photographs each.

    seen: rows of `predicted`; misclassified photographs are left out. Those without a row, which cannot be read, leave
    their places empty. Raises InputError when none is left.
    """
    used = seen[seen["model"] == name].set_index("image")["used"]
    kept = [photo for photo in photos if used.get(photo.id) != "no"]
    slots = [kept[start : start + size] for start in range(0, len(kept), size)]
    groups = [group for slot in slots if (group := [photo for photo in slot if photo.id in used])]
    if not groups:
        raise InputError(f"{name} recognises none of the {len(photos)} photographs; give others or another network")
    return {
        f"{name}-{group[0].id}-{len(group)}": (name, group, [used[photo.id] == ALL_METRICS for photo in group])
        for group in groups
    }


def idgi_benchmark(
    name: str,
    photos: list[Photograph],
    confident: list[bool],
    *,
    steps: int,
    sweep: list[int],
    modes: list[str],
    webp: list[str],
    weights: str = "",
    seed: int = 0,
) -> pd.DataFrame:
    """Every score of every map of a few correctly classified photographs by one network.

    confident: which photographs take part in AIC and SIC. `sweep`: step counts below `steps` at which the base method
    and IDGI are scored too, by insertion, on the paths with sub-grids. `webp`: paths whose base and IDGI maps are
    scored with lossless WebP entropy as well, PAIR's convention (a hundred times slower to encode than PNG).
    Returns one row per image, path, rule, steps, mode and metric, with the curve behind the value where there is one.
    """
    network = network_named(name, weights)
    x, target = batch(network, photos)
    maps: dict[Key, Tensor] = {}
    rows: list[dict] = []
    for mode in modes:
        for path_name, path, rules in idgi_walks(network, steps, mode):
            grids = [*sweep, steps] if path.nested else None
            result = attribute(network.model, x, target, path=path, rules=rules, steps=grids)
            kept = pixel_maps(result, path_name, mode, steps)
            maps |= {key: kept[key] for key in kept if key[2] == steps or key[1] in ("riemann", "idgi")}
            rows += sum_rows(result, path_name, mode, steps, photos)
    maps["none", "random", 0, "corrected"] = random_maps([photo.id for photo in photos], x.shape[2:], seed=seed).to(x)
    for key in maps:
        if key[1] == "idgi" and (control := (key[0], "squared_gradient", *key[2:])) in maps:
            rows += score_rows(photos, [key], "spearman_squared_gradient", spearman(maps[key], maps[control])[:, None])
    game = insertion(network.model, x, torch.stack(list(maps.values()), 1), target)
    rows += score_rows(photos, maps, "insertion", game.probability, game.probabilities)
    rows += score_rows(photos, maps, "insertion_ratio", game.ratio)
    final = {key: each for key, each in maps.items() if key[2] in (steps, 0)}
    rows += information_rows(network, photos, confident, x, target, final, ("png", "msssim"))
    final = {key: each for key, each in final.items() if key[0] in webp and key[1] in ("riemann", "idgi")}
    final = {key: each for key, each in final.items() if key[3] == "corrected"}
    rows += information_rows(network, photos, confident, x, target, final, ("webp",)) if final else []
    return pd.DataFrame(rows).assign(model=name)


def information_rows(
    network: Network,
    photos: list[Photograph],
    confident: list[bool],
    x: Tensor,
    target: Tensor,
    maps: Mapping[Key, Tensor],
    measures: tuple[str, ...],
) -> list[dict]:
    """AIC and SIC; NaN for photographs that are not confident and for those the exclusion rules leave out."""
    chosen = [index for index, kept in enumerate(confident) if kept]
    evidence = None
    if chosen:
        veiled = [network.tensor(blurred(load_image(photos[index]))) for index in chosen]
        ranking = torch.stack(list(maps.values()), 1)[chosen]
        evidence = information_curves(
            network.model, x[chosen], torch.stack(veiled).to(x), ranking, target[chosen], measures=measures
        )
    rows = []
    for mode in ("corrected", "released"):
        columns = [index for index, key in enumerate(maps) if key[3] == mode]
        keys = [list(maps)[index] for index in columns]
        for curve, measure in product(("aic", "sic"), measures):
            areas = torch.full((len(photos), len(keys)), torch.nan, dtype=torch.float64)
            curves = areas[..., None].expand(-1, -1, CURVE_POINTS + 1).clone()
            if chosen and columns:
                areas[chosen], curves[chosen] = _pic(evidence, curve, measure, mode, columns)
            rows += score_rows(photos, keys, f"{curve}_{measure}", areas, curves)
    return rows


def _pic(evidence: Revealed, curve: str, measure: str, mode: str, columns: list[int]) -> tuple[Tensor, Tensor]:
    released = {"joint": True, "raw_msssim": True, "points": CURVE_POINTS} if mode == "released" else {}
    scores = pic(evidence, curve, measure, **released)
    return scores.auc[:, columns], scores.curve[:, columns, :: (scores.curve.shape[-1] - 1) // CURVE_POINTS]


def sum_rows(result: Attribution, path: str, mode: str, steps: int, photos: list[Photograph]) -> list[dict]:
    """How far each map's sum is from f(x) - f(x'), and what IDGI could not assign, both in probability."""
    rows = []
    for key, sums in result.sums.items():
        rule, n = key if isinstance(key, tuple) else (key, steps)
        if rule != "squared_gradient":
            error = result.completeness_error(key).abs()
            rows += score_rows(photos, [(path, rule, n, mode)], "completeness", error[:, None])
        if "lost" in sums:
            rows += score_rows(photos, [(path, rule, n, mode)], "lost", sums["lost"].abs()[:, None])
    return rows


def stability(
    name: str,
    photos: list[Photograph],
    confident: list[bool],
    *,
    steps: int,
    quality: int,
    modes: list[str],
    weights: str = "",
) -> pd.DataFrame:
    """How far the maps of a few photographs move when the photographs are re-encoded as JPEG of `quality`.

    Measures: mse_signed (released), mse_l1, spearman, and the overlap of the 5 % highest pixels ("topk").
    The class explained is the photograph's own in both cases, as released; `confident` plays no part.
    """
    network = network_named(name, weights)
    x, target = batch(network, photos)
    lossy = torch.stack([network.tensor(jpeg(load_image(photo), quality=quality)) for photo in photos]).to(x)
    rows = []
    for mode in modes:
        for path_name, path, rules in idgi_walks(network, steps, mode):
            # Clean and re-encoded images in one walk: they are independent.
            both = attribute(network.model, torch.cat([x, lossy]), torch.cat([target, target]), path=path, rules=rules)
            for key, pair in pixel_maps(both, path_name, mode, steps).items():
                if key[1] != "riemann_abs":
                    a, b = pair.split(len(photos))
                    values = {
                        "mse_signed": mse_signed(a, b),
                        "mse_l1": mse_l1(a, b),
                        "spearman": spearman(a, b),
                        "topk": topk_overlap(a, b, k=a[0].numel() // 20),
                    }
                    for metric, value in values.items():
                        rows += score_rows(photos, [key], metric, value[:, None])
    return pd.DataFrame(rows).drop(columns="curve").assign(model=name)


def aggregated(curves: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Area under the aggregate curve, as the released code reports it: the median of SIC curves, the mean of AIC's."""
    curves = curves[curves["metric"].isin(metrics)]
    rows = []
    for (metric, path, rule), group in curves.groupby(["metric", "path", "rule"], sort=False):
        stack = torch.tensor(np.stack(list(group["curve"])), dtype=torch.float64)
        _, area = aggregate_curves(stack, "median" if metric.startswith("sic") else "mean")
        rows.append((metric, path, rule, float(area)))
    return pd.DataFrame(rows, columns=["metric", "path", "rule", "value"])
