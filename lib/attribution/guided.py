"""The path of Guided IG, which looks at the gradient at every step."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.arguments import whole_fields
from lib.attribution.nodes import Node, Probe
from lib.attribution.paths import Path, between
from lib.attribution.references import reference_image


@dataclass(frozen=True)
class Guided(Path):
    """Guided IG's path: at each step the features of smallest |gradient| move first (Kapishnikov et al. 2021, alg. 1).

    After step t the L1 distance to the input is (1 - t/n) of the whole; `fraction` of the features, those of lowest
    |gradient|, move at a time; no feature may leave the straight line by more than `max_dist` of its own way.
    Batched over images; an image equal to its reference gets a zero map.
    Differs from the released code: the endpoint is evaluated too (n + 1 nodes) and every inner loop ends.
    `released=True` leaves the last node out (TMLR gig.py:63: IDGI then misses the last step); `scale` multiplies the
    gradient, and with the network's normalisation std reproduces the gradient with respect to the normalised image
    that TMLR gig.py:64 multiplies with pixel differences.
    No grid of fewer steps lies on it: the path itself depends on their number.
    Raises InputError for options out of range.

    >>> from lib.attribution import walk
    >>> network = lambda x: 3 * x[..., 0].flatten(1) + 4 * x[..., 1].flatten(1)  # the first feature moves first
    >>> path, x = Guided(2, fraction=0.5, max_dist=1.0), torch.ones(1, 1, 1, 2)
    >>> [node.x.flatten().tolist() for node in walk(network, path, x, 0, objective="logit")]
    [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]
    """

    steps: int = 128
    fraction: float = 0.25
    max_dist: float = 0.02
    reference: object = "black"
    released: bool = False
    scale: object = None  # tensor broadcastable to (C, 1, 1)

    def __post_init__(self):
        whole_fields(self, "steps")
        if not 0 < self.fraction <= 1 or not 0 <= self.max_dist <= 1:
            raise InputError(
                f"fraction {self.fraction!r}, max_dist {self.max_dist!r}: give 0 < fraction <= 1, 0 <= max_dist <= 1"
            )

    def ends(self, x: Tensor) -> Iterator[tuple[float, Tensor]]:
        yield 1.0, reference_image(self.reference, x)

    def nodes(self, x: Tensor, probe: Probe) -> Iterator[Node]:
        start = reference_image(self.reference, x)
        ends = {"input": x, "reference": start}
        point = start
        for step in range(self.steps):
            value, grad = self._evaluate(point, probe)
            after = x if step == self.steps - 1 else self._advance(point, grad, start, x, step)
            yield Node(point, after - point, grad, value, step, share=1 / self.steps, **ends)
            point = after
        if not self.released:
            value, grad = self._evaluate(point, probe)
            yield Node(point, torch.zeros_like(point), grad, value, self.steps, share=0.0, **ends)

    def _evaluate(self, point: Tensor, probe: Probe) -> tuple[Tensor, Tensor]:
        value, grad = probe(point[None])
        return value[0], grad[0] if self.scale is None else grad[0] * torch.as_tensor(self.scale).to(grad)

    def _advance(self, point: Tensor, grad: Tensor, start: Tensor, x: Tensor, step: int) -> Tensor:
        """The next point: laggards are dragged to the corridor, then the least important features move on."""
        along = (step + 1) / self.steps
        low, high = max(along - self.max_dist, 0.0), min(along + self.max_dist, 1.0)
        span = x - start
        # Features which do not differ from the reference count as arrived.
        alpha = torch.where(span == 0, high, (point - start) / span)
        furthest = between(start, x, high).flatten(1)
        point = torch.where(alpha < low, start + low * span, point).flatten(1)

        goal, importance = x.flatten(1), grad.abs().flatten(1)
        wanted = (1 - along) * _distance(start.flatten(1), goal)  # (B,)
        slack = 1e-9 if x.dtype == torch.float64 else 1e-6
        rank = 1 + int(self.fraction * (importance.shape[1] - 1))  # numpy's quantile(method="lower")
        active = torch.ones_like(wanted, dtype=torch.bool)
        while True:
            excess = _distance(point, goal) - wanted
            active = active & (excess > slack * wanted.clamp(min=1))
            if not active.any():
                return point.view_as(x)
            arrived = point == furthest
            ranked = importance.masked_fill(arrived, torch.inf)
            chosen = (ranked <= ranked.kthvalue(rank, keepdim=True).values) & ~arrived & active[:, None]
            reach = ((point - furthest).abs() * chosen).sum(1, dtype=torch.float64)
            gamma = excess / reach.clamp(min=1e-300)
            partly = point + (furthest - point) * gamma.clamp(max=1)[:, None].to(point)
            moved = torch.where((gamma >= 1)[:, None], furthest, partly)
            # reach 0: nothing is left that could move, rounding alone separates the image from its distance
            point = torch.where(chosen & (reach > 0)[:, None], moved, point)
            active = active & (gamma > 1) & (reach > 0)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().sum(1, dtype=torch.float64)  # (B,)
