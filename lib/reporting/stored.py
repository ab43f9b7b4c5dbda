"""Scores in memory or in parquet: which cells they have, and their rows, as many at once as memory takes."""

import fnmatch
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from lib import InputError, nearest

MOST = 2**22  # values that are read at once: 32 MB of doubles, and as much again for each step of a computation
FEW = {"batch_size": 2**16, "batch_readahead": 2, "fragment_readahead": 1}  # parts that wait in memory to be filtered
APART = ("image", "label", "value")  # columns that do not tell cells apart, as columns of lists do not
COUNT = "_rows"


class StoredScores:
    """Scores in a parquet file, or in a folder of such parts; only the rows that are asked for are in memory.

    A cell is a combination of all columns but image, label, value and those of lists. `cells` holds them, in the order
    of their first rows, with their numbers of rows. Text comes as categories in alphabetical order: one byte or four in
    place of a text, and groups in the order that they have as text.
    Raises InputError where there is no such file.
    """

    def __init__(self, path: Path):
        if not Path(path).exists():
            raise InputError(f"There is no table {path}; run its notebook first.")
        self._fields = fields = ds.dataset(path, format="parquet").schema
        self._text = [
            each.name for each in fields if pa.types.is_string(each.type) or pa.types.is_large_string(each.type)
        ]
        options = ds.ParquetReadOptions(dictionary_columns=self._text)
        self._data = ds.dataset(path, format=ds.ParquetFileFormat(read_options=options))
        self._lists = [each.name for each in fields if pa.types.is_list(each.type)]
        self.columns = [name for name in fields.names if not name.startswith("__index_level_")]
        self._keys = [name for name in self.columns if name not in (*APART, *self._lists)]

    def __len__(self) -> int:
        return self._data.count_rows()

    def head(self, rows: int = 5) -> pd.DataFrame:
        """The first rows."""
        return self._data.head(rows, columns=self.columns).to_pandas()

    @property
    def cells(self) -> pd.DataFrame:
        """The distinct cells and the number of their rows, in a column of its own."""
        return self._survey[0]

    @cached_property
    def _survey(self) -> tuple[pd.DataFrame, dict[str, list[str]]]:
        """`cells`, and {column of text: its values in alphabetical order}, from one pass over the table."""
        found, texts = [], {name: set() for name in self._text}
        for batch in self._data.to_batches(columns=list(dict.fromkeys([*self._keys, *self._text])), **FEW):
            for name in self._text:
                texts[name].update(batch.column(name).dictionary.to_pylist())
            found.append(_counted(batch.select(self._keys).to_pandas(), self._keys))
        cells = pd.concat(found, ignore_index=True)
        cells = cells.groupby(self._keys, sort=False, dropna=False, as_index=False)[COUNT].sum()
        return cells, {name: sorted(values) for name, values in texts.items()}

    @cached_property
    def most(self) -> int:
        """Rows that are read at once."""
        first = self._data.head(1).to_pylist()
        return MOST // (len(self.columns) + sum(len(row[name] or ()) for row in first for name in self._lists))

    def rows(self, cells: pd.DataFrame) -> pd.DataFrame:
        """The rows of some `cells`, in the order of the table."""
        wanted = {name: cells[name].unique() for name in self._keys}
        wanted = {
            name: list(values) for name, values in wanted.items() if len(values) < self.cells[name].nunique(False)
        }
        asked, near = None, self.cells
        for name, values in wanted.items():
            one = ds.field(name).isin(pa.array(values, self._fields.field(name).type, from_pandas=True))
            asked = one if asked is None else asked & one
            near = near[near[name].isin(values)]
        frame = self._data.to_table(columns=self.columns, filter=asked, **FEW).unify_dictionaries().to_pandas()
        for name in self._text:
            frame[name] = frame[name].cat.set_categories(self._survey[1][name])
        if len(near) == len(cells):
            return frame
        exact = cells[self._keys].astype({name: frame[name].dtype for name in self._keys if name in self._text})
        return frame.merge(exact, on=self._keys)  # what was read has every combination of the values


