"""The code that a result comes from: hashes of this project's source files, found by following their imports."""

import ast
import hashlib
import sys
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from lib import ROOT, InputError
from lib.store.files import read_text

STARTED = time.time_ns()  # of this process: code that is newer may not be what was loaded

_loaded: dict[Path, str] = {}  # the hash of each file when it was first seen; "" where that was too late


def code_hash(modules: Iterable[str] = (), *, cells: Iterable[str] = (), root: Path = ROOT) -> dict[str, str]:
    """Hash of every source file that `modules` ("lib.metrics.insertion") and the code `cells` import below `root`.

    The transitive closure is read from the import statements, nothing is executed; a module that lies elsewhere counts
    where this process has loaded it, unless it is installed. Comments, layout and docstrings do
    not count; a template or style sheet beside a module does where the module names it. A cell that is not Python
    imports nothing. Returns {path relative to root: hash}.
    """
    found = {}
    for path, tree in _closure(modules, cells, root).items():
        found[path] = _tree_digest(tree)
        others = (root / path).parent.glob("*.*")
        beside = [file for file in others if file.suffix not in (".py", ".pyc") and file.name in _text(tree)]
        found |= {_name_of(file, root): _hashed(file.read_bytes()) for file in beside if file.is_file()}
    return dict(sorted(found.items()))


def named_files(cells: Iterable[str], folder: Path, *, root: Path = ROOT) -> dict[str, str]:
    """Hash of each file in `folder` whose name occurs as text in `cells` or in the `lib` code they import."""
    trees = [*map(parsed, cells), *_closure((), cells, root).values()]
    text = "\n".join(map(_text, trees))
    files = [path for path in sorted(folder.glob("*.*")) if path.is_file() and path.name in text]
    return {path.relative_to(root).as_posix(): _hashed(path.read_bytes()) for path in files}


def source_digest(module: str, *, root: Path = ROOT) -> str:
    """Hash of the source of an imported module, with all that it imports and that is not installed.

    Where a file was edited after this process loaded it, its source is not what computes: then the hash is one that
    never comes again, and a line on standard error says so. Raises InputError for a module without a source file.
    """
    hashes = code_hash([module], root=root)
    if not hashes:
        raise InputError(f"The code of {module!r} is in no file, so that a change cannot be seen; put it in a module.")
    edited = [name for name, found in hashes.items() if not _as_loaded(root / name, found)]
    if edited:
        _say(f"{edited[0]} was edited after it was loaded, so that nothing is reused; restart the kernel to go on.")
    return _hashed(repr((sorted(hashes.items()), edited and time.time_ns())).encode())


def _as_loaded(path: Path, found: str) -> bool:
    """Whether a file, whose hash is `found` now, had this hash when this process first looked at it."""
    first = "" if STARTED <= path.stat().st_mtime_ns <= time.time_ns() else found  # a clock may be ahead of ours
    return _loaded.setdefault(path, first) == found


@cache
def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def parsed(cell: str) -> ast.Module:
    """The syntax of a cell; that of nothing where the cell is not Python."""
    try:
        return ast.parse(cell)
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _hashed(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _closure(modules: Iterable[str], cells: Iterable[str], root: Path) -> dict[str, ast.Module]:
    """{path: syntax tree} of the files reachable from `modules` and from the imports in `cells`."""
    found: dict[str, ast.Module] = {}
    waiting = [*modules, *(name for cell in cells for name in _imported(parsed(cell), ""))]
    while waiting:
        name = waiting.pop()
        path = _file_of(name, root)
        if path is None or (known := _name_of(path, root)) in found:
            continue
        found[known] = tree = _parsed(path, path.stat().st_mtime_ns)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        waiting += _imported(tree, package)
    return found


def _name_of(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _file_of(name: str, root: Path) -> Path | None:
    base = root.joinpath(*name.split("."))
    loaded = getattr(sys.modules.get(name), "__file__", None)
    return next((p for p in (base / "__init__.py", base.with_suffix(".py")) if p.is_file()), _own(loaded))


@cache
def _own(file: str | None) -> Path | None:
    """The source file of a loaded module, unless it is installed (for all, for this user or elsewhere) or built in."""
    if file is None or not file.endswith(".py") or {"site-packages", "dist-packages"} & {*Path(file).parts}:
        return None
    return None if any(Path(file).is_relative_to(folder) for folder in (sys.prefix, sys.base_prefix)) else Path(file)


# A study asks for its keys again and again, and reading the syntax of some forty files takes a third of a second.
@cache
def _parsed(path: Path, modified: int) -> ast.Module:
    try:
        return _WithoutDocstrings().visit(ast.parse(read_text(path)))
    except SyntaxError as error:
        raise InputError(f"{path} is not Python (line {error.lineno}: {error.msg}); correct it.") from error


@cache
def _text(tree: ast.Module) -> str:
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return "\n".join(value for value in constants if isinstance(value, str))


@cache
def _tree_digest(tree: ast.Module) -> str:
    return _hashed(ast.dump(tree).encode())


class _WithoutDocstrings(ast.NodeTransformer):
    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(ast.Constant(str())), *rest]:
                    node.body = rest
        return super().generic_visit(node)


@cache
def _imported(tree: ast.Module, package: str) -> list[str]:
    """Dotted names that the statements of `tree` may load, parents included."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]  # a name may be a submodule
    parts = [name.split(".") for name in names if name]
    return list(dict.fromkeys(".".join(part[:length]) for part in parts for length in range(1, len(part) + 1)))
