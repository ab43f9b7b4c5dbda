"""Rules: how the evaluated nodes of a path become a map.

A rule is called with each node and the next one on the same line (None after the last) and returns what the step
adds: a tensor (B, C, H, W), or a dict of tensors summed separately, of which "map" is the attribution. A rule
with a method finish(sums) -> dict has the last word on the sums; one with a method close(sums) -> dict is summed
line by line, and close makes of each line's sums what is added up. A plain function of (node, following) will do.
A rule that reads `following` says intervals = True: it needs both ends of every interval.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.nodes import Node

RIEMANN_RULES = ("left", "right", "trapezoid", "midpoint", "gauss", "mean")


@dataclass(frozen=True)
class Riemann:
    """Integrated gradients along the path: sum over steps of gradient * displacement.

    rule: which gradient stands for a step. "left", "right", "trapezoid" (the mean of both ends) on grids with both
    ends of every interval; "midpoint" and "gauss" on grids of that name (Straight(grid=...)); "mean" on lines from
    several references, whose points all count alike.
    """

    rule: str = "trapezoid"

    def __post_init__(self):
        if self.rule not in RIEMANN_RULES:
            raise InputError(f"Riemann rule {self.rule!r} is unknown; choose one of {', '.join(RIEMANN_RULES)}")

    def __call__(self, node: Node, following: Node | None) -> Tensor:
        if self.rule in ("left", "midpoint", "gauss", "mean"):
            return node.grad * node.dx
        if following is None:
            return torch.zeros_like(node.grad)
        if self.rule == "right":
            return following.grad * node.dx
        return (node.grad + following.grad) * (node.dx / 2)


@dataclass(frozen=True)
class IDGI:
    """Important direction gradient integration: sum_j (f_{j+1} - f_j) g_j^2 / |g_j|^2 (Yang et al. 2023, alg. 1).

    Sums to f(last node) - f(first node) exactly for any number of steps. side: the end of a step that gives its
    gradient, "left" (the reference's, the paper's choice) or "right".
    Where the gradient vanishes the change of f has no direction: the step is left out and its change is counted
    in the sum "lost" (B,). Differs from the released code (idgi.py:30), which divides 0 by 0 and loses the whole
    map; `guard=False` does the same.
    scale: multiplies the gradient; with the normalisation's std, the gradient with respect to normalised images.
    """

    side: str = "left"
    guard: bool = True
    scale: object = None  # tensor broadcastable to (C, 1, 1)

    intervals = True

    def __post_init__(self):
        if self.side not in ("left", "right"):
            raise InputError(f"side {self.side!r} is unknown; choose left or right")

    def __call__(self, node: Node, following: Node | None) -> dict[str, Tensor]:
        if following is None:
            return {"map": torch.zeros_like(node.grad), "lost": torch.zeros_like(node.value)}
        grad = node.grad if self.side == "left" else following.grad
        grad = grad if self.scale is None else grad * self.scale
        # Divided by its largest entry first, a small gradient does not underflow when squared.
        largest = grad.detach().abs().flatten(1).amax(1)  # (B,)
        flat = largest < 1e-30 if self.guard else torch.zeros_like(largest, dtype=torch.bool)
        square = (grad / torch.where(flat, 1.0, largest)[:, None, None, None]).square()
        rise = (following.value - node.value) * node.weight
        share = torch.where(flat, 0.0, rise) / torch.where(flat, 1.0, square.flatten(1).sum(1))
        return {"map": square * share[:, None, None, None], "lost": torch.where(flat, rise, 0.0)}


@dataclass(frozen=True)
class SquaredGradient:
    """Control: the plain sum of squared gradients over the nodes, sum_j g_j^2.

    What remains of IDGI when neither the change of f along the path nor the length of the gradient is used.
    The last node is left out, so that it sees the gradients IDGI sees.
    """

    intervals = True

    def __call__(self, node: Node, following: Node | None) -> Tensor:
        return torch.zeros_like(node.grad) if following is None else node.grad.square()
