"""walk and attribute: one walk along a path feeds any number of rules and step counts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.evaluate import values
from lib.attribution.nodes import Node, Probe


@dataclass(frozen=True)
class Attribution:
    """The maps of one walk.

    sums[name] or sums[name, n]  everything a rule summed: "map" (B, C, H, W), for IDGI also "lost" (B,)
    value, reference_value       f at the input and at the reference, (B,)
    evaluations                  forward+backward passes spent, in images
    """

    sums: Mapping[object, Mapping[str, Tensor]]
    value: Tensor
    reference_value: Tensor
    evaluations: int

    def __getitem__(self, key) -> Tensor:
        """The attribution map (B, C, H, W) of a rule, or of (rule, number of steps) in a sweep."""
        return self.sums[key]["map"]

    def completeness_error(self, key) -> Tensor:
        """Sum of the map minus (f(x) - f(x')), (B,): zero for a method that keeps its promise."""
        total = self[key].flatten(1).sum(1, dtype=torch.float64)
        return total - (self.value.double() - self.reference_value.double())


def walk(
    model: Callable[[Tensor], Tensor],
    path,
    x: Tensor,
    target: Tensor,
    *,
    objective: str = "probability",
    budget: int | None = None,
    create_graph: bool = False,
) -> Iterator[Node]:
    """The nodes of `path` for images x (B, C, H, W) in [0, 1] and classes target (B,), one at a time.

    The network is evaluated at as many points together as `budget` allows (images x steps; automatic by default);
    nothing else grows with the number of steps. With create_graph the nodes can be differentiated again, with
    respect to x and to the network's parameters, and autograd then keeps every evaluation.
    Raises InputError for malformed images or targets, and where a gradient is not finite.
    """
    return path.nodes(x, _probe(model, x, target, objective, budget, create_graph))


def attribute(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    *,
    path,
    rules: Mapping[str, Callable],
    steps: Sequence[int] | None = None,
    objective: str = "probability",
    budget: int | None = None,
    create_graph: bool = False,
) -> Attribution:
    """The maps of all `rules` from one walk along `path`; with `steps`, for each of these step counts as well.

    x (B, C, H, W) in [0, 1], target (B,), rules {name: rule}. `steps`: step counts that divide path.steps, on the
    true sub-grids of the walk; the keys of the result are then (name, n). Maps are signed and per channel; their sum
    over channels is the pixel map. A map does not depend on which other images are in the batch.
    Raises InputError where path, rules, steps, images or targets do not fit together.
    """
    _check_rules(path, rules)
    grids = {n: _Grid(rules, stride) for n, stride in _strides(path, steps).items()}
    probe = _probe(model, x, target, objective, budget, create_graph)
    first = last = None
    for node in path.nodes(x, probe):
        first, last = first or node, node
        for grid in grids.values():
            grid.take(node)
    sums = {
        name if n is None else (name, n): parts for n, grid in grids.items() for name, parts in grid.finish().items()
    }
    reference_value = _value_at(path.start(x), first, probe)
    return Attribution(sums, _value_at(x, last, probe), reference_value, probe.evaluations)


class _Grid:
    """The running sums of all rules on one (sub-)grid of the walk; holds one node at a time."""

    def __init__(self, rules: Mapping[str, Callable], stride: int):
        self.rules, self.stride = rules, stride
        self.sums: dict[str, dict[str, Tensor]] = {name: {} for name in rules}
        self.held: Node | None = None

    def take(self, node: Node) -> None:
        if node.index % self.stride:
            return
        if self.held is not None:
            self._add(self.held, node if node.line == self.held.line else None)
        self.held = node

    def finish(self) -> dict[str, dict[str, Tensor]]:
        self._add(self.held, None)
        return {
            name: rule.finish(self.sums[name]) if hasattr(rule, "finish") else self.sums[name]
            for name, rule in self.rules.items()
        }

    def _add(self, node: Node, following: Node | None) -> None:
        if self.stride > 1:
            node = replace(node, dx=self._displacement(node, following))
        for name, rule in self.rules.items():
            parts = rule(node, following)
            for part, tensor in (parts if isinstance(parts, Mapping) else {"map": parts}).items():
                total = self.sums[name].get(part)
                self.sums[name][part] = tensor if total is None else total + tensor

    def _displacement(self, node: Node, following: Node | None) -> Tensor:
        if node.tangent:
            return node.dx * self.stride
        return torch.zeros_like(node.x) if following is None else following.x - node.x


def _value_at(point: Tensor, node: Node, probe: Probe) -> Tensor:
    """f at an end of the path, from its node where the grid has one there."""
    if torch.equal(node.x, point):
        return node.value
    return values(probe.model, point, probe.target, objective=probe.objective, budget=probe.budget)


def _probe(model, x: Tensor, target: Tensor, objective: str, budget: int | None, create_graph: bool) -> Probe:
    if x.ndim != 4 or not x.is_floating_point() or len(x) == 0:
        raise InputError(
            f"images are {tuple(x.shape)} {x.dtype}; give floating-point (B, C, H, W) with at least one image"
        )
    if target.shape != (len(x),) or target.is_floating_point():
        raise InputError(
            f"targets are {tuple(target.shape)} {target.dtype}; give one whole class index an image, ({len(x)},)"
        )
    if budget is not None and budget < 1:
        raise InputError(f"budget is {budget}; give the number of images per pass, at least 1, or None")
    return Probe(model, target, objective, budget, create_graph)


def _check_rules(path, rules: Mapping[str, Callable]) -> None:
    for name, rule in rules.items():
        needed = getattr(rule, "rule", None)
        if needed is not None and needed not in path.rules:
            raise InputError(
                f"rule {name!r} is Riemann({needed!r}), but {path} has nodes for {', '.join(path.rules)} only"
            )
        if getattr(rule, "intervals", False) and "trapezoid" not in path.rules:
            raise InputError(
                f"rule {name!r} needs both ends of every interval; {path} has nodes for {', '.join(path.rules)} only"
            )


def _strides(path, steps: Sequence[int] | None) -> dict[int | None, int]:
    if steps is None:
        return {None: 1}
    bad = [n for n in steps if n < 1 or path.steps % n]
    if bad or not path.nested:
        raise InputError(
            f"steps {list(steps)} are not sub-grids of {path}; "
            + (f"give divisors of {path.steps}" if path.nested else "this path has none: walk it once per step count")
        )
    return {n: path.steps // n for n in steps}
