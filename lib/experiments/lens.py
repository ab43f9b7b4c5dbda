"""The LENS study: maps of six methods before and after random noise, and how alike they are beside chance."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from lib import InputError
from lib.attacks import random_sign
from lib.attribution import Lines, Riemann, attribute, gradients
from lib.attribution.propagation import deeplift, lrp
from lib.attribution.references import Single
from lib.data.digits import digits
from lib.data.imagenet import photographs
from lib.experiments import subjects
from lib.experiments.lens_attacks import small_group
from lib.experiments.subjects import DIGITS, Subject
from lib.metrics.chance import adjusted, with_chance
from lib.metrics.selection import dilate, diverse_top_k, pixel_map
from lib.models.canonize import modular
from lib.models.zoo import Network, robust_resnet50
from lib.store.digest import digest
from lib.training.robust import trained_network

METHODS = ("gradient", "input_x_gradient", "integrated_gradients", "gradient_shap", "deeplift", "lrp")
ROBUST = {"mnist_cnn_pgd": DIGITS, "resnet50_pgd": "resnet50"}  # PGD-trained: the natural one it is compared with
CANDIDATES = {1: 6000, 2: 15000, 3: 25000}  # highest pixels that the released code looks at, for photographs
DIGIT_CANDIDATES = 600


def lens_units(
    name: str, *, images: str, limit: int, digits_limit: int, group: int, pool: int, weights: str, cache: Path
) -> dict[str, Callable[[], Subject]]:
    """`subjects.subject_units` in groups as `lens_attacks.small_group`, of PGD-trained networks too.

    These are `mnist_cnn_pgd` for digits and `resnet50_pgd` for photographs; the robust network sees the same pixels as
    the natural one. Raises InputError where an image would be alone in its unit, because chance levels need others.
    """
    natural = ROBUST.get(name, name)
    group = small_group(natural, group)
    chosen = {"images": images, "limit": limit, "digits_limit": digits_limit, "group": group, "pool": pool}
    found = subjects.subject_units(natural, weights=weights, cache=cache, fewest=2, **chosen)
    size = 8 * group if natural == DIGITS else group
    count = len(digits("test").take(slice(digits_limit or None)).ids) if natural == DIGITS else 0
    count = count or len(photographs(images, limit or None))
    if count % size == 1 or size == 1:
        raise InputError(
            f"{count} images in groups of {size} leave one alone, and chance levels need others; change group or limit."
        )
    if name == natural:
        return found
    return {f"{unit}-pgd": partial(_of_robust, load, name, weights, cache) for unit, load in found.items()}


def _of_robust(load: Callable[[], Subject], name: str, weights: str, cache: Path) -> Subject:
    return replace(load(), network=_robust(name, weights, cache, digest(weights)))


@lru_cache(maxsize=1)
def _robust(name: str, weights: str, cache: Path, content: str) -> Network:
    if name == "resnet50_pgd":
        return robust_resnet50(weights)
    return trained_network("pgd", cache=cache)


def refused(of: Subject, methods: Sequence[str] = METHODS) -> dict[str, str]:
    """{method: why it is not defined for this network}, of those asked for."""
    try:
        modular(of.model, of.x[:1])
    except InputError as error:
        return {method: str(error) for method in methods if method in ("deeplift", "lrp")}
    return {}


def maps(
    of: Subject, x: Tensor, *, methods: Sequence[str] = METHODS, steps: int, samples: int, seed: int = 0
) -> dict[str, Tensor]:
    """The pixel maps (B, H, W) of images x (B, C, H, W) for the labels of `of`: sums over channels of |a|.

    Each explains the logit, against black. integrated_gradients: `steps` midpoints. gradient_shap: `samples` points,
    each at a random place on the line from an image drawn from the pool (Lundberg & Lee, 2017; Captum's default is 5
    without noise); drawn for the image's id, so that an image and its noisy copy have the same ones.
    """
    asked = of.model, x, of.target
    gradient = gradients.input_gradient(*asked)

    def along(path):
        return attribute(*asked, path=path, rules={"map": Riemann("mean")}, objective="logit")["map"]

    made = {
        "gradient": lambda: gradient,
        "input_x_gradient": lambda: x * gradient,
        "integrated_gradients": lambda: along(Lines(Single("black"), steps)),
        "gradient_shap": lambda: along(Lines(of.drawn(samples, seed=seed), 1, "uniform", images=of.images, seed=seed)),
        "deeplift": lambda: deeplift(*asked),
        "lrp": lambda: lrp(*asked),
    }
    return {method: pixel_map(made[method]()) for method in methods}


def noise(
    load: Callable[[], Subject],
    *,
    epsilon: float,
    k: int,
    radii: Sequence[int],
    steps: int,
    samples: int,
    methods: Sequence[str] = METHODS,
    seed: int = 0,
) -> pd.DataFrame:
    """Every score of every method of one unit under one-shot random sign noise, its chance level beside it.

    Of images that the network classifies correctly; the others are NaN. Mode `released` has the scores that depend on
    the selection of diverse pixels again, by the released selection.
    """
    of = load()
    right = of.answers()[1]
    without = refused(of, methods)
    for method, why in without.items():
        print(f"{of.network.name}: no {method}. {why}", file=sys.stderr)
    asked = {"methods": [m for m in methods if m not in without], "steps": steps, "samples": samples, "seed": seed}
    noisy = random_sign(of.x, epsilon=epsilon, images=of.images, seed=seed)
    before, after = maps(of, of.x, **asked), maps(of, noisy, **asked)
    found = {method: lens_scored(before[method], after[method], k=k, radii=radii) for method in before}
    if {"lrp", "input_x_gradient"} <= set(found):
        found["lrp"]["corrected", "apart_from_input_x_gradient"] = _apart(found["lrp"], found["input_x_gradient"])
    with torch.no_grad():
        found["none"] = {("corrected", "flipped"): (of.model(noisy).argmax(1) != of.target).double()}
    return _rows(of, found, right.cpu()).assign(model=of.network.name, epsilon=epsilon, k=k)


def lens_scored(before: Tensor, after: Tensor, *, k: int, radii: Sequence[int]) -> dict[tuple[str, str], Tensor]:
    """{(mode, metric): (B,)} of two batches of maps (B, H, W).

    Beside those of `with_chance`: lens_gain_w, the mean of LENS recall and precision minus top-k intersection;
    least_lens_gain, the least of these differences; and in mode released what `released_diversity` gives.
    """
    found = with_chance(before, after, k=k, radii=radii)
    both = {w: torch.stack([found[f"lens_recall_{w}"], found[f"lens_precision_{w}"]]) for w in radii}
    found |= {f"lens_gain_{w}": each.mean(0) - found["top_k"] for w, each in both.items()}
    found["least_lens_gain"] = torch.cat(list(both.values())).amin(0) - found["top_k"]
    corrected = {("corrected", name): value for name, value in found.items()}
    released = {("released", name): value for name, value in released_diversity(before, after, k, found, radii).items()}
    return corrected | released


def released_diversity(
    before: Tensor, after: Tensor, k: int, exact: dict[str, Tensor], radii: Sequence[int]
) -> dict[str, Tensor]:
    """LENS recall of the released selection of diverse pixels, with its chance level; `moved`: minus the exact one.

    The scores without diversity stand beside them as they are.
    """
    found = {}
    for w in radii:
        cap = DIGIT_CANDIDATES if before[0].numel() == 784 else CANDIDATES.get(w)
        sets = [diverse_top_k(each, k, w, released=True, candidates=cap) for each in (before, after)]
        (own, own_picked), (other, other_picked) = sets
        shares = dilate(own, w).flatten(1).double() @ other.flatten(1).double().T / k  # of every pair of images
        feasible = (own_picked == k)[:, None] & (other_picked == k)
        shares = shares.where(feasible, torch.nan)
        name, score = f"lens_recall_div_{w}", shares.diagonal()
        level = shares.masked_fill(torch.eye(len(shares), dtype=torch.bool), torch.nan).nanmean(1)
        found |= {name: score, f"{name}_chance": level, f"{name}_adjusted": adjusted(score, level)}
        found[f"{name}_moved"] = score - exact[name]
        plain = f"lens_recall_{w}"
        found |= {each: exact[each] for each in (plain, f"{plain}_chance", f"{plain}_adjusted")}
    return found


def advantage(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows score(PGD-trained) - score(natural) of each image, method and score, as metric `<metric>_advantage`."""
    parts = []
    keys = ["image", "label", "method", "mode", "metric", "epsilon", "k", "data"]
    for robust, natural in ROBUST.items():
        sides = [scores[scores["model"] == name] for name in (robust, natural)]
        both = sides[0].merge(sides[1][[*keys, "value"]], on=keys, suffixes=("", "_natural"))
        value = both.pop("value") - both.pop("value_natural")
        parts.append(both.assign(metric=both["metric"] + "_advantage", value=value))
    return pd.concat(parts, ignore_index=True)


def _apart(one: dict, other: dict) -> Tensor:
    """The largest difference (B,) of any score that is 1 for identical maps."""
    names = [key for key in one if key[0] == "corrected" and ("corrected", f"{key[1]}_adjusted") in one]
    return torch.stack([(one[key] - other[key]).abs().nan_to_num(0) for key in names]).amax(0)


def _rows(of: Subject, found: dict[str, dict[tuple[str, str], Tensor]], right: Tensor) -> pd.DataFrame:
    ids, labels = zip(*of.items, strict=True)
    parts = [
        pd.DataFrame(
            {
                "image": ids,
                "label": labels,
                "group": of.images[0],  # whose images are each other's chance level
                "method": method,
                "mode": mode,
                "metric": metric,
                "value": value.cpu().where(right, torch.nan).numpy(),
            }
        )
        for method, named in found.items()
        for (mode, metric), value in named.items()
    ]
    training = "pgd" if of.network.name in ROBUST else "natural"
    kind = "digits" if of.network.family == "small-cnn" else "photographs"
    return pd.concat(parts, ignore_index=True).assign(data=kind, training=training)
