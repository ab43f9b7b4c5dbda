"""Content hashes over tiny packages made for the purpose, and files that are written whole or not at all."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lib import ROOT, InputError
from lib.store import provenance
from lib.store.files import write_atomically
from lib.store.provenance import code_hash, data_identity, digest, named_files, unit_key


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """lib.maps imports the package lib.rules relatively, lib.names, and inside a function lib.late."""
    files = {
        "__init__.py": "",
        "maps.py": "from .rules import idgi\nfrom lib import names\n\n\ndef f():\n    import lib.late\n",
        "rules/__init__.py": "from . import riemann\n",
        "rules/idgi.py": "from ..deep.core import walk\nimport numpy\n",
        "rules/riemann.py": "LEFT = 1\n",
        "rules/unused.py": "X = 1\n",
        "deep/__init__.py": "",
        "deep/core.py": "from lib.maps import f  # a cycle\nwalk = 'published.csv'\n",
        "names.py": "",
        "late.py": "",
        "alone.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


CLOSURE = ["__init__", "deep/__init__", "deep/core", "late", "maps", "names"]
CLOSURE += ["rules/__init__", "rules/idgi", "rules/riemann"]


@pytest.mark.parametrize(
    "cells",
    [
        "import lib.maps",
        "from lib import maps as m",
        "from lib.maps import f",
        "%matplotlib inline\n!ls\nif True:\n    from lib.maps import f",
    ],
)
def test_closure_follows_every_form_of_import_and_stops_at_cycles(root, cells):
    assert list(code_hash(cells=cells, root=root)) == [f"lib/{name}.py" for name in CLOSURE]
    assert code_hash(cells=cells, root=root) == code_hash(["lib", "lib.maps"], root=root)


def test_nothing_of_lib_is_nothing(root):
    assert code_hash(cells="import numpy\nfrom library import x", root=root) == {}


def test_code_changes_count_and_comments_and_layout_do_not(root):
    before = code_hash(["lib.maps"], root=root)
    file = root / "lib" / "rules" / "riemann.py"
    file.write_text("# why\n\nLEFT   =   (1)\n")
    assert code_hash(["lib.maps"], root=root) == before
    file.write_text("LEFT = 2\n")
    after = code_hash(["lib.maps"], root=root)
    assert [name for name in before if before[name] != after[name]] == ["lib/rules/riemann.py"]


def test_the_real_closure_of_this_module_has_its_own_parents():
    assert list(code_hash(["lib.store.units", "lib"])) == [
        "lib/__init__.py",
        "lib/store/__init__.py",
        "lib/store/files.py",
        "lib/store/provenance.py",
        "lib/store/units.py",
    ]


def test_named_files_are_those_the_code_spells_out(root):
    params = root / "params"
    params.mkdir()
    for name in ("published.csv", "claims.yaml", "other.yaml"):
        (params / name).write_text("1")
    assert list(named_files("import lib.maps", params, root=root)) == ["params/published.csv"]
    assert list(named_files("x = 'params/other.yaml'", params, root=root)) == ["params/other.yaml"]
    before = named_files("import lib.maps", params, root=root)
    (params / "published.csv").write_text("2")
    assert named_files("import lib.maps", params, root=root) != before


def test_data_identity_sees_names_and_sizes_wherever_the_folder_is(tmp_path):
    def photographs(folder: str, **files: str) -> str:
        for name, content in files.items():
            path = tmp_path / folder / "set" / "n01440764" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return str(tmp_path / folder / "set")

    one = data_identity(photographs("one", a="12", b="345"))
    assert data_identity(photographs("same", b="345", a="12")) == one
    assert data_identity(photographs("size", a="12", b="3456")) != one
    assert data_identity(photographs("name", a="12", c="345")) != one
    assert data_identity(photographs("more", a="12", b="345", c="")) != one
    assert data_identity(photographs("one") + "/n01440764/a") != one  # a single file


def test_packaged_data_changes_with_its_package(monkeypatch):
    before = data_identity("packaged")
    assert data_identity("") == before
    monkeypatch.setattr(provenance, "_version", lambda name: "9.9")
    assert data_identity("packaged") != before


def test_missing_data_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"^There is no '.*nowhere'; give an existing folder or file"):
        data_identity(str(tmp_path / "nowhere"))


def test_unit_key_changes_with_each_thing_that_decides_a_unit(tmp_path, monkeypatch):
    def key(modules=("lib.store.provenance",), **changes):
        return unit_key("idgi", modules, **{"steps": [8, 16], "seed": 0, **changes})

    (tmp_path / "a").write_text("1")
    keys = [key(), key(["lib.store.units"]), key(steps=[8]), key(seed=1), key(images=str(tmp_path))]
    keys += [key(weights=str(tmp_path))]
    monkeypatch.setattr(provenance, "decisive_versions", lambda: {"torch": "9.9"})
    keys += [key()]
    assert len(set(keys)) == 7
    assert key() == keys[-1]
    assert all(one.startswith("idgi-") and len(one) == 21 for one in keys)


def test_digest_is_sha256_and_ignores_the_order_of_keys():
    assert digest("abc") == "ba7816bf8f01cfea" == digest(b"abc")  # FIPS 180-2, appendix B.1
    assert digest({"a": 1, "b": (2,)}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


def test_versions_are_those_installed():
    import torch

    found = provenance.versions()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(provenance.decisive_versions()) == {"torch", "torchvision", "timm"} <= set(found)
    assert found["python"].count(".") == 2


def test_footprint_reports_the_peak_of_its_process_in_megabytes():
    code = "from lib.store.provenance import footprint\nbefore = footprint()['peak_memory_mb']\n"
    code += "block = b'x' * 300_000_000\ndel block\nprint(before, footprint()['peak_memory_mb'])"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(int, told.stdout.split())
    assert 290 < after - before < 310


def test_a_file_is_replaced_whole_and_readable_by_others(tmp_path):
    path = tmp_path / "new" / "table.csv"
    write_atomically(path, "old")
    write_atomically(path, b"new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["table.csv"]


@pytest.mark.parametrize(
    ("failure", "raised", "said"),
    [
        (OSError(errno.ENOSPC, "No space"), InputError, "The disk is full: table.csv was not written"),
        (OSError(errno.EACCES, "Forbidden"), InputError, r"cannot be written \(Forbidden\); give a folder"),
        (KeyboardInterrupt("now"), KeyboardInterrupt, "now"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, moment, failure, raised, said):
    path = tmp_path / "table.csv"
    write_atomically(path, "old")

    def fail(*_):
        raise failure

    monkeypatch.setattr(os, moment, fail)
    with pytest.raises(raised, match=said):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]
