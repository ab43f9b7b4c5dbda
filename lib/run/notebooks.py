"""The notebooks of the study, told from the stray ones beside them, and what is written in their cells."""

import re
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from lib import InputError
from lib.store.files import read_text

CONFLICT = re.compile(r"^(<{7}|={7}|>{7})", re.MULTILINE)


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """A notebook in version 4 of its format; raises InputError for a file that is not one, with the reason."""
    text = read_text(path)
    try:
        document = nbformat.reads(text, as_version=4)
        for cell in document.cells:  # as far as it is read here
            cell.cell_type, cell.source, cell.metadata.get("tags", [])
    except Exception as error:  # nbformat raises half a dozen unrelated types
        if found := CONFLICT.search(text):
            line = text.count("\n", 0, found.start()) + 1
            reason = f"a merge left its markers in it (line {line}): resolve the conflict"
        else:
            reason = f"it is cut off or damaged ({type(error).__name__}): restore it"
        raise InputError(f"{path} is not a notebook, {reason}, or take the file away.") from error
    return document


def study_notebooks(folder: Path) -> tuple[dict[str, Path], dict[str, str], dict[str, str]]:
    """{name: path} of the notebooks of the study, {name: why it is none} of others, {name: why} of unreadable ones.

    A notebook of the study is named in letters, digits and underscores, as no copy of one is, and has a cell tagged
    "parameters".
    """
    found, strays, broken = {}, {}, {}
    for path in sorted(folder.glob("*.ipynb")):
        if not path.stem.isidentifier() or path.stem.startswith("Untitled"):
            strays[path.stem] = "its name is that of a copy or a draft"
            continue
        try:
            if any("parameters" in cell.metadata.get("tags", []) for cell in read_notebook(path).cells):
                found[path.stem] = path
            else:
                strays[path.stem] = 'it has no cell tagged "parameters"'
        except InputError as error:
            broken[path.stem] = str(error)
    return found, strays, broken


def python_cells(document: nbformat.NotebookNode) -> list[str]:
    """The code cells as plain Python: magics and shell commands rewritten, the body of a `%%` cell without its line."""
    cells = [cell.source for cell in document.cells if cell.cell_type == "code"]
    return [plain_python(re.sub(r"\A\s*%%.*\n?", "", cell)) for cell in cells]


def plain_python(cell: str) -> str:
    try:
        return TransformerManager().transform_cell(cell)
    except SyntaxError:  # what a cell holds is its own affair until it runs
        return cell
