"""How a long table becomes the bytes of a parquet file: with fewer digits, in parts, in the smaller of two ways."""

import io
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.reporting.stored import MOST


def as_stored(values: np.ndarray) -> np.ndarray:
    """Numbers with 16 significant bits, nearly five digits: the interval of a mean is wider by far.

    Bytes of 0 take no room, and the digits of a score take most of a record's. What is stored already stays.

    >>> as_stored(np.array([0.1, 1.0, 123456.0, np.inf])).tolist()
    [0.10000038146972656, 1.0, 123456.0, inf]
    """
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(mantissa * 2**16) / 2**16, exponent)


def with_stored_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """The table with what `as_stored` keeps of its columns `value`, if of numbers, and `curve`.

    A unit without a single number in its curves was stored without their type: its curves are missing numbers again.
    """
    rounded = {"value": as_stored} if "value" in table.select_dtypes("float") else {}
    if "curve" in table:
        rounded["curve"] = lambda curves: curves.map(lambda curve: as_stored(np.asarray(curve, float)))
    return table.assign(**{name: how(table[name]) for name, how in rounded.items()})


def joined_frames(frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Frames with their stored numbers, joined until they hold `MOST` values; the last part may hold fewer, and one
    frame is not divided.
    """
    held, size = [], 0
    for frame in frames:
        values = frame.size + sum(each.dropna().map(len).sum() for _, each in frame.items() if each.dtype == object)
        if held and size + values > MOST:
            yield _joined(held)
            held, size = [], 0
        held.append(with_stored_numbers(frame))
        size += values
    yield _joined(held)


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    frame = pd.concat(frames, ignore_index=True)
    frame.attrs.clear()  # a unit's seconds
    return frame


def packed(table: pd.DataFrame, schema: pa.Schema, *, level: int) -> bytes:
    """The bytes of a parquet file, packed in the smaller of two ways."""
    columns = pa.Table.from_pandas(table, schema=schema, preserve_index=False)
    leaves = {
        f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name: field for field in columns.schema
    }
    split = [
        leaf for leaf, field in leaves.items() if pa.types.is_floating(getattr(field.type, "value_type", field.type))
    ]
    written = []
    for apart in ([], split):
        buffer = io.BytesIO()
        pq.write_table(
            columns,
            buffer,
            compression="zstd",
            compression_level=level,
            row_group_size=2**17,
            use_dictionary=[leaf for leaf in leaves if leaf not in apart],
            column_encoding=dict.fromkeys(apart, "BYTE_STREAM_SPLIT"),
        )
        written.append(buffer.getvalue())
    return min(written, key=len)
