"""The protocol of the IDGI study, with any of the defects of the released code, and what a defect alone changes.

A mode of computing is a set of defects: "corrected" has none of them, "released" has all, and a defect's name is the
mode that has this one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from lib.attribution import (
    IDGI,
    Attribution,
    Blur,
    Guided,
    Node,
    Path,
    Riemann,
    Rule,
    SquaredGradient,
    Straight,
    attribute,
)
from lib.experiments.subjects import Key
from lib.models.zoo import Network, best_device

EARLY, NORMALISED, HALF = "early end", "normalised gradients", "half precision"
RAW, COARSE, JOINT = "raw MS-SSIM", "100 points", "joint exclusion"
PNG, JPEG = "PNG", "JPEG of the blur"
OF_MAPS = {
    EARLY: "grids of fewer steps stop before the image (ig.py:82)",
    "one-sided sums": "IG and Blur IG take the gradient of one end of each step (ig.py:89)",
    NORMALISED: "gradients are with respect to normalised images (gig.py:64)",
    "last step": "IDGI lacks the last step of Guided IG (gig.py:63)",
    "tangents": "Blur IG takes tangents for steps, the first of which is 0, and IDGI loses a step to it (blurig.py:68)",
    "sharp end": "IDGI takes the gradient of the sharper end of each step of Blur IG (blurig.py:97)",
    HALF: "maps are stored in half precision (script.py:68)",
}
OF_SCORES = {
    RAW: "MS-SSIM is not rescaled (metrics.py:215)",
    COARSE: "information curves have 100 points (metrics.py)",
    JOINT: "an image without AIC loses its SIC (script_pic.py:51)",
}
KEPT = {  # both modes have them, so that one without them shows what they do
    PNG: "entropy is the size of a PNG file, not of a lossless WebP file (metrics.py:69)",
    JPEG: "the blurred image goes through a JPEG file (blur.py:16)",
}
DEFECTS = OF_MAPS | OF_SCORES | KEPT
TOGETHER = "all together"  # what a table calls the released mode, beside single defects
RULES = ("riemann", "idgi")
SCORES = ("insertion", "aic", "sic")


def defects_of(mode: str) -> frozenset[str]:
    """The defects of a mode, without those that every mode has."""
    return {"corrected": frozenset(), "released": frozenset(OF_MAPS | OF_SCORES)}.get(mode, frozenset({mode}))


@dataclass(frozen=True)
class ButLast(Rule):
    """A rule without the step that ends at the image."""

    rule: IDGI
    needs: ClassVar[str] = "trapezoid"

    def __call__(self, node: Node, following: Node | None) -> dict[str, Tensor]:
        arrives = following is not None and following.share == 0
        return self.rule(node, None if arrives else following)


class Walk(NamedTuple):
    """A path under its name in the tables, and what is read off it: {(rule, mode): rule}."""

    name: str
    path: Path
    rules: dict[tuple[str, str], Rule]


def idgi_walks(network: Network, steps: int, modes: Sequence[str]) -> list[Walk]:
    """The walks of the three base methods, with and without IDGI, in some modes; modes whose paths agree share one.

    Of a single defect, only the maps that it changes; gradients with respect to normalised images change none where all
    channels are divided by one number.
    """
    std = torch.tensor(network.std, device=best_device()).view(-1, 1, 1)
    right = {name: (path, rules) for name, path, rules in _protocol(steps, frozenset(), std)}
    found: list[Walk] = []
    if len(set(network.std)) == 1:
        modes = [mode for mode in modes if mode != NORMALISED]
    for mode in modes:
        for name, path, rules in _protocol(steps, defects_of(mode), std):
            if mode in DEFECTS and mode != HALF:
                same_path, same = right[name][0] == path, right[name][1]
                rules = {rule: each for rule, each in rules.items() if not same_path or each != same[rule]}
            if mode == "corrected":
                rules["squared_gradient"] = SquaredGradient()
            if not rules:
                continue
            walk = next((walk for walk in found if walk.name == name and walk.path == path), None)
            if walk is None:
                found.append(walk := Walk(name, path, {}))
            walk.rules.update({(rule, mode): each for rule, each in rules.items()})
    return found


def _protocol(steps: int, defects: frozenset[str], std: Tensor) -> Iterator[tuple[str, Path, dict[str, Rule]]]:
    """(name, path, rules) of IG, Blur IG and Guided IG."""
    scale = std if NORMALISED in defects else None
    one_sided, tangents = "one-sided sums" in defects, "tangents" in defects
    ig = Riemann("right" if one_sided else "trapezoid")
    yield "straight", Straight(steps, released=EARLY in defects), {"riemann": ig, "idgi": IDGI(scale=scale)}
    # The released code walks from the sharp end to the blurred one, so that its left end is our right one. Its tangents
    # belong to one node each.
    blurred = IDGI("right" if "sharp end" in defects else "left", scale=scale)
    yield "blur", Blur(steps, released=tangents), {"riemann": Riemann("left") if tangents else ig, "idgi": blurred}
    # The path chooses each step by the gradient at its beginning, so that is the gradient that counts. A scale is of
    # all its gradients; fraction and max_dist are the study's choice (gig.py:50).
    idgi = ButLast(IDGI()) if "last step" in defects else IDGI()
    yield "guided", Guided(steps, fraction=0.5, max_dist=1.0, scale=scale), {"riemann": Riemann("left"), "idgi": idgi}


def walked(
    network: Network, x: Tensor, target: Tensor, walk: Walk, *, steps: int, sweep: Sequence[int] = ()
) -> tuple[Attribution, dict[Key, object]]:
    """The maps of a walk, equal rules computed once, and where each is: {(path, rule, steps, mode): its key in them}.

    sweep: smaller numbers of steps, for paths that have sub-grids.
    """
    labels = {
        key: next(" ".join(first) for first, other in walk.rules.items() if other == rule)
        for key, rule in walk.rules.items()
    }
    rules = {labels[key]: rule for key, rule in walk.rules.items()}
    grids = [*sweep, steps] if walk.path.nested else None
    found = attribute(network.model, x, target, path=walk.path, rules=rules, steps=grids)
    keys = {
        (walk.name, rule, n, mode): (label, n) if grids else label
        for (rule, mode), label in labels.items()
        for n in grids or [steps]
    }
    return found, keys


def pixel_maps(found: Attribution, keys: dict[Key, object]) -> dict[Key, Tensor]:
    """The signed sums over channels (B, H, W) of a walk's maps, and the sum of absolute values of the base method's.

    In half precision maps have the ties and zeros that storing them so makes.
    """
    maps = {}
    for (path, rule, steps, mode), at in keys.items():
        each = found[at].sum(1)
        maps[path, rule, steps, mode] = each.half().float() if HALF in defects_of(mode) else each
        if rule == "riemann" and mode == "corrected":
            maps[path, "riemann_abs", steps, mode] = found[at].abs().sum(1)
    return maps


def moved(rows: pd.DataFrame) -> pd.DataFrame:
    """Scores, with how far each defect moves them in place of the scores that have this defect alone.

    Such a row has the defect's name as `rule`, the mode "corrected" and a metric "<name>_moved": how far IDGI's gain
    over its base method moves, with the defect minus without it. "<name>_moved_riemann" and "<name>_moved_idgi" are the
    parts of the two, 0 for one whose map the defect leaves as it is. All defects of the released mode together have the
    name TOGETHER. The gains themselves are added as "<name>_gain" of the rule "idgi".
    """
    keys, alone = ["image", "label", "path", "steps", "metric"], rows["mode"].isin([*DEFECTS])
    scored = rows[rows["rule"].isin(RULES) & rows["metric"].str.startswith(SCORES)]
    right = scored[scored["mode"] == "corrected"].pivot(index=keys, columns="rule", values="value")
    gains = (right["idgi"] - right["riemann"]).rename("value").reset_index()
    parts = [gains.assign(rule="idgi", metric=gains["metric"] + "_gain")]
    for (mode, _), found in scored[scored["mode"] != "corrected"].groupby(["mode", "path"], sort=False):
        wide = found.pivot(index=keys, columns="rule", values="value")
        change = wide - right.reindex(index=wide.index, columns=wide.columns)
        change = change.reindex(columns=RULES, fill_value=0.0) * (-1 if mode in KEPT else 1)
        both = {"": change["idgi"] - change["riemann"], "_riemann": change["riemann"], "_idgi": change["idgi"]}
        for what, values in both.items():
            part = values.rename("value").reset_index()
            name = TOGETHER if mode == "released" else mode
            parts.append(part.assign(rule=name, metric=part["metric"] + "_moved" + what))
    return pd.concat([rows[~alone], pd.concat(parts).assign(mode="corrected", curve=None)], ignore_index=True)
