"""Rules: how the evaluated nodes of a path become a map."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.nodes import Node

RIEMANN_RULES = ("left", "right", "trapezoid", "midpoint", "gauss", "mean")


@runtime_checkable
class Rule(Protocol):
    """What `attribute` asks of a rule; a class that inherits from it needs a `__call__` only.

    It is called with each node and the next one on the same line (None after the last) and returns what the step adds:
    a tensor (B, C, H, W), or a dict of tensors summed separately, of which "map" is the attribution.

    needs     the grid it is for, one of `RIEMANN_RULES`: "trapezoid" for a rule that reads `following`, which needs
              both ends of every interval; "" for any
    at_input  False: it reads neither gradient nor value of a node that is the input itself, where nothing remains of
              the way, so that `Lines(at_input=False)` may leave them out
    close     None, or: sums are taken line by line, and close(sums of a line) is what is added up
    finish    has the last word on the sums

    A plain function of (node, following) will do as well. A rule in a few lines, the gradient's part of every step:

    >>> from lib.attribution import Straight, attribute
    >>> class MeanGradient(Rule):
    ...     def __call__(self, node, following):
    ...         return node.grad * node.share
    >>> path, rules = Straight(4), {"mean": MeanGradient(), "plain": lambda node, following: node.grad * node.share}
    >>> maps = attribute(lambda x: x.flatten(1) ** 2, torch.ones(1, 1, 1, 2), 0, path=path, rules=rules)
    >>> torch.equal(maps["mean"], maps["plain"])
    True
    """

    needs: str = ""
    at_input: bool = True
    close: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None

    def __call__(self, node: Node, following: Node | None) -> Tensor | Mapping[str, Tensor]: ...

    def finish(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        return sums


@dataclass(frozen=True)
class Plain(Rule):
    """A function of (node, following) as a rule that has no needs.

    >>> as_rules({"g": lambda node, following: node.grad})["g"].__class__.__name__
    'Plain'
    """

    function: Callable[[Node, Node | None], Tensor | Mapping[str, Tensor]]

    def __call__(self, node: Node, following: Node | None) -> Tensor | Mapping[str, Tensor]:
        return self.function(node, following)


def as_rules(rules: Mapping[str, Rule | Callable]) -> dict[str, Rule]:
    """The rules of a call, functions made rules; InputError for what is neither.

    >>> as_rules({"ig": Riemann()})
    {'ig': Riemann(rule='trapezoid')}
    """
    if not isinstance(rules, Mapping):
        raise InputError(f"rules is {rules!r}; give a dict, such as {{'ig': Riemann()}}")
    plain = FunctionType | MethodType | partial
    found = {name: Plain(rule) if isinstance(rule, plain) else rule for name, rule in rules.items()}
    for name, rule in found.items():
        if isinstance(rule, type) or not isinstance(rule, Rule):
            given = f"the class {rule.__name__}" if isinstance(rule, type) else f"a {type(rule).__name__}"
            raise InputError(
                f"rule {name!r} is {given}; give a function of (node, following) or an instance of a class that "
                "inherits from lib.attribution.Rule"
            )
    return found


@dataclass(frozen=True)
class Riemann(Rule):
    """Integrated gradients along the path: sum over steps of gradient * displacement.

    rule: which gradient stands for a step. "left", "right", "trapezoid" (the mean of both ends) on grids with both
    ends of every interval; "midpoint" and "gauss" on grids of that name (Straight(grid=...)); "mean" on lines from
    several references, whose points all count alike.
    Raises InputError for another name.

    >>> from lib.attribution import Straight, attribute
    >>> x = torch.tensor([[[[0.5, 1.0]]]])  # f = a^2 + b
    >>> network = lambda x: x[..., 0].flatten(1) ** 2 + x[..., 1].flatten(1)
    >>> attribute(network, x, 0, path=Straight(4), rules={"ig": Riemann()}, objective="logit")["ig"]
    tensor([[[[0.2500, 1.0000]]]])
    """

    rule: str = "trapezoid"

    def __post_init__(self):
        if self.rule not in RIEMANN_RULES:
            raise InputError(f"Riemann rule {self.rule!r} is unknown; choose one of {', '.join(RIEMANN_RULES)}")

    @property
    def needs(self) -> str:
        return self.rule

    def __call__(self, node: Node, following: Node | None) -> Tensor:
        if self.rule in ("left", "midpoint", "gauss", "mean"):
            return node.grad * node.dx
        if following is None:
            return torch.zeros_like(node.grad)
        if self.rule == "right":
            return following.grad * node.dx
        return (node.grad + following.grad).mul_(node.dx * 0.5)


@dataclass(frozen=True)
class IDGI(Rule):
    """Important direction gradient integration: sum_j (f_{j+1} - f_j) g_j^2 / |g_j|^2 (Yang et al. 2023, alg. 1).

    Sums to f(last node) - f(first node) exactly for any number of steps. side: the end of a step that gives its
    gradient, "left" (the reference's, the paper's choice) or "right".
    Where the gradient vanishes the change of f has no direction: the step is left out and its change is counted
    in the sum "lost" (B,). Differs from the released code (idgi.py:30), which divides 0 by 0 and loses the whole
    map; `guard=False` does the same.
    scale: multiplies the gradient; with the normalisation's std, the gradient with respect to normalised images.
    Raises InputError for another side.

    >>> from lib.attribution import Straight, attribute
    >>> network = lambda x: 3 * x[..., :1].flatten(1) + 4 * x[..., 1:].flatten(1)  # f = 3a + 4b rises by 7
    >>> x, rules = torch.ones(1, 1, 1, 2), {"idgi": IDGI()}
    >>> attribute(network, x, 0, path=Straight(2), rules=rules, objective="logit")["idgi"]
    tensor([[[[2.5200, 4.4800]]]])
    """

    side: str = "left"
    guard: bool = True
    scale: object = None  # tensor broadcastable to (C, 1, 1)

    needs: ClassVar[str] = "trapezoid"

    def __post_init__(self):
        if self.side not in ("left", "right"):
            raise InputError(f"side {self.side!r} is unknown; choose left or right")

    def __call__(self, node: Node, following: Node | None) -> dict[str, Tensor]:
        if following is None:
            return {"map": torch.zeros_like(node.grad), "lost": torch.zeros_like(node.value)}
        at = node if self.side == "left" else following
        square, length, flat = at.once(id(self), at.grad, self._squared)
        rise = (following.value - node.value) * node.weight
        share = torch.where(flat, 0.0, rise) / length
        return {"map": square * share[:, None, None, None], "lost": torch.where(flat, rise, 0.0)}

    def _squared(self, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The squares of a gradient in units of its largest entry (B, C, H, W), their sum (B,), is it flat (B,)."""
        grad = grad if self.scale is None else grad * torch.as_tensor(self.scale).to(grad)
        # Divided by its largest entry first, a small gradient does not underflow when squared.
        entries = grad.detach().flatten(1)
        largest = torch.maximum(entries.amax(1), -entries.amin(1))  # (B,)
        flat = largest < 1e-30 if self.guard else torch.zeros_like(largest, dtype=torch.bool)
        square = (grad / torch.where(flat, 1.0, largest)[:, None, None, None]).square()
        return square, torch.where(flat, 1.0, square.flatten(1).sum(1)), flat


@dataclass(frozen=True)
class SquaredGradient(Rule):
    """Control: the plain sum of squared gradients over the nodes, sum_j g_j^2.

    What remains of IDGI when neither the change of f along the path nor the length of the gradient is used.
    The last node is left out, so that it sees the gradients IDGI sees.

    >>> from lib.attribution import Straight, attribute
    >>> rules, x = {"g2": SquaredGradient()}, torch.ones(1, 1, 1, 2)
    >>> attribute(lambda x: 3 * x.flatten(1), x, 0, path=Straight(2), rules=rules, objective="logit")["g2"]
    tensor([[[[18.,  0.]]]])
    """

    needs: ClassVar[str] = "trapezoid"

    def __call__(self, node: Node, following: Node | None) -> Tensor:
        if following is None:
            return torch.zeros_like(node.grad)
        return node.once("square", node.grad, torch.square)
