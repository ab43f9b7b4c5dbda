"""The whole study on one GPU, on eight and on sixty-four: the page docs/scale.md, from a measurement and assumptions.

python -m lib.run.scale            writes the tables of docs/scale.md anew, from docs/scale.csv
python -m lib.run.scale --measure  measures docs/scale.csv on this machine first: minutes
"""

import argparse
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from lib import ROOT, InputError
from lib.run.prediction import PHOTOGRAPHS, Prediction, predict
from lib.run.simulation import Batch, makespan
from lib.run.study import Study, jobs_of

PAGE, MEASURED = ROOT / "docs" / "scale.md", ROOT / "docs" / "scale.csv"
GPUS = (1, 8, 64)
BEGIN, END = "<!-- numbers: written by python -m lib.run.scale -->", "<!-- end of numbers -->"
LIGHT = ("mobilenet", "densenet", "efficientnet", "xception", "inception")  # whose passes memory bounds, not arithmetic


@dataclass(frozen=True)
class Assumed:
    """How many times faster a GPU is than the core that was measured, and what else a schedule depends on.

    dense, light: in passes through networks of large convolutions and matrix products, and through those of LIGHT;
    rest: in all else of a unit with such passes (sorting, blurring, encoding); units of digits take what a core takes.
    loading: seconds to load another network; spread: see `lib.run.simulation.makespan`
    """

    dense: float
    light: float
    rest: float
    loading: float = 10.0
    spread: float = 0.3


CASES = {"slow": Assumed(75, 30, 5), "middle": Assumed(150, 60, 10), "fast": Assumed(300, 120, 20)}


def gpu_seconds(row: Mapping, assumed: Assumed) -> float:
    """Seconds on a GPU of a unit with `passes` and `rest` seconds on a core, through `network`.

    >>> gpu_seconds({"network": "vgg16", "passes": 300.0, "rest": 20.0}, CASES["middle"])
    4.0
    >>> gpu_seconds({"network": "", "passes": 0.0, "rest": 20.0}, CASES["middle"])
    20.0
    """
    if not row["network"]:
        return row["rest"]
    ratio = assumed.light if row["network"].startswith(LIGHT) else assumed.dense
    return row["passes"] / ratio + row["rest"] / assumed.rest


def notebook_hours(table: pd.DataFrame, gpus: int, assumed: Assumed) -> pd.Series:
    """Hours of each notebook, one after the other: its batches of units, and its kernel and trainings on one core."""
    found = {}
    for name, rows in table.groupby("notebook", sort=False):
        batches = [Batch(row["units"], gpu_seconds(row, assumed), row["network"]) for row in _records(rows)]
        took = makespan(batches, gpus, loading=assumed.loading, spread=assumed.spread)
        found[name] = (took + rows["own"].max()) / 3600
    return pd.Series(found, name=f"{gpus} GPU{'s' if gpus > 1 else ''}")


def _records(rows: pd.DataFrame) -> list[dict]:
    return rows[rows["units"] > 0].fillna({"network": ""}).to_dict("records")


def measured_table(found: Iterable[Prediction]) -> pd.DataFrame:
    """One row for each batch of units of each notebook; one without units for a notebook that has none."""
    rows = []
    for each in found:
        parts = [(part.label, part.units, "+".join(part.networks), part.passes, part.rest) for part in each.parts]
        for label, count, network, passes, rest in parts or [("", 0, "", 0.0, 0.0)]:
            row = {"notebook": each.notebook, "batch": label, "units": count, "network": network}
            rows.append(row | {"passes": passes, "rest": rest, "own": each.own, "disk": each.disk})
    return pd.DataFrame(rows)


def numbers(table: pd.DataFrame) -> str:
    """The tables of the page, in Markdown."""
    core = table.assign(hours=table["units"] * (table["passes"] + table["rest"]) / 3600)
    core = core.groupby("notebook", sort=False).agg(units=("units", "sum"), hours=("hours", "sum"))
    whole = {case: pd.concat([notebook_hours(table, n, how) for n in GPUS], axis=1) for case, how in CASES.items()}
    each = pd.concat([core.rename(columns={"hours": "core-hours"}), whole["middle"]], axis=1)
    each.loc["all"] = each.sum()
    each["units"] = [f"{count:,.0f}" for count in each["units"]]
    shown = each.map(lambda value: value if isinstance(value, str) else f"{value:,.1f}")
    totals = pd.DataFrame({case: hours.sum() for case, hours in whole.items()}).T
    busy = {n: whole["middle"].iloc[:, 0].sum() / (n * whole["middle"].iloc[:, i].sum()) for i, n in enumerate(GPUS)}
    assumed = pd.DataFrame([vars(how) for how in CASES.values()], index=list(CASES))
    disk = table.groupby("notebook")["disk"].first().sum()
    shares = ", ".join(f"{n} GPUs {share:.0%}" for n, share in busy.items() if n > 1)
    said = [
        "Hours of the whole study, by what is assumed of a GPU:",
        totals.map("{:,.0f}".format).rename_axis("case").to_markdown(disable_numparse=True),
        "What is assumed:",
        assumed.map("{:g}".format).rename_axis("case").to_markdown(disable_numparse=True),
        "Hours of each notebook in the middle case, and hours of the measured core for all of its units:",
        shown.rename_axis("notebook").to_markdown(disable_numparse=True),
        f"Used, against a single GPU in the middle case: {shares}. The results take {disk:,.0f} GB.",
    ]
    return "\n\n".join(said)


def with_numbers(page: str, table: pd.DataFrame) -> str:
    """The page with its tables written anew between BEGIN and END; raises InputError where it lacks these lines."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(END) < page.index(BEGIN):
        raise InputError(f"The page must have the lines {BEGIN} and {END} once each, in this order.")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return f"{before}{BEGIN}\n\n{numbers(table)}\n\n{END}{after}"


def measured_profile() -> pd.DataFrame:
    """The profile imagenet as a table, measured on this machine; copies of the packaged photographs are counted."""
    this = Study(ROOT, "imagenet", ROOT, "packaged", "")
    jobs = [job for job in jobs_of(this) if not job.left_out]
    return measured_table(predict(this, jobs, photos=PHOTOGRAPHS))


def write_page(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lib.run.scale", description=__doc__)
    parser.add_argument("--measure", action="store_true", help=f"measure {MEASURED.name} on this machine first")
    if parser.parse_args(arguments).measure:
        measured_profile().round(7).to_csv(MEASURED, index=False)
    PAGE.write_text(with_numbers(PAGE.read_text(encoding="utf-8"), pd.read_csv(MEASURED)), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} has the numbers of {MEASURED.relative_to(ROOT)}.")
    return 0


if __name__ == "__main__":
    sys.exit(write_page())
