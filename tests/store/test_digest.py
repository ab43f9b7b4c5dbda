"""Keys that change with every ingredient, over modules made for the purpose."""

import importlib
import os
import sys
import time
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from lib import InputError
from lib.store import provenance
from lib.store.digest import content_key, digest


@dataclass(frozen=True)
class Photograph:
    path: Path
    label: int


@dataclass(frozen=True)
class Drawing:
    path: Path
    label: int


class Item(NamedTuple):
    id: str
    label: int


def compute(name, steps=8, *, seed=0, cache=None, **more):
    """Something with settings."""


def other(name, steps=8, *, seed=0, cache=None, **more):
    """Something else."""


kept = lru_cache(compute)

EQUAL = [
    ((1, 2), [1, 2]),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    (np.float64(0.5), 0.5),
    (np.int64(3), 3),
    (np.arange(3), np.arange(6)[::2] // 2),
    (torch.arange(4.0), torch.arange(8.0)[::2] / 2),
    (torch.ones(2, requires_grad=True), torch.ones(2)),
    (partial(compute, "a", 8), partial(compute, steps=8, name="a")),
    (partial(compute, "a", cache=Path("/one")), partial(compute, "a", cache="/two")),
    (partial(compute, "a", output="/one"), partial(compute, "a")),
    (partial(compute, seed=1, rate=2), partial(partial(compute, rate=2), seed=1)),
    (kept, compute),
    (Item("a", 1), ("a", 1)),
]
DIFFERENT = [
    [1, 1.0, True, "1", b"1", None, [1], {"1": 1}, torch.tensor(1), np.array(1)],
    [0, -1, 0.0, -0.0, float("nan"), float("inf")],
    [[1, 2], [2, 1], [1, 2, 2], [[1, 2]], [[1], 2]],
    [[], {}, "", None, [None], [[]]],
    [{"a": 1}, {"a": 2}, {"b": 1}, {"a": 1, "b": 1}, {1: "a"}],
    [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.float64), torch.tensor([0.0, 0, 0, 1e-30])],
    [torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.float16), torch.zeros(2, dtype=torch.bool)],
    [np.zeros(4), np.zeros((2, 2)), np.zeros(4, dtype=np.float32), np.zeros(4, dtype=int), torch.zeros(4)],
    [slice(3), slice(0, 3), slice(3, None), slice(None, None, 3)],
    [compute, other, partial(compute, "a"), partial(other, "a"), partial(compute, "b"), partial(compute, "a", 9)],
    [partial(compute, "a", seed=1), partial(compute, "a", seed=2), partial(compute, "a", rate=1), partial(compute)],
    [Photograph, Drawing, Item, compute],
]


@pytest.mark.parametrize("pair", EQUAL)
def test_what_is_the_same_has_one_digest(pair):
    assert digest(pair[0]) == digest(pair[1])


@pytest.mark.parametrize("values", DIFFERENT)
def test_what_differs_has_another(values):
    found = [digest(value) for value in values]
    assert len(set(found)) == len(values)
    assert all(len(one) == 16 and set(one) <= set("0123456789abcdef") for one in found)
    assert found == [digest(value) for value in values]


def test_dataclasses_count_by_class_fields_and_the_contents_of_their_files(tmp_path):
    for name, content in (("a.jpg", "one"), ("b.jpg", "one"), ("c.jpg", "two")):
        (tmp_path / name).write_text(content)
    one = digest(Photograph(tmp_path / "a.jpg", 1))
    assert digest(Photograph(tmp_path / "b.jpg", 1)) == one
    assert digest(Photograph(tmp_path / "c.jpg", 1)) != one
    assert digest(Photograph(tmp_path / "a.jpg", 2)) != one
    assert digest(Drawing(tmp_path / "a.jpg", 1)) != one
    with pytest.raises(InputError, match="There is no"):
        digest(Photograph(tmp_path / "missing.jpg", 1))


