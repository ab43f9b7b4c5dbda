"""The runner among stray, copied, conflicting and half-written files, on full disks, and beside another run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from tiny_project import TABLE, reason, refusal, write_notebook, write_yaml

from lib import ROOT, InputError
from lib.reporting import report
from lib.run import reproduction
from lib.run.commands import main, plan, reproduce, verify
from lib.run.ledger import read_json
from lib.run.notebooks import read_notebook
from lib.run.study import jobs_of, study
from lib.store import files
from lib.store.files import locked


def names(root: Path) -> list[str]:
    return [job.name for job in jobs_of(study("laptop", root=root))]


# -- files beside the notebooks ----------------------------------------------------------------------------------------

STRAY = ["first-Copy1", "first (1)", "first copy", "first - Copy", "first.failed", "Untitled", "Untitled3", "2nd"]


@pytest.mark.parametrize("name", STRAY)
def test_copies_and_drafts_are_skipped_with_one_line_and_write_nothing(root, name, capsys):
    shutil.copy(root / "notebooks" / "first.ipynb", root / "notebooks" / f"{name}.ipynb")
    assert names(root) == ["first"]
    assert plan(study("laptop", root=root)) == 0
    said = capsys.readouterr()
    assert said.err == f"notebooks/{name}.ipynb is skipped: its name is that of a copy or a draft.\n"
    assert name not in said.out.replace("first", "", 1) or name == "first"


def test_a_notebook_without_parameters_is_skipped_and_refused_by_name(root, capsys):
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("seed: int = 0")])
    nbformat.write(document, root / "notebooks" / "bare.ipynb")
    assert reproduce(study("laptop", root=root)) == 0
    assert 'notebooks/bare.ipynb is skipped: it has no cell tagged "parameters".\n' in capsys.readouterr().err
    assert refusal(root, only="bare").startswith("ONLY names bare.ipynb, which is skipped: it has no cell")


def broken(root: Path) -> dict[str, bytes]:
    whole = (root / "notebooks" / "first.ipynb").read_bytes()
    middle = len(whole) // 2
    conflict = whole.replace(b"{", b"<<<<<<< HEAD\n{\n=======\n>>>>>>> theirs\n", 1)
    return {
        "empty": b"",
        "half": whole[:middle],
        "conflict": b"\n" + conflict,
        "latin_1": whole.replace(b"of the values", "Größe".encode("latin-1")),
        "utf_16": whole.decode().encode("utf-16"),
        "picture": b"\x89PNG\r\n\x1a\n\0\0",
        "number": b"3",
        "no_notebook": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
        "no_cells": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [1, "a"]}',
        "from_the_future": b'{"nbformat": 99, "nbformat_minor": 5, "metadata": {}, "cells": []}',
    }


KINDS = ["empty", "half", "conflict", "latin_1", "utf_16", "picture", "number", "no_notebook", "no_cells"]


@pytest.mark.parametrize("kind", [*KINDS, "from_the_future"])
def test_a_notebook_that_cannot_be_read_is_one_sentence_and_stops_no_other(root, kind, capsys):
    path = root / "notebooks" / "second.ipynb"
    path.write_bytes(broken(root)[kind])
    with pytest.raises(InputError, match=r"second\.ipynb.*(is not a notebook|save the file as UTF-8)") as caught:
        read_notebook(path)
    assert ("conflict" in str(caught.value)) is (kind == "conflict")
    assert names(root) == ["first"]
    assert plan(study("laptop", root=root)) == 0
    assert str(path) in capsys.readouterr().err
    assert str(path) in refusal(root, only="second")
    write_yaml(root, "second", "seed: 1\n")
    assert names(root) == ["first"]


def test_a_run_that_could_not_read_a_notebook_is_not_complete(root, capsys):
    (root / "notebooks" / "second.ipynb").write_text("{")
    assert reproduce(study("laptop", root=root)) == 1
    said = capsys.readouterr()
    assert "[1/1] first: done in" in said.out
    assert said.err.endswith("1 of 2 notebooks failed: second\n")
    assert reproduce(study("laptop", root=root), "first") == 0


def test_magics_and_cells_that_are_not_python_stop_nothing(root):
    cells = ["%matplotlib inline\n!true", "%%bash\necho $HOME | cat", "%%time\nfrom lib.maths import TWO", "x = !ls"]
    write_notebook(root, "first", *cells, TABLE.format(name="first", value="TWO"))
    assert reproduce(study("laptop", root=root)) == 0
    assert reason(root) == ""
    (root / "lib" / "maths.py").write_text("TWO = 3.0\n")
    assert reason(root) == "code changed: lib/maths.py"


# -- text of any encoding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("seed: 1  # für".encode("latin-1"), "first.yaml is not UTF-8 (line 1); save the file as UTF-8."),
        ("seed: 1".encode("utf-16"), "first.yaml is UTF-16 (line 1); save the file as UTF-8."),
        (b"seed: 1\nseed: 2\n", "'seed' is given 2 times; correct it."),
        (b"seed:\t1\n\tscale: 2\n", "not valid YAML"),
        (b"<<<<<<< HEAD\nseed: 1\n=======\nseed: 2\n>>>>>>> theirs\n", "not valid YAML"),
    ],
)
def test_parameters_that_cannot_be_read_are_one_sentence(root, content, said):
    write_yaml(root, "first", "")
    (root / "params" / "laptop" / "first.yaml").write_bytes(content)
    assert said in refusal(root)


def test_a_byte_order_mark_is_fine(root):
    write_yaml(root, "first", "")
    (root / "params" / "laptop" / "first.yaml").write_text("seed: 4\n", encoding="utf-8-sig")
    (job,) = jobs_of(study("laptop", root=root))
    assert job.values["seed"] == 4
    path = root / "notebooks" / "first.ipynb"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert names(root) == ["first"]


def test_claims_in_another_encoding_are_one_sentence(root, capsys):
    (root / "params").mkdir()
    (root / "params" / "claims.yaml").write_bytes("C1: {notebook: first}  # für".encode("latin-1"))
    assert main(["claim", "C1"], root=root) == 2
    assert "claims.yaml is not UTF-8" in capsys.readouterr().err


def test_a_parameters_file_with_the_other_ending_is_not_passed_over(root):
    write_yaml(root, "first", "seed: 1")
    (root / "params" / "laptop" / "first.yaml").rename(root / "params" / "laptop" / "first.yml")
    assert "first.yml" in refusal(root)


RUN = "import sys; from pathlib import Path; from lib.run.commands import main\n"
RUN += "sys.exit(main(sys.argv[2:], root=Path(sys.argv[1])))"


def test_a_terminal_that_is_not_utf8_stops_nothing(root):
    write_notebook(root, "first", "from lib.maths import TWO\nprint('≤ ü')", TABLE.format(name="first", value="TWO"))
    table = root / "results" / "laptop" / "first.csv"
    table.parent.mkdir(parents=True)
    table.write_text("metric,value\nm,2.001\nn,2.0\n")
    command = [sys.executable, "-c", RUN, str(root), "verify", "--output", str(root / "elsewhere")]
    terminal = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    told = subprocess.run(command, cwd=ROOT, env=os.environ | terminal, capture_output=True)
    assert told.returncode == 0, told.stderr
    assert b"first.csv: 2 rows agree, largest deviation 2.001 ? 2 in value" in told.stdout
    assert b"Tolerance: |difference| ? 0.01" in told.stdout
    copy = root / "elsewhere" / "results" / "laptop" / "notebooks" / "first.ipynb"
    assert "≤ ü" in copy.read_text(encoding="utf-8")


# -- full disks and damaged files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [False, True])
def test_a_disk_that_fills_at_any_write_is_one_sentence_and_loses_nothing_finished(root, monkeypatch, failing, capsys):
    """The executed copy or that with a traceback, the ledger and the state: each write in turn finds no space."""
    good = root / "results" / "laptop" / "notebooks" / "first.ipynb"
    assert reproduce(study("laptop", root=root)) == 0
    before = good.read_text()
    write_notebook(root, "first", "1 / 0" if failing else "1 + 1")
    write, written, room = os.fsync, [], [0]

    def fsync(handle):
        written.append(handle)
        if len(written) > room[0]:
            raise OSError(28, "No space left on device")
        write(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)
    statuses = []
    while not statuses or statuses[-1] == 2:
        written.clear()
        statuses.append(main(["reproduce"], root=root))
        said = capsys.readouterr()
        if statuses[-1] == 2:
            assert said.err.startswith("The disk is full: ")
            assert "type the same command again" in said.err
            assert json.loads(good.read_text())
            assert reason(root) != ""
            assert not list(root.rglob(".*.tmp"))
        room[0] += 1
    assert statuses == ([2, 1] if failing else [2, 2, 2, 0])
    assert (good.read_text() == before) is failing
    assert [path.name for path in good.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    "line",
    ["raise OSError(28, 'No space left on device')", "raise __import__('lib').InputError('The disk is full: x.')"],
)
def test_a_disk_that_fills_inside_a_notebook_ends_the_run_and_says_what_to_do(root, line, capsys):
    write_notebook(root, "first", line)
    write_notebook(root, "second", "1 + 1")
    assert main(["reproduce", "--workers", "1"], root=root) == 2
    said = capsys.readouterr()
    assert said.err.startswith("The disk is full")
    assert "second" not in said.out
    assert (root / "results" / "laptop" / "notebooks" / "first.failed.ipynb").exists()


def test_nothing_is_written_while_a_notebook_runs(root):
    """A disk may fill meanwhile, and what is written only in part would be taken for an executed copy."""
    list_it = "import os\nprint(sorted(os.listdir('results/laptop/notebooks')))"
    write_notebook(root, "first", list_it)
    this = study("laptop", root=root)
    assert reproduce(this) == 0
    assert "[]\\n" in this.copy("first").read_text()


@pytest.mark.parametrize("content", [b"", b"{half", b"[]", b"<<<<<<< HEAD\n{}\n", b"\xff\xfe{\0}\0"])
def test_a_damaged_note_is_no_note(tmp_path, content):
    (tmp_path / "state.json").write_bytes(content)
    assert read_json(tmp_path / "state.json") == {}


def test_a_damaged_ledger_is_made_again(root):
    this = study("laptop", root=root)
    assert reproduce(this) == 0
    (this.results / "provenance.json").write_text('{"first": {"seco')
    assert reason(root, "first") == "results missing: its record in provenance.json"
    assert reproduce(this) == 0
    assert list(read_json(this.results / "provenance.json")) == ["first"]


# -- two runs ----------------------------------------------------------------------------------------------------------

HOLD = "import sys; from pathlib import Path; from lib.store.files import locked\n"
HOLD += "with locked(Path(sys.argv[1]) / 'lock'):\n    print('held', flush=True)\n    sys.stdin.read()"


def test_a_second_run_in_one_folder_is_refused_and_one_elsewhere_is_not(root, capsys, tmp_path_factory):
    command = [sys.executable, "-c", HOLD, str(root / ".cache")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert main(["reproduce"], root=root) == 2
        said = capsys.readouterr()
        assert said.err == (
            f"Another run is at work in {root}; wait until it has ended, or give another OUTPUT= folder.\n"
        )
        assert not (root / "results").exists()
        assert main(["plan"], root=root) == 0
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        assert main(["reproduce", "--output", str(elsewhere)], root=root) == 0
        other.kill()  # and leaves no lock behind
    assert main(["reproduce"], root=root) == 0


def test_the_folder_is_held_from_before_the_first_notebook_until_after_the_last(root, monkeypatch):
    seen = []

    def held(*_, **__):
        with pytest.raises(InputError, match="Another run"), locked(root / ".cache" / "lock"):
            pass
        seen.append(True)

    monkeypatch.setattr(reproduction, "_rewrite_page", held)
    monkeypatch.setattr(reproduction, "_rewrite_readme", held)
    assert reproduce(study("laptop", root=root)) == 0
    assert len(seen) == 2


def test_a_notebook_is_credited_with_what_it_wrote_and_nothing_else(root):
    this = study("laptop", root=root)
    figures = root / "figures" / "laptop"
    figures.mkdir(parents=True)
    (figures / "first-other.png").write_text("not of this run")
    write_notebook(root, "second", TABLE.format(name="second", value=1))
    assert reproduce(this) == 0
    made = {name: list(read_json(this.state(name))["products"]) for name in ("first", "second")}
    assert made == {"first": ["results/laptop/first.csv"], "second": ["results/laptop/second.csv"]}


# -- the page of claims ------------------------------------------------------------------------------------------------


def test_the_page_is_named_at_the_start_and_rewritten_after_every_notebook(root, monkeypatch, capsys):
    (root / "params").mkdir()
    (root / "params" / "claims.yaml").write_text("{}\n")
    monkeypatch.setattr(reproduction, "load_registry", lambda path: [])
    write_notebook(root, "second", TABLE.format(name="second", value=1))
    write_notebook(root, "report", "1 + 1")
    seen = []

    def build(profile, output, *, registry):
        assert (profile, Path(output), registry) == ("laptop", root, [])
        seen.append(sorted(path.name for path in (root / "results" / "laptop").glob("*.csv")))
        if len(seen) == 1:
            raise ValueError("a table is odd")

    monkeypatch.setattr(report, "build", build)
    assert reproduce(study("laptop", root=root)) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0].endswith(str(root / "results" / "laptop" / "report.html"))
    assert seen == [["first.csv"], ["first.csv", "second.csv"]]
    assert said.err.splitlines()[0] == "The page of claims is as it was before first: a table is odd"
    assert reproduce(study("laptop", root=root)) == 0  # nothing is due
    assert len(seen) == 2


# -- verify ------------------------------------------------------------------------------------------------------------


def test_verify_keeps_what_it_recomputed_where_output_says(root, tmp_path_factory, capsys):
    kept = tmp_path_factory.mktemp("kept")
    assert reproduce(study("laptop", root=root)) == 0
    before = {path: path.stat().st_mtime_ns for path in (root / "results").rglob("*") if path.is_file()}
    assert verify(study("laptop", root=root, output=str(kept))) == 0
    assert pd.read_csv(kept / "results" / "laptop" / "first.csv")["value"].tolist() == [2.0, 2.0]
    assert verify(study("laptop", root=root)) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (root / "results").rglob("*") if path.is_file()}
    assert "Tolerance: |difference| ≤ 0.01 · (|committed| + the standard deviation" in capsys.readouterr().out
