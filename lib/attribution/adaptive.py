"""The straight path with nodes where they are needed: each image's own, placed by what its nodes before have shown."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lib import InputError
from lib.attribution.arguments import whole_fields, whole_number
from lib.attribution.forward import values
from lib.attribution.nodes import Node, Probe, share_of
from lib.attribution.paths import Path
from lib.attribution.placement import Cells, Evaluated, equal_parts, shared_out
from lib.attribution.references import reference_image


@dataclass(frozen=True)
class Adaptive(Path):
    """The straight line x' + alpha (x - x') with nodes of each image's own, placed by what earlier nodes have shown.

    A first grid of `first` equal cells is refined in rounds, each of which adds half as many cells as there are, until
    there are `steps` of them (steps + 1 evaluations, all of them nodes of the final grid). A cell is divided into k
    equal parts; parts go one by one to the cell with the largest error left, its error / k^1.5. The error of a cell:

    by "gradient"  |(g_{i+1} - g_i) * (x - x')|_1 times the cell's width, what the trapezoid rule may be wrong by; best
                   for Riemann sums
       "value"     |f_{i+1} - f_i|, so that f moves by about as much in every cell; best for IDGI, which shares out
                   these very differences

    The gradient of a ReLU network changes along a line like a random walk: by about the root of the distance. A cell's
    error is then of order width^1.5, an even grid's of order 1 / steps by whatever quadrature rule, and what can be
    gained is that the gradient does not change equally fast everywhere.

    tolerance: above 0, an image is done as soon as the error of its trapezoid map (`TrapezoidError`) and its
    completeness error, a share of the total variation of f over the nodes, are both at most `tolerance`; `steps` is
    then the most it can take. An image that is done is no longer evaluated, whatever its company still needs. What
    stands in for its missing nodes adds nothing to a map; but a rule that counts nodes counts it, as
    Recalibrated(norm="negatives") does.
    scan: above 0, the first grid is placed by so many passes without a gradient, each about a third of an evaluation
    (not counted in `Attribution.evaluations`): half of them even, half where f moves between those. The first grid then
    has nodes at equal parts of the integral of |df/dalpha|^(2/3), the density at which the errors of all cells are
    equal where g changes in proportion to f; a fifth of them are spread evenly. `first=steps` places all nodes so.

    Compare Bhat & Raychowdhury (2023, arXiv:2302.11107), who share out the nodes of IG among a few equal intervals by
    the change of the probability; Walker et al. (AAAI 2024, Integrated Decision Gradients), by its slope, with as many
    forward passes as gradients; and Swain & Singhi (NeurIPS 2024 workshop, RiemannOpt, arXiv:2410.04118), who place
    nodes once for a network from the gradients of many images. Here the nodes of an image are its own, and its
    gradients themselves place them.

    The gradients of all nodes are held until the last is known: memory grows with the number of steps.
    Raises InputError for options out of range.

    >>> from lib.attribution import Riemann, Straight, attribute
    >>> network = lambda x: torch.sigmoid(200 * x.flatten(1) - 30)  # rises within a twentieth of the way
    >>> x, rules = torch.ones(1, 1, 1, 1), {"ig": Riemann()}
    >>> for path in (Straight(32), Adaptive(32)):
    ...     found = attribute(network, x, 0, path=path, rules=rules, objective="logit")
    ...     print(found.evaluations, round(found.completeness_error("ig").item(), 2))
    33 0.13
    33 0.01
    """

    steps: int = 40
    reference: object = "black"
    by: str = "gradient"
    first: int = 8
    scan: int = 0
    tolerance: float = 0.0

    def __post_init__(self):
        whole_fields(self, "steps", "first")
        object.__setattr__(self, "scan", whole_number(self.scan, "scan", least=0))
        if self.by not in ("gradient", "value"):
            raise InputError(f"by is {self.by!r}; choose gradient or value")
        if 0 < self.scan < 4 or not 0 <= self.tolerance < 1:
            raise InputError(
                f"scan {self.scan!r}, tolerance {self.tolerance!r}: give a scan of 0 or at least 4 points, and "
                "0 <= tolerance < 1"
            )

    def ends(self, x: Tensor) -> Iterator[tuple[float, Tensor]]:
        yield 1.0, reference_image(self.reference, x)

    def nodes(self, x: Tensor, probe: Probe) -> Iterator[Node]:
        start = reference_image(self.reference, x)
        first = min(self.first, self.steps)
        even = [k / first for k in range(first + 1)]
        new = self._scanned(first, start, x, probe) if self.scan else [even] * len(x)
        lines: list[list[Evaluated]] = [[] for _ in x]
        asked = list(range(len(x)))
        while asked:
            for image, found in zip(asked, _evaluations(new, asked, start, x, probe), strict=True):
                lines[image] = sorted(lines[image] + found, key=lambda node: node.alpha)
            asked = [image for image in asked if len(lines[image]) <= self.steps]
            cells = {image: Cells.of(lines[image], x[image] - start[image]) for image in asked}
            asked = [image for image in asked if not self._done(cells[image])]
            new = [self._more(cells[image]) for image in asked]
        yield from _joined(lines, start, x)

    def _done(self, cells: Cells) -> bool:
        return self.tolerance > 0 and cells.error <= self.tolerance and cells.incomplete <= self.tolerance

    def _more(self, cells: Cells) -> list[float]:
        """The alphas of the next round."""
        count = len(cells.widths)
        room = min(max(1, round(count / 2)), self.steps - count)
        errors = cells.turns * cells.widths if self.by == "gradient" else cells.rises
        parts = shared_out(errors.tolist(), room)
        return [
            float(begin + width * j / k)
            for begin, width, k in zip(cells.begins, cells.widths, parts, strict=True)
            for j in range(1, k)
        ]

    def _scanned(self, count: int, start: Tensor, x: Tensor, probe: Probe) -> list[list[float]]:
        def scan(alphas: np.ndarray) -> np.ndarray:  # (K, B) -> (K, B)
            points = torch.stack([_point(start, x, each.tolist()) for each in alphas])
            target = probe.target.repeat(len(points))
            found = values(probe.model, points.flatten(0, 1), target, objective=probe.objective, budget=probe.budget)
            return found.view(points.shape[:2]).double().cpu().numpy()

        half = self.scan - self.scan // 2
        known = np.repeat(np.linspace(0, 1, half)[:, None], len(x), 1)
        height = scan(known)
        between = (np.arange(self.scan // 2) + 0.5) / (self.scan // 2)
        more = np.stack([equal_parts(*each, between) for each in zip(known.T, height.T, strict=True)], 1)
        known, height = np.concatenate([known, more]), np.concatenate([height, scan(more)])
        order = known.argsort(0)
        known, height = (np.take_along_axis(each, order, 0) for each in (known, height))
        places = np.arange(count + 1) / count
        return [equal_parts(*each, places).tolist() for each in zip(known.T, height.T, strict=True)]


def _point(start: Tensor, x: Tensor, alphas: list[float]) -> Tensor:
    """A point of each image's line; at alpha = 1 the input itself, not its rounding."""
    alpha = share_of(torch.tensor(alphas, dtype=x.dtype, device=x.device))
    return torch.where(alpha == 1, x, start + alpha * (x - start))


def _evaluations(
    new: list[list[float]], images: list[int], start: Tensor, x: Tensor, probe: Probe
) -> list[list[Evaluated]]:
    """Nodes of some images of the batch, at equally many alphas each, as many of them together as fit."""
    rows = torch.tensor(images, device=x.device)
    start, x, own = start[rows], x[rows], replace(probe, target=probe.target[rows], evaluations=0)
    found: list[list[Evaluated]] = [[] for _ in images]
    alphas = list(zip(*new, strict=True))
    together = own.together(x)
    for begin in range(0, len(alphas), together):
        part = alphas[begin : begin + together]
        value, grad = own(torch.stack([_point(start, x, each) for each in part]))
        for k, each in enumerate(part):
            for image, alpha in enumerate(each):
                found[image].append(Evaluated(alpha, value[k, image], grad[k, image]))
    probe.evaluations += own.evaluations
    return found


def _joined(lines: list[list[Evaluated]], start: Tensor, x: Tensor) -> Iterator[Node]:
    """The nodes of a batch. Where an image has fewer, empty ones stand at its reference, before its first.

    They have no gradient, no displacement and no share, and f does not change from one to the next, so that no rule
    makes anything of them.
    """
    longest = max(map(len, lines))
    padded = [[line[0]._replace(grad=torch.zeros_like(line[0].grad))] * (longest - len(line)) + line for line in lines]
    columns = list(zip(*padded, strict=True))
    alphas = [[node.alpha for node in column] for column in columns]
    following = _point(start, x, alphas[0])
    for k, (column, here, there) in enumerate(zip(columns, alphas, [*alphas[1:], alphas[-1]], strict=True)):
        point, following = following, _point(start, x, there)
        yield Node(
            point,
            following - point,
            torch.stack([node.grad for node in column]),
            torch.stack([node.value for node in column]),
            k,
            input=x,
            reference=start,
            share=torch.tensor([b - a for a, b in zip(here, there, strict=True)], dtype=x.dtype, device=x.device),
        )
