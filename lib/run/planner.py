"""What units cost: a few thin ones are computed in a rehearsal, in place of all that a notebook asks for."""

import contextlib
import ctypes
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from lib.data.imagenet import Photograph
from lib.experiments.subjects import Subject
from lib.models.recipes import NETWORKS, TWINS
from lib.run.counting import Tally, side_of
from lib.store import provenance
from lib.training.fit import training_unit

FEW = 2  # a setting in which the cost is a straight line is tried at so much, and at twice that
LINEAR = ("iterations", "epochs", "steps")  # such settings; "steps" only where there are iterations of them
ENOUGH = 3.0  # seconds of one experiment after which no other unit of it is rehearsed
CERTAIN = 0.1  # relative standard error with which the mean of a unit's rest is known well enough
# Whose units are not thinned to one image: each is the others' chance level, or every second one is confident.
PAIRED = ("lib.experiments.lens", "lib.experiments.lens_attacks", "lib.experiments.idgi")
KNOWN_NETWORKS = {*NETWORKS, *TWINS, *TWINS.values()}

# {"rest": seconds, "trained": of trainings whose weights are kept, "bytes": of rows, (network, kind of pass): rows}
Cost = dict[object, float]


@dataclass(frozen=True)
class Units:
    """Units that are computed side by side: how many, through which networks, and what each costs."""

    label: str
    count: int
    networks: tuple[str, ...]
    cost: Cost
    memory: float = 0.0  # GB of this process at its peak, its libraries among them


class Planner:
    """Stands in for `evaluate` and `finished` of `lib.store.units`: computes a few thin units, notes what all cost.

    tally: of the networks that count; folder: for the rows that `finished` hands on.
    """

    def __init__(self, tally: Tally, folder: Path):
        self.tally, self.folder = tally, folder
        self.known: dict[tuple, tuple] = {}
        self.units: list[Units] = []

    def evaluate(self, units: Mapping, compute: Callable, *, cache: Path, label: str) -> pd.DataFrame:
        if compute is training_unit:
            return self._trainings(units, label)
        groups: dict[tuple[str, ...], dict] = {}
        for name, arguments in units.items():
            groups.setdefault(networks_in(arguments), {})[name] = arguments
        return pd.concat(
            [self._of_networks(names, group, compute, label) for names, group in groups.items()], ignore_index=True
        )

    def _of_networks(self, names: tuple[str, ...], units: Mapping, compute: Callable, label: str) -> pd.DataFrame:
        outside = dict(self.tally.rows)
        key = _identity(compute, next(iter(units.values())), names)
        if key not in self.known:
            _forget_peak()
            self.known[key] = names, *self._mean_cost(units, compute), _peak()
        first, cost, frame, memory = self.known[key]
        renamed = dict(zip(first, names, strict=True))  # a network of the same size takes the same passes
        cost = {k if isinstance(k, str) else (renamed.get(k[0], k[0]), k[1]): value for k, value in cost.items()}
        self.units.append(Units(label, len(units), names, cost, memory))
        self.tally.rows.clear()
        self.tally.rows.update(outside)
        return frame

    def finished(self, units: Mapping, compute: Callable, *, cache: Path, label: str) -> dict[str, Path]:
        frame = self.evaluate(units, compute, cache=cache, label=label)
        file = self.folder / f"{len(self.known)}.parquet"
        frame.to_parquet(file, index=False)
        return dict.fromkeys(units, file)

    def _trainings(self, units: Mapping, label: str) -> pd.DataFrame:
        """Each training is another: all are begun, and the mean of what they would take is each one's."""
        before = self.tally.once
        frame = pd.concat([training_unit(load) for load in units.values()])
        mean, self.tally.once = (self.tally.once - before) / len(units), before
        self.units.append(Units(label, len(units), (), {"rest": mean, "bytes": 0}))
        return frame

    def _mean_cost(self, units: Mapping, compute: Callable) -> tuple[Cost, pd.DataFrame]:
        """Of units all over the list: as many as ENOUGH seconds allow, or as it takes to be CERTAIN.

        Where most of them train a network that none did before, each is taken to have a training of its own.
        """
        arguments, found, start, once = [*units.values()], [], time.process_time(), self.tally.once
        for place in np.random.default_rng(0).permutation(len(units)):
            found.append(self._cost(compute, arguments[place]))
            rests = np.array([cost["rest"] for cost, _ in found[1:]])  # the first one also loads and imports
            certain = len(rests) > 2 and rests.std(ddof=1) / len(rests) ** 0.5 < CERTAIN * rests.mean()
            if certain or time.process_time() - start > ENOUGH:
                break
        costs = [cost for cost, _ in found[len(found) > 1 :]]
        keys = dict.fromkeys(key for cost in costs for key in cost)
        mean = {key: float(np.mean([cost.get(key, 0) for cost in costs])) for key in keys}
        trained = mean.pop("trained")
        if len(found) > 1 and np.mean([cost["trained"] > 0 for cost, _ in found]) > 0.5:
            mean["rest"] += trained
            self.tally.once = once
        return mean, found[-1][1]

    def _cost(self, compute: Callable, arguments: object) -> tuple[Cost, pd.DataFrame]:
        settings = getattr(compute, "keywords", {})
        for name in LINEAR if "iterations" in settings else LINEAR[:2]:
            if isinstance(settings.get(name), int) and settings[name] > 2 * FEW:
                ends = [partial(compute, **{name: value}) for value in (FEW, 2 * FEW)]
                (low, _), (high, frame) = (self._cost(each, arguments) for each in ends)
                return line(low, high, settings[name] / FEW - 1), frame
        few, whole = thin(arguments, 2 if getattr(compute, "func", compute).__module__ in PAIRED else 1)
        few = few if isinstance(few, tuple) else (partial(self._recognised, few) if callable(few) else few,)
        self.tally.rows.clear()
        cut, once, start = self.tally.cut, self.tally.once, time.process_time()
        frame = compute(*few)
        rest = time.process_time() - start + self.tally.cut - cut
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        cost = {"rest": rest, "bytes": len(buffer.getvalue()), **self.tally.rows}
        cost = {key: value * whole for key, value in cost.items()}
        return cost | {"trained": self.tally.once - once}, frame

    def _recognised(self, load: Callable[[], Subject]) -> Subject:
        """The subject, with the classes that its network sees, so that no image is left out as misclassified; of a pool
        that stands for a larger one.
        """
        of, before = load(), dict(self.tally.rows)
        target = of.model(of.x).argmax(1)
        self.tally.rows.clear()
        self.tally.rows.update(before)
        return replace(of, target=target, own=[place if place < len(of.pool) else -1 for place in of.own])


