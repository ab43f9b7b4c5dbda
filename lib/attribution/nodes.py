"""The nodes of a path, and the probe that evaluates the network at them."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lib.attribution.forward import passes
from lib.attribution.gate import Gated
from lib.attribution.parts import rows_at_once


@dataclass(frozen=True)
class Node:
    """One point of a path with the network's value and gradient there, for a batch of images.

    x      (B, C, H, W)  the point, in pixel space
    dx     (B, C, H, W)  the displacement this node stands for, from the reference towards the input, so that
                         sum over nodes of grad * dx is a Riemann sum of f(x) - f(x'): the step to the next node on
                         grids that hold both ends of their intervals, the quadrature cell on the others
    grad   (B, C, H, W)  gradient of the explained scalar at x
    value  (B,)          the explained scalar at x
    index  its place on the finest grid of its line (sub-grids of a step sweep are chosen by it)
    line   which line of the path it lies on: a path has one line for each reference
    input, reference  (B, C, H, W)  the two ends of its line; reference is None where it is not known beforehand
    weight  the line's part in the path, a number or (B,); sums to 1 over the lines
    share   the node's part in the path, a number or (B,); sums to 1 over all nodes, 0 for the last node of grids
            that hold both ends of their intervals
    tangent  dx is a rate of change times the step's length, not the difference of two points
    evaluated  False: value is NaN and grad 0, which no rule in use reads
    kept    what rules have computed of it, shared by the grids of a step sweep; see `once`

    >>> from lib.attribution import Straight, walk
    >>> nodes = walk(lambda x: x.flatten(1), Straight(2), torch.ones(1, 1, 1, 2), 0, objective="logit")
    >>> [node.dx.flatten().tolist() for node in nodes]
    [[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]]
    """

    x: Tensor
    dx: Tensor
    grad: Tensor
    value: Tensor
    index: int
    input: Tensor
    reference: Tensor | None
    share: float | Tensor
    line: int = 0
    weight: float | Tensor = 1.0
    tangent: bool = False
    evaluated: bool = True
    kept: dict = field(default_factory=dict, repr=False, compare=False)

    def once(self, key: Hashable, of: Tensor, compute: Callable[[Tensor], object]) -> object:
        """compute(of), of a tensor of this node, done once for all grids that the node lies on."""
        if key not in self.kept or self.kept[key][0] is not of:  # a copy may have another gradient
            self.kept[key] = of, compute(of)
        return self.kept[key][1]


@dataclass
class Probe:
    """Evaluates the network at points of a path, at most `budget` images a pass, and counts what it evaluated.

    >>> probe = Probe(Gated(lambda x: x.flatten(1), "logit"), torch.tensor([1]), "logit")
    >>> value, grad = probe(torch.ones(3, 1, 1, 1, 2))  # three points of one image
    >>> value.shape, grad.shape, probe.evaluations
    (torch.Size([3, 1]), torch.Size([3, 1, 1, 1, 2]), 3)
    """

    model: Gated
    target: Tensor  # (B,)
    objective: str = "probability"
    budget: int | None = None
    create_graph: bool = False
    evaluations: int = 0  # forward+backward passes, counted in images

    def together(self, x: Tensor) -> int:
        """How many points of each of the images x (B, C, H, W) fit into one pass."""
        return max(1, (self.budget or rows_at_once(self.model, x)) // len(x))

    def __call__(self, points: Tensor, towards: Tensor | None = None) -> tuple[Tensor, ...]:
        """points (K, B, C, H, W) -> values (K, B) and gradients (K, B, C, H, W).

        With `towards`, other classes (K, B), also the gradients of their scalars, from the same forward pass.
        """
        count, images = points.shape[:2]
        self.evaluations += count * images
        found = passes(
            self.model,
            points.flatten(0, 1),
            self.target.repeat(count),
            objective=self.objective,
            budget=self.budget,
            create_graph=self.create_graph,
            towards=None if towards is None else towards.flatten(),
        )
        return tuple(tensor.unflatten(0, (count, images)) for tensor in found)


@dataclass(frozen=True)
class Stop:
    """A point of a path that is known beforehand.

    point() -> (B, C, H, W); cell(point) -> dx, or None where dx is the step to the line's next stop (0 for its last);
    reference() -> the line's reference; stops of equal `key` are the same point, evaluated once.
    `evaluated=False`: not evaluated at all; value NaN and gradient 0 stand for what no rule in use needs.

    >>> x = torch.ones(1, 1, 1, 1)
    >>> Stop(key=0, point=lambda: x / 2, index=0, share=1.0, reference=lambda: 0 * x).point().item()
    0.5
    """

    key: Hashable
    point: Callable[[], Tensor]
    index: int
    share: float | Tensor
    reference: Callable[[], Tensor]
    cell: Callable[[Tensor], Tensor] | None = None
    line: int = 0
    weight: float | Tensor = 1.0
    evaluated: bool = True


def prescribed(probe: Probe, x: Tensor, stops: Sequence[Stop]) -> Iterator[Node]:
    """The nodes of stops on lines that end at x (B, C, H, W), as many of them evaluated in one pass as fit.

    Memory: the points of one pass, and those that later stops share.

    >>> x, black = torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    >>> probe = Probe(Gated(lambda x: x.flatten(1), "logit"), torch.tensor([1]), "logit")
    >>> stops = [Stop(a, lambda a=a: a * x, int(2 * a), 0.5, lambda: black) for a in (0, 0.5, 1)]
    >>> [(node.value.item(), node.dx.sum().item()) for node in prescribed(probe, x, stops)]
    [(0.0, 1.0), (0.5, 1.0), (1.0, 0.0)]
    """
    uses = Counter(stop.key for stop in stops)
    first = {stop.key: stop for stop in reversed(stops) if stop.evaluated}
    order = [key for key in dict.fromkeys(stop.key for stop in stops) if key in first]
    known = {}

    def evaluated(stop: Stop) -> tuple[Tensor, Tensor, Tensor]:
        while stop.evaluated and stop.key not in known:
            keys = [order.pop(0) for _ in range(min(probe.together(x), len(order)))]
            points = torch.stack([first.pop(key).point() for key in keys])
            known.update(zip(keys, zip(points, *probe(points), strict=True), strict=True))
        if stop.evaluated:
            return known[stop.key]
        point = stop.point()
        return point, point.new_full((len(x),), torch.nan), torch.zeros_like(point)

    for stop, following in zip(stops, [*stops[1:], None], strict=True):
        point, value, grad = evaluated(stop)
        if stop.cell is not None:
            dx = stop.cell(point)
        elif following is None or following.line != stop.line:
            dx = torch.zeros_like(point)
        else:
            dx = evaluated(following)[0] - point
        uses[stop.key] -= 1
        if not uses[stop.key]:
            known.pop(stop.key, None)
        ends = {"input": x, "reference": stop.reference()}
        place = {
            "line": stop.line,
            "weight": stop.weight,
            "tangent": stop.cell is not None,
            "evaluated": stop.evaluated,
        }
        yield Node(point, dx, grad, value, stop.index, share=stop.share, **ends, **place)


def share_of(share: float | Tensor) -> float | Tensor:
    """A share or weight, a number or (B,), ready to multiply maps (B, C, H, W).

    >>> share_of(torch.ones(2)).shape
    torch.Size([2, 1, 1, 1])
    """
    return share.view(-1, 1, 1, 1) if isinstance(share, Tensor) else share
