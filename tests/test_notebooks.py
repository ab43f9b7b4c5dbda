"""Every notebook: as it is in git, and what its smoke run leaves behind."""

import re
import statistics
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from lib import ROOT
from lib.reporting.claims import load_registry
from lib.run.commands import reproduce
from lib.run.ledger import read_json
from lib.run.study import Study, study

PATHS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
CLAIM_COLUMNS = (
    "claim metric paper whose source statement notebook protocol data network code estimate ci_low ci_high n "
)
CLAIM_COLUMNS += "cells cells_won every p_holm published verdict note"
each = pytest.mark.parametrize("name", PATHS)


def cells(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


@each
def test_in_git_without_outputs_and_machine_state(name):
    document = nbformat.read(PATHS[name], as_version=4)
    nbformat.validate(document)
    assert all(not cell.outputs and cell.execution_count is None for cell in cells(PATHS[name], "code"))
    assert "papermill" not in document.metadata


@each
def test_begins_with_prose_and_has_the_common_parameters(name):
    document = nbformat.read(PATHS[name], as_version=4)
    assert document.cells[0].cell_type == "markdown"
    assert document.cells[0].source.startswith("# ")
    (tagged,) = [cell for cell in document.cells if "parameters" in cell.metadata.get("tags", [])]
    for line in ('profile: str = "lab"', 'output: str = "."'):
        assert line in tagged.source
    assert all("#" in line for line in tagged.source.splitlines() if line.strip()), "a parameter lacks its comment"


@each
def test_short_code_and_as_much_prose(name):
    code = [len(cell.source.splitlines()) for cell in cells(PATHS[name], "code")]
    assert statistics.median(code) <= 6
    assert max(code) <= 25
    prose, source = (" ".join(c.source for c in cells(PATHS[name], kind)) for kind in ("markdown", "code"))
    readings = " ".join(re.findall(r'"""(.*?)"""', source, re.DOTALL))  # texts that code fills in
    assert len(prose.split()) + 2 * len(readings.split()) >= len(source.split())


@each
def test_no_tricks_with_paths_or_the_environment(name):
    text = "\n".join(cell.source for cell in cells(PATHS[name], "code"))
    for trick in ("sys.path", "os.chdir", "os.environ", "/home/", "/tmp/", "!pip", "%pip"):
        assert trick not in text


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Study:
    """All notebooks, run once in profile `smoke` into a folder of their own."""
    this = study("smoke", output=str(tmp_path_factory.mktemp("smoke")))
    assert reproduce(this) == 0
    return this


@each
def test_smoke_run_finishes_and_is_recorded(name, smoke):
    copy = smoke.copy(name)
    code = [cell for cell in cells(copy, "code") if cell.source.strip()]
    assert all(cell.execution_count for cell in code)
    entry = read_json(smoke.results / "provenance.json")[name]
    assert entry["seconds"] > 0
    assert entry["peak_memory_mb"] > 30
    assert entry["settings"]["profile"] == "smoke"
    text = copy.read_text(encoding="utf-8")
    for private in (str(ROOT), str(smoke.output), sys.prefix + "/", str(Path.home()) + "/"):
        assert private not in text


@each
def test_smoke_run_leaves_a_tidy_table(name, smoke):
    if name == "report":
        assert (smoke.results / "report.html").stat().st_size > 1000
        claims = pd.read_csv(smoke.results / "claims.csv")
        assert list(claims.columns) == CLAIM_COLUMNS.split()
        assert not claims.duplicated(["claim", "metric", "protocol", "data", "network"]).any()
        assert set(claims["claim"]) == {claim.id for claim in load_registry()}
        return
    table = next(
        smoke.results / f"{name}{end}" for end in (".csv", ".parquet") if (smoke.results / f"{name}{end}").exists()
    )
    frame = pd.read_csv(table) if table.suffix == ".csv" else pd.read_parquet(table)
    assert len(frame) > 0
    assert "value" in frame
    keys = [column for column in frame if column != "value"]
    assert not frame.duplicated(keys).any()


@pytest.mark.skipif(not PATHS, reason="there are no notebooks yet")
def test_smoke_run_leaves_nothing_half_done(smoke):
    left = [path.name for path in smoke.output.rglob("*") if path.is_file()]
    assert not [name for name in left if name.endswith(".failed.ipynb") or name.startswith(".")]
    assert any(name.endswith(".png") for name in left)
    assert reproduce(smoke) == 0
