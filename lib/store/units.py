"""An experiment: independent units of work, each computed once, joined into one tidy table."""

import inspect
import io
import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pyarrow.parquet as pq
from tqdm import tqdm

from lib import ROOT, InputError
from lib.store import provenance, workers
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
    """Rows of compute(args) for every unit, in the order of `units`, as one table: see `finished`.

    A table that would not fit into memory is read from the files of `finished` instead.
    """
    asked = {"cache": cache, "label": label}
    frames = []
    for name, path in finished(units, compute, **asked).items():
        frame = _rows(path)
        if frame is None:  # damaged between its beginning and its end
            path.unlink()
            frame = _rows(finished({name: units[name]}, compute, **asked)[name])
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def finished(
    units: Mapping[str, object], compute: Callable[..., pd.DataFrame], *, cache: Path, label: str
) -> dict[str, Path]:
    """The file with the rows of compute(args) of every unit, {unit name: parquet file}; only what is not there is
    computed.

    units    {unit name: args}; a tuple is spread, compute(*args), anything else is the only argument
    compute  a function of a module, its settings bound by functools.partial
    cache    `units_folder(output)`; each unit is <cache>/<module>.<function>/<unit>-<key>.parquet, written when it is
             finished. The key is the `digest` of all that the rows depend on: `compute` with its settings and source,
             the unit's own args with the contents of its images and weights, versions and the kind of device.
    label    name beside the progress bar (standard error)

    Units are computed by one thread each, here or on the workers of a cluster, see `lib.store.workers.computed`: the
    rows are the same to the bit on any number of cores and workers, in whichever order they finish.
    An interruption or a full disk loses at most the units in hand. A stored unit that cannot be read is
    computed again. Raises InputError without units, for args or a `compute` that have no digest, on a disk that is
    full or not writable, where workers have other code, and as `computed`.
    """
    if not units:
        raise InputError(f"{label} was given no units to compute; give at least one image and one model.")
    paths = _paths(units, compute, Path(cache))
    with tqdm(total=len(units), desc=label, unit="unit", mininterval=0.5, leave=False, file=sys.stderr) as progress:
        tasks = {}
        for name, path in paths.items():
            seconds = _seconds(path, progress)
            if seconds is None:
                tasks[name] = (compute, units[name], path)
            else:
                provenance.count_reused(seconds)
        progress.initial = progress.n = len(units) - len(tasks)  # the time left is that of what is to be computed
        progress.refresh()
        try:
            how = {"module": _function(compute).__module__, "folder": Path(cache), "label": label}
            for _, used in workers.computed(tasks, _compute, **how):
                provenance.count_computed(used)
                progress.update()
        except KeyboardInterrupt:
            said = f"{label}: interrupted; every finished unit is kept and only those in hand are repeated."
            print(said, file=sys.stderr)
            raise
    return paths


def _paths(units: Mapping[str, object], compute: Callable, cache: Path) -> dict[str, Path]:
    sources: dict[str, str] = {}
    shared = digest([compute, workers.unit_environment()], sources)
    function = _function(compute)
    folder = cache / f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
    names = {name: f"{quote(name, safe='')[:150]}-{digest([shared, args], sources)}" for name, args in units.items()}
    return {name: folder / f"{file}.parquet" for name, file in names.items()}


def _function(compute: Callable) -> Callable:
    return inspect.unwrap(compute.func if isinstance(compute, partial) else compute)


def _seconds(path: Path, progress: tqdm) -> float | None:
    """What a stored unit took; None where it is missing or damaged, which is said."""
    if not path.exists():
        return None
    try:
        return json.loads(pq.read_schema(path).metadata[b"pandas"])["attributes"]["seconds"]
    except Exception as error:  # pyarrow raises many kinds for a damaged file; the cure is the same for all
        progress.write(f"{path.name} is damaged ({type(error).__name__}) and is computed again.", file=sys.stderr)
        return None


def _rows(path: Path) -> pd.DataFrame | None:
    try:
        frame = pd.read_parquet(path, page_checksum_verification=True)
    except OSError as error:
        print(f"{path.name} is damaged ({type(error).__name__}) and is computed again.", file=sys.stderr)
        return None
    frame.attrs.clear()
    return frame


def _compute(compute: Callable[..., pd.DataFrame], args: object, path: Path) -> dict:
    """Compute and store one unit; returns what it took."""
    start = time.perf_counter()
    frame = compute(*args) if isinstance(args, tuple) else compute(args)
    frame.attrs["seconds"] = time.perf_counter() - start
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, write_page_checksum=True)
    write_atomically(path, buffer.getvalue())
    return {"seconds": frame.attrs["seconds"]} | provenance.process()
