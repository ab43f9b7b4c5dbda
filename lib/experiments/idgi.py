"""The IDGI study: what is computed for one network and a few photographs.

The protocol is that of Singhi & Kumari (TMLR 2024) over Yang et al. (CVPR 2023), in two modes: "released", with the
defects of the released code, and "corrected"; see `lib.experiments.defects`.
"""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from lib import InputError
from lib.attribution import Attribution
from lib.attribution.gradients import random_maps
from lib.data.imagenet import Photograph, load_image
from lib.experiments.defects import DEFECTS, EARLY, OF_MAPS, RULES, idgi_walks, moved, pixel_maps, walked
from lib.experiments.information_scores import information_rows
from lib.experiments.subjects import Key, batch, network_named, score_rows
from lib.metrics.insertion import insertion
from lib.metrics.stability import jpeg, mse_l1, mse_signed, spearman, topk_overlap

CONFIDENT = 0.8  # probability above which an image takes part in AIC and SIC (TMLR code proba_filterer.py:87)
ALL_METRICS = "AIC, SIC and insertion"
BATCH = 16  # photographs that a network is asked about at once


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
    alone: bool = False,
    weights: str = "",
    seed: int = 0,
) -> pd.DataFrame:
    """Every score of every map of a few correctly classified photographs by one network.

    confident: which photographs take part in AIC and SIC. `sweep`: step counts below `steps` at which the base method
    and IDGI are scored too, by insertion, on the paths with sub-grids. `webp`: paths whose base and IDGI maps are
    scored with lossless WebP entropy as well, PAIR's convention (a hundred times slower to encode than PNG).
    alone: with how far each defect of the released code moves the corrected scores, see `moved`: those of maps in
    insertion, the early end also at the fewest steps; those of AIC and SIC in these.
    Returns one row per image, path, rule, steps, mode and metric, with the curve behind the value where there is one.
    """
    network = network_named(name, weights)
    x, target = batch(network, photos)
    maps: dict[Key, Tensor] = {}
    rows: list[dict] = []
    for walk in idgi_walks(network, steps, [*modes, *(OF_MAPS if alone else ())]):
        result, keys = walked(network, x, target, walk, steps=steps, sweep=sweep)
        kept = pixel_maps(result, keys)
        maps |= {key: each for key, each in kept.items() if _scored(key, steps, sweep)}
        rows += sum_rows(result, keys, photos)
    maps["none", "random", 0, "corrected"] = random_maps([photo.id for photo in photos], x.shape[2:], seed=seed).to(x)
    for key in maps:
        if key[1] == "idgi" and (control := (key[0], "squared_gradient", *key[2:])) in maps:
            rows += score_rows(photos, [key], "spearman_squared_gradient", spearman(maps[key], maps[control])[:, None])
    game = insertion(network.model, x, torch.stack(list(maps.values()), 1), target)
    rows += score_rows(photos, maps, "insertion", game.probability, game.probabilities)
    rows += score_rows(photos, maps, "insertion_ratio", game.ratio)
    chosen = [index for index, kept in enumerate(confident) if kept]
    final = {key: each for key, each in maps.items() if key[2] in (steps, 0) and key[3] not in DEFECTS}
    rows += information_rows(network, photos, chosen, x, target, final, alone=alone, webp=webp)
    found = pd.DataFrame(rows)
    return (moved(found) if alone else found).assign(model=name)


def _scored(key: Key, steps: int, sweep: list[int]) -> bool:
    """Is a map scored? All are at the largest number of steps; of defects, the early end is at the fewest, too."""
    _, rule, n, mode = key
    if mode in DEFECTS:
        return n == steps or (mode == EARLY and n == min(sweep, default=steps))
    return n == steps or rule in RULES


def sum_rows(result: Attribution, keys: Mapping[Key, object], photos: list[Photograph]) -> list[dict]:
    """How far each map's sum is from f(x) - f(x'), and what IDGI could not assign, both in probability."""
    rows = []
    for key, at in keys.items():
        if key[1] in RULES and key[3] not in DEFECTS:
            rows += score_rows(photos, [key], "completeness", result.completeness_error(at).abs()[:, None])
            if "lost" in result.sums[at]:
                rows += score_rows(photos, [key], "lost", result.sums[at]["lost"].abs()[:, None])
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
    for walk in idgi_walks(network, steps, modes):
        # Clean and re-encoded images in one walk: they are independent.
        both, keys = walked(network, torch.cat([x, lossy]), torch.cat([target, target]), walk, steps=steps)
        for key, pair in pixel_maps(both, keys).items():
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
