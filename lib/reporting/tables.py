"""Tables: ours with intervals, the published value beside, a winner only where a paired interval says so."""

import itertools
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.io.formats.style import Styler

from lib import ROOT, InputError
from lib.reporting.packing import joined_frames, packed, with_stored_numbers
from lib.reporting.statistics import pairs, select, summary
from lib.reporting.stored import StoredScores, plain
from lib.store.files import plain_file_errors, write_atomically

PUBLISHED = ROOT / "params" / "published.csv"


def comparison(
    scores: pd.DataFrame | StoredScores,
    a: dict,
    b: dict,
    *,
    by: list[str],
    where: dict | None = None,
    published: pd.DataFrame | None = None,
    larger_is_better: bool = True,
) -> pd.DataFrame:
    """Two methods side by side on the images they share, one row per combination of `by`.

    a, b: selections of a tidy table, e.g. {"rule": "idgi"} and {"rule": "riemann"}; where: what both share
    published: rows like those of params/published.csv; a value stands beside ours where model, path, rule,
        steps and metric agree, as far as the comparison fixes them
    returns: `by`; each side as "mean [low, high]", followed by its published value; the paired difference
        a - b alike; the winner, empty where the interval of the difference contains 0; n; excluded (images)
    """
    where, sides = where or {}, {" ".join(map(str, side.values())): side for side in (a, b)}
    winner, loser = sides if larger_is_better else reversed(sides)
    return pd.concat(
        [
            _compared(rows, sides, by, where, published, winner, loser)
            for rows in pairs(scores, a, b, where=where, by=by)
        ],
        ignore_index=True,
    )


def _compared(
    rows: pd.DataFrame,
    sides: dict[str, dict],
    by: list[str],
    where: dict,
    published: pd.DataFrame | None,
    winner: str,
    loser: str,
) -> pd.DataFrame:
    excluded = rows["difference"].isna()
    table = plain(rows[by].drop_duplicates()).reset_index(drop=True)
    for (name, side), column in zip(sides.items(), "ab", strict=True):
        table[name] = _beside(table, summary(rows.assign(value=rows[column].mask(excluded)), by))
        if published is not None:
            table[f"{name}, published"] = _published(table, published, {**where, **side}, by)
    difference = summary(rows.assign(value=rows["difference"]), by)
    table["difference"] = _beside(table, difference)
    table["winner"] = ""
    table.loc[difference["low"] > 0, "winner"] = winner
    table.loc[difference["high"] < 0, "winner"] = loser
    return table.assign(n=difference["n"], excluded=difference["excluded"])


def _beside(table: pd.DataFrame, means: pd.DataFrame) -> list[str]:
    """The groups of `summary`, which come in the order of the table, as text."""
    return [brackets(row.mean, row.low, row.high) for row in means.itertuples(index=False)]


def _published(table: pd.DataFrame, published: pd.DataFrame, where: dict, by: list[str]) -> list[str]:
    found = select(published, {column: wanted for column, wanted in where.items() if column in published})
    keys = [column for column in by if column in published]
    matched = table[by].merge(found.drop_duplicates(keys)[[*keys, "value"]], on=keys, how="left")
    return ["" if pd.isna(value) else f"{value:#.3g}" for value in matched["value"]]


def brackets(mean: float, low: float, high: float) -> str:
    """A value and its interval as "0.123 [0.101, 0.145]"; empty where there is no value."""
    if pd.isna(mean):
        return ""
    return f"{mean:#.3g}" if pd.isna(low) else f"{mean:#.3g} [{low:#.3g}, {high:#.3g}]"


def caption(table: pd.DataFrame, what: str, *, mode: str = "corrected") -> str:
    """A table's caption: what it shows, how many images, how the intervals were made, which mode."""
    counts = " to ".join(map(str, sorted({table["n"].min(), table["n"].max()})))
    return (
        f"{what} n = {counts} images per row, at most {table['excluded'].max()} excluded. Mean [95 % BCa "
        "bootstrap interval over images]; a winner only where the interval of the paired difference excludes "
        f"0. Mode: {mode}."
    )


