"""make bench: what the engine costs beyond the forward and backward passes it must do, measured in alternation."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import torch

from lib import ROOT, InputError
from lib.attribution import IDGI, Blur, Guided, Lines, Recalibrated, Riemann, SquaredGradient, Straight, attribute
from lib.attribution.forward import values_and_gradients
from lib.attribution.gradients import x_gradient
from lib.attribution.parts import default_budget, rows_at_once
from lib.attribution.references import NoisyCopies
from lib.data.digits import digits
from lib.data.imagenet import photographs
from lib.experiments import subjects, xdnn
from lib.metrics.diffid import diffid
from lib.metrics.masks import FRACTIONS, backdrop, masks
from lib.models.zoo import best_device, load_network
from lib.store.files import write_atomically
from lib.store.provenance import footprint
from lib.training.fit import digit_cnn

STEPS = 128
REFERENCE = Recalibrated(by="reference", delta="displacement")
RECALIBRATED = {"plain": Riemann("mean"), "point": Recalibrated(), "reference": REFERENCE}
SWEEP = (8, 16, 32, 64, 128)
RULES = {"ig": Riemann("trapezoid"), "idgi": IDGI(), "squared_gradient": SquaredGradient()}


def alternate(ours: Callable, peer: Callable, runs: int) -> list[tuple[float, float]]:
    """Seconds of `ours` and `peer`, run in turns after one warm-up of each."""
    ours(), peer()
    return [(_seconds(ours), _seconds(peer)) for _ in range(runs)]


def _seconds(action: Callable) -> float:
    start = perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter() - start


def row(case: str, pairs: list[tuple[float, float]]) -> dict:
    """One row of results/bench.csv: medians of both and of their ratio, with the ratio's quartiles."""
    ours, peer = np.array(pairs).T
    low, middle, high = np.percentile(ours / peer, (25, 50, 75))
    found = {"case": case, "measured_in": "MB" if " in MB " in case else "seconds"}
    found |= {"ours": np.median(ours), "peer": np.median(peer)}
    return found | {"ratio_median": middle, "ratio_low": low, "ratio_high": high, "runs": len(pairs)}


@cache
def photographed(images: int):
    """EfficientNet-Lite0 with `images` of the packaged photographs and their classes, on the best device."""
    network = load_network("efficientnet_lite0")
    return network.model, *subjects.batch(network, photographs(limit=images))


@cache
def untrained(name: str, images: int):
    """X-AlexNet with photographs, or the digit network without biases with digits, both as they are initialised."""
    if name == "X-AlexNet":
        units = xdnn.untrained_units("alexnet", images="packaged", limit=images, group=images)["x"]
        of = next(iter(units.values()))()
        return of.model, of.x, of.target
    test, device = digits("test").take(slice(images)), best_device()
    return digit_cnn(bias=False).eval().requires_grad_(False).to(device), test.x.to(device), test.y.to(device)


