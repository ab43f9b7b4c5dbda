"""Run the notebooks whose results are not up to date, the report last, and judge the claims after each."""

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

from lib import MissingData
from lib.reporting import readme, report
from lib.reporting.claims import load_registry
from lib.run.cluster import workers_for
from lib.run.execution import NotebookError, execute, kill_kernels, started
from lib.run.ledger import expected_seconds, fingerprint, last_run, record, record_missing, stamps, why
from lib.run.live import Live, clock
from lib.run.notebooks import study_notebooks
from lib.run.study import Job, Study, jobs_of
from lib.store.files import locked, plain_file_errors
from lib.store.workers import ADDRESS

LANES = 2  # notebooks at a time, where workers compute: one starts or draws while they compute the other's units
SOON = 20  # seconds in which a notebook ends whose kernel was killed


@dataclass(frozen=True)
class Turn:
    """A notebook that runs, and what it found when it began."""

    title: str
    job: Job
    identity: Mapping
    before: Mapping[str, int]


def reproduce(this: Study, only: str = "") -> int:
    """Run each notebook whose results are not up to date; 1 if any failed, after all had their turn.

    Raises InputError, before anything has run, where another run holds the output folder or it cannot be written.
    """
    jobs = jobs_of(this, only)
    failed = skipped(this, only)
    copies, page = this.results / "notebooks", this.results / "report.html"
    with locked(this.output / ".cache" / "lock"), contextlib.ExitStack() as stack:
        with plain_file_errors(copies):  # now, not after an hour
            copies.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=copies).close()
        print(f"The page of claims, rewritten after every notebook: {page}", flush=True)
        failed += _take_turns(this, jobs, stack)
        print(f"Results: {this.results}", flush=True)
        _rewrite_readme(this)
    if failed:
        count = len({*failed, *(job.name for job in jobs)})
        print(f"{len(failed)} of {count} notebooks failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def skipped(this: Study, only: str) -> list[str]:
    """Say which notebooks are not run, if all were asked for; returns the names of those that cannot be read."""
    _, strays, broken = ({}, {}, {}) if only else study_notebooks(this.root / "notebooks")
    for name, reason in strays.items():
        print(f"notebooks/{name}.ipynb is skipped: {reason}.", file=sys.stderr)
    for reason in broken.values():
        print(reason, file=sys.stderr)
    return list(broken)


def start_workers(this: Study, stack: contextlib.ExitStack) -> bool:
    """Start or join the workers that the notebooks will find, until `stack` is left."""
    print(stack.enter_context(workers_for(this.workers, address=this.cluster)), flush=True)
    return True


def _take_turns(this: Study, jobs: list[Job], stack: contextlib.ExitStack) -> list[str]:
    """Run what has to run, LANES at a time where there are workers, the report alone; returns the names that failed."""
    live, stop, names, workers = Live(), threading.Event(), [job.name for job in jobs], False
    running: dict[Future, Turn] = {}
    failed = []
    with live:
        try:
            for number, job in enumerate(jobs, start=1):
                beside = LANES - 1 if os.environ.get(ADDRESS) and job.name != "report" else 0
                while len(running) > beside:
                    failed += _finish_one(this, running, names, live)
                title = f"[{number}/{len(jobs)}] {job.name}"
                if job.needs:
                    live.say(f"{title}: not run: {record_missing(this, job, job.needs)}")
                    _rewrite_page(this, job)
                    continue
                identity = fingerprint(this, job)  # before it runs: an edit made meanwhile must not count as done
                reason = why(this, job, identity)
                live.say(f"{title}: {reason or f'unchanged since {last_run(this, job)}'}")
                if reason:
                    workers = workers or start_workers(this, stack)
                    turn = Turn(title, job, identity, stamps(this))
                    running[started(_run, this, turn, live, stop)] = turn
            while running:
                failed += _finish_one(this, running, names, live)
        except BaseException:  # Ctrl-C, a full disk: no other notebook would survive it
            stop.set()
            for _ in range(SOON):
                kill_kernels()
                if not wait(running, timeout=1).not_done:
                    break
            raise
    return failed


def _run(this: Study, turn: Turn, live: Live, stop: threading.Event) -> dict:
    """Execute a notebook; returns what it used.

    own_seconds: in which it did not wait for units; seconds: what it takes alone, its units shared by the workers
    """
    start = time.monotonic()
    how = {"parameters": turn.job.given, "root": this.root, "private": this.private()}
    with live.line(turn.title, expected_seconds(this, turn.job)) as line:
        used = execute(turn.job.path, this.copy(turn.job.name), **how, line=line, stop=stop)
    own = time.monotonic() - start - used.pop("waited")
    seconds = own + used["unit_seconds"] / used["workers"]
    return {"seconds": round(seconds, 1), "own_seconds": round(own, 1), **used}


def _finish_one(this: Study, running: dict[Future, Turn], names: list[str], live: Live) -> list[str]:
    """Wait for a notebook, record it, and judge the claims again; returns its name if it failed."""
    while not (done := wait(running, timeout=1, return_when=FIRST_COMPLETED).done):
        pass  # without a timeout Windows would not see Ctrl-C
    turn = running.pop(future := done.pop())
    try:
        used = future.result()
        record(this, turn.job, turn.identity, before=turn.before, beside=names, used=used)
        live.say(f"{turn.title}: done in {clock(used['seconds'])}")
    except MissingData as error:
        live.say(f"{turn.title}: not run: {record_missing(this, turn.job, str(error))}")
    except NotebookError as error:
        live.say(f"{turn.title}: FAILED: {error}")
        live.say(f"    traceback: {this.copy(turn.job.name).with_suffix('.failed.ipynb')}")
        return [turn.job.name]
    _rewrite_page(this, turn.job)
    return []


def _rewrite_page(this: Study, job: Job) -> None:
    """Judge the claims again from the results at hand, unless `job` just did; a failure does not stop the run."""
    registry = this.root / "params" / "claims.yaml"
    if job.name == "report" or not registry.exists():
        return
    try:
        report.build(this.profile, this.output, registry=load_registry(registry))
    except Exception as error:
        print(f"The page of claims is as it was before {job.name}: {error}", file=sys.stderr)


def _rewrite_readme(this: Study) -> None:
    path, registry = this.root / "README.md", this.root / "params" / "claims.yaml"
    committed = this.profile in readme.RECORDS and this.results == this.committed
    if committed and path.exists() and (this.results / "claims.csv").exists():
        readme.update_pages(this.root, load_registry(registry))
        print("The tables of README.md and docs/ are those of the committed records.", flush=True)
