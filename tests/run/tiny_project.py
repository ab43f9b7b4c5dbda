"""A project with one notebook, small enough to run in a test."""

import shutil
from pathlib import Path

import nbformat
import pytest

from lib import ROOT, InputError
from lib.run.ledger import fingerprint, why
from lib.run.study import jobs_of, study

PARAMETERS = 'profile: str = "lab"\noutput: str = "."\nseed: int = 0\nscale: float = 1.0  # of the values'
TABLE = (
    "from pathlib import Path\nimport pandas as pd\n"
    "folder = Path(output) / 'results' / profile\nfolder.mkdir(parents=True, exist_ok=True)\n"
    "table = pd.DataFrame({{'metric': ['m', 'n'], 'value': [scale * {value}, 2.0]}})\n"
    "table.to_csv(folder / '{name}.csv', index=False)"
)


def write_notebook(root: Path, name: str, *cells: str, parameters: str = PARAMETERS) -> Path:
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    document = nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, cells)])
    path = root / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(document, path)
    return path


def write_yaml(root: Path, name: str, text: str, profile: str = "laptop") -> None:
    (root / "params" / profile).mkdir(parents=True, exist_ok=True)
    (root / "params" / profile / f"{name}.yaml").write_text(text)


def write_project(root: Path) -> Path:
    """A project with one notebook and just enough of `lib` for it to run."""
    (root / "lib").mkdir()
    for name in ("__init__.py", "store/__init__.py", "store/provenance.py"):
        (root / "lib" / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "lib" / name, root / "lib" / name)
    (root / "lib" / "maths.py").write_text("TWO = 2.0\n")
    write_notebook(root, "first", "from lib.maths import TWO", TABLE.format(name="first", value="TWO"))
    return root


def reason(root: Path, name: str = "first") -> str:
    this = study("laptop", root=root)
    return next(why(this, job, fingerprint(this, job)) for job in jobs_of(this) if job.name == name)


def refusal(root: Path, only: str = "", **choices: str) -> str:
    with pytest.raises(InputError) as caught:
        jobs_of(study(choices.pop("profile", "laptop"), root=root, **choices), only)
    return str(caught.value)
