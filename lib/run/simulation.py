"""A run's schedule, simulated: units go to whichever worker is free, in batches that wait for their last unit."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lib import InputError


@dataclass(frozen=True)
class Batch:
    """What one call of `evaluate` sends to the workers: `units` of `seconds` each on average, through one network.

    >>> Batch(units=10, seconds=2.5, network="vgg16").units
    10
    """

    units: int
    seconds: float
    network: str = ""


def makespan(
    batches: Iterable[Batch], workers: int, *, loading: float = 0.0, spread: float = 0.0, seed: int = 0
) -> float:
    """Seconds until the last unit of the last batch is finished.

    Each unit goes to the worker that is free first (list scheduling, Graham 1966), in order. A batch begins when the
    one before it has ended, as notebooks wait for `evaluate`, so that every batch has a tail of idle workers.
    loading: seconds that a worker takes to load a network other than that of its last unit
    spread: standard deviation of the logarithm of a unit's seconds, which are drawn lognormally around their mean
    Raises InputError for fewer than one worker, and for numbers below 0.

    >>> makespan([Batch(4, 1.0)], 1), makespan([Batch(4, 1.0)], 4), makespan([Batch(5, 1.0)], 4)
    (4.0, 1.0, 2.0)
    >>> makespan([Batch(2, 1.0, "a"), Batch(2, 1.0, "b")], 2, loading=3.0)
    8.0
    """
    if workers < 1 or loading < 0 or spread < 0:
        raise InputError(
            f"workers is {workers}, loading {loading} and spread {spread}; give 1 or more workers, and 0 or more"
        )
    random, now, loaded = np.random.default_rng(seed), 0.0, [""] * workers
    for batch in batches:
        if batch.units < 0 or not batch.seconds >= 0:
            raise InputError(f"{batch} has fewer units or seconds than none; give 0 or more")
        free = [(now, worker) for worker in range(workers)]  # a heap, since all are equal
        for seconds in _drawn(batch, spread, random):
            start, worker = heapq.heappop(free)
            switch = loading if batch.network and loaded[worker] != batch.network else 0.0
            loaded[worker] = batch.network
            heapq.heappush(free, (start + switch + seconds, worker))
        now = max(end for end, _ in free)
    return now


def _drawn(batch: Batch, spread: float, random: np.random.Generator) -> Sequence[float]:
    """The seconds of each unit; their mean is the batch's but for chance."""
    factors = random.lognormal(-(spread**2) / 2, spread, batch.units) if spread else np.ones(batch.units)
    return (batch.seconds * factors).tolist()


def fitted_spread(seconds: Iterable[float]) -> float:
    """The `spread` of units' seconds, fitted to those of like units: the standard deviation of their logarithms.

    Raises InputError for fewer than two, and for one that is not above 0.

    >>> round(fitted_spread([1.0, np.e]), 3)
    0.707
    """
    found = np.array(list(seconds), dtype=float)
    if len(found) < 2 or not (found > 0).all():
        raise InputError(f"the seconds of units are {found.tolist()}; give two or more numbers above 0")
    return float(np.log(found).std(ddof=1))
