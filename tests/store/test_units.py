"""Units of work: computed once, kept as they finish, joined in order."""

import errno
import os
from pathlib import Path

import pandas as pd
import pytest

from lib import ROOT, InputError
from lib.store import provenance
from lib.store.units import evaluate, units_folder


class Counter:
    """A computation that notes its calls and can be told to fail at one of them."""

    def __init__(self, fail_at: object = None, failure: BaseException | None = None):
        self.calls, self.fail_at, self.failure = [], fail_at, failure

    def __call__(self, number: int, factor: int = 1) -> pd.DataFrame:
        self.calls.append(number)
        if number == self.fail_at:
            raise self.failure
        return pd.DataFrame({"image": [f"i{number}"] * 2, "steps": [8, 16], "value": [number * factor / 3, None]})


def run(compute, tmp_path, units=None, key="k"):
    units = {f"u{i}": (i,) for i in range(4)} if units is None else units
    return evaluate(units, compute, cache=tmp_path, key=key, label="test")


def test_rows_in_the_order_of_the_units_and_the_same_when_read_back(tmp_path):
    first, again = Counter(), Counter()
    table = run(first, tmp_path)
    assert table["image"].tolist() == ["i0", "i0", "i1", "i1", "i2", "i2", "i3", "i3"]
    assert table["value"].tolist()[2::2] == [1 / 3, 2 / 3, 1.0]
    assert table.index.tolist() == list(range(8))
    pd.testing.assert_frame_equal(run(again, tmp_path), table)
    assert (first.calls, again.calls) == ([0, 1, 2, 3], [])
    reverse = run(again, tmp_path, {"u2": (2,), "u0": (0,)})
    assert reverse["image"].tolist() == ["i2", "i2", "i0", "i0"]


def test_rows_do_not_depend_on_which_of_them_were_stored(tmp_path):
    whole = run(Counter(), tmp_path / "a")
    run(Counter(), tmp_path / "b", {"u1": (1,)})
    part = run(Counter(), tmp_path / "b")
    pd.testing.assert_frame_equal(part, whole, check_exact=True)
    assert part.attrs == whole.attrs == {}


def test_a_tuple_is_spread_and_anything_else_is_one_argument(tmp_path):
    assert run(Counter(), tmp_path, {"a": (3, 2)})["value"][0] == 2.0
    assert run(Counter(), tmp_path, {"b": 3})["value"][0] == 1.0


def test_another_key_is_computed_anew(tmp_path):
    second = Counter()
    run(Counter(), tmp_path, key="one")
    run(second, tmp_path, key="two")
    assert second.calls == [0, 1, 2, 3]


def test_unit_names_may_hold_slashes(tmp_path):
    units = {"resnet50/a b": (1,), "resnet50/../a": (2,)}
    run(Counter(), tmp_path, units)
    assert sorted(p.name for p in (tmp_path / "k").iterdir()) == [
        "resnet50%2F..%2Fa.parquet",
        "resnet50%2Fa%20b.parquet",
    ]


@pytest.mark.parametrize("damage", [b"", b"PAR1 but not really", None])
def test_a_damaged_unit_is_computed_again_and_said_so(tmp_path, capsys, damage):
    whole = run(Counter(), tmp_path)
    path = tmp_path / "k" / "u2.parquet"
    path.write_bytes(path.read_bytes()[:200] if damage is None else damage)
    again = Counter()
    pd.testing.assert_frame_equal(run(again, tmp_path), whole)
    assert again.calls == [2]
    assert "u2.parquet is damaged (" in capsys.readouterr().err


def test_an_interruption_loses_only_the_unit_in_hand_and_says_so_once(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        run(Counter(2, KeyboardInterrupt()), tmp_path)
    assert capsys.readouterr().err.count("test: interrupted; every finished unit is kept") == 1
    again = Counter()
    assert len(run(again, tmp_path)) == 8
    assert again.calls == [2, 3]


def test_an_error_keeps_the_finished_units_and_is_not_hidden(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(Counter(3, ZeroDivisionError()), tmp_path)
    assert sorted(p.name for p in (tmp_path / "k").iterdir()) == ["u0.parquet", "u1.parquet", "u2.parquet"]


def test_a_full_disk_is_one_sentence_and_keeps_the_finished_units(tmp_path, monkeypatch):
    class Full(Counter):
        def __call__(self, number):
            if number == 2:
                monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
            return super().__call__(number)

    with pytest.raises(InputError, match=r"^The disk is full: u2\.parquet was not written, nothing finished was lost"):
        run(Full(), tmp_path)
    assert sorted(p.name for p in (tmp_path / "k").iterdir()) == ["u0.parquet", "u1.parquet"]


def test_reused_units_and_their_first_cost_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "reused", {"units": 0, "seconds": 0.0})
    ticks = iter(range(0, 1000, 5))
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))  # every unit seems to take 5 s
    run(Counter(), tmp_path, {"u0": (0,), "u1": (1,)})
    assert provenance.footprint()["units_reused"] == 0
    run(Counter(), tmp_path, {"u0": (0,), "u1": (1,), "u2": (2,)})
    used = provenance.footprint()
    assert (used["units_reused"], used["seconds_reused"]) == (2, 10.0)


def test_units_lie_below_the_output_and_by_default_in_the_project():
    assert units_folder(".") == ROOT / ".cache" / "units"
    assert units_folder("/elsewhere") == Path("/elsewhere/.cache/units")


def test_no_units_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="test was given no units"):
        run(Counter(), tmp_path, {})
