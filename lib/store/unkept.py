"""Units whose rows are kept nowhere, because what computes them has no digest by which they could be found again."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from lib import InputError
from lib.store.workers import computed


def computed_now(
    units: Mapping[str, tuple], compute: Callable[..., pd.DataFrame], *, cache: Path, label: str
) -> pd.DataFrame:
    """Rows of compute(*args) of every unit, in the order of `units`, as `lib.store.units.evaluate` joins them.

    For a rule that is written in a notebook, or a network that is in memory. Units go to the workers of a cluster where
    there is one; cache: a folder that these share; label: name beside the progress bar (standard error), which says
    how much time is left.
    Raises InputError without units and as `lib.store.workers.computed`, and what `compute` raises.

    >>> halves = {"one": (1,), "two": (2,)}
    >>> computed_now(halves, lambda n: pd.DataFrame({"value": [n / 2]}), cache=Path(), label="halves")["value"].tolist()
    [0.5, 1.0]
    """
    if not units:
        raise InputError(f"{label} was given no units to compute; give at least one image and one network.")
    tasks, frames = {name: (compute, args) for name, args in units.items()}, {}
    with tqdm(total=len(units), desc=label, unit="unit", mininterval=0.5, leave=False, file=sys.stderr) as progress:
        for name, found in computed(tasks, _rows_of, module=__name__, folder=Path(cache), label=label):
            frames[name] = found["rows"]
            progress.update()
    return pd.concat([frames[name] for name in units], ignore_index=True)


def _rows_of(compute: Callable[..., pd.DataFrame], args: tuple) -> dict:
    return {"rows": compute(*args)}
