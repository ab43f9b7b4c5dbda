"""The path of Guided IG, which looks at the gradient at every step."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lib import InputError
from lib.attribution.arguments import whole_fields
from lib.attribution.nodes import Node, Probe
from lib.attribution.paths import Path
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
        way = _Way(x, start)
        ends = {"input": x, "reference": start}
        point = start
        for step in range(self.steps):
            value, grad = self._evaluate(point, probe)
            after = x if step == self.steps - 1 else self._advance(way, point, grad, step)
            yield Node(point, after - point, grad, value, step, share=1 / self.steps, **ends)
            point = after
        if not self.released:
            value, grad = self._evaluate(point, probe)
            yield Node(point, torch.zeros_like(point), grad, value, self.steps, share=0.0, **ends)

    def _evaluate(self, point: Tensor, probe: Probe) -> tuple[Tensor, Tensor]:
        value, grad = probe(point[None])
        return value[0], grad[0] if self.scale is None else grad[0] * torch.as_tensor(self.scale).to(grad)

    def _advance(self, way: "_Way", point: Tensor, grad: Tensor, step: int) -> Tensor:
        """The next point: laggards are dragged to the corridor, then the least important features move on."""
        along = (step + 1) / self.steps
        low, high = max(along - self.max_dist, 0.0), min(along + self.max_dist, 1.0)
        furthest, importance = way.at(high), grad.detach().abs().flatten(1)
        shape, point = point.shape, point.flatten(1)
        if low > 0:
            with torch.no_grad():  # one that does not differ from the reference is at 0 / 0 of its way: not behind
                behind = ((point - way.start) / way.span).lt_(low)
            point = torch.lerp(point, way.at(low), behind)

        wanted = (1 - along) * way.length  # (B,)
        slack = (1e-9 if point.dtype == torch.float64 else 1e-6) * wanted.clamp(min=1)
        rank = 1 + int(self.fraction * (importance.shape[1] - 1))  # numpy's quantile(method="lower")
        excess = _distance(point, way.goal) - wanted
        active = excess > slack
        while active.any():
            gap = furthest - point
            chosen = _least_important(importance, gap.detach(), rank, active)
            reach = (gap.abs() * chosen).double().sum(1)
            gamma = excess / reach.clamp(min=1e-300)
            partly = point + gap * gamma.clamp(0, 1)[:, None].to(point)  # below 0 in rows that are done
            # Exact at weights 0 and 1, and several times faster than `where`, which branches at every element.
            point = torch.lerp(point, torch.where((gamma >= 1)[:, None], furthest, partly), chosen)
            # reach 0: nothing is left that could move, rounding alone separates the image from its distance
            active = active & (gamma > 1) & (reach > 0)
            excess = _distance(point, way.goal) - wanted
            active = active & (excess > slack)
        return point.view(shape)


def _least_important(importance: Tensor, gap: Tensor, rank: int, active: Tensor) -> Tensor:
    """1 for the features up to this rank of importance among those with a gap, all of them where there are fewer, in
    active rows; (B, N). Those without a gap may be among them; nothing is left to move of these."""
    arrived = gap.abs().eq_(0)  # in place it stays a float, which is several times faster than a truth value
    ranked = torch.maximum(importance, arrived.mul_(torch.finfo(importance.dtype).max))
    return ranked.le_(_kth_smallest(ranked, rank).where(active[:, None], -1))


class _Way:
    """The way of every feature from the reference to the input, (B, N), and how long it is in all, (B,)."""

    def __init__(self, x: Tensor, start: Tensor):
        self.start, self.goal = start.flatten(1), x.flatten(1)
        self.span, self.length = self.goal - self.start, _distance(self.start, self.goal)

    def at(self, alpha: float) -> Tensor:
        return self.goal if alpha == 1 else self.start + alpha * self.span


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().double().sum(1)  # (B,)


def _kth_smallest(rows: Tensor, rank: int) -> Tensor:
    """The value of this rank, counted from 1, in each row: (B, N) -> (B, 1)."""
    if rows.device.type != "cpu":
        return rows.kthvalue(rank, keepdim=True).values
    # NumPy's partition takes a tenth of the time of kthvalue, which keeps track of places.
    return torch.from_numpy(np.partition(rows.numpy(), rank - 1, axis=1)[:, rank - 1 : rank])