def styled(table: pd.DataFrame, caption: str) -> Styler:
    """The table for a notebook: captioned, without index, rows with a winner in bold."""
    return (
        table.style.hide(axis="index")
        .set_caption(caption)
        .apply(lambda row: ["font-weight: bold" if row.get("winner") else ""] * len(row), axis=1)
        .set_table_styles([{"selector": "caption", "props": "text-align: left; padding-bottom: .5em"}])
    )


def to_markdown(table: pd.DataFrame) -> str:
    """The table in GitHub's Markdown; vertical bars in cells are escaped."""
    lines = [table.columns, ["---"] * table.shape[1], *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def pivot(means: pd.DataFrame, index: list[str], columns: str) -> pd.DataFrame:
    """`summary`'s rows as a table of "mean [low, high]", one row per `index`, one column per value of `columns`."""
    cells = [brackets(row.mean, row.low, row.high) for row in means.itertuples(index=False)]
    wide = means.assign(cell=cells).pivot(index=index, columns=columns, values="cell").fillna("")
    return wide.reset_index().rename_axis(columns=None)


def save_csv(table: pd.DataFrame, name: str, profile: str, output: str) -> None:
    """Write <output>/results/<profile>/<name>.csv, whole or not at all; `output` counts from the project's root."""
    content = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_atomically(_result(f"{name}.csv", profile, output), content)


def save_parquet(table: pd.DataFrame, name: str, profile: str, output: str) -> pd.DataFrame:
    """Write <output>/results/<profile>/<name>.parquet: for columns of lists, such as curves, and for long tables.

    The columns `value` and `curve` keep what `packing.as_stored` does; all else is exact: rows are selected by it.
    returns: the table with the numbers that are stored, so that what is judged is what a reader of the file finds
    """
    save_parts([table], name, profile, output)
    return with_stored_numbers(table)


def save_parts(frames: Iterable[pd.DataFrame], name: str, profile: str, output: str) -> StoredScores:
    """Write a table whose rows come in `frames`, as those of units do, and need not fit in memory; returns it, stored.

    The same file as of `save_parquet` where it has at most 2^22 values. Else a folder <name>.parquet of files of so
    many: to open one for each of fifty thousand units would take longer than to read it. pandas, pyarrow and
    `StoredScores` read such a folder as they read a file. An earlier table stands until the new one is complete.
    Raises InputError where the disk is full or the folder cannot be written.
    """
    path, parts = _result(f"{name}.parquet", profile, output), joined_frames(frames)
    first, second = next(parts), next(parts, None)
    if second is None:
        if path.is_dir():
            shutil.rmtree(path)
        write_atomically(path, packed(first, pa.Schema.from_pandas(first, preserve_index=False), level=19))
        return StoredScores(path)
    with plain_file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f".{path.name}.*"):  # of a run that was killed
            shutil.rmtree(stale, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        schema = pa.Schema.from_pandas(first, preserve_index=False)
        for number, part in enumerate(itertools.chain([first, second], parts)):
            write_atomically(folder / f"part-{number:05}.parquet", packed(part, schema, level=3))
        with plain_file_errors(path):
            folder.chmod(0o755)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            folder.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return StoredScores(path)


def unit_frames(files: Iterable[Path], *, without: str = "") -> Iterator[pd.DataFrame]:
    """The rows of finished units, one unit after the other, without one of their columns.

    Raises InputError for a damaged file, which is removed, so that its unit is computed again.
    """
    for file in files:
        columns = [name for name in pq.read_schema(file).names if name != without]
        try:
            yield pd.read_parquet(file, columns=columns, page_checksum_verification=True)
        except OSError as error:
            file.unlink()
            raise InputError(
                f"{file.name} was damaged and is removed; type the same command again, which computes its rows again."
            ) from error


def _result(file: str, profile: str, output: str) -> Path:
    return ROOT / output / "results" / profile / file
