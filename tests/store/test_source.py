"""Hashes of source files over a tiny package, by following its imports."""

import importlib
import os
import sys
import time
from pathlib import Path

import pytest

from lib import InputError
from lib.store import source
from lib.store.source import code_hash, named_files


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
        "get_ipython().system('ls')\nif True:\n    from lib.maps import f",
    ],
)
def test_closure_follows_every_form_of_import_and_stops_at_cycles(root, cells):
    assert list(code_hash(cells=[cells], root=root)) == [f"lib/{name}.py" for name in CLOSURE]
    assert code_hash(cells=[cells], root=root) == code_hash(["lib", "lib.maps"], root=root)


def test_nothing_of_lib_is_nothing(root):
    assert code_hash(cells=["import numpy\nfrom library import x"], root=root) == {}


def test_code_changes_count_and_comments_and_layout_do_not(root):
    before = code_hash(["lib.maps"], root=root)
    file = root / "lib" / "rules" / "riemann.py"
    file.write_text("# why\n\nLEFT   =   (1)\n")
    assert code_hash(["lib.maps"], root=root) == before
    file.write_text("LEFT = 2\n")
    after = code_hash(["lib.maps"], root=root)
    assert [name for name in before if before[name] != after[name]] == ["lib/rules/riemann.py"]


def test_named_files_are_those_the_code_spells_out(root):
    params = root / "params"
    params.mkdir()
    for name in ("published.csv", "claims.yaml", "other.yaml"):
        (params / name).write_text("1")
    assert list(named_files(["import lib.maps"], params, root=root)) == ["params/published.csv"]
    assert list(named_files(["x = 'params/other.yaml'"], params, root=root)) == ["params/other.yaml"]
    before = named_files(["import lib.maps"], params, root=root)
    (params / "published.csv").write_text("2")
    assert named_files(["import lib.maps"], params, root=root) != before


def test_docstrings_do_not_count_and_other_texts_do(root):
    file = root / "lib" / "rules" / "riemann.py"
    file.write_text('"""What."""\nLEFT = 1\n\n\nclass A:\n    """What."""\n\n    def f(self):\n        """What."""\n')
    before = code_hash(["lib.maps"], root=root)
    file.write_text('LEFT = 1\n\n\nclass A:\n    """That."""\n\n    def f(self):\n        """This."""\n')
    assert code_hash(["lib.maps"], root=root) == before
    file.write_text('LEFT = 1\n\n\nclass A:\n\n    def f(self):\n        x = """This."""\n')
    assert code_hash(["lib.maps"], root=root) != before


def test_a_template_beside_a_module_that_names_it_counts(root):
    (root / "lib" / "names.py").write_text('PAGE = "page.html.j2"\n')
    assert "lib/page.html.j2" not in code_hash(["lib.maps"], root=root)
    template, other = root / "lib" / "page.html.j2", root / "lib" / "other.html.j2"
    template.write_text("one")
    other.write_text("one")
    before = code_hash(["lib.maps"], root=root)
    assert "lib/page.html.j2" in before
    other.write_text("two")
    assert code_hash(["lib.maps"], root=root) == before
    template.write_text("two")
    assert code_hash(["lib.maps"], root=root) != before


@pytest.mark.parametrize("cell", ["<<<<<<< HEAD\nimport lib.maps", "for x in", "a\0b"])
def test_a_cell_that_is_not_python_imports_nothing_and_stops_nothing(root, cell):
    found = code_hash(cells=[cell, "import lib.alone"], root=root)
    assert list(found) == ["lib/__init__.py", "lib/alone.py"]
    assert named_files([cell], root, root=root) == {}


BROKEN = [(b"x = (", "line 1"), (b"<<<<<<< HEAD\n", "line 1"), (b"# \xfc", "UTF-8")]


@pytest.mark.parametrize(("content", "said"), BROKEN)
def test_a_module_that_is_not_python_is_one_sentence(root, content, said):
    (root / "lib" / "late.py").write_bytes(content)
    with pytest.raises(InputError, match=rf"late\.py.*{said}"):
        code_hash(["lib.maps"], root=root)


def test_files_from_a_clock_that_is_ahead_are_not_taken_for_edited(root, monkeypatch, capsys):
    file = root / "lib" / "maps.py"
    for at, edited in ((time.time() + 3600, False), (time.time() - 3600, False), (time.time(), True)):
        monkeypatch.setattr(source, "_loaded", {})
        monkeypatch.setattr(source, "STARTED", time.time_ns() - 10**9)
        for path in root.rglob("*.py"):
            os.utime(path, (time.time() - 3600,) * 2)
        os.utime(file, (at, at))
        one, two = (source.source_digest("lib.maps", root=root) for _ in range(2))
        assert (one != two) is edited


@pytest.mark.parametrize(
    ("folder", "counts"),
    [("beside/of_a_user", True), ("home/.local/lib/python3/site-packages", False), ("usr/lib/dist-packages", False)],
)
def test_a_loaded_module_counts_unless_it_is_installed_also_for_one_user(root, tmp_path, monkeypatch, folder, counts):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "loaded_by_a_user.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path / folder)
    monkeypatch.delitem(sys.modules, "loaded_by_a_user", raising=False)
    importlib.import_module("loaded_by_a_user")
    found = code_hash(cells=["import loaded_by_a_user"], root=root)
    assert [Path(name).name for name in found] == ["loaded_by_a_user.py"] * counts
