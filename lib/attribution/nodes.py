"""The nodes of a path, and the probe that evaluates the network at them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.attribution.evaluate import default_budget, values_and_gradients


@dataclass(frozen=True)
class Node:
    """One point of a path with the network's value and gradient there, for a batch of images.

    x      (B, C, H, W)  the point, in pixel space
    dx     (B, C, H, W)  the displacement this node stands for, from the reference towards the input, so that
                         sum over nodes of grad * dx is a Riemann sum of f(x) - f(x'): the step to the next node on
                         grids that hold both ends of their intervals, the quadrature cell on the others
    grad   (B, C, H, W)  gradient of the explained scalar at x
    value  (B,)          the explained scalar at x
    index  its place on the finest grid (sub-grids of a step sweep are the multiples of their stride)
    line   which line of the path it lies on (paths with several references have one line each)
    tangent  dx is a rate of change times the step's length, not the difference of two points
    """

    x: Tensor
    dx: Tensor
    grad: Tensor
    value: Tensor
    index: int
    line: int = 0
    tangent: bool = False


@dataclass
class Probe:
    """Evaluates the network at points of a path, at most `budget` images a pass, and counts what it evaluated."""

    model: Callable[[Tensor], Tensor]
    target: Tensor  # (B,)
    objective: str = "probability"
    budget: int | None = None
    create_graph: bool = False
    evaluations: int = 0  # forward+backward passes, counted in images

    def together(self, images: int) -> int:
        """How many points of each of `images` images fit into one pass."""
        budget = self.budget or default_budget(self.target.device)
        return max(1, budget // images)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """points (K, B, C, H, W) -> values (K, B) and gradients (K, B, C, H, W)."""
        count, images = points.shape[:2]
        self.evaluations += count * images
        value, grad = values_and_gradients(
            self.model,
            points.flatten(0, 1),
            self.target.repeat(count),
            objective=self.objective,
            budget=self.budget,
            create_graph=self.create_graph,
        )
        return value.unflatten(0, (count, images)), grad.unflatten(0, (count, images))


def prescribed(
    probe: Probe,
    indices: list[int],
    point: Callable[[int], Tensor],
    cell: Callable[[int, Tensor], Tensor] | None = None,
    line: int = 0,
) -> Iterator[Node]:
    """The nodes of one line whose points are known beforehand, many of them evaluated in one pass.

    point(index) -> (B, C, H, W); cell(index, point) -> dx (B, C, H, W), or None where each node's dx is the step
    to the next one (the last node's is then zero).
    """
    first = point(indices[0])
    together = probe.together(len(first))
    waiting = None  # a node whose dx needs the next point
    for start in range(0, len(indices), together):
        chunk = indices[start : start + together]
        points = torch.stack([first if i == indices[0] else point(i) for i in chunk])
        values, grads = probe(points)
        for k, index in enumerate(chunk):
            if cell is not None:
                yield Node(points[k], cell(index, points[k]), grads[k], values[k], index, line, tangent=True)
                continue
            if waiting is not None:
                x, grad, value, before = waiting
                yield Node(x, points[k] - x, grad, value, before, line)
            waiting = points[k], grads[k], values[k], index
    if waiting is not None:
        x, grad, value, before = waiting
        yield Node(x, torch.zeros_like(x), grad, value, before, line)
