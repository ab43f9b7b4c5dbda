"""The cross matrix: every combination of path and rule, scored by every metric on the same photographs and networks.

All metrics see the same maps, and every metric's own cost is counted in passes of the network.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from lib import InputError
from lib.data.imagenet import Photograph, explained_and_pool
from lib.experiments.cross_paths import Way, along, combinations, ways
from lib.experiments.cross_scores import (
    MODE,
    Protocol,
    alike,
    informed,
    inserted,
    passes_of,
    re_encoded,
    removal,
    sensitive,
    stable,
    under_noise,
)
from lib.experiments.subjects import DIGITS, DIGITS_WITHOUT_BIASES, Key, Subject, grouped, score_rows, subject_units
from lib.metrics.sanity import randomised, stages
from lib.models.fold import prepare
from lib.models.zoo import best_device, load_network

REDRAWN = {"sanity_last": 0, "sanity_all": -1}  # down to which stage, from the output, the weights are drawn anew


@dataclass(frozen=True)
class Pictured(Subject):
    """A subject of photographs, with the files that they were decoded from, in their own resolution."""

    photos: list[Photograph]

    def only(self, kept: Tensor) -> "Pictured":
        """The images where `kept` (B,) holds."""
        places = kept.nonzero().flatten().tolist()
        lists = {name: [getattr(self, name)[place] for place in places] for name in ("images", "own", "photos")}
        return replace(self, x=self.x[kept], target=self.target[kept], **lists)


def cross_units(
    name: str, *, images: str, limit: int, group: int, pool: int, weights: str, cache: Path
) -> dict[str, Callable[[], Pictured]]:
    """`subjects.subject_units` of photographs, with their files. Raises InputError for a network for digits."""
    if name in (DIGITS, DIGITS_WITHOUT_BIASES):
        raise InputError(f"the cross matrix explains photographs, and {name} knows digits; give another network")
    chosen = {"limit": limit, "pool": pool}
    units = subject_units(name, images=images, digits_limit=0, group=group, weights=weights, cache=cache, **chosen)
    parts = grouped(explained_and_pool(images, **chosen)[0], group, cache=cache)
    return {unit: partial(_pictured, load, part) for (unit, load), part in zip(units.items(), parts, strict=True)}


def _pictured(load: Callable[[], Subject], photos: list[Photograph]) -> Pictured:
    of = load()
    return Pictured(of.network, of.x, of.target, of.images, of.pool, of.own, photos)


def cross_matrix(
    load: Callable[[], Pictured],
    *,
    paths: list[str],
    points: int,
    references: int,
    clusters: int,
    objective: str,
    protocol: Mapping[str, object],
    cache: Path,
    weights: str = "",
    seed: int = 0,
) -> pd.DataFrame:
    """Every score of every combination of a unit's photographs, of those that the network classifies correctly.

    paths, points, references, clusters: see `ways`; protocol: the fields of `Protocol`. Returns one row per image,
    path, rule, steps (evaluations) and metric. Beside the scores: "right" of all photographs; of each path
    "evaluations", "extra_evaluations" (their distance to what all are to have) and "seconds" an image; of each family
    of metrics, as `rule`, "forward_passes" and "gradient_passes" an image.
    """
    of, how = load(), Protocol(**protocol)
    right = of.answers()[1]
    rows = score_rows(of.items, [("none", "-", 0, MODE)], "right", right[:, None])
    if right.any():
        of = of.only(right)
        chosen = {"paths": paths, "points": points, "references": references, "clusters": clusters}
        rows += _scored(of, ways(of, **chosen, cache=cache, seed=seed), how, objective, weights, seed)
    return pd.DataFrame(rows).drop(columns="curve").assign(model=of.network.name)


def _scored(of: Pictured, found: list[Way], how: Protocol, objective: str, weights: str, seed: int) -> list[dict]:
    everything, costs = combinations([], of, objective, seed), {}  # a first pass takes longer: it is not timed
    for way in found:
        maps, costs[way.name, "riemann", way.evaluations, MODE] = along(way, of, objective, halved=True)
        everything |= maps
    most = max(way.evaluations for way in found)
    halves = {key: each for key, each in everything.items() if key[0] != "none" and key[2] < most}
    whole = {key: each for key, each in everything.items() if key not in halves}
    rows = [
        row
        for key, spent in costs.items()
        for metric, value in spent.items()
        for row in score_rows(of.items, [key], metric, torch.full((len(of.x), 1), value))
    ]
    redrawn = dict(_redrawn(of, weights, seed))

    def others(**changes) -> dict[Key, Tensor]:
        return combinations(found, replace(of, **changes), objective, seed)

    def randomised_maps() -> dict[str, dict[Key, Tensor]]:
        return {name: others(network=replace(of.network, model=model)) for name, model in redrawn.items()}

    families = {
        "removal": (whole, lambda: removal(of, whole, how)),
        "insertion": (whole, lambda: inserted(of, whole, how)),
        "information": (whole, lambda: informed(of, whole, how)),
        "sensitivity": (whole, lambda: sensitive(of, whole, how, seed)),
        "stability": (
            whole,
            lambda: stable(whole, others(x=re_encoded(of, how)), others(x=under_noise(of, how, seed)), how),
        ),
        "sanity": (whole, lambda: {name: alike(whole, maps) for name, maps in randomised_maps().items()}),
        "equal_time": (halves, lambda: {"diffid_logit": removal(of, halves, how)["diffid_logit"]}),
    }
    for family, (maps, score) in families.items():
        with passes_of(of.model, *redrawn.values()) as spent:
            scores = score()
        for metric, values in scores.items():
            rows += score_rows(of.items, maps, metric, values)
        for kind, count in spent.items():
            each = torch.full((len(of.x), 1), count / len(of.x))
            rows += score_rows(of.items, [("none", family, 0, MODE)], kind, each)
    return rows


def _redrawn(of: Subject, weights: str, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """The network with its last stage drawn anew, and with all of them, ready for attribution."""
    # Drawn before batch norms are folded into the convolutions, as in recalibration_checks.
    bare = load_network(of.network.name, weights=weights or None, prepared=False).model
    for name, stage in REDRAWN.items():
        drawn = randomised(bare, stages(bare)[stage], seed=seed)
        yield name, prepare(drawn, shape=tuple(of.x.shape[1:])).to(best_device())
