"""Do two result tables say the same? Rows are matched by their keys, numbers compared within a tolerance."""

from pathlib import Path

import numpy as np
import pandas as pd

from lib.reporting.deviation import CLOCK, allowed, interval_width, selects_seconds
from lib.store.files import read_yaml

TABLES = (".csv", ".parquet")
MEASURED = ("metric", "axiom", "quantity")  # columns that say what a number measures
# Columns that tell units apart.
ABOUT = ("image", "label", "model", "twin", "method", "data", "training", "seed", "experiment")

# The path of rows that rest on all photographs, whatever unit holds theirs: what was chosen on others. It is CHOSEN of
# lib.experiments.cross_tables, which brings torch.
ON_ALL = "chosen"


def tables_in(folder: Path) -> dict[str, Path]:
    """{name: path} of the tables in a folder of results."""
    return {path.stem: path for path in folder.glob("*") if path.suffix in TABLES}


def compare_folders(
    committed: Path, fresh: Path, *, partial: bool, timed: tuple[str, ...] = (), units: bool = False
) -> dict[str, str]:
    """{table: what `compare` says} for the tables in two folders; `partial`: only those recomputed count, and of the
    verdicts only those on the notebooks of these tables.

    units: some units were recomputed, see `compare`; rows that rest on all of them are counted, not compared
    timed: claims whose verdict depends on the clock; they and the metric "seconds" are shown, not compared.
    """
    old, new = tables_in(committed), tables_in(fresh)
    said = {}
    for name in sorted(new if partial else {*old, *new}):
        if name in old and name in new:
            tables = [_read(path) for path in (old[name], new[name])]
            if partial and {"claim", "notebook"} <= {*tables[0]}:
                tables = [table[table["notebook"].isin(new)] for table in tables]
            resting = tables[1]["path"].eq(ON_ALL).sum() if units and "path" in tables[1] else 0
            if resting:
                tables = [table[table["path"].ne(ON_ALL)] for table in tables]
            said[new[name].name] = compare(*(table[~_by_the_clock(table, timed)] for table in tables), units=units)
            shown = _shown(*(table[_by_the_clock(table, timed)] for table in tables))
            said[new[name].name] += f"; not compared, by the clock: {shown}" if shown else ""
            said[new[name].name] += f"; not compared, resting on all units: {resting} rows" if resting else ""
        else:
            said[(new | old)[name].name] = f"DIFFERS: only {'recomputed' if name in new else 'committed'}"
    return said


def timed_claims(registry: Path) -> tuple[str, ...]:
    """The claims of a registry whose test selects the metric "seconds"."""
    claims = read_yaml(registry) if registry.exists() else {}
    return tuple(name for name, entry in claims.items() if selects_seconds(entry.get("test")))


def _by_the_clock(table: pd.DataFrame, timed: tuple[str, ...]) -> pd.Series:
    none = pd.Series(False, index=table.index)
    return (table["metric"].eq(CLOCK) if "metric" in table else none) | (
        table["claim"].isin(timed) if "claim" in table else none
    )


def _shown(committed: pd.DataFrame, fresh: pd.DataFrame) -> str:
    """What the clock says in the two tables: verdicts of claims, or the mean of `value`."""
    if "claim" in committed:
        names = [name for name in committed["claim"] if name in set(fresh["claim"])]
        old, new = (table.drop_duplicates("claim").set_index("claim")["verdict"] for table in (committed, fresh))
        return ", ".join(f"{name} {old[name]} → {new[name]}" for name in dict.fromkeys(names))
    return f"mean {CLOCK} {committed['value'].mean():.3g} → {fresh['value'].mean():.3g}" if len(committed) else ""


