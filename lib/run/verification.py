"""Do two result tables say the same? Rows are matched by their keys, numbers compared within a tolerance."""

from pathlib import Path

import numpy as np
import pandas as pd

# Two machines agree to about 1e-5 in a network's output, but a near-tie that falls the other way moves an
# image's ranking score by a step of its curve; anything beyond these is a different result.
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-2, 1e-3


def compare_folders(committed: Path, fresh: Path, *, partial: bool) -> dict[str, str]:
    """{table: what `compare` says} for the tables in two folders; `partial`: only those recomputed count."""
    old, new = ({p.name: p for p in folder.glob("*") if _is_table(p)} for folder in (committed, fresh))
    said = {}
    for name in sorted(new if partial else {*old, *new}):
        if name in old and name in new:
            said[name] = compare(_read(old[name]), _read(new[name]))
        else:
            said[name] = f"DIFFERS: only {'recomputed' if name in new else 'committed'}"
    return said


def compare(committed: pd.DataFrame, fresh: pd.DataFrame) -> str:
    """One line that begins with DIFFERS unless the rows are the same and all numbers are within tolerance.

    Rows are matched by every column that does not hold fractions, and by their order where those repeat.
    Two missing numbers are equal; one missing number is beyond every tolerance.
    """
    if list(committed.columns) != list(fresh.columns):
        return f"DIFFERS: columns {', '.join(fresh.columns)} instead of {', '.join(committed.columns)}"
    numbers = [name for name in committed if "f" in (committed[name].dtype.kind, fresh[name].dtype.kind)]
    keys = [name for name in committed if name not in numbers]
    both = _numbered(committed, keys).merge(
        _numbered(fresh, keys), on=[*keys, "_nth"], how="outer", suffixes=("", " new"), indicator="_side"
    )
    unmatched = both[both["_side"] != "both"]
    if len(unmatched):
        old, new = ((unmatched["_side"] == side).sum() for side in ("left_only", "right_only"))
        return f"DIFFERS: {old} rows only committed, {new} only recomputed, as {_row(unmatched.iloc[0], keys)}"
    if not numbers or both.empty:
        return f"{len(both)} rows equal"
    old, new = (both[[name + side for name in numbers]].to_numpy(float) for side in ("", " new"))
    with np.errstate(invalid="ignore"):  # inf - inf
        excess = np.abs(new - old) / (ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * np.abs(old))
    excess[np.isnan(excess)] = np.inf
    excess[(old == new) | (np.isnan(old) & np.isnan(new))] = 0
    row, column = np.unravel_index(excess.argmax(), excess.shape)
    worst = (
        f"largest deviation {old[row, column]:.6g} → {new[row, column]:.6g} "
        f"in {numbers[column]} of {_row(both.iloc[row], keys)}"
    )
    beyond = int((excess > 1).sum())
    if beyond:
        return f"DIFFERS: {beyond} of {excess.size} numbers beyond tolerance, {worst}"
    return f"{len(both)} rows agree, {worst}" if excess.any() else f"{len(both)} rows equal"


def _numbered(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The table with a column that counts rows of equal keys, so that keys and count are unique."""
    return table.assign(_nth=table.groupby(keys, dropna=False).cumcount() if keys else range(len(table)))


def _row(row: pd.Series, keys: list[str]) -> str:
    return "(" + ", ".join(str(row[key]) for key in keys) + ")"


def _is_table(path: Path) -> bool:
    return path.suffix in (".csv", ".parquet")


def _read(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    if "metric" in table:
        table = table[table["metric"] != "seconds"]  # no run takes as long as another
    for name in [name for name in table if table[name].map(lambda value: isinstance(value, np.ndarray)).any()]:
        table = table.explode(name).astype({name: float})  # a curve becomes one row per point
    return table.drop(columns="note", errors="ignore")  # prose about the numbers, not a result
