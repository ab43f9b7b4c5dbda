"""A notebook's parameters: declared in its `parameters` cell, overridden by YAML, checked before it runs."""

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, get_origin

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from lib import InputError, nearest
from lib.run.notebooks import plain_python, read_notebook
from lib.store.files import read_yaml

KINDS = {kind.__name__: kind for kind in (bool, int, float, str, list, tuple, dict)}


@dataclass(frozen=True)
class Parameter:
    kind: object  # float, list[int], tuple[str, ...], str | None
    default: object


def declared(path: Path) -> dict[str, Parameter]:
    """Parameters of the notebook at `path`, read without running it: `steps: list[int] = [8, 16]  # comment`.

    Magics are passed over. Raises InputError unless exactly one cell is tagged "parameters", every line of it is of
    that form, and its constant is of its type.
    """
    cells = [cell for cell in read_notebook(path).cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise InputError(f'{path.name} has {len(cells)} cells tagged "parameters"; tag exactly one code cell so.')
    try:
        lines = ast.parse(plain_python(cells[0].source)).body
    except SyntaxError as error:
        raise _not_a_parameter(path.name, (error.text or "").strip()) from error
    magic = "get_ipython()."
    return dict(_parameter(line, path.name) for line in lines if not ast.unparse(line).startswith(magic))


def _parameter(line: ast.stmt, where: str) -> tuple[str, Parameter]:
    try:
        match line:
            case ast.AnnAssign(target=ast.Name(id=name)):
                kind = eval(ast.unparse(line.annotation), {"__builtins__": {}}, KINDS)
            case ast.Assign(targets=[ast.Name(id=name)]):
                kind = type(ast.literal_eval(line.value))
            case _:
                raise ValueError("not an assignment")
        default = ast.literal_eval(line.value)
        if not _fits(default, kind):
            raise ValueError("not of its type")
        return name, Parameter(kind, default)
    except (ValueError, TypeError, NameError, AttributeError, PydanticUserError) as error:
        raise _not_a_parameter(where, ast.unparse(line)) from error


def _not_a_parameter(where: str, line: str) -> InputError:
    return InputError(
        f"The parameters cell of {where} has the line `{line}`; each line must read `name: type = constant`, with a "
        "constant of a type made of " + ", ".join(KINDS) + "."
    )


def read_overrides(path: Path) -> dict:
    """What a params/<profile>/<notebook>.yaml says; nothing when there is no such file or it is empty.

    Raises InputError as `read_yaml`, and for anything but lines `name: value`.
    """
    given = (read_yaml(path) if path.exists() else None) or {}
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
    """Whether a value is of a type, strictly: a whole number is a fine float, and nothing else is converted.

    As JSON, because YAML has lists only, which are fine tuples.
    """
    adapter = TypeAdapter(kind)
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except (ValidationError, TypeError, ValueError):
        return False
    return True


def _convert(value: object, kind: object) -> object:
    return tuple(value) if kind is tuple or get_origin(kind) is tuple else value


def _spell(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


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
