"""Units of work: computed once, kept as they finish, joined in order, and computed again when anything changed."""

import errno
import os
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from lib import ROOT, InputError
from lib.data.imagenet import photographs
from lib.store import provenance, source
from lib.store.units import evaluate, units_folder

calls: list = []  # what `thirds` was asked for, in order
failures: dict = {}  # {number: what `thirds` raises at it}


@pytest.fixture(autouse=True)
def forgotten():
    calls.clear()
    failures.clear()


def thirds(number: int, factor: int = 1) -> pd.DataFrame:
    calls.append(number)
    if number in failures:
        raise failures[number]
    return pd.DataFrame({"image": [f"i{number}"] * 2, "steps": [8, 16], "value": [number * factor / 3, None]})


def run(tmp_path, units=None, compute=thirds):
    units = {f"u{i}": (i,) for i in range(4)} if units is None else units
    return evaluate(units, compute, cache=tmp_path, label="test")


def stored(tmp_path) -> list[str]:
    """Names of the stored units without their keys."""
    return sorted(path.name.rpartition("-")[0] for path in (tmp_path / "test_units.thirds").iterdir())


def test_rows_in_the_order_of_the_units_and_the_same_when_read_back(tmp_path):
    table = run(tmp_path)
    assert table["image"].tolist() == ["i0", "i0", "i1", "i1", "i2", "i2", "i3", "i3"]
    assert table["value"].tolist()[2::2] == [1 / 3, 2 / 3, 1.0]
    assert table.index.tolist() == list(range(8))
    assert calls == [0, 1, 2, 3]
    pd.testing.assert_frame_equal(run(tmp_path), table)
    assert calls == [0, 1, 2, 3]
    reverse = run(tmp_path, {"u2": (2,), "u0": (0,)})
    assert reverse["image"].tolist() == ["i2", "i2", "i0", "i0"]


def test_rows_do_not_depend_on_which_of_them_were_stored(tmp_path):
    whole = run(tmp_path / "a")
    run(tmp_path / "b", {"u1": (1,)})
    part = run(tmp_path / "b")
    pd.testing.assert_frame_equal(part, whole, check_exact=True)
    assert part.attrs == whole.attrs == {}


def test_a_tuple_is_spread_and_anything_else_is_one_argument(tmp_path):
    assert run(tmp_path, {"a": (3, 2)})["value"][0] == 2.0
    assert run(tmp_path, {"b": 3})["value"][0] == 1.0


def test_names_of_units_may_hold_anything_and_begin_the_names_of_files(tmp_path):
    run(tmp_path, {"resnet50/a b": (1,), "resnet50/../a": (2,), "ü" * 200: (3,)})
    long, *short = sorted(stored(tmp_path))
    assert short == ["resnet50%2F..%2Fa", "resnet50%2Fa%20b"]
    assert long == ("%C3%BC" * 200)[:150]


@pytest.mark.parametrize("damage", [b"", b"PAR1 but not really", None])
def test_a_damaged_unit_is_computed_again_and_said_so(tmp_path, capsys, damage):
    whole = run(tmp_path)
    (path,) = (tmp_path / "test_units.thirds").glob("u2-*.parquet")
    path.write_bytes(path.read_bytes()[:200] if damage is None else damage)
    calls.clear()
    pd.testing.assert_frame_equal(run(tmp_path), whole)
    assert calls == [2]
    assert f"{path.name} is damaged (" in capsys.readouterr().err


def test_an_interruption_loses_only_the_unit_in_hand_and_says_so_once(tmp_path, capsys):
    failures[2] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert capsys.readouterr().err.count("test: interrupted; every finished unit is kept") == 1
    calls.clear()
    failures.clear()
    assert len(run(tmp_path)) == 8
    assert calls == [2, 3]


def test_an_error_keeps_the_finished_units_and_is_not_hidden(tmp_path):
    failures[3] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        run(tmp_path)
    assert stored(tmp_path) == ["u0", "u1", "u2"]


