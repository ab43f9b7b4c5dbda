"""A notebook's parameters: declared in its `parameters` cell, overridden by YAML, checked before it runs."""

import ast
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml

from lib import InputError, nearest

KINDS = {kind.__name__: kind for kind in (bool, int, float, str, list, tuple, dict)}


@dataclass(frozen=True)
class Parameter:
    kind: object  # float, list[int], tuple[str, ...], str | None
    default: object


def declared(path: Path) -> dict[str, Parameter]:
    """Parameters of the notebook at `path`, read without running it: `steps: list[int] = [8, 16]  # comment`.

    Raises InputError when no code cell is tagged "parameters", or a line of it is not of that form.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise InputError(f'{path.name} has {len(cells)} cells tagged "parameters"; tag exactly one code cell so.')
    return dict(_parameter(line, path.name) for line in ast.parse(cells[0].source).body)


def _parameter(line: ast.stmt, where: str) -> tuple[str, Parameter]:
    try:
        match line:
            case ast.AnnAssign(target=ast.Name(id=name)):
                kind = eval(ast.unparse(line.annotation), {"__builtins__": {}}, KINDS)
            case ast.Assign(targets=[ast.Name(id=name)]):
                kind = type(ast.literal_eval(line.value))
            case _:
                raise ValueError("not an assignment")
        return name, Parameter(kind, ast.literal_eval(line.value))
    except (ValueError, TypeError, NameError, AttributeError) as error:
        raise InputError(
            f"The parameters cell of {where} has the line `{ast.unparse(line)}`; each line must read "
            "`name: type = constant`, with a type made of " + ", ".join(KINDS) + "."
        ) from error


def read_overrides(path: Path) -> dict:
    """What a params/<profile>/<notebook>.yaml says; nothing when there is no such file or it is empty."""
    if not path.exists():
        return {}
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(given, dict):
        raise InputError(f"{path} must hold lines of the form `name: value`, not a {type(given).__name__}.")
    return given


def resolve(parameters: Mapping[str, Parameter], given: Mapping, *, where: str) -> dict:
    """Value of every parameter; raises InputError when `given` has an unknown name or a wrong type."""
    for name, value in given.items():
        if name not in parameters:
            raise InputError(f"{where} sets {name!r}, which the notebook does not have; {nearest(name, parameters)}")
        if not _fits(value, parameters[name].kind):
            raise InputError(
                f"{where} sets {name} to {value!r} ({_describe(value)}), but it must be "
                f"{_spell(parameters[name].kind)}{_hint(value, parameters[name].kind)}."
            )
    return {name: _convert(given.get(name, known.default), known.kind) for name, known in parameters.items()}


def _fits(value: object, kind: object) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(kind))
    if typing.get_origin(kind) in (list, tuple):
        return isinstance(value, list | tuple) and all(_fits(item, typing.get_args(kind)[0]) for item in value)
    if kind is None:
        return value is None
    if kind in (int, float):  # a whole number is a fine float; True is a number to Python but not to a reader
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, list if kind is tuple else kind)  # YAML has lists only


def _convert(value: object, kind: object) -> object:
    return tuple(value) if kind is tuple or typing.get_origin(kind) is tuple else value


def _spell(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


def _describe(value: object) -> str:
    return "text" if isinstance(value, str) else type(value).__name__


def _hint(value: object, kind: object) -> str:
    texts = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]
    if "float" in _spell(kind) and any(_is_number(text) for text in texts):
        return "; YAML reads a power of ten as a number only with a dot and a sign, as in 1.0e-3"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
