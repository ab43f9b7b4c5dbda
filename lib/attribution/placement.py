"""Where the next nodes of a line should be, from what is known of it, and what its map is likely to be wrong by."""

import heapq
import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.attribution.nodes import Node
from lib.attribution.rules import Riemann, Rule

BRIDGE = 12**-0.5  # what the trapezoid rule is wrong by over a cell, in |change of the gradient| * width


def equal_parts(alphas: np.ndarray, f: np.ndarray, places: np.ndarray, *, even: float = 0.2) -> np.ndarray:
    """Where the integral of |df/dalpha|^(2/3) reaches these shares of the whole, a share `even` of it spread evenly.

    alphas (K,) from 0 to 1 in order, f (K,) its values there, places (N,) in [0, 1] -> (N,).

    >>> alphas = np.array([0.0, 0.25, 0.5, 0.75, 1.0])  # a step between .25 and .5
    >>> equal_parts(alphas, (alphas > 0.3) * 1.0, np.array([0.25, 0.5, 0.75]), even=0.0)
    array([0.3125, 0.375 , 0.4375])
    """
    widths = np.diff(alphas)
    mass = np.cbrt(np.diff(f) ** 2 * widths)  # |df / width|^(2/3) * width
    mass = mass / mass.sum() if mass.sum() > 0 else widths
    reached = np.concatenate([[0.0], np.cumsum((1 - even) * mass + even * widths)])
    return np.interp(places * reached[-1], reached, alphas)


def shared_out(errors: list[float], room: int) -> list[int]:
    """How many equal parts each cell is divided into, `room` more than there are cells, one by one where most is left.

    A cell of k parts has the error e / k^1.5 left. Of equal errors the earlier one counts as larger, by a thousandth
    over the whole line, so that a rounding error does not decide.

    >>> shared_out([8.0, 1.0, 1.0], 3)
    [4, 1, 1]
    """
    parts = [1] * len(errors)
    tilted = [error * (1 - 1e-3 * cell / len(errors)) for cell, error in enumerate(errors)]
    left = [(-error, cell) for cell, error in enumerate(tilted)]
    heapq.heapify(left)
    for _ in range(room):
        _, cell = left[0]
        parts[cell] += 1
        heapq.heapreplace(left, (-tilted[cell] / parts[cell] ** 1.5, cell))
    return parts


class Evaluated(NamedTuple):
    """A node of one image's line: f () and its gradient (C, H, W) at x' + alpha (x - x').

    >>> Evaluated(0.5, torch.tensor(1.0), torch.ones(1, 1, 2)).alpha
    0.5
    """

    alpha: float
    value: Tensor
    grad: Tensor


class Cells(NamedTuple):
    """What an image's nodes say of the K cells between them, (K,) each, and of the whole line.

    begins, widths  in alpha
    turns           |(g_{i+1} - g_i) * (x - x')|_1
    rises           |f_{i+1} - f_i|
    error           of the trapezoid map, see `TrapezoidError`
    incomplete      |sum of the map - (f(x) - f(x'))| / sum of the rises; NaN or infinite where f does not move

    >>> nodes = [Evaluated(a, torch.tensor(a**2), torch.tensor([2.0 * a])) for a in (0, 0.5, 1)]  # f = a^2
    >>> cells = Cells.of(nodes, torch.ones(1))
    >>> cells.turns.tolist(), cells.rises.tolist(), cells.incomplete
    ([1.0, 1.0], [0.25, 0.75], 0.0)
    """

    begins: np.ndarray
    widths: np.ndarray
    turns: np.ndarray
    rises: np.ndarray
    error: float
    incomplete: float

    @classmethod
    def of(cls, line: list[Evaluated], span: Tensor) -> "Cells":
        """From an image's nodes in order, and x - x' (C, H, W)."""
        alphas = np.array([node.alpha for node in line])
        widths = np.diff(alphas)
        weights = (np.append(widths, 0) + np.append(0, widths)) / 2
        turns, total, span = [], torch.zeros_like(span), span.detach()
        for node, following, weight in zip(line, [*line[1:], line[-1]], weights.tolist(), strict=True):
            turns.append(((following.grad.detach() - node.grad.detach()) * span).abs().sum())
            total = total + node.grad.detach() * span * weight
        f = torch.stack([node.value.detach() for node in line]).double().cpu().numpy()
        found = torch.stack([*turns[:-1], total.abs().sum(), total.sum()]).double().cpu().numpy()
        turns, size, reached, rises = found[:-2], found[-2], found[-1], np.abs(np.diff(f))
        with np.errstate(divide="ignore", invalid="ignore"):
            error = BRIDGE * math.hypot(*(turns * widths)) / size
            incomplete = abs(reached - (f[-1] - f[0])) / rises.sum()
        return cls(alphas[:-1], widths, turns, rises, float(error), float(incomplete))


@dataclass(frozen=True)
class TrapezoidError(Rule):
    """Riemann("trapezoid"), and what its map is likely to be wrong by: "error" (B,), |map - limit|_1 / |limit|_1.

    error = sqrt(sum_i e_i^2 / 12) / |map|_1 with e_i = |(g_{i+1} - g_i) * dx_i|_1. Where a gradient changes like a
    random walk, the trapezoid rule over a step is wrong by the integral of a Brownian bridge, whose size is
    1 / sqrt(12) of the change over the step times the step, independently in each step. It needs no evaluation of its
    own, and unlike the completeness error it does not let the errors of pixels cancel. NaN for a map of zeros.

    >>> from lib.attribution import Straight, attribute
    >>> x, rules = torch.ones(1, 1, 1, 2), {"ig": TrapezoidError()}
    >>> found = attribute(lambda x: x.flatten(1) ** 2, x, 0, path=Straight(2), rules=rules, objective="logit")
    >>> found["ig"].flatten().tolist(), round(found.sums["ig"]["error"].item(), 4)
    ([1.0, 0.0], 0.2041)
    """

    needs: ClassVar[str] = "trapezoid"

    def __call__(self, node: Node, following: Node | None) -> dict[str, Tensor]:
        end = node if following is None else following
        turn = ((end.grad - node.grad) * node.dx).detach().abs().flatten(1).sum(1)
        return {"map": Riemann("trapezoid")(node, following), "squares": turn.square()}

    def finish(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        size = sums["map"].detach().abs().flatten(1).sum(1)
        return {"map": sums["map"], "error": BRIDGE * sums["squares"].sqrt() / size}