def line(low: Cost, high: Cost, at: float) -> Cost:
    """The straight line through `low` at 0 and `high` at 1; it does not fall.

    >>> line({"rest": 1.0}, {"rest": 1.5, ("vgg16", "forward"): 4}, 3)
    {'rest': 2.5, ('vgg16', 'forward'): 12}
    """
    return {key: low.get(key, 0) + at * max(0.0, value - low.get(key, 0)) for key, value in high.items()}


def thin(arguments: object, count: int) -> tuple[object, float]:
    """A unit's arguments with `count` photographs, and how many times as many it has; those of digits as they are."""
    factor = 1.0

    def cut(value: object) -> object:
        nonlocal factor
        if isinstance(value, list) and value and isinstance(value[0], Photograph | bool):
            factor = max(1.0, len(value) / count)
            return value[:count]
        if type(value) is tuple:
            return tuple(map(cut, value))
        if isinstance(value, partial):
            return partial(value.func, *map(cut, value.args), **{name: cut(v) for name, v in value.keywords.items()})
        return value

    return cut(arguments), factor


def networks_in(arguments: object) -> tuple[str, ...]:
    """The networks for photographs that a unit's arguments name.

    >>> networks_in(partial(print, "vgg16", ["a list"], other="mnist_cnn"))
    ('vgg16',)
    """
    if isinstance(arguments, str):
        return (arguments,) if arguments in KNOWN_NETWORKS else ()
    if isinstance(arguments, partial):
        arguments = (*arguments.args, *arguments.keywords.values())
    return sum(map(networks_in, arguments), ()) if isinstance(arguments, tuple) else ()


def _identity(compute: Callable, arguments: object, names: tuple[str, ...]) -> tuple:
    """What decides the cost of a unit, but for what its networks' passes take."""
    kind = repr(arguments) if not names else tuple(map(side_of, names))
    return repr(compute), kind


def _forget_peak() -> None:
    """Begin to look for the most memory that this process holds, after it has given back what it does not use."""
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float:
    return provenance.process()["peak_memory_mb"] / 1000
