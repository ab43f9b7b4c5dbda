"""The key of whatever is kept: a hash of all that it is computed from."""

import functools
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType

import numpy as np

from lib import InputError
from lib.store.files import content_digest
from lib.store.source import source_digest
from lib.store.workers import unit_environment

PLACES = ("cache", "output")  # arguments of these names say where something is kept, not what it is


def content_key(name: str, *ingredients: object) -> str:
    """`name` and 16 hexadecimal digits that change with the ingredients, the packages' versions and the device."""
    return f"{name}-{digest([*ingredients, unit_environment()])}"


def digest(value: object, sources: dict[str, str] | None = None) -> str:
    """16 hexadecimal digits of the SHA-256 of what `value` says.

    Numbers, texts, None, bytes, slices, tensors and arrays count by their values; lists and tuples by their items in
    order; mappings and dataclasses by name; classes, functions and `functools.partial` by their name, arguments and
    source, see `source_digest`; a `Path`, and a text that names an existing file or folder, by what lies there.
    Arguments named in PLACES do not count.

    sources: {module: its source's hash}, filled here; give the same one for many values to read no source twice
    Raises InputError for anything else: what cannot be told apart must not be reused.

    >>> digest({"steps": [8, 16], "seed": 0}) == digest({"seed": 0, "steps": (8, 16)})
    True
    >>> digest(1) == digest(1.0)
    False
    """
    said = json.dumps(_said(value, {} if sources is None else sources), sort_keys=True)
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _said(value: object, sources: dict[str, str]) -> object:
    """`value` as JSON has it; whatever JSON does not know as a pair [kind, content]."""
    say = functools.partial(_said, sources=sources)
    torch = sys.modules.get("torch")
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return _text(value)
        case bytes():
            return ["bytes", hashlib.sha256(value).hexdigest()]
        case np.generic():
            return say(value.item())
        case np.ndarray() if value.dtype != object:
            return ["array", str(value.dtype), value.shape, say(np.ascontiguousarray(value).tobytes())]
        case Path():
            return ["path", content_digest(value)]
        case slice():
            return ["slice", value.start, value.stop, value.step]
        case functools.partial():
            return ["call", say(value.func), say(_arguments(value))]
        case Mapping():
            pairs = [[name if isinstance(name, str) else say(name), say(value[name])] for name in value]
            return ["mapping", sorted(pairs, key=json.dumps)]
        case list() | tuple():
            return ["sequence", [say(item) for item in value]]
    if torch and isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return ["tensor", str(value.dtype), tuple(value.shape), say(plain.numpy().tobytes())]
    if is_dataclass(value) and not isinstance(value, type):
        named = {field.name: getattr(value, field.name) for field in fields(value)}
        return ["object", say(type(value)), say(named)]
    code = inspect.unwrap(value) if callable(value) else value
    if isinstance(code, FunctionType | type) and "<" not in code.__qualname__:
        if code.__module__ not in sources:
            sources[code.__module__] = source_digest(code.__module__)
        return ["code", code.__module__, code.__qualname__, sources[code.__module__]]
    raise InputError(
        f"{value!r:.80} ({type(value).__name__}) cannot be told from another of its kind; give numbers, texts, paths, "
        "tensors, dataclasses, and functions of a module, bound by functools.partial."
    )


def _text(value: str) -> object:
    path = os.path.expanduser(value)
    if not (os.path.isfile(path) or os.path.isdir(path)):
        return value
    return ["path", content_digest(Path(path))] + ([] if os.path.isabs(path) else [value])


def _arguments(call: functools.partial) -> dict:
    """{parameter: argument} of a partial, however it was given, without those named in PLACES."""
    signature = inspect.signature(call.func)
    bound = signature.bind_partial(*call.args, **call.keywords).arguments
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound |= bound.pop(name, {})
    return {name: argument for name, argument in bound.items() if name not in PLACES}