def filling(number: int, at: int) -> pd.DataFrame:
    if number == at:
        os.fsync = lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
    return thirds(number)


def test_a_full_disk_is_one_sentence_and_keeps_the_finished_units(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", os.fsync)  # put back afterwards
    with pytest.raises(InputError, match=r"^The disk is full: u2-.*\.parquet was not written, nothing"):
        run(tmp_path, compute=partial(filling, at=2))
    assert [path.name[:3] for path in sorted((tmp_path / "test_units.filling").iterdir())] == ["u0-", "u1-"]


def test_units_and_their_seconds_are_counted_reused_ones_too(tmp_path, monkeypatch):
    none = {"units": 0, "reused": 0, "seconds": 0.0, "waited": 0.0, "workers": 1, "device": "", "peak": 0}
    monkeypatch.setattr(provenance, "tally", none)
    ticks = iter(range(0, 1000, 5))  # every unit seems to take 5 s, and so does what is around it
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    run(tmp_path, {"u0": (0,), "u1": (1,)})
    used = provenance.footprint()
    assert (used["units"], used["units_reused"], used["unit_seconds"], used["workers"]) == (2, 0, 10.0, 1)
    assert used["waited"] == 30.0
    run(tmp_path, {"u0": (0,), "u1": (1,), "u2": (2,)})
    used = provenance.footprint()
    assert (used["units"], used["units_reused"], used["unit_seconds"], used["waited"]) == (5, 2, 25.0, 45.0)


def test_units_lie_below_the_output_and_by_default_in_the_project():
    assert units_folder(".") == ROOT / ".cache" / "units"
    assert units_folder("/elsewhere") == Path("/elsewhere/.cache/units")


def test_no_units_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="test was given no units"):
        run(tmp_path, {})


# -- what makes a stored unit stale ------------------------------------------------------------------------------------

