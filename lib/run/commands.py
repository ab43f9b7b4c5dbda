"""The commands: plan, reproduce, verify, figures, report and claim over the notebooks of this study."""

import argparse
import contextlib
import signal
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pandas as pd

from lib import ROOT, InputError, nearest
from lib.reporting.deviation import TOLERANCE
from lib.run.execution import NotebookError, execute
from lib.run.ledger import LEDGER, expected_seconds, fingerprint, read_json, why
from lib.run.live import Live
from lib.run.reproduction import reproduce, skipped, start_workers
from lib.run.spot_check import spot_check
from lib.run.study import Study, jobs_of, study
from lib.run.verification import compare_folders, timed_claims
from lib.store.files import locked, read_yaml, remembered_contents
from lib.store.provenance import processor


def plan(this: Study, only: str = "") -> int:
    """Print which notebooks would run, why, and what they would take: see `lib.run.prediction`."""
    jobs, reasons = [job for job in jobs_of(this, only) if not job.left_out], {}
    skipped(this, only)
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


def verify(this: Study, only: str = "", *, share: float = 1.0, seed: int = 0) -> int:
    """Recompute elsewhere and compare with the committed tables; 1 if any differs.

    Elsewhere is the study's output folder, where the results stay, or a temporary one if that is the project's own.
    share: below 1, of the units, drawn by a seed: see `lib.run.spot_check`.
    """
    if not 0 < share <= 1:
        raise InputError(f"SHARE={share:g} is no share; give a number above 0 and at most 1, such as SHARE=0.1.")
    if not any(this.committed.glob("*.*")):
        raise InputError(f"There are no committed results of profile {this.profile}; type make verify PROFILE=laptop.")
    with contextlib.ExitStack() as stack:
        fresh = this
        if this.output == this.root:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="verify-"))
            fresh = replace(this, output=Path(folder).resolve())
        if share == 1:
            status = reproduce(fresh, only)
            timed = timed_claims(this.root / "params" / "claims.yaml")
            said = compare_folders(this.committed, fresh.results, partial=bool(only), timed=timed)
        else:
            stack.enter_context(locked(fresh.output / ".cache" / "lock"))
            start_workers(fresh, stack)
            status, said = 0, spot_check(this, fresh, only, share=share, seed=seed)
    for table, line in said.items():
        print(f"{table}: {line}")
    print(f"Tolerance: |difference| ≤ {TOLERANCE:g} · (|committed| + the standard deviation of its metric there).")
    differs = any(line.startswith("DIFFERS") for line in said.values())
    if differs and (sentence := _other_processor(this)):
        print(sentence)
    return 1 if status or differs else 0


def _other_processor(this: Study) -> str:
    """A sentence for who finds other numbers than the record's, unless it was computed on this kind of processor."""
    record = read_json(this.committed / LEDGER)
    found = {entry["processor"] for entry in record.values() if "processor" in entry}
    if found == {processor()}:
        return ""
    where = "; ".join(sorted(found)) or "a kind of processor that it does not name"
    return f"The record was computed on {where}; this is {processor()}. docs/limits.md says what that moves (Machines)."


def figures(this: Study, only: str = "") -> int:
    """Draw every notebook's figures again, from finished units, in the format FIGURE_FORMAT asks for; 1 on failure.

    Nothing is recorded, and the executed copies stay as they are.
    """
    failed = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(this.output / ".cache" / "lock"))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="figures-"))
        start_workers(this, stack)
        live = stack.enter_context(Live())
        for job in (job for job in jobs_of(this, only) if not job.needs):
            how = {"parameters": job.given, "root": this.root, "private": this.private()}
            try:
                with live.line(job.name, expected_seconds(this, job)) as line:
                    execute(job.path, Path(folder) / job.path.name, **how, line=line, stop=threading.Event())
                live.say(f"{job.name}: drawn")
            except NotebookError as error:
                failed = 1
                live.say(f"{job.name}: FAILED: {error}")
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
    parser.add_argument("--share", type=float, default=1.0, help="of the units that verify computes again, such as 0.1")
    parser.add_argument("--seed", type=int, default=0, help="which these are")
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
        "verify": lambda this: verify(this, given.only, share=given.share, seed=given.seed),
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
