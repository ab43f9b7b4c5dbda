"""walk and attribute: one walk along a path feeds any number of rules and step counts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.forward import is_finite, values
from lib.attribution.gate import gate, whole_number
from lib.attribution.nodes import Node, Probe


@dataclass(frozen=True)
class Attribution:
    """The maps of one walk.

    sums[name] or sums[name, n]  everything a rule summed: "map" (B, C, H, W), for IDGI also "lost" (B,)
    evaluations                  forward+backward passes spent, in images
    """

    sums: Mapping[object, Mapping[str, Tensor]]
    evaluations: int
    path: object
    x: Tensor
    probe: Probe
    known: Mapping[str, Tensor]  # values at the ends that are nodes of the grid

    def __getitem__(self, key) -> Tensor:
        """The attribution map (B, C, H, W) of a rule, or of (rule, number of steps) in a sweep."""
        return self.sums[key]["map"]

    @cached_property
    def value(self) -> Tensor:
        """f at the input, (B,); evaluated on demand where the input is not a node."""
        return self.known["value"] if "value" in self.known else self._value_at(self.x)

    @cached_property
    def reference_value(self) -> Tensor:
        """f at the reference, (B,): the weighted mean over the references where the path has several."""
        if "reference_value" in self.known:
            return self.known["reference_value"]
        return sum(weight * self._value_at(reference) for weight, reference in self.path.ends(self.x))

    def completeness_error(self, key) -> Tensor:
        """Sum of the map minus (f(x) - f(x')), (B,): zero for a method that keeps its promise."""
        total = self[key].flatten(1).sum(1, dtype=torch.float64)
        return total - (self.value.double() - self.reference_value.double())

    def _value_at(self, point: Tensor) -> Tensor:
        probe = self.probe
        return values(probe.model, point, probe.target, objective=probe.objective, budget=probe.budget)


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
    Raises InputError as `lib.attribution.gate.gate`, and at the end where a gradient was not finite, naming the node.
    """
    return _walk(path, *_probe(model, x, target, objective, budget, create_graph))


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
    grids = {n: _Grid(rules, path, n) for n in _checked_steps(path, steps)}
    x, probe = _probe(model, x, target, objective, budget, create_graph)
    first = last = None
    for node in _walk(path, x, probe):
        first, last = first or node, node
        for grid in grids.values():
            grid.take(node)
    sums = {
        name if n is None else (name, n): parts for n, grid in grids.items() for name, parts in grid.finish().items()
    }
    known = {"value": last.value} if torch.equal(last.x, x) and last.value.isfinite().all() else {}
    if last.line == 0 and first.reference is not None and torch.equal(first.x, first.reference):
        known["reference_value"] = first.value
    return Attribution(sums, probe.evaluations, path, x, probe, known)


class _Grid:
    """The running sums of all rules on one (sub-)grid of the walk; holds one node at a time."""

    def __init__(self, rules: Mapping[str, Callable], path, steps: int | None):
        self.rules, self.path, self.steps = rules, path, steps or path.steps
        self.sums: dict[str, dict[str, Tensor]] = {name: {} for name in rules}
        self.line: dict[str, dict[str, Tensor]] = {name: {} for name in rules}  # of rules that close each line
        self.held: Node | None = None

    def take(self, node: Node) -> None:
        if not self._has(node):
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

    def _has(self, node: Node) -> bool:
        if self.path.nested == "prefix":
            return node.index < self.steps
        return node.index % (self.path.steps // self.steps) == 0

    def _add(self, node: Node, following: Node | None) -> None:
        if self.steps < self.path.steps:
            node = self._coarser(node, following)
        for name, rule in self.rules.items():
            parts = rule(node, following)
            parts = parts if isinstance(parts, Mapping) else {"map": parts}
            if not hasattr(rule, "close"):
                _accumulate(self.sums[name], parts)
                continue
            _accumulate(self.line[name], parts)
            if following is None:
                _accumulate(self.sums[name], rule.close(self.line[name]))
                self.line[name] = {}

    def _coarser(self, node: Node, following: Node | None) -> Node:
        """The node as one of a grid of fewer steps: it stands for more of the path."""
        factor = self.path.steps / self.steps
        if node.tangent:
            return replace(node, dx=node.dx * factor, share=node.share * factor)
        if following is None:
            return replace(node, dx=torch.zeros_like(node.x), share=0.0)
        return replace(node, dx=following.x - node.x, share=node.share * factor)


def _accumulate(sums: dict[str, Tensor], parts: Mapping[str, Tensor]) -> None:
    for part, tensor in parts.items():
        sums[part] = tensor if part not in sums else sums[part] + tensor


def _probe(model, x, target, objective: str, budget: int | None, create_graph: bool) -> tuple[Tensor, Probe]:
    model, x, target = gate(model, x, target, objective=objective, differentiable=create_graph)
    budget = None if budget is None else whole_number(budget, "budget")
    return x, Probe(model, target, objective, budget, create_graph)


def _walk(path, x: Tensor, probe: Probe) -> Iterator[Node]:
    """The nodes of a path; whether they were finite is looked at once, after the last."""
    places, finite = [], []
    for node in path.nodes(x, probe):
        if node.evaluated:
            places.append((node.index, node.line, "image" if node.reference is None else "reference"))
            finite.append(is_finite(node.value, node.grad))
        yield node
    broken = ~torch.stack(finite)
    if broken.any():
        first = int(broken.any(1).nonzero()[0])
        index, line, end = places[first]
        raise InputError(
            f"the network's value or gradient is not finite at node {index} of line {line}, counted from the {end} "
            f"(images {broken[first].nonzero().flatten().tolist()[:8]} of the batch): check its weights for NaN, or give "
            "another reference or path"
        )


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


def _checked_steps(path, steps: Sequence[int] | None) -> list[int | None]:
    if steps is None:
        return [None]
    fits = {"stride": lambda n: path.steps % n == 0, "prefix": lambda n: n <= path.steps}.get(path.nested)
    if fits is None or any(n < 1 or not fits(n) for n in steps):
        allowed = {"stride": f"divisors of {path.steps}", "prefix": f"numbers up to {path.steps}"}.get(path.nested)
        raise InputError(
            f"steps {list(steps)} are not sub-grids of {path}; "
            + (f"give {allowed}" if allowed else "this path has none: walk it once per step count")
        )
    return list(steps)
