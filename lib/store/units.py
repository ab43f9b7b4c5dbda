"""An experiment: independent units of work, each computed once, joined into one tidy table."""

import inspect
import io
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from tqdm import tqdm

from lib import ROOT, InputError
from lib.store import provenance
from lib.store.digest import digest
from lib.store.files import write_atomically


def units_folder(output: str) -> Path:
    """Where a run with this `output` keeps its units: a new output folder starts from nothing."""
    return ROOT / output / ".cache" / "units"


def trained_folder(output: str) -> Path:
    """Where a run with this `output` keeps what it trained or clustered on the spot."""
    return ROOT / output / ".cache" / "trained"


def evaluate(
    units: Mapping[str, object], compute: Callable[..., pd.DataFrame], *, cache: Path, label: str
) -> pd.DataFrame:
    """Rows of compute(args) for every unit, in the order of `units`; finished units are read from the cache.

    units    {unit name: args}; a tuple is spread, compute(*args), anything else is the only argument
    compute  a function of a module, its settings bound by functools.partial
    cache    `units_folder(output)`; each unit is <cache>/<module>.<function>/<unit>-<key>.parquet, written when it is
             finished. The key is the `digest` of all that the rows depend on: `compute` with its settings and source,
             the unit's own args with the contents of its images and weights, versions, device and threads.
    label    name beside the progress bar (standard error)

    An interruption or a full disk loses at most the unit in hand. A stored unit that cannot be read is
    computed again. Raises InputError without units, for args or a `compute` that have no digest, and on a disk that is
    full or not writable.
    """
    if not units:
        raise InputError(f"{label} was given no units to compute; give at least one image and one model.")
    sources: dict[str, str] = {}
    shared = digest([compute, provenance.environment()], sources)
    function = inspect.unwrap(compute.func if isinstance(compute, partial) else compute)
    folder = Path(cache) / f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
    frames = []
    with tqdm(units.items(), desc=label, unit="unit", mininterval=0.5, leave=False, file=sys.stderr) as progress:
        for name, args in progress:
            path = folder / f"{quote(name, safe='')[:150]}-{digest([shared, args], sources)}.parquet"
            frame = _read(path, progress)
            if frame is None:
                frame = _compute(compute, args, path, label=label)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _read(path: Path, progress: tqdm) -> pd.DataFrame | None:
    if not path.exists():
        return None
    try:
        frame = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises many kinds for a damaged file; the cure is the same for all
        progress.write(f"{path.name} is damaged ({type(error).__name__}) and is computed again.", file=sys.stderr)
        return None
    provenance.reused["units"] += 1
    provenance.reused["seconds"] += frame.attrs.pop("seconds", 0.0)
    return frame


def _compute(compute: Callable[..., pd.DataFrame], args: object, path: Path, *, label: str) -> pd.DataFrame:
    start = time.perf_counter()
    try:
        frame = compute(*args) if isinstance(args, tuple) else compute(args)
    except KeyboardInterrupt:
        print(
            f"{label}: interrupted; every finished unit is kept and only this one is repeated.",
            file=sys.stderr,
        )
        raise
    buffer = io.BytesIO()
    frame.attrs["seconds"] = time.perf_counter() - start
    frame.to_parquet(buffer, index=False)
    write_atomically(path, buffer.getvalue())
    frame = pd.read_parquet(buffer)  # so that a fresh row and a stored row are the same to the last bit and dtype
    frame.attrs.clear()
    return frame
