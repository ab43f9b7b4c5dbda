"""The re-calibration study: which maps are computed for a few images, in which mode, and how they are scored.

Three parameter sets of one implementation:

    corrected   every reference meets every interpolation point (midpoints), the remaining distance as weight
    released    the authors' code at its head: references and points paired by tiling, points from 0 to 1, noisy copies
                mixed across the batch, AGI restarting from the image, IG weighted by the distance travelled
    paper_era   the authors' code at the time of the paper, where it is known: a reference for every point, weighted by
                the distance travelled; single-reference IG divided by the number of negative points
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import groupby

import pandas as pd
import torch
from torch import Tensor

from lib.attribution import (
    Adversarial,
    Blur,
    Guided,
    Lines,
    PointAbsolute,
    RandomMask,
    Recalibrated,
    Riemann,
    SquaredMeanGradient,
    Weighted,
    attribute,
    gradients,
    layerwise,
)
from lib.attribution.adversarial import other_classes
from lib.attribution.references import NoisyCopies, Single, UniformNoise
from lib.experiments.subjects import Key, Subject, score_rows
from lib.metrics.diffid import RATIOS, DiffID, area, diffid

MODES = ("corrected", "released", "paper_era")
GAMES = ("diffid_logit", "diffid_accuracy", "deletion_logit", "deletion_accuracy", "insertion_logit")
BY_POINT = "recalibrated_point"
BY_REFERENCE = "recalibrated_reference"
DERIVED = {"riemann_abs": "riemann", "relu": "riemann", "weighted_abs": "weighted"}  # maps made of another rule's

Walk = tuple[str, object, Mapping[str, Callable]]


def recalibration_walks(
    of: Subject, mode: str, *, points: int, references: int, seed: int = 0, paths: list[str] | None = None
) -> Iterator[Walk]:
    """(name, path, rules) of the integral methods in one mode, `points` on the line from each of `references`.

    IG, Guided IG and Blur IG get as many evaluations as the methods with several references: points * references.
    `noise_squared` is IG-SQ, on the nodes of `noise`. paths: only these.
    """
    found = {"corrected": _corrected, "released": _released, "paper_era": _paper_era}[mode](
        of, points, references, seed
    )
    for name, path, rules in found:
        if paths is None or name in paths:
            yield name, path, rules


def _corrected(of: Subject, points: int, references: int, seed: int) -> Iterator[Walk]:
    ids, total = of.images, points * references
    rules = {"riemann": Riemann("mean"), BY_POINT: Recalibrated()}
    by_reference = {BY_REFERENCE: Recalibrated(by="reference", delta="displacement")}
    controls = {
        "point_abs": PointAbsolute(),
        "random_mask": RandomMask(ids, seed=seed),
        "masked": Recalibrated(delta="displacement", norm="all"),
        "weighted": Weighted(),
    }
    squared = {"riemann": SquaredMeanGradient(), BY_POINT: Recalibrated(square=True)}
    squared |= {BY_REFERENCE: Recalibrated(by="reference", delta="displacement", square=True)}
    copies = Lines(NoisyCopies(ids, references, seed), points)
    yield "straight", Lines(Single("black"), total), rules | controls
    yield "uniform", Lines(UniformNoise(ids, references, seed), points), rules | by_reference | controls
    yield "noise", copies, rules | by_reference | controls
    yield "noise_squared", copies, squared
    yield "dataset", Lines(of.drawn(references, seed=seed), points), rules | by_reference | controls
    left = {"riemann": Riemann("left")}
    targets = _targets(of, references, seed)
    yield "adversarial", Adversarial(targets, points), rules | left | by_reference | controls
    yield "guided", Guided(total), rules | left | controls
    yield "blur", Blur(total), rules | {"riemann": Riemann("trapezoid")} | controls


def _released(of: Subject, points: int, references: int, seed: int) -> Iterator[Walk]:
    ids = of.images
    rules = {"riemann": Riemann("mean"), BY_POINT: Recalibrated()}
    rules |= {BY_REFERENCE: Recalibrated(by="reference", delta="displacement")}
    squared = {"riemann": SquaredMeanGradient(), BY_POINT: Recalibrated(square=True)}
    squared |= {BY_REFERENCE: Recalibrated(by="reference", delta="displacement", square=True)}

    def tiled(sets, grid: str = "linspace") -> Lines:
        return Lines(sets, points, grid, "tiled", images=ids, seed=seed)

    copies = tiled(NoisyCopies(ids, references, seed, cross_images=True))
    yield "straight", Lines(Single("black"), points, "linspace"), {"riemann": Weighted("travelled")}
    yield "uniform", tiled(UniformNoise(ids, references, seed)), rules
    yield "noise", copies, rules
    yield "noise_squared", copies, squared
    yield "dataset", tiled(of.drawn(references, seed=seed), "uniform"), rules
    targets = _targets(of, references, seed, released=True)
    yield "adversarial", Adversarial(targets, points, restart=True), rules | {"riemann": Riemann("left")}


def _paper_era(of: Subject, points: int, references: int, seed: int) -> Iterator[Walk]:
    ids, total = of.images, points * references
    rules = {"riemann": Riemann("mean"), BY_POINT: Recalibrated(delta="travelled")}
    by_negatives = {BY_POINT: Recalibrated(delta="travelled", norm="negatives")}
    yield "straight", Lines(Single("black"), total, "linspace"), rules | by_negatives
    yield "uniform", Lines(UniformNoise(ids, total, seed), points, "linspace", "fresh"), rules
    yield "noise", Lines(NoisyCopies(ids, total, seed), points, "linspace", "fresh"), rules
    yield "dataset", Lines(of.drawn(references, seed=seed), points, "linspace"), rules


def _targets(of: Subject, count: int, seed: int, *, released: bool = False) -> Tensor:
    """AGI's classes: as many as references, or all there are to draw from (released: ValueError for ten of ten)."""
    classes = of.answers()[0].shape[1]
    count = min(count, classes - 2 if released else classes - 1)
    return other_classes(of.target, classes, count, images=of.images, seed=seed, released=released)


