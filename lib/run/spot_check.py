"""A sample of a record's units, computed again, and their rows compared with the committed tables."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from lib.run.notebooks import python_cells, read_notebook
from lib.run.slicing import DOORS, run_cells
from lib.run.study import Study, jobs_of
from lib.run.verification import compare_folders, tables_in
from lib.store import units as units_of_work
from lib.store.workers import one_thread

SAVED = ("tables.save_csv", "tables.save_parquet", "tables.save_parts")
# Computed whole, because other units, or other rows, are made from all of their rows: which photographs a network
# recognises, where its gradients are rough on all of them, the maps that networks are retrained by, trainings among
# which the best is chosen or whose weights are read afterwards, and those whose accuracies make an area.
WHOLE = (
    "lib.experiments.density.validated",
    "lib.experiments.evaluations.roughness",
    "lib.experiments.idgi.predicted",
    "lib.experiments.retraining.ranked",
    "lib.experiments.retraining.retrained",
    "lib.experiments.sparsity.trained",
    "lib.training.fit.training_unit",
)


def chosen(names: list[str], share: float, seed: int) -> list[str]:
    """So many of the names, at least one, drawn by a seed, in their order.

    Of equally many names those at the same places, so that two networks are asked about the same images.

    >>> chosen(["a", "b", "c", "d"], 0.5, seed=0), chosen(["a", "b"], 0.1, seed=0)
    (['c', 'd'], ['b'])
    """
    count = max(1, round(share * len(names)))
    places = np.random.default_rng(seed).choice(len(names), count, replace=False)
    return [names[place] for place in sorted(places)]


@contextlib.contextmanager
def sampled(share: float, seed: int) -> Iterator[list[str]]:
    """A block in which notebooks get the rows of a share of the units that they ask for; lines that name these."""
    real, said = units_of_work.finished, []

    def finished(units: Mapping, compute, *, cache: Path, label: str) -> dict[str, Path]:
        function = getattr(compute, "func", compute)
        whole = f"{function.__module__}.{function.__qualname__}" in WHOLE
        names = list(units) if whole else chosen(list(units), share, seed)
        said.append(f"{label}: {len(names)} of {len(units)} units: {', '.join(names)}")
        return real({name: units[name] for name in names}, compute, cache=cache, label=label)

    units_of_work.finished = finished  # which `evaluate` asks, too
    try:
        yield said
    finally:
        units_of_work.finished = real


def spot_check(this: Study, fresh: Study, only: str, *, share: float, seed: int) -> dict[str, str]:
    """{table: what `compare` says} of the rows of sampled units, computed again below `fresh`.

    Of each notebook only the statements are run that its units and tables need, in this process. Those without units
    are run whole. Verdicts are not judged again, because they rest on all units; the units are printed.
    """
    kept = set(tables_in(this.committed))
    said: dict[str, str] = {}
    for job in jobs_of(fresh, only):
        if job.needs or job.name not in kept:
            continue
        with sampled(share, seed) as units, one_thread():
            failed = run_cells(python_cells(read_notebook(job.path)), job.values, (*DOORS, *SAVED))
        for line in (*units, *failed):
            print(f"{job.name}: {line}", flush=True)
        if job.name not in tables_in(fresh.results):
            said[job.name] = "DIFFERS: its table could not be made from the sampled units"
    return said | compare_folders(this.committed, fresh.results, partial=True, units=True)
