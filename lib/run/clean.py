"""make clean: remove what tools leave behind; finished units and results only when that is asked for.

Standard library only: it runs without the project's environment.
"""

import argparse
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ("laptop", "bench.csv")  # records below results/ and figures/ that are never removed
TOOLS = (".pytest_cache", ".ruff_cache", ".import_linter_cache", ".ipynb_checkpoints", "__pycache__", "build")
OWN = (".venv", ".git", ".cache")  # folders that are not searched


def tool_caches(root: Path) -> list[Path]:
    """Folders that a tool makes again by itself within seconds."""
    found, waiting = [], [root]
    while waiting:
        for path in sorted(waiting.pop().iterdir()):
            if path.is_dir() and not path.is_symlink() and path.name not in OWN:
                (found if path.name in TOOLS else waiting).append(path)
    return found


def computed_files(output: Path) -> list[Path]:
    """What took a run: finished units and trained networks, and the results and figures that are not committed."""
    kept = [path for name in ("results", "figures") for path in sorted((output / name).glob("*"))]
    return [
        *(output / name for name in (".cache",) if (output / name).exists()),
        *(p for p in kept if p.name not in COMMITTED),
    ]


def clean(root: Path, output: Path, *, results: bool) -> None:
    """Name what goes, remove it, and name what stays although it is not committed."""
    found = computed_files(output)
    going = tool_caches(root) + (found if results else [])
    print(f"removing: {_listed(going, root)}", flush=True)
    for path in going:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if found and not results:
        print(f"keeping: {_listed(found, root)}; make clean RESULTS=1 removes that too")


def _listed(paths: list[Path], root: Path) -> str:
    return ", ".join(str(path.relative_to(root) if path.is_relative_to(root) else path) for path in paths) or "nothing"


def clean_up(arguments: list[str] | None = None, *, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m lib.run.clean", description=__doc__)
    parser.add_argument("--results", action="store_true", help="finished units, results and figures as well")
    parser.add_argument("--output", default="", help="folder of results/ and figures/ instead of this one")
    given = parser.parse_args(arguments)
    try:
        clean(root, Path(given.output or root).expanduser().resolve(), results=given.results)
    except OSError as error:
        print(f"{error.filename} cannot be removed ({error.strerror}).", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(clean_up())