def test_a_text_that_names_a_file_or_folder_counts_by_what_lies_there(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "net.pth").write_text("one")
    absolute = [str(tmp_path / "weights"), str(tmp_path / "weights" / "net.pth")]
    monkeypatch.chdir(tmp_path)
    relative = ["weights", "weights/net.pth", "./weights"]
    before = {text: digest(partial(compute, weights=text)) for text in [*absolute, *relative]}
    (tmp_path / "weights" / "net.pth").write_text("two")
    after = {text: digest(partial(compute, weights=text)) for text in before}
    assert all(after[text] != before[text] for text in before)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "net.pth").write_text("two")
    assert digest(str(tmp_path / "copy")) == digest(absolute[0])
    assert digest("nowhere") == digest("nowhere") != digest("elsewhere")


class Opaque:
    pass


def _closure():
    value = 3

    def inner():
        return value

    return inner


@pytest.mark.parametrize(
    "value",
    [lambda: 1, _closure(), Opaque(), Opaque().__init__, iter([1]), np.array([Opaque()]), torch.nn.ReLU(), {1, 2}],
)
def test_what_cannot_be_told_apart_is_refused_wherever_it_hides(value):
    for hidden in (value, [value], {"a": value}, partial(compute, value), partial(compute, rate=[value])):
        with pytest.raises(InputError, match=r"cannot be told from another of its kind; give numbers"):
            digest(hidden)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """write(text): a module `ingredient_under_test` with this text, written long ago, and newly loaded."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "ingredient_under_test.py"
    ages = iter(range(10**6, 0, -10))  # seconds: before this process began, however long it has run

    def write(text: str, *, long_ago: bool = True):
        from lib.store import source

        file.write_text(text)
        if long_ago:
            os.utime(file, (time.time() - next(ages),) * 2)
            monkeypatch.setattr(source, "_loaded", {})
        sys.modules.pop("ingredient_under_test", None)
        importlib.invalidate_caches()
        return importlib.import_module("ingredient_under_test")

    yield write
    sys.modules.pop("ingredient_under_test", None)


CODE = 'LEFT = 1\n\n\ndef compute(x):\n    """What."""\n    return LEFT * x\n'


def test_functions_count_by_the_source_of_their_module_comments_and_docstrings_excepted(module):
    before = digest(module(CODE).compute)
    assert digest(module(CODE + "# why\n").compute) == before
    assert digest(module(CODE.replace("What.", "Why.")).compute) == before
    assert digest(module(CODE.replace("LEFT * x", "(LEFT   *  x)")).compute) == before
    assert digest(module(CODE.replace("LEFT = 1", "LEFT = 2")).compute) != before
    assert digest(module(CODE + "import lib.seeds\n").compute) != before


def test_code_that_was_edited_after_it_was_loaded_is_never_reused(module, capsys):
    loaded = module(CODE)
    before = digest(loaded.compute)
    file = Path(loaded.__file__)
    file.write_text(CODE + "# a comment\n")
    assert digest(loaded.compute) == before
    file.write_text(CODE.replace("LEFT = 1", "LEFT = 2"))
    assert len({before, digest(loaded.compute), digest(loaded.compute)}) == 3
    assert "ingredient_under_test.py was edited after it was loaded" in capsys.readouterr().err
    file.write_text(CODE)
    assert digest(loaded.compute) == before


def test_a_function_typed_into_a_notebook_is_refused(monkeypatch):
    monkeypatch.setattr(compute, "__module__", "__main__")
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with pytest.raises(InputError, match="The code of '__main__' is in no file"):
        digest(compute)


@pytest.mark.parametrize("package", provenance.RECORDED)
def test_keys_change_with_the_version_of_every_recorded_package(package, monkeypatch):
    before = content_key("net", 1)
    assert content_key("net", 1) == before != content_key("net", 2)
    assert before.startswith("net-") and len(before) == 20
    real = provenance._version
    monkeypatch.setattr(provenance, "_version", lambda name: "9.9" if name == package else real(name))
    assert content_key("net", 1) != before


def test_keys_change_with_the_kind_of_device_and_not_with_threads(monkeypatch):
    keys = [content_key("net")]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    keys.append(content_key("net"))
    here = torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: not here)
    keys.append(content_key("net"))
    assert keys[0] == keys[1] != keys[2]
