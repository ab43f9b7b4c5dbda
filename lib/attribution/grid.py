"""A grid of nodes on a path, and what rules sum over it."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.nodes import Node
from lib.attribution.paths import Path
from lib.attribution.rules import Rule


class Grid:
    """The running sums of all rules on one grid of a path, of `steps` steps (None: all); holds one node at a time.

    >>> from lib.attribution import Riemann, Straight, walk
    >>> path = Straight(4)
    >>> coarse = Grid({"ig": Riemann("left")}, path, 2)
    >>> for node in walk(lambda x: x.flatten(1) ** 2, path, torch.ones(1, 1, 1, 1), 0, objective="logit"):
    ...     coarse.take(node)
    >>> coarse.finish()["ig"]["map"].item()  # gradients 0 and 1, at 0 and 1/2
    0.5
    """

    def __init__(self, rules: Mapping[str, Rule], path: Path, steps: int | None):
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
        """What each rule summed; InputError for a rule whose sums hold no map of the images' shape."""
        self._add(self.held, None)
        found = {name: rule.finish(self.sums[name]) for name, rule in self.rules.items()}
        for name, sums in found.items():
            if "map" not in sums or sums["map"].shape != self.held.x.shape:
                given = f"a map {tuple(sums['map'].shape)}" if "map" in sums else f"{', '.join(sums)} and no 'map'"
                raise InputError(f"rule {name!r} sums up {given}; give {_wanted(self.held)}")
        return found

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
            if strange := [part for part in parts.values() if not isinstance(part, Tensor)]:
                raise InputError(f"rule {name!r} answers with a {type(strange[0]).__name__}; give {_wanted(node)}")
            if rule.close is None:
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


def _wanted(node: Node) -> str:
    return f"what a node adds to the map, a tensor {tuple(node.x.shape)}, or a dict with it as 'map'"


def _accumulate(sums: dict[str, Tensor], parts: Mapping[str, Tensor]) -> None:
    for part, tensor in parts.items():
        total = sums.get(part)
        if total is None:
            sums[part] = tensor.clone()  # later parts are added to it in place, and a rule may return what others read
        elif (total.shape, total.dtype) == (tensor.shape, tensor.dtype):
            total.add_(tensor)
        else:
            sums[part] = total + tensor