def integral_maps(
    of: Subject, mode: str, *, points: int, references: int, rules: Collection[str] = (), **choice
) -> dict[Key, Tensor]:
    """The pixel maps (B, H, W) of every walk of a mode: {(path, rule, steps, mode): sum over channels}.

    Of the plain map also the sum of its absolute values and of its positive part. Maps that carry a sign without being
    meant to (a random mask, a weight) are given as sums of absolute values too. rules: only these maps, if any.
    """
    maps, steps = {}, points * references
    needed = {DERIVED.get(rule, rule) for rule in rules}
    found = recalibration_walks(of, mode, points=points, references=references, **choice)
    for path, group in groupby(found, key=lambda walk: walk[1]):  # IG-SQ shares IG-SG's nodes
        named = [(name, rule, each) for name, _, known in group for rule, each in known.items()]
        chosen = {(name, rule): each for name, rule, each in named if not rules or rule in needed}
        result = attribute(of.model, of.x, of.target, path=path, rules=chosen, objective="logit")
        for name, rule in chosen:
            each = result[name, rule]
            maps[name, rule, steps, mode] = each.abs().sum(1) if rule == "random_mask" else each.sum(1)
            if rule in ("riemann", "weighted"):
                maps[name, f"{rule}_abs", steps, mode] = each.abs().sum(1)
            if rule == "riemann" and mode == "corrected":
                maps[name, "relu", steps, mode] = each.clamp(min=0).sum(1)
    return {key: each for key, each in maps.items() if not rules or key[1] in rules}


