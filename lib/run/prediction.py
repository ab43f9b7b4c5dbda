"""What a run will take, predicted from a short measurement: units are rehearsed, passes through networks timed.

The seconds of a unit are

    rest + sum over networks and kinds of pass of rows x (seconds of the network - seconds of its stand-in)

Rows and rest come from one thin unit of each experiment, computed with the profile's own settings and a network that
only counts (`lib.run.counting.Counting`); the seconds of a row from a few passes of the real architecture, without its
weights. A notebook takes this times its units, on the run's workers, the trainings it needs, and what its kernel does
itself, as the committed record says, or OWN.
"""

import contextlib
import io
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lib.run.cluster import affordable, visible_gpus
from lib.run.ledger import LEDGER, last_run, read_json
from lib.run.live import clock
from lib.run.notebooks import python_cells, read_notebook
from lib.run.simulation import Batch, makespan
from lib.run.slicing import needed, run_cells
from lib.run.study import OWN_IMAGES, Job, Study

OWN = 20.0  # seconds of a notebook's kernel where no record tells them: its start, imports, statistics, figures
LIBRARIES = 0.6  # GB of a process that computes no units
NEIGHBOURS = 7
NEIGHBOUR = """
import os, torch
torch.set_num_threads(1)
from torch import nn
layers = nn.Sequential(nn.Conv2d(96, 96, 3, padding=1, groups=96), nn.ReLU(), nn.Conv2d(96, 96, 1))
x, parent = torch.rand(8, 96, 56, 56, requires_grad=True), os.getppid()
print("begun", flush=True)
while os.getppid() == parent:
    torch.autograd.grad(layers(x).sum(), x)
"""
PHOTOGRAPHS = 50_000  # of ImageNet's validation set, which are counted where there is no folder of any


@dataclass(frozen=True)
class Part:
    """Units of a notebook that are computed side by side: seconds of a unit in `networks`, and of all else in it."""

    label: str
    units: int
    networks: tuple[str, ...]
    passes: float
    rest: float


@dataclass(frozen=True)
class Prediction:
    """What a notebook will take.

    own: seconds of its kernel, and of the trainings that its units wait for; seconds: of the run on its workers;
    memory: GB of the hungriest process; disk: GB of its results; failed: statements that could not be rehearsed
    """

    notebook: str
    parts: tuple[Part, ...]
    own: float
    seconds: float
    memory: float
    disk: float
    failed: tuple[str, ...] = ()

    @property
    def units(self) -> int:
        return sum(part.units for part in self.parts)

    @property
    def unit_seconds(self) -> float:
        """Of one core, or GPU, for all units."""
        return sum(part.units * (part.passes + part.rest) for part in self.parts)


def predict(this: Study, jobs: list[Job], *, workers: int = 1, photos: int = 0) -> list[Prediction]:
    """What each notebook will take on so many workers of this machine; a training counts where it is first needed.

    photos: how many photographs there will be, where they are not there yet; 0: those of the study.
    """
    cells = {job.name: python_cells(read_notebook(job.path)) for job in jobs}
    record = read_json(this.committed / LEDGER) or read_json(this.root / "results" / "laptop" / LEDGER)
    asking = [job for job in jobs if needed(cells[job.name])]
    if asking:
        with neighbours(0 if visible_gpus() else workers - 1):
            rehearsals, seconds = _measured(asking, cells, photos)
    else:
        rehearsals, seconds = {}, {}
    nothing = _Rehearsal([], {}, 0.0, [])
    return [
        _prediction(job.name, rehearsals.get(job.name, nothing), seconds, record.get(job.name, {}), workers)
        for job in jobs
    ]


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """A block in which other processes, at most NEIGHBOURS, compute as the other workers of a run do: cores that share
    caches, memory or their arithmetic with another are slower beside it.
    """
    command = [sys.executable, "-c", NEIGHBOUR]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(min(count, NEIGHBOURS))]
    try:
        for process in started:
            process.stdout.readline()  # it has begun
        yield
    finally:
        for process in started:
            process.kill()
            process.communicate()


@dataclass(frozen=True)
class _Rehearsal:
    """What a notebook would compute: units, passes outside of them, seconds of trainings, statements that failed."""

    units: list
    own: Mapping
    trainings: float
    failed: list[str]


