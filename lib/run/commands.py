"""The commands: plan, reproduce, verify, figures, report and claim over the notebooks of this study."""

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd

from lib import ROOT, InputError, MissingData, nearest
from lib.reporting import readme, report
from lib.reporting.claims import load_registry
from lib.run.cluster import workers_for
from lib.run.execution import Live, NotebookError, clock, execute
from lib.run.ledger import (
    LEDGER,
    expected_seconds,
    fingerprint,
    last_run,
    read_json,
    record,
    record_missing,
    stamps,
    why,
)
from lib.run.notebooks import study_notebooks
from lib.run.study import Job, Study, jobs_of, study
from lib.run.verification import TOLERANCE, compare_folders, timed_claims
from lib.store.files import locked, plain_file_errors, read_yaml, remembered_contents


def plan(this: Study, only: str = "") -> int:
    """Print which notebooks would run, why, and what they would take: see `lib.run.prediction`."""
    jobs, reasons = jobs_of(this, only), {}
    _skipped(this, only)
    for job in jobs:
        reasons[job.name] = job.needs or why(this, job, fingerprint(this, job))
        if job.name == "report" and any(reasons.values()):
            reasons[job.name] = reasons[job.name] or "new results"
    if not any(reasons.values()):
        print(f"Profile {this.profile}: nothing has to run; the results are unchanged.")
        return 0
    from lib.run.prediction import print_plan  # imports the whole study, for which the lines above need not wait

    print_plan(this, jobs, reasons)
    return 0


def _skipped(this: Study, only: str) -> list[str]:
    """Say which notebooks are not run, if all were asked for; returns the names of those that cannot be read."""
    _, strays, broken = ({}, {}, {}) if only else study_notebooks(this.root / "notebooks")
    for name, reason in strays.items():
        print(f"notebooks/{name}.ipynb is skipped: {reason}.", file=sys.stderr)
    for reason in broken.values():
        print(reason, file=sys.stderr)
    return list(broken)


def reproduce(this: Study, only: str = "") -> int:
    """Run each notebook whose results are not up to date; 1 if any failed, after all had their turn.

    Raises InputError, before anything has run, where another run holds the output folder or it cannot be written.
    """
    jobs = jobs_of(this, only)
    failed = _skipped(this, only)
    copies, page, started = this.results / "notebooks", this.results / "report.html", False
    with locked(this.output / ".cache" / "lock"), contextlib.ExitStack() as stack:
        with plain_file_errors(copies):  # now, not after an hour
            copies.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=copies).close()
        print(f"The page of claims, rewritten after every notebook: {page}", flush=True)
        for number, job in enumerate(jobs, start=1):
            title = f"[{number}/{len(jobs)}] {job.name}"
            if job.needs:
                print(f"{title}: not run: {record_missing(this, job, job.needs)}", flush=True)
                _rewrite_page(this, job)
                continue
            identity = fingerprint(this, job)  # before it runs: an edit made meanwhile must not count as done
            reason = why(this, job, identity)
            if not reason:
                print(f"{title}: unchanged since {last_run(this, job)}", flush=True)
                continue
            print(f"{title}: {reason}", flush=True)
            started = started or _start_workers(this, stack)
            try:
                print(f"{title}: done in {clock(_run(this, job, identity, title))}", flush=True)
            except MissingData as error:
                print(f"{title}: not run: {record_missing(this, job, str(error))}", flush=True)
                _rewrite_page(this, job)
            except NotebookError as error:
                failed.append(job.name)
                print(f"{title}: FAILED: {error}", flush=True)
                print(f"    traceback: {this.copy(job.name).with_suffix('.failed.ipynb')}", flush=True)
            else:
                _rewrite_page(this, job)
        print(f"Results: {this.results}", flush=True)
        _rewrite_readme(this)
    if failed:
        count = len({*failed, *(job.name for job in jobs)})
        print(f"{len(failed)} of {count} notebooks failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _start_workers(this: Study, stack: contextlib.ExitStack) -> bool:
    """Start or join the workers that the notebooks will find, until `stack` is left."""
    print(stack.enter_context(workers_for(this.workers, address=this.cluster)), flush=True)
    return True


def _run(this: Study, job: Job, identity: dict, title: str) -> float:
    """Execute one notebook and record it; returns its seconds, those of reused units included."""
    before = stamps(this)
    start = time.monotonic()
    with Live(title, expected_seconds(this, job)) as live:
        used = execute(
            job.path,
            this.copy(job.name),
            parameters=job.given,
            root=this.root,
            private=this.private(),
            live=live,
        )
    seconds = round(time.monotonic() - start + used.pop("seconds_reused"), 1)
    record(this, job, identity, before=before, used={"seconds": seconds, **used})
    return seconds


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
    path, claims = this.root / "README.md", this.results / "claims.csv"
    if this.profile == "laptop" and this.results == this.committed and path.exists() and claims.exists():
        readme.update_readme(path, "claims", readme.claims_block(report.read_claims(claims)))
        readme.update_readme(path, "times", readme.times_block(read_json(this.results / LEDGER)))
        print(f"The tables of {path.name} are those of the record.", flush=True)


def verify(this: Study, only: str = "") -> int:
    """Recompute elsewhere and compare with the committed tables; 1 if any differs.

    Elsewhere is the study's output folder, where the results stay, or a temporary one if that is the project's own.
    """
    if not any(this.committed.glob("*.*")):
        raise InputError(f"There are no committed results of profile {this.profile}; type make verify PROFILE=laptop.")
    with contextlib.ExitStack() as stack:
        fresh = this
        if this.output == this.root:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="verify-"))
            fresh = replace(this, output=Path(folder).resolve())
        status = reproduce(fresh, only)
        timed = timed_claims(this.root / "params" / "claims.yaml")
        said = compare_folders(this.committed, fresh.results, partial=bool(only), timed=timed)
    for table, line in said.items():
        print(f"{table}: {line}")
    print(f"Tolerance: |difference| ≤ {TOLERANCE:g} · (|committed| + the standard deviation of its metric there).")
    return 1 if status or any(line.startswith("DIFFERS") for line in said.values()) else 0


