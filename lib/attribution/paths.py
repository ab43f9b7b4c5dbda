"""Paths from a reference to the input: where the network is evaluated.

Images are in [0, 1]; the network normalises them itself.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from lib import InputError
from lib.attribution.arguments import whole_fields
from lib.attribution.blur import PADDINGS, gaussian_blur
from lib.attribution.nodes import Node, Probe, Stop, prescribed
from lib.attribution.references import reference_image

INTERVAL_RULES = ("left", "right", "trapezoid")


@runtime_checkable
class Path(Protocol):
    """What `walk` and `attribute` ask of a path; a class that inherits from it needs `steps`, `ends` and `nodes`.

    steps     the number of steps of its finest grid
    rules     the Riemann rules its grid supports: "left", "right", "trapezoid" where it holds both ends of every
              interval; "midpoint", "gauss" or "mean" for nodes of that kind
    nested    how a grid of n steps is found on it: "stride" (every steps / n -th node), "prefix" (the first n nodes of
              each line), or "" (not at all)
    at_input  False: nodes that are the input itself are not evaluated; see `Rule.at_input`
    ends      (weight, reference x' (B, C, H, W)) of each line: where it begins
    nodes     its nodes in order, from the reference to the input, evaluated by `probe`; points that are known
              beforehand are `Stop`s, of which `prescribed` makes nodes

    A path in a few lines, along which the image grows out of its own mean:

    >>> import torch
    >>> from lib.attribution import Riemann, attribute
    >>> @dataclass(frozen=True)
    ... class FromMean(Path):
    ...     steps: int = 8
    ...     def ends(self, x):
    ...         yield 1.0, x.mean((2, 3), keepdim=True).expand_as(x)
    ...     def nodes(self, x, probe):
    ...         [(_, mean)], n = self.ends(x), self.steps
    ...         at = lambda i: mean + i / n * (x - mean)
    ...         shares = interval_shares(n)
    ...         return prescribed(probe, x, [Stop(i, partial(at, i), i, shares[i], lambda: mean) for i in range(n + 1)])
    >>> x = torch.tensor([[[[0.2, 0.6]]]])
    >>> attribute(lambda x: x.flatten(1), x, 0, path=FromMean(), rules={"ig": Riemann()}, objective="logit")["ig"]
    tensor([[[[-0.2000,  0.0000]]]])
    """

    steps: int
    rules: Collection[str] = INTERVAL_RULES
    nested: str = ""
    at_input: bool = True

    def ends(self, x: Tensor) -> Iterator[tuple[float | Tensor, Tensor]]: ...

    def nodes(self, x: Tensor, probe: Probe) -> Iterator[Node]: ...


@dataclass(frozen=True)
class Straight(Path):
    """The straight line x' + alpha (x - x') (Sundararajan et al. 2017, eq. 1).

    grid "closed": alpha = 0, 1/n, ..., 1 (n + 1 nodes); "midpoint": (k + 1/2)/n; "gauss": Gauss-Legendre nodes.
    Differs from the released code: `released=True` gives its grid of n nodes alpha = k/(n - 1), whose sub-grids
    stop before the input (TMLR code ig.py:82: the 8-step map ends at alpha = .882).
    reference: see `reference_image`. Raises InputError for options that do not exist or do not fit together.

    >>> import torch
    >>> from lib.attribution import walk
    >>> nodes = walk(lambda x: x.flatten(1), Straight(2), torch.ones(1, 1, 1, 1), 0, objective="logit")
    >>> [node.x.item() for node in nodes]
    [0.0, 0.5, 1.0]
    """

    steps: int = 128
    reference: object = "black"
    grid: str = "closed"
    released: bool = False

    def __post_init__(self):
        whole_fields(self, "steps")
        if self.grid not in ("closed", "midpoint", "gauss"):
            raise InputError(f"grid {self.grid!r} is unknown; choose closed, midpoint or gauss")
        if self.released and (self.grid != "closed" or self.steps < 2):
            raise InputError("released=True is the released code's own grid: leave grid='closed' and give steps >= 2")

    @property
    def rules(self) -> tuple[str, ...]:
        return INTERVAL_RULES if self.grid == "closed" else (self.grid,)

    @property
    def nested(self) -> str:
        return "stride" if self.grid == "closed" else ""

    def ends(self, x: Tensor) -> Iterator[tuple[float, Tensor]]:
        yield 1.0, reference_image(self.reference, x)

    def nodes(self, x: Tensor, probe: Probe) -> Iterator[Node]:
        start = reference_image(self.reference, x)
        span = x - start
        alphas, shares = self._quadrature()
        open_grid = self.grid != "closed"
        stops = [
            Stop(
                key=i,
                point=partial(between, start, x, alpha),
                index=i,
                share=share,
                reference=lambda: start,
                cell=(lambda _, share=share: span * share) if open_grid else None,
            )
            for i, (alpha, share) in enumerate(zip(alphas, shares, strict=True))
        ]
        return prescribed(probe, x, stops)

    def _quadrature(self) -> tuple[list[float], list[float]]:
        n = self.steps
        if self.released:
            return [k / (n - 1) for k in range(n)], interval_shares(n - 1)
        if self.grid == "closed":
            return [k / n for k in range(n + 1)], interval_shares(n)
        if self.grid == "midpoint":
            return [(k + 0.5) / n for k in range(n)], [1 / n] * n
        abscissae, weights = np.polynomial.legendre.leggauss(n)
        return ((1 + abscissae) / 2).tolist(), (weights / 2).tolist()


def interval_shares(n: int) -> list[float]:
    """Shares of the n + 1 nodes that bound n equal intervals: the last one begins none.

    >>> interval_shares(2)
    [0.5, 0.5, 0.0]
    """
    return [1 / n] * n + [0.0]


def between(start: Tensor, x: Tensor, alpha: float | Tensor) -> Tensor:
    """start + alpha (x - start), and at alpha = 1 the input itself, not its rounding (which torch.lerp may give).

    >>> import torch
    >>> between(torch.tensor(0.0), torch.tensor(0.1), 0.5)
    tensor(0.0500)
    """
    return x if isinstance(alpha, float | int) and alpha == 1 else start + alpha * (x - start)


@dataclass(frozen=True)
class Blur(Path):
    """The scale-space path: Gaussian blurs of x from sigma_max down to 0 pixels (Xu et al. 2020, Blur IG).

    sigma_j = sigma_max (1 - j/n), j = 0..n; the steps are the exact differences of neighbouring blurs, so no
    finite difference in sigma is taken and nothing between sigma = 0 and the first step is lost.
    Differs from the released code (PAIR blur_ig.py and TMLR blurig.py): `released=True` evaluates sigma_max i/n,
    i = 0..n-1 only, with the forward difference (L(sigma + eps) - L(sigma))/eps, eps = .01, whose first term
    vanishes (a kernel of radius 0). padding "reflect" is TMLR's, "zero" is PAIR's.
    Raises InputError for options that do not exist.

    >>> import torch
    >>> from lib.attribution import walk
    >>> nodes = walk(lambda x: x.flatten(1), Blur(2, sigma_max=3), torch.rand(1, 1, 9, 9), 0)
    >>> [node.x.std() < node.input.std() for node in nodes]
    [tensor(True), tensor(True), tensor(False)]
    """

    steps: int = 128
    sigma_max: float = 50.0
    padding: str = "reflect"
    released: bool = False

    nested = "stride"

    def __post_init__(self):
        whole_fields(self, "steps")
        if self.padding not in PADDINGS or not self.sigma_max > 0:
            raise InputError(
                f"padding {self.padding!r}, sigma_max {self.sigma_max!r}: give reflect or zero, and sigma_max > 0"
            )

    def ends(self, x: Tensor) -> Iterator[tuple[float, Tensor]]:
        yield 1.0, self._blur(x, self.sigma_max)

    def nodes(self, x: Tensor, probe: Probe) -> Iterator[Node]:
        return prescribed(probe, x, list(self._stops(x)))

    def _stops(self, x: Tensor) -> Iterator[Stop]:
        step = self.sigma_max / self.steps
        start = self._blur(x, self.sigma_max)
        if not self.released:
            for i, share in enumerate(interval_shares(self.steps)):
                point = partial(self._blur, x, self.sigma_max * (1 - i / self.steps))
                yield Stop(key=i, point=point, index=i, share=share, reference=lambda: start)
            return
        # From the blurred end to the sharp one like every path here; the released grid counts from the sharp end.
        epsilon = 0.01
        for i in reversed(range(self.steps)):
            yield Stop(
                key=i,
                point=partial(self._blur, x, i * step),
                index=i,
                share=1 / self.steps,
                reference=lambda: start,
                cell=lambda point, i=i: (point - self._blur(x, i * step + epsilon)) * (step / epsilon),
            )

    def _blur(self, x: Tensor, sigma: float) -> Tensor:
        return gaussian_blur(x, sigma, padding=self.padding)