def single_pass_maps(of: Subject, *, samples: int, seed: int = 0) -> dict[Key, Tensor]:
    """The maps (B, H, W) of the baselines without a path, under path "none"; signed ones as sums of absolute values."""
    asked = (of.model, of.x, of.target)
    smooth, squared = gradients.smoothgrad(*asked, images=of.images, samples=samples, seed=seed)
    maps = {
        "gradient": gradients.input_gradient(*asked).abs().sum(1),
        "input_x_gradient": gradients.input_x_gradient(*asked).abs().sum(1),
        "smoothgrad": smooth.abs().sum(1),
        "smoothgrad_squared": squared.sum(1),
        "gradcam": layerwise.gradcam(*asked),
        "fullgrad": layerwise.fullgrad(*asked),
        "random": gradients.random_maps(of.images, of.x.shape[2:], seed=seed).to(of.x),
    }
    steps = {"random": 0, "smoothgrad": samples, "smoothgrad_squared": samples}
    return {("none", rule, steps.get(rule, 1), "corrected"): each for rule, each in maps.items()}


def removal_rows(of: Subject, maps: Mapping[Key, Tensor], *, remove: str, right: Tensor) -> list[dict]:
    """Rows of the removal games of some maps of one mode: the area of each, and its curve.

    Corrected scores are of correctly classified images only (the others are NaN and counted as excluded): a ratio to a
    logit of a class that the network does not see means nothing. The released ones are of all images.
    """
    if not maps:
        return []
    network, corrected = of.network, any(key[3] == "corrected" for key in maps)
    judged = right if corrected else torch.ones_like(right)
    curves = torch.full((len(GAMES), len(right), len(maps), len(RATIOS)), torch.nan, dtype=torch.float64)
    if judged.any():
        ranking = torch.stack(list(maps.values()), 1)[judged]
        statistics = {"mean": network.mean, "std": network.std}
        game = diffid(of.model, of.x[judged], ranking, of.target[judged], remove=remove, **statistics)
        curves[:, judged.cpu()] = torch.stack([getattr(game, metric) for metric in GAMES])
    rows = []
    for metric, curve in zip(GAMES, curves, strict=True):
        rows += score_rows(of.items, maps, metric, area(curve), curve)
    return rows


def perturbation(
    load: Callable[[], Subject],
    *,
    points: int,
    references: int,
    modes: list[str],
    paths: list[str] | None = None,
    seed: int = 0,
    remove: str = "elements",
) -> pd.DataFrame:
    """Every score of every map of one unit: DiffID, pixel perturbation, and each map's least score.

    paths: only these, and the baselines without one. remove: "elements" or "pixels", see `diffid`; the paper-era code
    always removed pixels.
    """
    of = load()
    right = of.answers()[1]
    rows = []
    for mode in modes:
        maps = integral_maps(of, mode, points=points, references=references, seed=seed, paths=paths)
        if mode == "corrected":
            maps |= single_pass_maps(of, samples=references, seed=seed)
        rows += removal_rows(of, maps, remove="pixels" if mode == "paper_era" else remove, right=right)
        least = torch.stack([each.flatten(1).amin(1) for each in maps.values()], 1)
        rows += score_rows(of.items, maps, "least_score", least)
    return pd.DataFrame(rows).assign(model=of.network.name)


def example(of: Subject, *, points: int, references: int, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """The three rows of the paper's Fig. 1: {row: {path: signed, absolute or re-calibrated maps (B, H, W)}}."""
    rows = {"signed": "riemann", "absolute": "riemann_abs", "re-calibrated": BY_POINT}
    asked = {"points": points, "references": references, "rules": [*rows.values()], "seed": seed}
    maps = integral_maps(of, "corrected", **asked)
    return {
        row: {path: each for (path, named, _, _), each in maps.items() if named == rule} for row, rule in rows.items()
    }


def perturbation_areas(of: Subject, ranking: Tensor) -> DiffID:
    """The removal games of maps (B, M, H, W), as the network's own statistics fill what is removed."""
    return diffid(of.model, of.x, ranking, of.target, mean=of.network.mean, std=of.network.std)
