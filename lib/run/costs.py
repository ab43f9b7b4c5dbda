"""What this code costs beyond the forward and backward passes it must do, beside the passes alone."""

import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor

from lib import ROOT
from lib.attribution import IDGI, Blur, Guided, Lines, Recalibrated, Riemann, SquaredGradient, Straight, attribute
from lib.attribution.forward import values_and_gradients
from lib.attribution.gradients import x_gradient
from lib.attribution.parts import default_budget, rows_at_once
from lib.attribution.references import NoisyCopies
from lib.metrics.diffid import diffid
from lib.metrics.lens import locality
from lib.metrics.masks import FRACTIONS, backdrop, masks
from lib.metrics.selection import pixel_map
from lib.run.timing import Case, Sides, photographed, random_map, seconds, step_counts, timed, untrained
from lib.store.provenance import footprint

REFERENCE = Recalibrated(by="reference", delta="displacement")
RECALIBRATED = {"plain": Riemann("mean"), "point": Recalibrated(), "reference": REFERENCE}
RULES = {"ig": Riemann("trapezoid"), "idgi": IDGI(), "squared_gradient": SquaredGradient()}
PHOTOGRAPHED = ("EfficientNet-Lite0", "SqueezeNet")
LENS_BUDGET = 0.020  # seconds for all scores of a pair of maps


