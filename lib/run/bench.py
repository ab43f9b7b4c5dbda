"""make bench: this code beside its own bare passes and beside other libraries, both sides timed in turns.

One process, one thread of torch on a CPU, as the study computes its units; what a worker costs is measured with one
beside it. The ratio is ours / peer where the goal is an upper limit (what something may cost), and peer / ours where it
is a lower one (how many times as fast it should be).
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from lib import ROOT, InputError
from lib.reporting.readme import bench_block, update_block
from lib.run.costs import cost_cases, peak_of_walk
from lib.run.overheads import overhead_cases
from lib.run.peers import peer_cases
from lib.run.timing import Case
from lib.store.files import write_atomically
from lib.store.workers import one_thread

STEPS, IMAGES, RUNS = 128, 4, 5
COMMITTED = ROOT / "results" / "bench.csv"  # whose table docs/times.md shows


def cases(steps: int = STEPS, images: int = IMAGES) -> list[Case]:
    """What there is to measure."""
    return [*cost_cases(steps, images), *peer_cases(steps, images), *overhead_cases()]


def measure(found: list[Case], *, runs: int, output: Path, only: str = "") -> pd.DataFrame:
    """Measure the cases whose name contains `only`, each written to `output` as soon as it is known.

    With `only`, the other rows of `output` stay as they are; without, the table starts anew. A case whose peer is not
    installed is named and left out.
    Raises InputError when no name contains `only`.
    """
    chosen = [case for case in found if only in case.name]
    if not chosen:
        names = " | ".join(case.name for case in found)
        raise InputError(f"No case contains {only!r}; give a part of one of these: {names}.")
    known = pd.read_csv(output, keep_default_na=False).to_dict("records") if only and output.exists() else []
    rows = {each["case"]: each for each in known}
    for case in chosen:
        if case.needs and find_spec(case.needs) is None:
            print(f"not measured: install {case.needs} (pip install -e '.[bench]') for {case.name}", file=sys.stderr)
            continue
        with one_thread():
            rows[case.name] = case.row(case.measure(runs))
        write_atomically(output, pd.DataFrame(rows.values()).to_csv(index=False, float_format="%.4g"))
        said = {True: "met   ", False: "missed", "": "      "}[rows[case.name]["met"]]
        print(f"{rows[case.name]['ratio_median']:.3f}  {said}  {case.name}", file=sys.stderr, flush=True)
    return pd.DataFrame(rows.values())


def bench() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="measure the cases whose name contains it")
    parser.add_argument("--output", type=Path, default=COMMITTED)
    parser.add_argument("--peak-of-walk", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of_walk:
        with one_thread():
            print(peak_of_walk(*options.peak_of_walk))
        return
    found = cases(options.steps, options.images)
    try:
        table = measure(found, runs=options.runs, output=options.output, only=options.only)
    except InputError as error:
        sys.exit(str(error))
    if options.output == COMMITTED:
        update_block(ROOT / "docs" / "times.md", "bench", bench_block(pd.read_csv(COMMITTED)))
    print(table.to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    bench()
