"""Straight lines from many references: what IG-Uniform, IG-SG, Expected Gradients and LPI walk along."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.arguments import image_ids, whole_fields
from lib.attribution.nodes import Node, Probe, Stop, prescribed, share_of
from lib.attribution.paths import INTERVAL_RULES, Path, between, interval_shares
from lib.attribution.references import References
from lib.seeds import image_generator

GRIDS = ("midpoint", "uniform", "linspace", "closed")
PAIRINGS = ("full", "tiled", "fresh")


@dataclass(frozen=True, eq=False)
class Lines(Path):
    """The lines r + alpha (x - r) from the references r_1 ... r_R, `steps` = k points on each.

    references  a set of `lib.attribution.references`
    grid        "midpoint": alpha = (i + 1/2)/k. "uniform": alpha ~ U(0, 1), drawn for each image and line; the first
                n points of each line are a draw of n, so that one walk serves a sweep. "linspace": k points from 0 to
                1, all of share 1/k (the released grid, neither rectangle nor trapezoid; k = 1 is alpha = 1).
                "closed": k + 1 points from 0 to 1, for rules that need both ends of their intervals (IDGI).
    pairing     "full": every reference meets every alpha, k R points.
                "fresh": as many references as points, the j-th at alpha_{j mod k} (the authors' code at the time of
                the paper, 65e5142); `references` must then hold k R.
                "tiled": sample j = 0 ... k R - 1 uses reference j mod R and alpha_{j mod k}, but the displacement of
                reference j div k (AR:IG_SG.py:140 and 58-61). Only lcm(k, R) points are distinct and evaluated, of
                which the gradients are kept while they are needed.
    at_input    False: points at alpha = 1 are not evaluated. Their distance to x is 0, so that rules which weigh by
                the remaining distance never read their gradient; others are refused.
    images, seed  ids of the images and seed: what uniform draws depend on, and nothing else

    Raises InputError for options that do not exist or do not fit together, and references or ids of other images.

    >>> from lib.attribution import walk
    >>> from lib.attribution.references import Single
    >>> path, x = Lines(Single("black"), 2), torch.ones(1, 1, 1, 1)
    >>> [node.x.item() for node in walk(lambda x: x.flatten(1), path, x, 0, objective="logit")]
    [0.25, 0.75]
    """

    references: References
    steps: int = 5
    grid: str = "midpoint"
    pairing: str = "full"
    at_input: bool = True
    images: Sequence[str] = ()
    seed: int = 0

    def __post_init__(self):
        whole_fields(self, "steps")
        if not isinstance(self.references, References):
            raise InputError(
                f"references is a {type(self.references).__name__}; give a set such as Single('black'), of "
                "lib.attribution.references"
            )
        if self.grid not in GRIDS or self.pairing not in PAIRINGS:
            raise InputError(
                f"grid {self.grid!r}, pairing {self.pairing!r}: choose a grid of {', '.join(GRIDS)} and a pairing of "
                f"{', '.join(PAIRINGS)}"
            )
        if self.pairing != "full" and (self.grid == "closed" or self.references.weights is not None):
            raise InputError(
                f"pairing {self.pairing!r} is for unweighted references on open grids; give pairing='full'"
            )
        if self.pairing == "fresh" and self.references.count % self.steps:
            raise InputError(
                f"pairing 'fresh' needs a reference for each point: {self.references.count} references are not a "
                f"multiple of {self.steps} steps"
            )
        if self.grid == "uniform":
            object.__setattr__(self, "images", image_ids(self.images))

    @property
    def rules(self) -> tuple[str, ...]:
        return INTERVAL_RULES if self.grid == "closed" else ("mean",)

    @property
    def nested(self) -> str:
        return {"uniform": "prefix", "closed": "stride"}.get(self.grid, "")

    def ends(self, x: Tensor) -> Iterator[tuple[float | Tensor, Tensor]]:
        for line in range(self.references.count):
            yield self._weight(line, x), self.references.draw(line, x)

    def nodes(self, x: Tensor, probe: Probe) -> Iterator[Node]:
        self.references.check(x)
        if self.grid == "uniform":
            image_ids(self.images, x)
        # The last two are kept: a point's own reference and, if tiled, the one whose displacement it is given.
        reference = lru_cache(maxsize=2)(partial(self.references.draw, x=x))
        stops = {"full": self._full, "fresh": self._fresh, "tiled": self._tiled}[self.pairing]
        return prescribed(probe, x, list(stops(x, reference)))

    def _full(self, x: Tensor, reference) -> Iterator[Stop]:
        shares = interval_shares(self.steps) if self.grid == "closed" else [1 / self.steps] * self.steps
        for line in range(self.references.count):
            weight = self._weight(line, x)
            for i, (alpha, share) in enumerate(zip(self._alphas(line, x), shares, strict=True)):
                yield self._stop(x, reference, line, line, line, i, alpha, share * weight, weight)

    def _fresh(self, x: Tensor, reference) -> Iterator[Stop]:
        k, count = self.steps, self.references.count
        for j in range(count):
            alpha = self._alphas(j // k, x)[j % k]
            yield self._stop(x, reference, j, j, j, 0, alpha, 1 / count, 1 / count)

    def _tiled(self, x: Tensor, reference) -> Iterator[Stop]:
        k, count = self.steps, self.references.count
        for j in range(k * count):
            alpha = self._alphas(j // k, x)[j % k]
            yield self._stop(x, reference, j // k, j % count, j // k, j % k, alpha, 1 / (k * count), 1 / count)

    def _stop(self, x, reference, line: int, own: int, displaced: int, index: int, alpha, share, weight) -> Stop:
        at_input = not isinstance(alpha, Tensor) and alpha == 1
        return Stop(
            # Every line ends in the same point, and tiling repeats the others; drawn ones are all different.
            key="input" if at_input else (own, index, line if self.grid == "uniform" else None),
            point=lambda: between(reference(own), x, alpha),
            index=index,
            share=share,
            reference=lambda: reference(own),
            cell=lambda _: (x - reference(displaced)) * share_of(share),
            line=line,
            weight=weight,
            evaluated=self.at_input or not at_input,
        )

    def _weight(self, line: int, x: Tensor) -> float | Tensor:
        weights = self.references.weights
        return 1 / self.references.count if weights is None else weights[:, line].to(x)

    def _alphas(self, line: int, x: Tensor) -> list:
        k = self.steps
        if self.grid == "closed":
            return [i / k for i in range(k + 1)]
        if self.grid == "midpoint":
            return [(i + 0.5) / k for i in range(k)]
        if self.grid == "linspace":
            return [i / (k - 1) for i in range(k)] if k > 1 else [1.0]
        drawn = [torch.rand(k, generator=image_generator(self.seed, i, f"alpha/{line}")) for i in self.images]
        return [alpha.view(-1, 1, 1, 1) for alpha in torch.stack(drawn, 1).to(x)]
