"""Where captum's integrated gradients and torchvision's blur, as installed, differ from what they say they compute."""

from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.v2 import functional as transforms

from lib.attribution import Riemann, Straight, attribute
from lib.attribution.blur import gaussian_blur
from lib.experiments.discrepancies_record import (
    CAPTUM,
    TORCHVISION,
    Discrepancy,
    Outcome,
    Place,
    photograph_maps,
    total,
)
from lib.experiments.subjects import Subject

SIDE, WIDTH = 32, 25  # of an image and of a blur's kernel


def _captum(function, x: Tensor, **asked) -> Tensor:
    from captum.attr import IntegratedGradients

    return IntegratedGradients(function).attribute(x, **asked)


def _trapezoid() -> Outcome:
    """f = a + b + c + d rises by 4; captum's ten weights sum to 9/10."""
    theirs = _captum(lambda v: v.sum(1), torch.ones(1, 4), n_steps=10, method="riemann_trapezoid")
    ours = total(lambda v: v.sum(1), torch.ones(1, 1, 1, 4), Straight(10), Riemann())
    return Outcome(theirs.sum().item(), ours, 4.0)


def _trapezoid_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    """As captum weighs: (n - 1) / n of the trapezoid rule on the same n nodes."""
    ours = photograph_maps(of, Straight(steps - 1), Riemann())
    return ours * (steps - 1) / steps, ours


def _single_precision() -> Outcome:
    """By how much the sum of a map in double precision misses 1, the rise of f = a^3, by fifty Gauss points."""
    x = torch.ones(1, 1, dtype=torch.float64)
    theirs = _captum(lambda v: v[:, 0] ** 3, x, n_steps=50).item()
    ours = total(lambda v: v[:, 0] ** 3, x.view(1, 1, 1, 1), Straight(50, grid="gauss"), Riemann("gauss"))
    return Outcome(abs(theirs - 1), abs(ours - 1), 0.0)


def _no_second_gradient() -> Outcome:
    """The map of f = w a at a = 1/2 is w / 2, whose slope in w is 1/2."""
    weight, x = torch.tensor(2.0, requires_grad=True), torch.full((1, 1), 0.5, requires_grad=True)
    theirs = _captum(lambda v: (weight * v).sum(1), x, n_steps=4)
    asked = {"path": Straight(4), "rules": {"a": Riemann()}, "objective": "logit", "create_graph": True}
    ours = attribute(lambda v: weight * v.flatten(1), x.view(1, 1, 1, 1), 0, **asked)["a"]
    slopes = (torch.autograd.grad(each.sum(), weight, allow_unused=True)[0] for each in (theirs, ours))
    return Outcome(*(float("nan") if each is None else each.item() for each in slopes), 0.5)


def _at_once() -> Outcome:
    """The most images that a network sees in one pass, of fifty points for each of two images."""
    passes = {"theirs": [], "ours": []}

    def network(name: str, points: Tensor) -> Tensor:
        passes[name].append(len(points))
        return points.flatten(1)

    _captum(partial(network, "theirs"), torch.ones(2, 1), target=0, n_steps=50)
    asked = {"path": Straight(50, grid="midpoint"), "rules": {"a": Riemann("midpoint")}, "objective": "logit"}
    attribute(partial(network, "ours"), torch.ones(2, 1, 1, 1), 0, budget=16, **asked)
    return Outcome(*(float(max(each)) for each in passes.values()), 16.0)


def _blur_cost() -> Outcome:
    """Multiplications and additions a pixel of a square image; as two matrix products, twice its height and width."""
    x = torch.rand(1, 1, SIDE, SIDE)
    blurs = lambda: transforms.gaussian_blur(x, [WIDTH] * 2, [3.0] * 2), lambda: gaussian_blur(x, 3.0)
    counts = []
    for blur in blurs:
        with FlopCounterMode(display=False) as counter:
            blur()
        counts.append(counter.get_total_flops() / SIDE**2)
    return Outcome(*counts, 4.0 * SIDE)


RECORDS = (
    Discrepancy(
        "a trapezoid rule that is not one",
        Place(CAPTUM, "captum/attr/_utils/approximation_methods.py", 68),
        "deltas = [1 / n] * n",
        "gives n nodes, which bound n - 1 steps, the width 1 / n: weights sum to (n - 1) / n",
        "give them the width 1 / (n - 1)",
        "sum of IG's map at 10 nodes where f rises by 4",
        "captum as installed; Straight(10), Riemann()",
        _trapezoid,
        _trapezoid_moves,
    ),
    Discrepancy(
        "single precision for double",
        Place(CAPTUM, "captum/attr/_core/integrated_gradients.py", 377),
        "* torch.tensor(step_sizes).float().view(n_steps, 1).to(grad.device)",
        "rounds the weights to single precision, also where images and network are in double",
        "keep the images' precision",
        "error of the sum of IG's map in double precision",
        "captum as installed; Straight(grid='gauss')",
        _single_precision,
        tolerance=1e-12,
    ),
    Discrepancy(
        "maps without a gradient",
        Place(CAPTUM, "captum/_utils/gradient.py", 139),
        "grads = torch.autograd.grad(torch.unbind(outputs), inputs)",
        "lets go of the graph, and has no option to keep it: no prior can be trained on its maps",
        "offer `create_graph`",
        "slope of a map's sum in the network's weight",
        "captum as installed; attribute(create_graph=True)",
        _no_second_gradient,
    ),
    Discrepancy(
        "everything at once",
        Place(CAPTUM, "captum/attr/_core/integrated_gradients.py", 345),
        "[baseline + alpha * (input - baseline) for alpha in alphas], dim=0",
        "shows the network all points of all images in one pass unless it is told a number, and runs out of memory",
        "take as many at a time as fit",
        "images in the largest pass, of fifty points for two images and room for 16",
        "captum as installed; attribute(budget=16)",
        _at_once,
    ),
    Discrepancy(
        "a blur of two dimensions",
        Place(TORCHVISION, "torchvision/transforms/_functional_tensor.py", 753),
        "kernel = _get_gaussian_kernel2d(kernel_size, sigma, dtype=dtype, device=img.device)",
        "convolves with a square kernel; Blur IG's widest has 401 × 401 pixels",
        "blur rows, then columns: the result is the same",
        "multiplications and additions a pixel",
        "torchvision as installed; gaussian_blur()",
        _blur_cost,
    ),
)