def bare_passes(model, x, target, passes: int) -> Callable:
    """`passes` forward+backward passes over x at the engine's own batch size, and nothing else."""

    def run():
        count = min(max(1, rows_at_once(model, x) // len(x)), passes)
        points, classes = x.repeat(count, 1, 1, 1), target.repeat(count)
        for start in range(0, passes, count):
            rows = min(count, passes - start) * len(x)
            values_and_gradients(model, points[:rows], classes[:rows])

    return run


def time_walk(runs: int, *, path, images: int) -> list[tuple[float, float]]:
    """Seconds of a walk along `path` with three rules, at all step counts where nested, and of the bare passes."""
    model, x, target = photographed(images)
    grids = sweep(path.steps) if path.nested else None
    ours = partial(attribute, model, x, target, path=path, rules=RULES, steps=grids)
    return alternate(ours, bare_passes(model, x, target, path.steps + 1), runs)


def time_lines(runs: int, *, images: int, references: int, points: int) -> list[tuple[float, float]]:
    """Seconds of a walk along `points` points on the lines from `references` noisy copies, and of the bare passes."""
    model, x, target = photographed(images)
    path = _from_copies(images, references, points)
    ours = partial(attribute, model, x, target, path=path, rules=RECALIBRATED, objective="logit")
    return alternate(ours, bare_passes(model, x, target, references * points), runs)


def _from_copies(images: int, references: int, points: int) -> Lines:
    return Lines(NoisyCopies([str(image) for image in range(images)], references), points)


def time_diffid(runs: int, *, images: int) -> list[tuple[float, float]]:
    """Seconds of the removal games of one map for each image, and of their 18 forward passes."""
    model, x, target = photographed(images)

    @torch.no_grad()
    def peer():
        count = max(1, rows_at_once(model, x) // images)
        for start in range(0, 18, count):
            model(x.repeat(min(count, 18 - start), 1, 1, 1))

    return alternate(partial(diffid, model, x, _random_map(x), target), peer, runs)


def time_x_gradient(runs: int, *, images: int) -> list[tuple[float, float]]:
    """Seconds of X-Gradient on X-AlexNet, and of one forward and backward pass."""
    model, x, target = untrained("X-AlexNet", images)
    return alternate(partial(x_gradient, model, x, target), bare_passes(model, x, target, 1), runs)


def time_masks(runs: int, *, name: str, images: int) -> list[tuple[float, float]]:
    """Seconds of the mask games of one map of each image, and of the released code's schedule."""
    model, x, target = untrained(name, images)
    ranking = _random_map(x)
    theirs = partial(_released_schedule, deepcopy(model).requires_grad_(), x, ranking[:, 0], target)
    return alternate(partial(masks, model, x, ranking, target, kernel="released"), theirs, runs)


def _random_map(x: torch.Tensor) -> torch.Tensor:
    """A signed map of each image, (B, 1, H, W)."""
    return torch.randn(len(x), 1, *x.shape[2:], generator=torch.Generator().manual_seed(0)).to(x)


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


def sweep(steps: int) -> tuple[int, ...]:
    return tuple(n for n in SWEEP if steps % n == 0)


def peak_memory(runs: int, *, ours: tuple[int, int], peer: tuple[int, int]) -> list[tuple[float, float]]:
    """Peak memory in MB of two walks (steps, references), each in a fresh process; measured once."""
    command = [sys.executable, "-m", "lib.run.bench", "--peak-of-walk"]
    options = {"cwd": ROOT, "check": True, "capture_output": True, "text": True}
    peaks = [subprocess.run([*command, *map(str, walk)], **options).stdout for walk in (ours, peer)]
    return [(float(peaks[0]), float(peaks[1]))]


def peak_of_walk(steps: int, references: int) -> float:
    """MB at the peak of a walk in this process, from black or so many references; on a GPU in small parts, too."""
    model, x, target = photographed(2)
    path = _from_copies(2, references, steps) if references else Straight(steps)
    rules = RECALIBRATED if references else RULES
    attribute(model, x, target, path=path, rules=rules, budget=default_budget(x))
    used = footprint()
    return used.get("peak_gpu_mb", used["peak_memory_mb"])


def cases(steps: int = STEPS) -> dict[str, Callable]:
    """What there is to measure: {name: function of the number of runs, which returns pairs (ours, peer)}."""
    found = {}
    for case, ours, peer in (
        ("a walk with 512 steps against 16", (512, 0), (16, 0)),
        ("5 points on 60 lines against 4 lines", (5, 60), (5, 4)),
    ):
        found[f"peak memory in MB of {case}; 2 images"] = partial(peak_memory, ours=ours, peer=peer)
    for images in (4, 1):
        of = f"; {images} images; seconds against"
        lines = partial(time_lines, images=images, references=10, points=5)
        found[f"re-calibrated by point and by reference, 50 points{of} bare passes"] = lines
        found[f"DiffID of a map{of} 18 forward passes"] = partial(time_diffid, images=images)
        found[f"X-Gradient on X-AlexNet{of} one pass"] = partial(time_x_gradient, images=images)
    for network, images in (("X-AlexNet", 2), ("a digit network", 64)):
        case = f"mask games of a map on {network}; {images} images; seconds against the released schedule"
        found[case] = partial(time_masks, name=network, images=images)
    for images in (4, 1):
        for path in (Straight(steps), Blur(steps), Guided(steps), Guided(steps, fraction=0.5, max_dist=1.0)):
            nested = f"{len(sweep(steps))} step counts" if path.nested else ""
            grid = nested or f"fraction {path.fraction}, max_dist {path.max_dist}"
            name = f"{type(path).__name__.lower()} walk, 3 rules, {grid}; {images} images, {steps} steps"
            found[f"{name}; seconds against bare passes"] = partial(time_walk, path=path, images=images)
    return found


def measure(found: dict[str, Callable], *, runs: int, output: Path, only: str = "") -> pd.DataFrame:
    """Measure the cases whose name contains `only`, each written to `output` as soon as it is known.

    With `only`, the other rows of `output` stay as they are; without, the table starts anew.
    Raises InputError when no name contains `only`.
    """
    chosen = [name for name in found if only in name]
    if not chosen:
        raise InputError(f"No case contains {only!r}; give a part of one of these: {' | '.join(found)}.")
    known = pd.read_csv(output).to_dict("records") if only and output.exists() else []
    rows = {each["case"]: each for each in known}
    for name in chosen:
        rows[name] = row(name, found[name](runs))
        write_atomically(output, pd.DataFrame(rows.values()).to_csv(index=False, float_format="%.4g"))
        print(f"{rows[name]['ratio_median']:.3f}  {name}", file=sys.stderr, flush=True)
    return pd.DataFrame(rows.values())


def bench() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="measure the cases whose name contains it")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "bench.csv")
    parser.add_argument("--peak-of-walk", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of_walk:
        print(peak_of_walk(*options.peak_of_walk))
        return
    try:
        table = measure(cases(options.steps), runs=options.runs, output=options.output, only=options.only)
    except InputError as error:
        sys.exit(str(error))
    print(table.to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    bench()
