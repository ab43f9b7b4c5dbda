"""What a worker costs beside the units that it computes, which the same units show when this process computes them."""

import tempfile
from collections.abc import Callable, Iterable
from math import ceil
from pathlib import Path

import pandas as pd

from lib.attribution.forward import values_and_gradients
from lib.run.cluster import at_address, local_cluster, visible_gpus
from lib.run.timing import Case, Sides, photographed, seconds, timed
from lib.store.units import finished
from lib.store.workers import one_thread

LONG = 30  # seconds of a unit that must not wait for its worker
FEW, MANY = 2, 100_000  # units of LONG seconds, and units that do nothing
THROUGHPUT = 0.95  # of this process, that a worker must have with units of LONG seconds


def passing(passes: int) -> pd.DataFrame:
    """A unit of so many forward and backward passes."""
    model, x, target = photographed(1)
    for _ in range(passes):
        values_and_gradients(model, x, target)
    return pd.DataFrame({"passes": [passes]})


def empty(number: int) -> pd.DataFrame:
    """A unit that does nothing."""
    return pd.DataFrame({"number": [number]})


def passes_in(asked: float) -> int:
    """How many passes a unit of `asked` seconds has on this machine."""
    with one_thread():
        passing(1)
        return ceil(asked / seconds(lambda: passing(10)) * 10)


def worker_sides(address: str, compute: Callable[[int], pd.DataFrame], units: Iterable[int]) -> Sides:
    """Units computed and stored by the worker of the cluster at `address`, and by this process."""
    named = {f"{place:06d}": unit for place, unit in enumerate(units)}

    def here():
        with tempfile.TemporaryDirectory() as folder:
            finished(named, compute, cache=Path(folder), label="overhead")

    def there():
        with at_address(address):
            here()

    return there, here


def long_units(runs: int) -> list[tuple[float, float]]:
    """Seconds of FEW units of LONG seconds each."""
    units = [passes_in(LONG)] * FEW
    with local_cluster(1, visible_gpus()[:1]) as local:
        return timed(lambda: worker_sides(local.scheduler_address, passing, units), runs)


def empty_units(runs: int) -> list[tuple[float, float]]:
    """Seconds of MANY units that do nothing: once, whatever `runs` says, because they take minutes."""
    with local_cluster(1, []) as local:
        worker_sides(local.scheduler_address, empty, range(1))[0]()
        return [tuple(map(seconds, worker_sides(local.scheduler_address, empty, range(MANY))))]


def overhead_cases() -> list[Case]:
    """The cases of units on a worker beside the same units in this process."""
    long = f"{FEW} units of {LONG} s on a worker; seconds against this process"
    many = f"{MANY:,} empty units on a worker; seconds against this process"
    return [Case(long, long_units, most=1 / THROUGHPUT), Case(many, empty_units)]