def compare(committed: pd.DataFrame, fresh: pd.DataFrame, *, units: bool = False) -> str:
    """One line that begins with DIFFERS unless the rows are the same and all numbers are within tolerance.

    Rows are matched by every column that does not hold fractions, and by their order where those repeat. A number may
    differ by what is `allowed` for its size and the spread of what it measures, see `_spread`. Two missing numbers are
    equal; one missing number is beyond every tolerance.
    Where numbers differ, it says on which paths they lie, and how far means over images moved: on another processor
    single numbers move where rounding is amplified, and means should not.
    units: `fresh` has the rows of some units; the committed ones that agree with any of them in ABOUT are compared
    """
    if list(committed.columns) != list(fresh.columns):
        return f"DIFFERS: columns {', '.join(fresh.columns)} instead of {', '.join(committed.columns)}"
    numbers = [name for name in committed if "f" in (committed[name].dtype.kind, fresh[name].dtype.kind)]
    keys = [name for name in committed if name not in numbers]
    committed = pd.concat([committed, _spread(committed, numbers).add_suffix(" spread")], axis=1)
    if units and (about := [name for name in ABOUT if name in keys]):
        committed = committed.merge(fresh[about].drop_duplicates(), on=about)
    both = _numbered(committed, keys).merge(
        _numbered(fresh, keys), on=[*keys, "_nth"], how="outer", suffixes=("", " new"), indicator="_side"
    )
    unmatched = both[both["_side"] != "both"]
    if len(unmatched):
        old, new = ((unmatched["_side"] == side).sum() for side in ("left_only", "right_only"))
        return f"DIFFERS: {old} rows only committed, {new} only recomputed, as {_row(unmatched.iloc[0], keys)}"
    if not numbers or both.empty:
        return f"{len(both)} rows equal"
    old, new, apart = (both[[name + side for name in numbers]].to_numpy(float) for side in ("", " new", " spread"))
    with np.errstate(invalid="ignore", divide="ignore"):  # inf - inf, 0 / 0
        excess = np.abs(new - old) / allowed(old, apart)
    excess[np.isnan(excess)] = np.inf
    equal = (old == new) | (np.isnan(old) & np.isnan(new))
    excess[equal] = 0
    row, column = np.unravel_index(excess.argmax(), excess.shape)
    worst = (
        f"largest deviation {old[row, column]:.6g} → {new[row, column]:.6g} "
        f"in {numbers[column]} of {_row(both.iloc[row], keys)}"
    )
    beyond = int((excess > 1).sum())
    if beyond:
        where, means = _where(both, (excess > 1).any(axis=1)), _in_the_mean(both, keys, numbers)
        return f"DIFFERS: {beyond} of {excess.size} numbers beyond tolerance{where}, {worst}{means}"
    worst = worst if excess.any() else "exact claims by their verdicts"
    return f"{len(both)} rows equal" if equal.all() else f"{len(both)} rows agree, {worst}"


def _where(both: pd.DataFrame, beyond: np.ndarray) -> str:
    """(path: rows beyond tolerance of all its rows, …), the worst first."""
    if "path" not in both:
        return ""
    found = pd.Series(beyond).groupby(both["path"].fillna("none").to_numpy()).agg(["sum", "size"])
    found = found[found["sum"] > 0].sort_values("sum", ascending=False)
    return f" ({', '.join(f'{path}: {count} of {size}' for path, count, size in found.itertuples())})"


def _in_the_mean(both: pd.DataFrame, keys: list[str], numbers: list[str]) -> str:
    """How far the means over images moved, in standard errors of the committed ones; "" where a row is no image's."""
    if numbers != ["value"] or "image" not in keys:
        return ""
    cells = both.groupby([name for name in keys if name not in ("image", "label")], dropna=False)
    error = cells["value"].sem()
    moved = ((cells["value new"].mean() - cells["value"].mean()).abs() / error)[error > 0]
    if moved.empty:
        return ""
    return (
        f"; of {len(moved)} means over images {(moved > 1).sum()} moved by more than their standard error, "
        f"the most by {moved.max():.2g} of it, half of them by less than {moved.median():.2g}"
    )


def _spread(table: pd.DataFrame, numbers: list[str]) -> pd.DataFrame:
    """What each number may be measured by: the standard deviation of all that measure the same, 0 where it is alone.

    A claim's estimate and interval are measured by `interval_width`.
    """
    same = [name for name in MEASURED if name in table]
    finite = table[numbers].where(np.isfinite(table[numbers].astype(float)))
    found = (
        finite.groupby([table[name] for name in same], dropna=False).transform("std", ddof=0)
        if same
        else (pd.DataFrame({name: finite[name].std(ddof=0) for name in numbers}, index=table.index))
    )
    if {"claim", "ci_low", "ci_high"} <= {*table}:
        for name in {"estimate", "ci_low", "ci_high"} & {*numbers}:
            found[name] = interval_width(table)
    return found.fillna(0)


def _numbered(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The table with a column that counts rows of equal keys, so that keys and count are unique."""
    return table.assign(_nth=table.groupby(keys, dropna=False).cumcount() if keys else range(len(table)))


def _row(row: pd.Series, keys: list[str]) -> str:
    return "(" + ", ".join(str(row[key]) for key in keys) + ")"


def _read(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    for name in [name for name in table if table[name].map(lambda value: isinstance(value, np.ndarray)).any()]:
        table = table.explode(name, ignore_index=True).astype({name: float})  # a curve becomes one row per point
    return table.drop(columns="note", errors="ignore")  # prose about the numbers, not a result