MODULE = """
import pandas as pd
from PIL import Image
from study_of_brightness_numbers import HALF

calls = []


def load(photos, shared):
    '''What loads a unit.'''
    return photos, shared


def brightness(load, *, steps, weights="", seed=0, cache=None):
    '''Rows of a unit.'''
    photos, shared = load()
    calls.append([photo.id for photo in photos])
    means = [HALF * sum(Image.open(photo.path).getpixel((0, 0))) for photo in photos]
    return pd.DataFrame({"image": [photo.id for photo in photos], "value": means})
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of eight photographs with a weight file; study(...) returns the units it computed, not read."""
    folder, weights = tmp_path / "photographs", tmp_path / "net.pth"
    for label, wnid in enumerate(["n01440764", "n01443537"]):
        (folder / wnid).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (4, 4), (label, number, 0)).save(folder / wnid / f"{wnid}_{number}.png")
    weights.write_bytes(b"one")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    ages = iter(range(10**6, 0, -1))  # seconds: before this process began, however long it has run

    def aged(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        os.utime(tmp_path / f"{name}.py", (time.time() - next(ages),) * 2)

    def computed(*, limit=None, group=2, code=MODULE, half=0.5, change=lambda photos: photos, shared=(), **settings):
        aged("study_of_brightness", code)
        aged("study_of_brightness_numbers", f"HALF = {half}\n")
        for name in ("study_of_brightness", "study_of_brightness_numbers"):
            sys.modules.pop(name, None)
        monkeypatch.setattr(source, "_loaded", {})
        import study_of_brightness as module

        photos = change(photographs(str(folder), limit))
        parts = [photos[start : start + group] for start in range(0, len(photos), group)]
        units = {f"net-{part[0].id}-{len(part)}": partial(module.load, part, tuple(shared)) for part in parts}
        chosen = {"steps": 8, "weights": str(weights), "cache": tmp_path / "trained"} | settings
        compute = partial(module.brightness, **chosen)
        table = evaluate(units, compute, cache=tmp_path / "units", label="net")
        assert sorted(table["image"]) == sorted(photo.id for photo in photos)
        return module.calls

    computed.folder, computed.weights = folder, weights
    return computed


def test_a_larger_set_of_photographs_has_each_once(study):
    """The units of a few photographs begin with the same ids as units of all, and hold others."""
    assert len(study(limit=4)) == 2
    assert len(study()) == 4  # none of the pairs of neighbours was a pair of the spread
    assert study(limit=4) == study() == []


def test_a_constant_of_an_imported_module_counts(study):
    assert len(study()) == 4
    assert study() == []
    assert len(study(half=0.25)) == 4
    assert study(half=0.5) == []


def test_comments_layout_docstrings_and_folders_of_caches_do_not_count(study, tmp_path):
    assert len(study()) == 4
    assert study(code=MODULE + "# a comment\n") == []
    assert study(code=MODULE.replace("'''Rows of a unit.'''", "'''One row per photograph.'''")) == []
    assert study(code=MODULE.replace("calls = []", "calls   =  ([])")) == []
    assert study(cache=tmp_path / "elsewhere") == []


@pytest.mark.parametrize(
    "changed",
    [
        {"steps": 16},
        {"seed": 1},
        {"weights": ""},
        {"code": MODULE.replace("0, 0)", "1, 1)")},
        {"code": "from lib import seeds\n" + MODULE},
        {"change": lambda photos: photos[::-1]},  # the company, and the order in it
        {"change": lambda photos: [type(p)(p.path, p.label + 1, p.id) for p in photos]},
        {"change": lambda photos: [type(p)(p.path, p.label, f"{p.id}x") for p in photos]},
        {"group": 4},
    ],
)
def test_every_setting_label_id_order_and_line_of_code_counts(study, changed):
    assert len(study()) == 4
    assert len(study(**changed)) == (2 if "group" in changed else 4)
    assert study() == []


def test_one_photograph_of_the_same_size_counts_for_its_unit_alone(study):
    before = study()
    path = study.folder / "n01443537" / "n01443537_1.png"
    size = path.stat().st_size
    Image.new("RGB", (4, 4), (1, 9, 0)).save(path)
    assert path.stat().st_size == size
    assert study() == [part for part in before if "n01443537_1" in part]


def test_photographs_that_references_are_drawn_from_count_by_content_and_order(study):
    pool = photographs(str(study.folder))[-2:]
    assert len(study(limit=4, shared=pool)) == 2
    assert study(limit=4, shared=pool) == []
    assert len(study(limit=4, shared=pool[::-1])) == 2
    Image.new("RGB", (4, 4), (7, 7, 7)).save(pool[0].path)
    assert len(study(limit=2, group=1, shared=pool)) == 2


def test_weights_of_the_same_size_count(study):
    assert len(study()) == 4
    study.weights.write_bytes(b"two")
    assert len(study()) == 4
    study.weights.write_bytes(b"one")
    assert study() == []


@pytest.mark.parametrize(
    "package", ["torch", "captum", "scikit-image", "scikit-learn", "pillow", "pytorch-msssim", "scipy"]
)
def test_another_version_of_a_package_counts(study, package, monkeypatch):
    assert len(study()) == 4
    real = provenance._version
    monkeypatch.setattr(provenance, "_version", lambda name: "9.9" if name == package else real(name))
    assert len(study()) == 4


def test_the_kind_of_device_counts_and_the_number_of_threads_does_not(study, monkeypatch):
    assert len(study()) == 4
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert study() == []
    here = torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: not here)
    assert len(study()) == 4


def test_a_unit_reads_its_own_photographs_and_not_the_folder(study, monkeypatch):
    from lib.store import files

    read = []
    real = files.hashlib.file_digest
    monkeypatch.setattr(
        files.hashlib, "file_digest", lambda file, kind: read.append(Path(file.name).name) or real(file, kind)
    )
    study(limit=2)
    assert {name for name in read if name.endswith(".png")} == {"n01440764_0.png", "n01443537_0.png"}
