"""What the cross matrix explains with: every path with every rule, one walk for all rules of a path.

All paths take the same number of evaluations, `points` * `references` + 1.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path as Folder
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from lib import InputError, nearest
from lib.attribution import (
    IDGI,
    Adversarial,
    Blur,
    Guided,
    Lines,
    Node,
    Path,
    RandomMask,
    Recalibrated,
    Riemann,
    Rule,
    SquaredGradient,
    Straight,
    attribute,
)
from lib.attribution.adversarial import other_classes
from lib.attribution.arguments import whole_number
from lib.attribution.gradients import input_gradient, random_maps
from lib.attribution.nodes import Probe
from lib.attribution.references import NoisyCopies, UniformNoise
from lib.experiments.cross_scores import MODE
from lib.experiments.lpi import local_set, weighted_references
from lib.experiments.subjects import Key, Subject

PATHS = ("straight", "blur", "guided", "uniform", "noise", "dataset", "local", "adversarial")
ONE_LINE = ("straight", "blur", "guided")  # on these, a test by reference would be the positive part of the base
BY_LEFT = ("guided", "adversarial")  # the sums of these methods take each step's gradient where it begins
ALSO_AT_HALF = ("riemann", "riemann_abs", "idgi", "recalibrated_point")  # scored at half the evaluations, too


@dataclass(frozen=True, eq=False)
class Returning(Path):
    """The lines of an adversarial path walked back, each from where it ends to the image, with both ends of every step.

    AGI's own sum is Riemann("left"); that the image is evaluated, too, lets rules for intervals be read off the walk.

    >>> from lib.attribution import walk
    >>> network, x = (lambda x: torch.cat([x.flatten(1), -x.flatten(1)], 1)), torch.full((1, 1, 1, 1), 0.5)
    >>> path = Returning(Adversarial([[1]], steps=2, epsilon=0.1))
    >>> [(round(node.x.item(), 2), round(node.dx.item(), 2)) for node in walk(network, path, x, 0)]
    [(0.3, 0.1), (0.4, 0.1), (0.5, 0.0)]
    """

    outward: Adversarial

    @property
    def steps(self) -> int:
        return self.outward.steps

    def ends(self, x: Tensor):
        return self.outward.ends(x)

    def nodes(self, x: Tensor, probe: Probe) -> Iterator[Node]:
        value, grad = (each[0] for each in probe(x[None]))
        for _, line in groupby(self.outward.nodes(x, probe), key=attrgetter("line")):
            back = [replace(node, tangent=False) for node in line][::-1]
            for index, node in enumerate(back):
                yield replace(node, index=index)
            arrived = {"x": x, "dx": torch.zeros_like(x), "grad": grad, "value": value, "share": 0.0}
            yield replace(back[-1], index=len(back), **arrived)


class Way(NamedTuple):
    """A path under its name in the tables, the same with half its evaluations, what is read off both, and how many
    evaluations the whole path is to have."""

    name: str
    path: Path
    half: Path
    rules: Mapping[str, Rule]
    evaluations: int


def ways(
    of: Subject, *, paths: Collection[str], points: int, references: int, clusters: int, cache: Folder, seed: int = 0
) -> list[Way]:
    """The paths, each of `points` * `references` + 1 evaluations, and half as many points of it.

    Lines from `references` images have `points` steps each, paths from one reference as many in all. A line towards
    one of `references` other classes has one step less, because it begins with the gradient at the image. `local`
    takes its references from the one of `clusters` neighbourhoods in which the network's answer lies.
    Raises InputError for another path, and for points that cannot be halved.
    """
    for name in paths:
        if name not in PATHS:
            raise InputError(f"path {name!r} is unknown; {nearest(name, PATHS)}")
    points, references = whole_number(points, "points", 4), whole_number(references, "references")
    if points % 2:
        raise InputError(f"points is {points}; give an even number, so that half of them are a grid of their own")
    ids = of.images

    def local(k: int) -> Path:
        asked = {"clusters": clusters, "cache": cache, "references": references, "seed": seed}
        near = local_set(of.network, of.pool, **asked)
        return Lines(weighted_references(of, near, of.answers()[0].cpu()), k, "closed")

    def adversarial(k: int) -> Path:
        classes = of.answers()[0].shape[1]
        targets = other_classes(of.target, classes, min(references, classes - 1), images=ids, seed=seed)
        return Returning(Adversarial(targets, k - 1))

    make = {
        "straight": lambda k: Straight(k * references),
        "blur": lambda k: Blur(k * references),
        "guided": lambda k: Guided(k * references),
        "uniform": lambda k: Lines(UniformNoise(ids, references, seed), k, "closed"),
        "noise": lambda k: Lines(NoisyCopies(ids, references, seed), k, "closed"),
        "dataset": lambda k: Lines(of.drawn(references, seed=seed), k, "closed"),
        "local": local,
        "adversarial": adversarial,
    }
    budget = points * references + 1
    return [Way(name, make[name](points), make[name](points // 2), _rules(name, ids, seed), budget) for name in paths]


def _rules(path: str, ids: list[str], seed: int) -> dict[str, Rule]:
    rules = {
        "riemann": Riemann("left" if path in BY_LEFT else "trapezoid"),
        "idgi": IDGI(),
        "recalibrated_point": Recalibrated(),
        "recalibrated_reference": Recalibrated(by="reference", delta="displacement"),
        "squared_gradient": SquaredGradient(),
        "random_mask": RandomMask(ids, seed=seed),
    }
    return {name: rule for name, rule in rules.items() if path not in ONE_LINE or name != "recalibrated_reference"}


def along(way: Way, of: Subject, objective: str, *, halved: bool = False) -> tuple[dict[Key, Tensor], dict[str, float]]:
    """The pixel maps (B, H, W) of a way's rules, and evaluations and seconds that its walk took for each image.

    halved: also those of ALSO_AT_HALF with half the evaluations, from the same walk where its path has such a grid.
    """
    asked = {"rules": way.rules, "objective": objective}
    grids = [way.path.steps // 2, way.path.steps] if halved and way.path.nested else None
    start = perf_counter()
    found = attribute(of.model, of.x, of.target, path=way.path, steps=grids, **asked)
    whole = {rule: found[(rule, grids[1]) if grids else rule] for rule in way.rules}
    maps = _pixel_maps(way, whole, way.evaluations)
    costs = {"seconds": (perf_counter() - start) / len(of.x), "evaluations": found.evaluations / len(of.x)}
    costs["extra_evaluations"] = abs(costs["evaluations"] - way.evaluations)
    if halved:
        few = found if grids else attribute(of.model, of.x, of.target, path=way.half, **asked)
        part = {rule: few[(rule, grids[0]) if grids else rule] for rule in way.rules}
        coarse = _pixel_maps(way, part, way.evaluations // 2 + 1)
        maps |= {key: each for key, each in coarse.items() if key[1] in ALSO_AT_HALF}
    return maps, costs


def _pixel_maps(way: Way, maps: Mapping[str, Tensor], evaluations: int) -> dict[Key, Tensor]:
    """Sums over channels, on the CPU, for which the device has to be done: of the base also of its absolute values and
    of its positive part; of a random mask, which carries no sign, of absolute values."""
    found = {rule: each.abs() if rule == "random_mask" else each for rule, each in maps.items()}
    found |= {"riemann_abs": maps["riemann"].abs(), "relu": maps["riemann"].clamp(min=0)}
    return {(way.name, rule, evaluations, MODE): each.sum(1).cpu() for rule, each in found.items()}


def combinations(found: list[Way], of: Subject, objective: str, seed: int = 0) -> dict[Key, Tensor]:
    """The pixel maps (B, H, W) of all combinations, of a single gradient, and random ones."""
    gradient = input_gradient(of.model, of.x, of.target, objective=objective).abs().sum(1).cpu()
    maps = {("none", "gradient", 1, MODE): gradient}
    maps["none", "random", 0, MODE] = random_maps(of.images, of.x.shape[2:], seed=seed)
    for way in found:
        maps |= along(way, of, objective)[0]
    return maps