def bare_passes(model, x: Tensor, target: Tensor, passes: int) -> Callable[[], None]:
    """`passes` forward+backward passes over x at the engine's own batch size, and nothing else."""

    def run():
        count = min(max(1, rows_at_once(model, x) // len(x)), passes)
        points, classes = x.repeat(count, 1, 1, 1), target.repeat(count)
        for start in range(0, passes, count):
            rows = min(count, passes - start) * len(x)
            values_and_gradients(model, points[:rows], classes[:rows])

    return run


def walk_sides(path, *, rules: dict, images: int, network: str = "EfficientNet-Lite0", sweep: bool = False) -> Sides:
    """A walk along `path`, at several step counts with `sweep`, and its bare passes."""
    model, x, target = photographed(images, network)
    ours = partial(
        attribute, model, x, target, path=path, rules=rules, steps=step_counts(path.steps) if sweep else None
    )
    return ours, bare_passes(model, x, target, path.steps + 1)


def lines_sides(*, images: int, references: int, points: int) -> Sides:
    """A walk along `points` points on the lines from `references` noisy copies, and its bare passes."""
    model, x, target = photographed(images)
    path = _from_copies(images, references, points)
    ours = partial(attribute, model, x, target, path=path, rules=RECALIBRATED, objective="logit")
    return ours, bare_passes(model, x, target, references * points)


def _from_copies(images: int, references: int, points: int) -> Lines:
    return Lines(NoisyCopies([str(image) for image in range(images)], references), points)


def diffid_sides(*, images: int, network: str) -> Sides:
    """The removal games of one map of each image, and their 18 forward passes."""
    model, x, target = photographed(images, network)

    @torch.no_grad()
    def peer():
        count = max(1, rows_at_once(model, x) // images)
        for start in range(0, 18, count):
            model(x.repeat(min(count, 18 - start), 1, 1, 1))

    return partial(diffid, model, x, random_map(x), target), peer


def x_gradient_sides(*, images: int) -> Sides:
    """X-Gradient on X-AlexNet, and one forward and backward pass."""
    model, x, target = untrained("X-AlexNet", images)
    return partial(x_gradient, model, x, target), bare_passes(model, x, target, 1)


def masks_sides(*, network: str, images: int) -> Sides:
    """The mask games of one map of each image, and the released code's schedule."""
    model, x, target = untrained(network, images)
    ranking = random_map(x)
    theirs = partial(_released_schedule, deepcopy(model).requires_grad_(), x, ranking[:, 0], target)
    return partial(masks, model, x, ranking, target, kernel="released"), theirs


def time_lens(runs: int) -> list[tuple[float, float]]:
    """Seconds of all scores of the gradients of a photograph and of its noisy copy, top 2 %, and the budget for it."""
    model, x, target = photographed(1)
    noisy = (x + 8 / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)).clamp(0, 1)
    maps = [pixel_map(values_and_gradients(model, each, target)[1]).cpu() for each in (x, noisy)]
    ours = partial(locality, *maps, k=maps[0].numel() // 50, radii=(1, 2, 3))
    ours()
    return [(seconds(ours), LENS_BUDGET) for _ in range(runs)]


def _released_schedule(model, x, scores, target):
    """attribution_metrics.py:172-336 in plain words: mask by mask, image by image, one graph for a batch of two."""
    blurred = backdrop(x, kernel="released")
    for start in range(0, len(x), 2):
        shown = []
        for image in range(start, min(start + 2, len(x))):
            for order in (scores[image], -scores[image], scores[image].abs()):
                positive = order.clamp(min=0).flatten()
                ranked = positive.argsort(descending=True)[: int((positive > 0).sum())]
                for fraction in FRACTIONS:
                    k = min(int(fraction * positive.numel()), len(ranked))
                    for chosen in (ranked[:k], ranked[len(ranked) - k :]):
                        mask = torch.zeros_like(positive)
                        mask[chosen] = 1
                        mask = mask.view(order.shape)
                        shown.append(mask * x[image] + (1 - mask) * blurred[image])
        model(torch.stack(shown)).argmax(1)


def peak_memory(runs: int, *, ours: tuple[int, int], peer: tuple[int, int]) -> list[tuple[float, float]]:
    """Peak memory in MB of two walks (steps, references), each in fresh processes."""
    return [(_peak_alone(ours), _peak_alone(peer)) for _ in range(runs)]


def _peak_alone(walk: tuple[int, int]) -> float:
    command = [sys.executable, "-m", "lib.run.bench", "--peak-of-walk", *map(str, walk)]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def peak_of_walk(steps: int, references: int) -> float:
    """MB at the peak of a walk in this process, from black or so many references; on a GPU in small parts, too."""
    model, x, target = photographed(2)
    path = _from_copies(2, references, steps) if references else Straight(steps)
    rules = RECALIBRATED if references else RULES
    attribute(model, x, target, path=path, rules=rules, budget=default_budget(x))
    used = footprint()
    return used.get("peak_gpu_mb", used["peak_memory_mb"])


def cost_cases(steps: int, images: int) -> list[Case]:
    """The cases of this code beside its own passes, of one image and of `images`."""
    found = []

    def add(name: str, sides: Callable[..., Sides], *, most: float | None = None, **asked):
        found.append(Case(name, partial(timed, partial(sides, **asked)), most=most))

    for case, ours, peer, most in (
        ("a walk with 512 steps against 16", (512, 0), (16, 0), 1.05),
        ("5 points on 60 lines against 4 lines", (5, 60), (5, 4), None),
    ):
        found.append(Case(f"peak memory in MB of {case}; 2 images", partial(peak_memory, ours=ours, peer=peer), most))
    found.append(Case("LENS scores of a pair of maps; seconds against a budget of 20 ms", time_lens, most=1.0))
    bare, grids = "seconds against bare passes", f"3 rules, {len(step_counts(steps))} step counts"
    for network in PHOTOGRAPHED:
        asked = {"path": Straight(steps), "rules": {"ig": RULES["ig"]}, "images": images, "network": network}
        add(f"IG, {steps} steps, {network}; {images} images; {bare}", walk_sides, most=1.05, **asked)
        for count, most in ((images, None), (1, 1.08)):
            name = f"DiffID of a map, {network}; {count} images; seconds against 18 forward passes"
            add(name, diffid_sides, most=most, images=count, network=network)
            asked |= {"rules": RULES, "sweep": True, "images": count}
            name = f"straight walk of {steps}, {grids}, {network}; {count} images; {bare}"
            add(name, walk_sides, most=1.05, **asked)
    for count in (images, 1):
        asked = {"rules": RULES, "images": count}
        name = f"blur walk of {steps}, {grids}; {count} images; {bare}"
        add(name, walk_sides, path=Blur(steps), sweep=True, **asked)
        for path in (Guided(steps), Guided(steps, fraction=0.5, max_dist=1.0)):
            name = f"guided walk of {steps}, 3 rules, fraction {path.fraction}, max_dist {path.max_dist}"
            add(f"{name}; {count} images; {bare}", walk_sides, path=path, **asked)
        name = f"re-calibrated by point and by reference, 50 points; {count} images; {bare}"
        add(name, lines_sides, images=count, references=10, points=5)
        add(f"X-Gradient on X-AlexNet; {count} images; seconds against one pass", x_gradient_sides, images=count)
    for network, count in (("X-AlexNet", 2), ("a digit network", 64)):
        name = f"mask games of a map on {network}; {count} images; seconds against the released schedule"
        add(name, masks_sides, network=network, images=count)
    return found
