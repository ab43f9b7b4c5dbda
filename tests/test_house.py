"""How `lib` is built: one name for one thing, short modules, examples where a reader looks for them, no back doors."""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

from lib import ROOT

LONGEST = 250  # lines of a module
WITH_EXAMPLES = ("attribution", "metrics", "attacks")  # rooms
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@cache
def modules() -> dict[Path, ast.Module]:
    """Every module of `lib`, by its path below the root."""
    paths = sorted((ROOT / "lib").rglob("*.py"))
    return {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def public(tree: ast.Module) -> list[ast.AST]:
    """The functions and classes of a module that are not private."""
    return [each for each in tree.body if isinstance(each, DEFINITIONS) and not each.name.startswith("_")]


def twice(places: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: found for name, found in places.items() if len(found) > 1}


def private(dotted: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in dotted.split("."))


def back_doors(tree: ast.Module) -> list[str]:
    """What a module takes from another one, of this project or not, that is private there."""
    found, outside = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names if private(each.name)]
            outside |= {each.asname or each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            dotted = [f"{node.module}.{each.name}" for each in node.names]
            found += [each for each in dotted if private(each)]
            outside |= {each.asname or each.name for each in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in outside:
                found.append(ast.unparse(node))
    return found


def test_no_two_modules_share_a_name():
    places = defaultdict(list)
    for path in modules():
        if path.stem not in ("__init__", "__main__") and path.parts[1] != "experiments":  # those are named after papers
            places[path.stem].append(str(path))
    assert twice(places) == {}


def test_no_two_test_files_share_a_name():
    places = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        places[path.name].append(str(path.relative_to(ROOT)))
    assert twice(places) == {}  # pytest imports them by it


def test_no_two_public_functions_or_classes_share_a_name():
    places = defaultdict(list)
    for path, tree in modules().items():
        for each in public(tree):
            places[each.name].append(str(path))
    assert twice(places) == {}


def test_public_functions_and_classes_of_the_engine_have_an_example():
    without = [
        f"{path}: {each.name}"
        for path, tree in modules().items()
        if path.parts[1] in WITH_EXAMPLES
        for each in public(tree)
        if ">>> " not in (ast.get_docstring(each) or "")
    ]
    assert without == []


def test_modules_are_short():
    lengths = {str(path): len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in modules()}
    assert {path: lines for path, lines in lengths.items() if lines > LONGEST} == {}


def test_nothing_is_probed_by_hasattr():
    probing = [
        f"{path}:{node.lineno}"
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr"
    ]
    assert probing == []


def test_private_parts_of_other_modules_are_left_alone():
    found = {str(path): back_doors(tree) for path, tree in modules().items()}
    assert {path: doors for path, doors in found.items() if doors} == {}


def test_back_doors_are_seen():
    source = """
import torch
import torch._C
import numpy as np
from captum.attr._utils import lrp_rules
from torch import _dynamo as hidden
from lib.attacks.pgd import _ascent
from __future__ import annotations
np.core._methods.mean, torch.nn._reduction, self._own, np.__version__
"""
    assert sorted(back_doors(ast.parse(source))) == [
        "captum.attr._utils.lrp_rules",
        "lib.attacks.pgd._ascent",
        "np.core._methods",
        "torch._C",
        "torch._dynamo",
        "torch.nn._reduction",
    ]