def _counted(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    counts = frame.groupby(keys, sort=False, dropna=False, observed=True).size().reset_index(name=COUNT)
    return plain(counts)


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with text in place of categories."""
    kinds = {name: of.dtype.categories.dtype for name, of in frame.items() if isinstance(of.dtype, pd.CategoricalDtype)}
    return frame.astype(kinds)


def cells_of(scores: pd.DataFrame | StoredScores) -> pd.DataFrame:
    """A frame that lacks a selection where and only where the scores lack it: their cells, or the frame itself."""
    return scores.cells if isinstance(scores, StoredScores) else scores


def select(scores: pd.DataFrame | StoredScores, where: dict) -> pd.DataFrame:
    """Rows of a tidy table that agree with `where`: a value, a list, a pattern ("resnet*") or an extreme.

    The extremes "largest" and "smallest" are taken last, within each model, path and mode, so that
    {"steps": "largest"} finds the finest grid of every path even where they were run with different grids.

    Raises InputError for a column the table does not have.

    >>> frame = pd.DataFrame({"path": ["blur", "blur", "straight"], "steps": [8, 64, 32], "value": [0.1, 0.2, 0.3]})
    >>> select(frame, {"steps": "largest", "path": "b*"})["value"].tolist()
    [0.2]
    """
    if not isinstance(scores, StoredScores):
        return _selected(scores, where)
    named = {column: wanted for column, wanted in where.items() if column not in APART}
    found = scores.rows(_selected(scores.cells, named))
    return _selected(found, {column: where[column] for column in where if column in APART})


def _selected(frame: pd.DataFrame, where: dict) -> pd.DataFrame:
    for column in where:
        if column not in frame:
            raise InputError(f"The table has no column {column!r}; {nearest(column, frame.columns)}.")
    extremes = {column: wanted for column, wanted in where.items() if wanted in ("largest", "smallest")}
    for column, wanted in where.items():
        if column not in extremes:
            wanted = wanted if isinstance(wanted, list | tuple) else [wanted]
            match = frame[column].isin(list(wanted))
            for pattern in (w for w in wanted if isinstance(w, str) and "*" in w):
                match |= frame[column].astype(str).map(lambda value, p=pattern: fnmatch.fnmatchcase(value, p))
            frame = frame[match]
    for column, wanted in extremes.items():
        within = [c for c in ("mode", "model", "path") if c in frame]
        steps = frame.groupby(within)[column] if within else frame[column]
        reduce = "max" if wanted == "largest" else "min"
        frame = frame[frame[column] == (steps.transform(reduce) if within else getattr(steps, reduce)())]
    return frame


def portions(scores: pd.DataFrame | StoredScores, by: list[str], where: dict | None = None) -> Iterator[pd.DataFrame]:
    """The selected rows in portions that memory takes, each with whole groups of the columns `by`."""
    if not isinstance(scores, StoredScores):
        yield select(scores, where or {})
        return
    for cells in _portions_of(_selected(scores.cells, where or {}), by, scores.most):
        yield scores.rows(cells)


def sides(
    scores: pd.DataFrame | StoredScores, a: dict, b: dict, *, keys: list[str], by: list[str] | None = None
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """The rows of two selections that agree in `keys`, in portions, each with whole groups of the columns `by` of `a`.

    keys: columns that tell cells apart, in which rows of `a` and `b` must agree; by: of them or of `a` alone, all
    columns that tell cells apart when left out
    """
    if not isinstance(scores, StoredScores):
        yield select(scores, a), select(scores, b)
        return
    left, right = (_selected(scores.cells, side) for side in (a, b))
    keys = [name for name in keys if name in left and name != COUNT]
    for cells in _portions_of(left, by or keys, scores.most):
        yield scores.rows(cells), scores.rows(right.merge(cells[keys].drop_duplicates(), on=keys) if keys else right)


def _portions_of(cells: pd.DataFrame, by: list[str], most: int) -> Iterator[pd.DataFrame]:
    by = [name for name in by if name in cells]
    group = cells.groupby(by, sort=False, dropna=False).ngroup() if by else pd.Series(0, cells.index)
    before = cells[COUNT].groupby(group).sum().cumsum().shift(fill_value=0)
    portion = group.map(before // most)
    if cells.empty:
        yield cells
    for _, part in cells.groupby(portion, sort=False):
        yield part
