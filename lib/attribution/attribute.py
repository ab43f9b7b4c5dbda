"""walk and attribute: one walk along a path feeds any number of rules and step counts."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lib import InputError, nearest
from lib.attribution.arguments import whole_number
from lib.attribution.forward import is_finite, values
from lib.attribution.gate import gate
from lib.attribution.grid import Grid
from lib.attribution.nodes import Node, Probe
from lib.attribution.paths import INTERVAL_RULES, Path
from lib.attribution.rules import Rule, as_rules


@dataclass(frozen=True)
class Attribution:
    """The maps of one walk.

    sums[name] or sums[name, n]  everything a rule summed: "map" (B, C, H, W), for IDGI also "lost" (B,)
    evaluations                  forward+backward passes spent, in images

    >>> from lib.attribution import IDGI, Riemann, Straight
    >>> rules = {"ig": Riemann(), "idgi": IDGI()}
    >>> found = attribute(lambda x: x.flatten(1) ** 2, torch.ones(1, 1, 1, 2), 0, path=Straight(4), rules=rules)
    >>> found["ig"].shape, found.evaluations, found.completeness_error("idgi").abs().item() < 1e-6
    (torch.Size([1, 1, 1, 2]), 5, True)
    """

    sums: Mapping[object, Mapping[str, Tensor]]
    evaluations: int
    path: Path
    x: Tensor
    probe: Probe
    known: Mapping[str, Tensor]  # values at the ends that are nodes of the grid

    def __getitem__(self, key) -> Tensor:
        """The attribution map (B, C, H, W) of a rule, or of (rule, number of steps) in a sweep; InputError without."""
        if key not in self.sums:
            raise InputError(f"there is no map {key!r}; {nearest(key, self.sums)}")
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
    path: Path,
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

    >>> from lib.attribution import Straight
    >>> nodes = walk(lambda x: x.flatten(1) ** 2, Straight(2), torch.ones(1, 1, 1, 2), 0, objective="logit")
    >>> [(node.index, node.value.item(), node.grad.flatten().tolist()) for node in nodes]
    [(0, 0.0, [0.0, 0.0]), (1, 0.25, [1.0, 0.0]), (2, 1.0, [2.0, 0.0])]
    """
    _require_path(path)
    return _walk(path, *_probe(model, x, target, objective, budget, create_graph))


def attribute(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    *,
    path: Path,
    rules: Mapping[str, Rule | Callable],
    steps: Iterable[int] | None = None,
    objective: str = "probability",
    budget: int | None = None,
    create_graph: bool = False,
) -> Attribution:
    """The maps of all `rules` from one walk along `path`; with `steps`, for each of these step counts as well.

    x (B, C, H, W) in [0, 1], target (B,), rules {name: rule}. `steps`: step counts that divide path.steps, on the
    true sub-grids of the walk; the keys of the result are then (name, n). Maps are signed and per channel; their sum
    over channels is the pixel map. A map does not depend on which other images are in the batch.
    Raises InputError where path, rules, steps, images or targets do not fit together, and as `walk`.

    >>> from lib.attribution import Riemann, Straight
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).eval()
    >>> x, rules = torch.rand(2, 3, 2, 2), {"ig": Riemann(), "squares": lambda node, following: node.grad**2}
    >>> maps = attribute(network, x, [0, 2], path=Straight(8), rules=rules, steps=[2, 8])
    >>> maps["ig", 2].shape, sorted(maps.sums)
    (torch.Size([2, 3, 2, 2]), [('ig', 2), ('ig', 8), ('squares', 2), ('squares', 8)])
    """
    _require_path(path)
    rules = as_rules(rules)
    _check_rules(path, rules)
    grids = {n: Grid(rules, path, n) for n in _checked_steps(path, steps)}
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


def _probe(model, x, target, objective: str, budget: int | None, create_graph: bool) -> tuple[Tensor, Probe]:
    model, x, target = gate(model, x, target, objective=objective, differentiable=create_graph)
    budget = None if budget is None else whole_number(budget, "budget")
    return x, Probe(model, target, objective, budget, create_graph)


def _walk(path: Path, x: Tensor, probe: Probe) -> Iterator[Node]:
    """The nodes of a path; whether they were finite is looked at once, after the last."""
    places, never = [], torch.iinfo(torch.int64).max
    broken = torch.full((len(x),), never, device=x.device)  # each image's first node that was not: one tensor for all,
    # because small ones that stay, made between the passes, would break up the memory that the passes use again
    for node in path.nodes(x, probe):
        if node.evaluated:
            finite = is_finite(node.value, node.grad)
            broken = torch.minimum(broken, torch.where(finite, never, len(places)))
            places.append((node.index, node.line, "image" if node.reference is None else "reference"))
        yield node
    if (first := int(broken.min())) < never:
        index, line, end = places[first]
        images = (broken == first).nonzero().flatten().tolist()
        raise InputError(
            f"the network's value or gradient is not finite at node {index} of line {line}, counted from the {end} "
            f"(images {images[:8]} of the batch): check its weights for NaN, or give another reference or path"
        )


def _require_path(path) -> None:
    if isinstance(path, type) or not isinstance(path, Path):
        raise InputError(
            f"path is {path!r}; give an instance of a class that inherits from lib.attribution.Path, as Straight(128)"
        )


def _check_rules(path: Path, rules: Mapping[str, Rule]) -> None:
    for name, rule in rules.items():
        if rule.needs and rule.needs not in path.rules:
            both = " (both ends of every interval)" if rule.needs in INTERVAL_RULES else ""
            raise InputError(
                f"rule {name!r} needs nodes for {rule.needs!r}{both}; {path} has nodes for {', '.join(path.rules)} only"
            )
        if rule.at_input and not path.at_input:
            raise InputError(
                f"rule {name!r} reads the gradient at the input, which {path} leaves out: give at_input=True, or a "
                "rule that weighs by the remaining distance"
            )


def _checked_steps(path: Path, steps: Iterable[int] | None) -> list[int | None]:
    if steps is None:
        return [None]
    if isinstance(steps, str) or not isinstance(steps, Iterable):
        raise InputError(f"steps is {steps!r}; give a list of step counts")
    counts = [whole_number(n, "steps") for n in steps]
    fits = {"stride": lambda n: path.steps % n == 0, "prefix": lambda n: n <= path.steps}.get(path.nested)
    if fits is None or not all(map(fits, counts)):
        allowed = {"stride": f"divisors of {path.steps}", "prefix": f"numbers up to {path.steps}"}.get(path.nested)
        raise InputError(
            f"steps {counts} are not sub-grids of {path}; "
            + (f"give {allowed}" if allowed else "this path has none: walk it once per step count")
        )
    return counts