def figures(this: Study, only: str = "") -> int:
    """Draw every notebook's figures again, from finished units, in the format FIGURE_FORMAT asks for; 1 on failure.

    Nothing is recorded, and the executed copies stay as they are.
    """
    failed = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(this.output / ".cache" / "lock"))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="figures-"))
        _start_workers(this, stack)
        for job in (job for job in jobs_of(this, only) if not job.needs):
            how = {"parameters": job.given, "root": this.root, "private": this.private()}
            try:
                with Live(job.name, expected_seconds(this, job)) as live:
                    execute(job.path, Path(folder) / job.path.name, **how, live=live)
                print(f"{job.name}: drawn", flush=True)
            except NotebookError as error:
                failed = 1
                print(f"{job.name}: FAILED: {error}", flush=True)
    print(f"Figures: {this.output / 'figures' / this.profile}", flush=True)
    return failed


def claim(this: Study, name: str) -> int:
    """Run the notebook that a claim of params/claims.yaml names, then the report, and print the verdict."""
    claims = read_yaml(this.root / "params" / "claims.yaml")
    if name not in claims:
        raise InputError(f"There is no claim {name!r} in params/claims.yaml; {nearest(name, claims)}")
    status = reproduce(this, f"{claims[name]['notebook']} report")
    table = this.results / "claims.csv"
    if table.exists():
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)
        print(rows[rows["claim"] == name].T.to_markdown(headers=[]))
    return status


def main(arguments: list[str] | None = None, *, root: Path = ROOT) -> int:
    """Exit status: 0 done, 1 a notebook failed or a table differs, 2 unusable input, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m lib.run", description=__doc__)
    parser.add_argument("command", choices=("plan", "reproduce", "verify", "figures", "report", "claim"))
    parser.add_argument("name", nargs="?", default="", help="the claim, after the command `claim`")
    parser.add_argument("--profile", default="laptop", help="smoke, laptop (the default), sample or imagenet")
    parser.add_argument("--only", default="", help="names of notebooks, separated by blanks or commas")
    parser.add_argument("--images", default="", help="folder of ImageNet photographs")
    parser.add_argument("--weights", default="", help="folder or file of trained weights")
    parser.add_argument("--nhanes", default="", help="folder of the NHANES files X_sparsity.csv and y_sparsity.npy")
    parser.add_argument("--datasets", default="", help="folder of MNIST, Fashion-MNIST, GTSRB and Flowers")
    parser.add_argument("--workers", type=int, help="processes that compute; by default what cores and memory allow")
    parser.add_argument("--cluster", default="", help="address of a running Dask scheduler, tcp://host:port")
    parser.add_argument("--output", default="", help="folder for results/ and figures/ instead of this one")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # where there is none, or it is not a terminal's
            stream.reconfigure(errors="replace")  # a terminal without "≤" shows "?"
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster stops jobs with it: same as Ctrl-C
    commands = {
        "plan": lambda this: plan(this, given.only),
        "reproduce": lambda this: reproduce(this, given.only),
        "verify": lambda this: verify(this, given.only),
        "figures": lambda this: figures(this, given.only),
        "report": lambda this: reproduce(this, "report"),
        "claim": lambda this: claim(this, given.name),
    }
    try:
        data = {"images": given.images, "weights": given.weights, "nhanes": given.nhanes, "datasets": given.datasets}
        where = {"output": given.output, "workers": given.workers, "cluster": given.cluster}
        this = study(given.profile, **data, **where, planned=given.command == "plan", root=root)
        with remembered_contents(this.output / ".cache" / "contents.json"):
            return commands[given.command](this)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\nInterrupted: finished notebooks and finished units are kept; type the same command again to continue.",
            file=sys.stderr,
        )
        return 130
