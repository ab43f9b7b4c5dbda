"""A rule or a path of one's own, scored by every metric of the cross matrix beside the published methods.

All methods explain the same scalar on the same photographs, the published ones with as many evaluations each. Scores
are of the photographs that the network classifies correctly.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path as Folder
from types import FunctionType

import pandas as pd
import torch
from torch import Tensor

from lib import InputError, nearest
from lib.attribution import Node, Path, Rule, attribute
from lib.attribution.arguments import whole_fields
from lib.attribution.nodes import Probe, Stop, prescribed
from lib.attribution.paths import interval_shares
from lib.data.imagenet import Photograph, load_image
from lib.experiments.cross import Pictured
from lib.experiments.cross_paths import combinations, ways
from lib.experiments.cross_scores import (
    FAMILIES,
    MODE,
    SMALLER_IS_BETTER,
    Protocol,
    informed,
    inserted,
    re_encoded,
    removal,
    sensitive,
    stable,
    under_noise,
)
from lib.experiments.cross_tables import TRIED
from lib.experiments.exploration import subject_of
from lib.experiments.subjects import Key, Subject, score_rows
from lib.models.zoo import Network

OWN = "own"  # the path of methods of one's own in the tables; their names are the rules
SCORED = {metric: metric not in SMALLER_IS_BETTER for metric in sum(FAMILIES.values(), ()) if "sanity" not in metric}

Method = tuple[Path | Callable[[Subject], Path], Rule | Callable]


@dataclass(frozen=True, eq=False)
class Through(Path):
    """A path given by its points alone: at(x, share) are the images x (B, C, H, W) on their way, at share 1 x itself.

    The shares are 0, 1/n, …, 1, n = `steps`; every rule for intervals goes with it.
    Raises InputError for `steps` below 1, and for points of another shape or a way that ends elsewhere.

    >>> from lib.attribution import Riemann
    >>> x, faster = torch.tensor([[[[0.2, 0.6]]]]), Through(lambda x, share: share**2 * x, steps=4)
    >>> attribute(lambda x: x.flatten(1), x, 1, path=faster, rules={"ig": Riemann()}, objective="logit")["ig"]
    tensor([[[[0.0000, 0.6000]]]])
    """

    at: Callable[[Tensor, float], Tensor]
    steps: int = 32

    def __post_init__(self):
        whole_fields(self, "steps")

    def ends(self, x: Tensor) -> Iterator[tuple[float, Tensor]]:
        yield 1.0, self._point(x, 0)

    def nodes(self, x: Tensor, probe: Probe) -> Iterator[Node]:
        if not torch.allclose(self._point(x, self.steps), x, atol=1e-5):
            raise InputError("the path does not end at the image; give a function that returns x where share is 1")
        shares, begin = interval_shares(self.steps), partial(self._point, x, 0)
        stops = [Stop(k, partial(self._point, x, k), k, share, begin) for k, share in enumerate(shares)]
        return prescribed(probe, x, stops)

    def _point(self, x: Tensor, k: int) -> Tensor:
        point = self.at(x, k / self.steps)
        if not isinstance(point, Tensor) or point.shape != x.shape:
            given = f"shape {tuple(point.shape)}" if isinstance(point, Tensor) else f"a {type(point).__name__}"
            raise InputError(f"the path gives {given} at share {k / self.steps:g}; give images {tuple(x.shape)} like x")
        return point


def published_scores(
    load: Callable[[], Pictured],
    *,
    paths: Collection[str],
    points: int,
    references: int,
    clusters: int,
    objective: str,
    protocol: Mapping[str, object],
    cache: Folder,
    seed: int = 0,
) -> pd.DataFrame:
    """Every score of what papers have TRIED on some paths, and of two controls, for one unit of photographs.

    The controls are the size of a single gradient and random scores. load: of `lib.experiments.cross.cross_units`;
    paths, points, references, clusters: see `lib.experiments.cross_paths.ways`; protocol: the fields of
    `lib.experiments.cross_scores.Protocol`.
    Returns one row per image, path, rule, steps (evaluations an image) and metric of SCORED, {metric: is more better};
    and of every photograph whether the network is "right".
    Raises InputError for a path that no paper tried, and as `ways`.
    """
    if unknown := [path for path in paths if path not in TRIED]:
        raise InputError(f"no paper of this study tried path {unknown[0]!r}; {nearest(unknown[0], TRIED)}")
    sizes = {"paths": paths, "points": points, "references": references, "clusters": clusters}
    wanted = {(path, rule) for path in paths for rule in TRIED[path]} | {("none", "gradient"), ("none", "random")}

    def maps_of(of: Pictured) -> dict[Key, Tensor]:
        found = []
        for way in ways(of, **sizes, cache=cache, seed=seed):
            needed = {rule: each for rule, each in way.rules.items() if (way.name, rule) in wanted}
            found.append(way._replace(rules=needed))
        maps = combinations(found, of, objective, seed)
        return {key: each for key, each in maps.items() if key[:2] in wanted}

    return _scores(load(), maps_of, Protocol(**protocol), seed, path="none")


def own_scores(
    load: Callable[[], Pictured],
    methods: Mapping[str, Method],
    *,
    objective: str,
    protocol: Mapping[str, object],
    seed: int = 0,
) -> pd.DataFrame:
    """The same scores of methods of one's own, {name: (path, rule)}, which stand under path OWN and rule `name`.

    A path that depends on the images, as one with references drawn for each does, is given as a function of their
    `Subject`: lambda of: Lines(of.drawn(4), 5, "closed").
    Raises InputError as `own_maps`.
    """
    maps_of = partial(own_maps, methods=methods, objective=objective)
    return _scores(load(), maps_of, Protocol(**protocol), seed, path=OWN)


def answered_units(
    network: Network, photos: list[Photograph], *, group: int
) -> dict[str, tuple[Callable[[], Pictured]]]:
    """{unit name: (what loads it,)} of a network in memory, which is taken to be right: its answers are the classes.

    photos: `group` of them in a unit, whatever their labels; references are drawn from all of them
    Raises InputError for a group below 1.
    """
    if group < 1:
        raise InputError(f"group is {group}; give the number of photographs of a unit, at least 1")
    parts = [photos[start : start + group] for start in range(0, len(photos), group)]
    return {f"{network.name}-{part[0].id}-{len(part)}": (partial(_answered, network, part, photos),) for part in parts}


def _answered(network: Network, photos: list[Photograph], pool: list[Photograph]) -> Pictured:
    of, others = ({photo.id: partial(load_image, photo) for photo in each} for each in (photos, pool))
    found = subject_of(network, of, subject_of(network, others))
    return Pictured(found.network, found.x, found.target, found.images, found.pool, found.own, photos)


def own_maps(of: Subject, methods: Mapping[str, Method], *, objective: str) -> dict[Key, Tensor]:
    """{(OWN, name, steps, mode): pixel maps (B, H, W), on the CPU} of methods of one's own: sums over channels.

    Raises InputError for methods that are no pairs of a path and a rule, and as `lib.attribution.attribute`.
    """
    maps = {}
    for name, method in methods.items():
        if not isinstance(method, tuple | list) or len(method) != 2:
            raise InputError(f"method {name!r} is {method!r}; give a pair (path, rule), as (Straight(20), IDGI())")
        path = method[0](of) if isinstance(method[0], FunctionType) else method[0]
        found = attribute(of.model, of.x, of.target, path=path, rules={name: method[1]}, objective=objective)
        maps[OWN, name, round(found.evaluations / len(of.x)), MODE] = found[name].sum(1).cpu()
    return maps


def _scores(
    of: Pictured, maps_of: Callable[[Pictured], dict[Key, Tensor]], how: Protocol, seed: int, *, path: str
) -> pd.DataFrame:
    """The rows of `published_scores`, of the maps (B, H, W) that `maps_of` makes of a subject, ranked as they are.

    path: under which it stands whether the network is right
    """
    right = of.answers()[1]
    rows = score_rows(of.items, [(path, "-", 0, MODE)], "right", right[:, None])
    if right.any():
        of = of.only(right)
        maps = maps_of(of)
        lossy, noisy = (maps_of(replace(of, x=x)) for x in (re_encoded(of, how), under_noise(of, how, seed)))
        found = removal(of, maps, how) | inserted(of, maps, how) | informed(of, maps, how)
        found |= sensitive(of, maps, how, seed) | stable(maps, lossy, noisy, how)
        rows += [row for metric, values in found.items() for row in score_rows(of.items, maps, metric, values)]
    return pd.DataFrame(rows).drop(columns="curve").assign(model=of.network.name)
