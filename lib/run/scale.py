"""The whole study on one GPU, on eight and on sixty-four: the page docs/scale.md, from a measurement and assumptions.

python -m lib.run.scale            writes the tables of docs/scale.md anew, from docs/scale.csv and docs/passes.csv
python -m lib.run.scale --measure  measures docs/scale.csv on a core of this machine first: minutes
python -m lib.run.scale --passes   measures docs/passes.csv first, what a pass takes on its GPU or core: a minute
"""

import argparse
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from tqdm import tqdm

from lib import ROOT, InputError
from lib.run.prediction import PHOTOGRAPHS, Prediction, predict
from lib.run.simulation import Batch, makespan
from lib.run.study import Study, jobs_of

PAGE, MEASURED, PASSES = (ROOT / "docs" / name for name in ("scale.md", "scale.csv", "passes.csv"))
CORE = "one core"  # what docs/passes.csv calls the device of a machine without a GPU
GPUS = (1, 8, 64)
BEGIN, END = "<!-- numbers: written by python -m lib.run.scale -->", "<!-- end of numbers -->"


@dataclass(frozen=True)
class Assumed:
    """What a schedule on GPUs depends on, beside the passes, which are measured.

    rest: how many times faster than the core that was measured a GPU is in all else of a unit with passes (sorting,
    blurring, encoding); units of digits take what a core takes. loading: seconds to load another network; spread: see
    `lib.run.simulation.makespan`
    """

    rest: float
    loading: float = 10.0
    spread: float = 0.3


CASES = {"slow": Assumed(5), "middle": Assumed(10), "fast": Assumed(20)}


def gpu_seconds(row: Mapping, assumed: Assumed, faster: Mapping[str, float]) -> float:
    """Seconds on a GPU of a unit with `passes` and `rest` seconds on a core, through `network` (or several: "a+b").

    faster: {network: how many times faster than on the core its passes are}, see `speedups`

    >>> gpu_seconds({"network": "vgg16", "passes": 300.0, "rest": 20.0}, CASES["middle"], {"vgg16": 150.0})
    4.0
    >>> gpu_seconds({"network": "", "passes": 0.0, "rest": 20.0}, CASES["middle"], {})
    20.0
    """
    if not row["network"]:
        return row["rest"]
    ratio = min(faster[name] for name in row["network"].split("+"))
    return row["passes"] / ratio + row["rest"] / assumed.rest


def speedups(passes: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds of a forward and backward pass of an image on a core and on a GPU, and "times", the first over the
    second: one row for each network, by its name.

    passes: rows of docs/passes.csv. Raises InputError where one of the two was not measured for all networks.
    """
    gpus = sorted({*passes["device"]} - {CORE})
    wide = passes.assign(both=1000 * (passes["forward"] + passes["backward"])).pivot(
        index="network", columns="device", values="both"
    )
    if len(gpus) != 1 or CORE not in wide or wide.isna().any(axis=None):
        raise InputError(
            f"{PASSES.name} has passes on {', '.join(sorted({*passes['device']}))}; it must have those of all networks "
            f"on {CORE!r} and on one GPU: type `python -m lib.run.scale --passes` on a machine of each kind"
        )
    return wide[[CORE, gpus[0]]].assign(times=wide[CORE] / wide[gpus[0]])


def measured_passes(table: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """Seconds of an image's forward and backward pass through each network of `table`, on this device, and the rows of
    `before` for others.
    """
    from lib.run.counting import row_seconds
    from lib.store.workers import one_thread

    here = torch.cuda.get_device_name() if torch.cuda.is_available() else CORE
    names = sorted({name for each in table["network"].dropna() for name in each.split("+") if name})
    with one_thread():
        rows = []
        for name in tqdm(names, desc=here):
            seconds = row_seconds(name, set())
            rows.append({"network": name, "device": here, **{kind: seconds[kind] for kind in ("forward", "backward")}})
    return pd.concat([before[before["device"] != here], pd.DataFrame(rows)], ignore_index=True)


def notebook_hours(table: pd.DataFrame, gpus: int, assumed: Assumed, faster: Mapping[str, float]) -> pd.Series:
    """Hours of each notebook, one after the other: its batches of units, and its kernel and trainings on one core."""
    found = {}
    for name, rows in table.groupby("notebook", sort=False):
        batches = [Batch(row["units"], gpu_seconds(row, assumed, faster), row["network"]) for row in _records(rows)]
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


def numbers(table: pd.DataFrame, passes: pd.DataFrame) -> str:
    """The tables of the page, in Markdown."""
    measured = speedups(passes)
    faster = measured["times"].to_dict()
    core = table.assign(hours=table["units"] * (table["passes"] + table["rest"]) / 3600)
    core = core.groupby("notebook", sort=False).agg(units=("units", "sum"), hours=("hours", "sum"))
    whole = {
        case: pd.concat([notebook_hours(table, n, how, faster) for n in GPUS], axis=1) for case, how in CASES.items()
    }
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
        "Milliseconds of a forward and backward pass of one image, measured:",
        measured.map("{:,.1f}".format).to_markdown(disable_numparse=True),
        "Hours of each notebook in the middle case, and hours of the measured core for all of its units:",
        shown.rename_axis("notebook").to_markdown(disable_numparse=True),
        f"Used, against a single GPU in the middle case: {shares}. The results take {disk:,.0f} GB.",
    ]
    return "\n\n".join(said)


def with_numbers(page: str, table: pd.DataFrame, passes: pd.DataFrame) -> str:
    """The page with its tables written anew between BEGIN and END; raises InputError where it lacks these lines."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(END) < page.index(BEGIN):
        raise InputError(f"The page must have the lines {BEGIN} and {END} once each, in this order.")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return f"{before}{BEGIN}\n\n{numbers(table, passes)}\n\n{END}{after}"


def measured_profile() -> pd.DataFrame:
    """The profile imagenet as a table, measured on this machine; copies of the packaged photographs are counted."""
    this = Study(ROOT, "imagenet", ROOT, "packaged", "")
    return measured_table(predict(this, jobs_of(this), photos=PHOTOGRAPHS))


def write_page(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lib.run.scale", description=__doc__)
    parser.add_argument("--measure", action="store_true", help=f"measure {MEASURED.name} on a core first")
    parser.add_argument("--passes", action="store_true", help=f"measure {PASSES.name} on its GPU or a core first")
    options = parser.parse_args(arguments)
    if options.measure:
        measured_profile().round(7).to_csv(MEASURED, index=False)
    table = pd.read_csv(MEASURED)
    if options.passes:
        before = pd.read_csv(PASSES) if PASSES.exists() else pd.DataFrame(columns=["device"])
        measured_passes(table, before).round(7).to_csv(PASSES, index=False)
    PAGE.write_text(with_numbers(PAGE.read_text(encoding="utf-8"), table, pd.read_csv(PASSES)), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} has the numbers of {MEASURED.relative_to(ROOT)} and {PASSES.relative_to(ROOT)}.")
    return 0


if __name__ == "__main__":
    sys.exit(write_page())
