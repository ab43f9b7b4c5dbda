"""What the released re-calibration code computes, against what it is meant to compute; one unit of images."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from lib import InputError
from lib.attribution import Lines, Recalibrated, Riemann, Weighted, attribute
from lib.attribution.forward import values_and_gradients
from lib.attribution.gate import gate
from lib.attribution.references import NoisyCopies, Single, UniformNoise
from lib.experiments.recalibration import recalibration_walks
from lib.experiments.subjects import Subject, relative_difference, score_rows


def checked(load: Callable[[], Subject], *, check: Callable[..., pd.DataFrame], **settings) -> pd.DataFrame:
    """One of the checks below for the subject of a unit."""
    return check(load(), **settings)


def released_schedule(of: Subject, references: UniformNoise, points: int) -> tuple[Tensor, int]:
    """The released default, pass by pass: k R samples, sample j with reference j mod R and alpha_{j mod k}.

    Returns its re-calibrated map (B, C, H, W) and the passes it took, in images (AR:IG_SG.py:128-168).
    Raises InputError for fewer than two points.
    """
    if points < 2:
        raise InputError(f"points is {points}; the released schedule divides by points - 1: give 2 or more")
    model, x, target = gate(of.model, of.x, of.target)
    total, valid = torch.zeros_like(x), torch.zeros_like(x)
    for j in range(points * references.count):
        alpha = (j % points) / (points - 1)
        point = alpha * x + (1 - alpha) * references(j % references.count, x)
        grad = values_and_gradients(model, point, target, objective="logit")[1]
        p = (x - point) * grad
        total, valid = total + p.clamp(min=0), valid + (p >= 0)
    return total / valid.clamp(min=1), points * references.count * len(of.x)


def pairing(of: Subject, *, points: int, references: int, seed: int = 0) -> pd.DataFrame:
    """The released default in full, its distinct points only, and without those that count for nothing.

    Rows: evaluations of each schedule per image, and the relative difference of its map from the full one's.
    """
    noise = UniformNoise(of.images, references, seed)
    full, spent = released_schedule(of, noise, points)
    found = {"every sample": (full, spent)}
    for name, at_input in (("distinct points", True), ("distinct points, not the image itself", False)):
        path = Lines(noise, points, "linspace", "tiled", at_input)
        result = attribute(of.model, of.x, of.target, path=path, rules={"a": Recalibrated()}, objective="logit")
        found[name] = result["a"], result.evaluations
    rows = []
    for name, (each, evaluations) in found.items():
        key = [("uniform", name, points * references, "released")]
        spent = torch.full((len(of.x), 1), evaluations / len(of.x))
        rows += score_rows(of.items, key, "evaluations", spent)
        rows += score_rows(of.items, key, "shortcut_difference", relative_difference(each, full)[:, None])
    return _table(of, rows)


def pairing_in_double(of: Subject, *, points: int, references: int) -> pd.DataFrame:
    """`pairing` of the first image in float64, where rounding has no part in the difference."""
    twice = replace(of.network, model=deepcopy(of.model).double())
    first = replace(of, network=twice, x=of.x[:1].double(), target=of.target[:1], images=of.images[:1])
    return pairing(first, points=points, references=references)


def company(of: Subject, *, points: int, references: int, seed: int = 0) -> pd.DataFrame:
    """How far each image's IG-SG map moves when it is computed with other images instead of alone, in both modes."""
    rows = []
    for mode, crossed in (("corrected", False), ("released", True)):
        grid = ("linspace", "tiled") if crossed else ("midpoint", "full")

        def maps(x: Tensor, target: Tensor, images: list[str], crossed=crossed, grid=grid) -> Tensor:
            path = Lines(NoisyCopies(images, references, seed, cross_images=crossed), points, *grid)
            return attribute(of.model, x, target, path=path, rules={"a": Recalibrated()}, objective="logit")["a"]

        together = maps(of.x, of.target, of.images)
        alone = [maps(of.x[b : b + 1], of.target[b : b + 1], of.images[b : b + 1]) for b in range(len(of.x))]
        moved = relative_difference(together, torch.cat(alone))[:, None]
        rows += score_rows(
            of.items, [("noise", "recalibrated_point", points * references, mode)], "company_difference", moved
        )
    return _table(of, rows)


def completeness(of: Subject, *, steps: list[int]) -> pd.DataFrame:
    """|sum of IG - change of the logit| / |change|, of our IG and of the released one, at several numbers of points."""
    rows = []
    for count in steps:
        for mode, path, rule in (
            ("corrected", Lines(Single("black"), count), Riemann("mean")),
            ("released", Lines(Single("black"), count, "linspace"), Weighted("travelled")),
        ):
            result = attribute(of.model, of.x, of.target, path=path, rules={"a": rule}, objective="logit")
            total = result["a"].flatten(1).sum(1, dtype=torch.float64) * (count if mode == "released" else 1)
            change = (result.value - result.reference_value).double()
            key = [("straight", "riemann", count, mode)]
            rows += score_rows(of.items, key, "completeness", ((total - change) / change).abs()[:, None])
            rows += score_rows(of.items, key, "sum_over_change", (total / change)[:, None])
    return _table(of, rows)


def extra_evaluations(of: Subject, *, points: int, references: int, modes: list[str], seed: int = 0) -> pd.DataFrame:
    """Evaluations of each path with re-calibration minus those with the plain rule alone, per image."""
    rows = []
    for mode in modes:
        for name, path, rules in recalibration_walks(of, mode, points=points, references=references, seed=seed):
            asked = {"path": path, "objective": "logit"}
            spent = [
                attribute(of.model, of.x, of.target, rules=chosen, **asked).evaluations
                for chosen in (rules, {"riemann": rules["riemann"]})
            ]
            extra = torch.full((len(of.x), 1), (spent[0] - spent[1]) / len(of.x))
            rows += score_rows(
                of.items, [(name, "recalibrated_point", points * references, mode)], "extra_evaluations", extra
            )
    return _table(of, rows)


def _table(of: Subject, rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows).drop(columns="curve").assign(model=of.network.name)