def _measured(jobs: list[Job], cells: Mapping[str, list[str]], photos: int) -> tuple[dict[str, _Rehearsal], dict]:
    """Each notebook's rehearsal, and {network: `row_seconds`} of those they need."""
    from lib.run.counting import Tally, row_seconds  # the whole study: seconds, which other plans need not wait
    from lib.run.planner import Planner
    from lib.run.rehearsal import rehearsed
    from lib.store.workers import one_thread

    tally, found, quiet = Tally(), {}, io.StringIO()
    with one_thread(), tempfile.TemporaryDirectory(prefix="plan-") as folder, contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(quiet))  # progress of what is not done
        stack.enter_context(contextlib.redirect_stderr(quiet))
        planner = Planner(tally, Path(folder))
        doors = {"evaluate": planner.evaluate, "finished": planner.finished}
        with rehearsed(tally, doors, photos=photos):
            for job in jobs:
                planner.units, tally.once = [], 0.0
                tally.rows.clear()
                values = {name: folder if name == "output" else value for name, value in job.values.items()}
                failed = run_cells(cells[job.name], values)
                found[job.name] = _Rehearsal(planner.units, dict(tally.rows), tally.once, failed)
        kinds = defaultdict(set)
        for cost in (cost for one in found.values() for cost in (one.own, *(each.cost for each in one.units))):
            for network, kind in (key for key in cost if isinstance(key, tuple)):
                kinds[network].add(kind)
        return found, {network: row_seconds(network, each) for network, each in kinds.items()}


def _prediction(name: str, of: _Rehearsal, seconds: Mapping, record: Mapping, workers: int) -> Prediction:
    def passes(cost: Mapping) -> float:
        rows = {key: count for key, count in cost.items() if isinstance(key, tuple)}
        return sum(count * seconds[network][kind] for (network, kind), count in rows.items())

    parts = tuple(Part(u.label, u.count, u.networks, passes(u.cost), u.cost["rest"]) for u in of.units)
    own = record.get("own_seconds", OWN)
    each = (u.memory + max((seconds[n]["memory"] for n in u.networks if n in seconds), default=0.0) for u in of.units)
    memory = max(each, default=0.0)
    disk = 2 * sum(u.count * u.cost["bytes"] for u in of.units) / 1e9  # as units, and as a table
    own += of.trainings + passes(of.own)
    took = own + makespan((Batch(p.units, p.passes + p.rest, "+".join(p.networks)) for p in parts), workers)
    return Prediction(name, parts, own, took, max(LIBRARIES, memory), disk, tuple(of.failed))


def print_plan(this: Study, jobs: list[Job], reasons: Mapping[str, str]) -> None:
    """Print the notebooks, what those with a reason to run will take, and how that was measured.

    reasons: why each runs, by its name; "" for what need not. Notebooks whose data are missing are counted as if they
    were there.
    """
    gpus, start = visible_gpus(), time.monotonic()
    workers = this.workers or affordable(len(gpus))
    absent = this.profile in OWN_IMAGES and this.images == "packaged"
    due = [job for job in jobs if reasons[job.name]]
    found = {each.notebook: each for each in predict(this, due, workers=workers, photos=PHOTOGRAPHS * absent)}
    hours = "GPU-hours" if gpus else "core-hours"
    rows = []
    for job in jobs:
        runs = "yes" if job.name in found else "no"
        row = {"notebook": job.name, "runs": "not without data" if job.needs else runs}
        each = [found[job.name]] if job.name in found else []
        row |= _numbers(each, hours, sum(one.seconds for one in each))
        rows.append(row | {"because": reasons[job.name] or f"unchanged since {last_run(this, job)}"})
    whole = [*found.values()]
    rows.append({"notebook": "all", "runs": "", **_numbers(whole, hours, together(whole, workers)), "because": ""})
    print(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))
    for each in found.values():
        for sentence in each.failed:
            print(f"{each.notebook}: left out, because it needs rows that are not there: {sentence}")
    took = clock(time.monotonic() - start)
    print(f"\nProfile {this.profile}, on {workers} workers of this machine; measured in {took} as docs/scale.md says.")
    if absent:
        print(f"IMAGENET= is not given: {PHOTOGRAPHS:,} copies of the packaged photographs are counted.")


def together(found: Iterable[Prediction], workers: int) -> float:
    """Seconds of a run of these notebooks: where workers compute, two run at a time, so that few workers wait for the
    last unit of one; that none does is assumed here.
    """
    return sum(each.seconds if workers == 1 else each.own + each.unit_seconds / workers for each in found)


def _numbers(found: list[Prediction], hours: str, seconds: float) -> dict[str, str]:
    columns = ("units", hours, "takes", "memory, GB", "disk, GB")
    if not found:
        return dict.fromkeys(columns, "")
    values = (
        f"{sum(each.units for each in found):,}",
        f"{sum(each.unit_seconds for each in found) / 3600:,.2f}",
        clock(seconds),
        f"{max(each.memory for each in found):.1f}",
        f"{sum(each.disk for each in found):,.2f}",
    )
    return dict(zip(columns, values, strict=True))
