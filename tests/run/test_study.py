"""The runner on tiny projects: what it runs and why, what it refuses, what it keeps after a failure."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from tiny_project import PARAMETERS, TABLE, reason, refusal, write_notebook, write_yaml

from lib import ROOT
from lib.run import commands
from lib.run.commands import claim, main, plan, reproduce, verify
from lib.run.execution import publishable
from lib.run.ledger import fingerprint, read_json, why
from lib.run.live import Line
from lib.run.study import jobs_of, study
from lib.store.files import content_digest

# -- running, skipping, and the reasons ----------------------------------------------------------------------


def test_run_then_skip_then_every_reason_to_run_again(root, capsys):
    assert reason(root) == "never run here"
    assert reproduce(study("laptop", root=root)) == 0
    table = root / "results" / "laptop" / "first.csv"
    assert pd.read_csv(table)["value"].tolist() == [2.0, 2.0]
    assert reason(root) == ""

    capsys.readouterr()
    assert reproduce(study("laptop", root=root)) == 0  # nothing to do
    assert "[1/1] first: unchanged since 20" in capsys.readouterr().out

    (root / "lib" / "maths.py").write_text("# a comment is not code\nTWO = 2.0\n")
    assert reason(root) == ""
    (root / "lib" / "unrelated.py").write_text("THREE = 3\n")
    assert reason(root) == ""
    (root / "lib" / "maths.py").write_text("TWO = 2.5\n")
    assert reason(root) == "code changed: lib/maths.py"
    write_yaml(root, "first", "scale: 3\n")
    assert reason(root) == "code changed: lib/maths.py; parameters changed: scale"
    assert reproduce(study("laptop", root=root)) == 0
    assert pd.read_csv(table)["value"].tolist() == [7.5, 2.0]
    assert reason(root) == ""
    left = read_json(root / "results" / "laptop" / "provenance.json")["first"]["tables"]
    assert left == {"first.csv": content_digest(table)}

    content = table.read_text()
    table.write_text(content.replace("7.5", "7.6"))
    assert reason(root) == "results altered: results/laptop/first.csv"
    table.unlink()
    assert reason(root) == "results missing: results/laptop/first.csv"
    table.write_text(content)
    assert reason(root) == ""

    path = root / "notebooks" / "first.ipynb"
    document = nbformat.read(path, as_version=4)
    document.cells.append(nbformat.v4.new_markdown_cell("What we read."))
    nbformat.write(document, path)
    assert reason(root) == "text changed: notebooks/first.ipynb"
    document.cells.pop()
    nbformat.write(document, path)

    state = root / ".cache" / "state" / "laptop" / "first.json"
    old = json.loads(state.read_text())
    old["fingerprint"]["versions"]["torch"] = "1.0"
    state.write_text(json.dumps(old))
    assert reason(root) == "versions changed: torch"
    state.write_text(state.read_text()[:50])  # a damaged note is no note
    assert reason(root) == "never run here"


def test_report_runs_last_and_again_when_a_result_changes(root):
    read = "import pandas as pd\nvalue = float(pd.read_csv('results/laptop/first.csv')['value'][0])"
    write = "pd.DataFrame({'claim': ['C1'], 'verdict': [str(value)]}).to_csv('results/laptop/claims.csv')"
    write_notebook(root, "report", read, write)
    write_notebook(root, "zebra", "1 + 1")
    this = study("laptop", root=root)
    assert [job.name for job in jobs_of(this)] == ["first", "zebra", "report"]
    assert reproduce(this) == 0
    assert reason(root, "report") == ""
    write_yaml(root, "first", "scale: 5.0\n")
    assert reproduce(this) == 0
    assert pd.read_csv(root / "results" / "laptop" / "claims.csv")["verdict"].tolist() == [10.0]
    (root / "results" / "laptop" / "first.csv").write_text("metric,value\nm,1.0\n")
    assert reason(root, "report") == "new results: results/laptop/first.csv"


def test_a_parameter_file_that_the_code_names_counts(root):
    (root / "params").mkdir()
    (root / "params" / "claims.yaml").write_text("C1: {notebook: first}\n")
    (root / "lib" / "maths.py").write_text("TWO, FILE = 2.0, 'claims.yaml'\n")
    assert reproduce(study("laptop", root=root)) == 0
    (root / "params" / "published.csv").write_text("claim,value\n")  # named nowhere
    assert reason(root) == ""
    (root / "params" / "claims.yaml").write_text("C2: {notebook: first}\n")
    assert reason(root) == "parameters changed: params/claims.yaml"


def test_own_photographs_are_part_of_the_identity_and_their_folder_is_not_published(root):
    photographs = root / "my photographs"
    photographs.mkdir()
    (photographs / "a.jpg").write_bytes(b"12345")
    write_notebook(root, "first", "print(images)", parameters='profile: str = "lab"\nimages: str = "packaged"')
    this = study("sample", images=str(photographs), root=root)
    assert reproduce(this) == 0
    (job,) = jobs_of(this)
    assert job.values["images"] == str(photographs)
    assert why(this, job, fingerprint(this, job)) == ""
    (photographs / "b.jpg").write_bytes(b"1")
    assert why(this, job, fingerprint(this, job)) == "data changed: images"
    ledger = read_json(this.results / "provenance.json")["first"]
    assert ledger["settings"]["images"] == "my photographs"
    assert str(root) not in this.copy("first").read_text() + json.dumps(ledger)


def test_plan_names_what_would_run_with_the_committed_seconds_of_what_has_no_units(root, capsys):
    ledger = root / "results" / "laptop" / "provenance.json"
    ledger.parent.mkdir(parents=True)
    ledger.write_text(json.dumps({"first": {"own_seconds": 754.2}}))
    write_notebook(root, "second", "1 + 1")
    assert plan(study("laptop", root=root)) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")][2:]
    assert [row[:5] + row[7:] for row in rows] == [
        ["first", "yes", "0", "0.00", "12:34", "never run here"],
        ["second", "yes", "0", "0.00", "0:20", "never run here"],
        ["all", "", "0", "0.00", "12:54", ""],
    ]
    assert lines[-1].startswith("Profile laptop, on 1 workers of this machine; measured in 0:0")
    assert not (root / ".cache").exists()


# -- what is refused before any kernel starts ----------------------------------------------------------------


def test_unknown_names_are_refused_with_the_nearest_one(root):
    assert "did you mean 'first'?" in refusal(root, only="frist")
    assert "There is no PROFILE=latpop among" in refusal(root, profile="latpop")
    write_yaml(root, "first", "sede: 3\n")
    assert refusal(root) == (
        "params/laptop/first.yaml sets 'sede', which the notebook does not have; did you mean 'seed'?"
    )
    write_yaml(root, "first", "")
    write_yaml(root, "frist", "seed: 3\n")
    assert refusal(root) == ("The file name params/laptop/frist.yaml names no notebook 'frist'; did you mean 'first'?")


def test_one_bad_parameter_stops_everything(root, capsys):
    write_notebook(root, "second", "1 + 1")
    write_yaml(root, "second", "scale: 1e-3\n")
    assert main(["reproduce"], root=root) == 2
    assert "second.yaml sets scale to '1e-3' (text), but it must be float; YAML" in capsys.readouterr().err
    assert not (root / "results").exists()


def test_own_images_are_asked_for(root):
    sentence = refusal(root, profile="imagenet")
    assert "make reproduce PROFILE=imagenet IMAGENET=/folder/with/them" in sentence
    assert sentence.count(". ") == 0


def test_an_own_table_is_enough_for_notebooks_without_photographs(root):
    (root / "nhanes").mkdir()
    text = 'profile: str = "lab"\nnhanes: str = ""'
    write_notebook(root, "table", "print(nhanes)", parameters=text)
    this = study("imagenet", nhanes=str(root / "nhanes"), root=root)
    (job,) = jobs_of(this, "table")
    assert job.values["nhanes"] == str(root / "nhanes")
    before = fingerprint(this, job)
    (root / "nhanes" / "X_sparsity.csv").write_text("1")
    changed = {part for part, names in fingerprint(this, job).items() if names != before[part]}
    assert changed == {"data"}
    assert this.private()[str(root / "nhanes")] == "nhanes"


CLAIM = """C1:
  paper: idgi
  statement: One is two.
  source: ours
  notebook: first
  test: {kind: bound, where: {metric: m}, statistic: max, at_most: 3}
"""
ABOUT_PHOTOGRAPHS = 'profile: str = "lab"\noutput: str = "."\nimages: str = "packaged"'
NEEDING_WEIGHTS = "from lib import MissingData\nraise MissingData('This needs the weights of \"a\": WEIGHTS=<folder>.')"


@pytest.mark.parametrize(
    ("cell", "parameters", "needs"),
    [
        ("print(images)", ABOUT_PHOTOGRAPHS, "needs ImageNet photographs of your own: IMAGENET=/folder/with/them."),
        (NEEDING_WEIGHTS, PARAMETERS, 'needs the weights of "a": WEIGHTS=<folder>.'),
    ],
    ids=["photographs", "weights"],
)
def test_what_a_notebook_lacks_is_one_line_and_a_verdict(root, capsys, cell, parameters, needs):
    (root / "params").mkdir()
    (root / "params" / "claims.yaml").write_text(CLAIM)
    write_notebook(root, "first", cell, parameters=parameters)
    write_notebook(root, "second", "print(1)")
    asked = [
        "reproduce",
        "--profile",
        "imagenet",
        "--nhanes",
        str(root),
        "--output",
        str(root / "out"),
        "--workers",
        "1",
    ]
    assert main(["plan", *asked[1:]], root=root) == 0
    for _ in range(2):  # it is asked for again as long as it is missing
        assert main(asked, root=root) == 0
        said = capsys.readouterr().out
        assert f"[1/2] first: not run: {needs}\n" in said
    assert "[2/2] second: unchanged" in said
    results = root / "out" / "results" / "imagenet"
    assert [path.name for path in (results / "notebooks").iterdir()] == ["second.ipynb"]
    (row,) = pd.read_csv(results / "claims.csv").to_dict("records")
    assert (row["verdict"], row["note"]) == ("not run", needs)
    assert f"<li>C1: {needs[:12]}" in (results / "report.html").read_text()
    write_notebook(root, "first", TABLE.format(name="first", value=2.0))  # as if it had been given
    assert main(asked, root=root) == 0
    assert "needs" not in read_json(results / "provenance.json")["first"]
    write_notebook(root, "first", cell, parameters=parameters)  # and taken away: the record of what is there stays
    assert main(asked, root=root) == 0
    assert "needs" not in read_json(results / "provenance.json")["first"]


def test_own_image_sets_are_enough_for_notebooks_without_photographs(root):
    (root / "sets").mkdir()
    write_notebook(root, "training", "print(datasets)", parameters='profile: str = "lab"\ndatasets: str = ""')
    this = study("imagenet", datasets=str(root / "sets"), root=root)
    (job,) = jobs_of(this, "training")
    assert job.values["datasets"] == str(root / "sets")
    before = fingerprint(this, job)
    (root / "sets" / "train.bin").write_text("1")
    changed = {part for part, names in fingerprint(this, job).items() if names != before[part]}
    assert changed == {"data"}
    assert this.private()[str(root / "sets")] == "sets"


def test_packaged_profiles_say_that_they_ignore_own_image_sets(root, capsys):
    assert study("laptop", datasets="/somewhere", root=root).datasets == ""
    assert capsys.readouterr().err == "DATASETS is not used: profile laptop has packaged digits.\n"


def test_packaged_profiles_say_that_they_ignore_an_own_table(root, capsys):
    assert study("laptop", nhanes="/somewhere", root=root).nhanes == ""
    assert capsys.readouterr().err == "NHANES is not used: profile laptop has a packaged table.\n"


def test_packaged_profiles_say_that_they_ignore_own_images(root, capsys):
    assert study("laptop", images="/somewhere", root=root).images == "packaged"
    assert capsys.readouterr().err == "IMAGENET is not used: profile laptop has packaged photographs.\n"


def test_a_missing_folder_of_photographs_is_one_sentence(root, capsys):
    write_notebook(root, "first", "1", parameters='images: str = "packaged"')
    assert main(["reproduce", "--profile", "sample", "--images", str(root / "nowhere")], root=root) == 2
    assert "nowhere'; give an existing folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: true", "sets seed to True (bool), but it must be int"),
        ("seed: 1.5", "sets seed to 1.5 (float), but it must be int"),
        ("scale: yes", "sets scale to True (bool), but it must be float"),
        ("profile: lab", "sets profile, which the command line decides"),
        ("- seed", "must hold lines of the form `name: value`, not a list"),
        ("seed: [1", "is not valid YAML"),
    ],
)
def test_wrong_overrides(root, text, said):
    write_yaml(root, "first", text)
    assert said in refusal(root)


# -- when something goes wrong -------------------------------------------------------------------------------


def test_a_failure_keeps_its_traceback_and_does_not_stop_the_others(root, capsys):
    write_notebook(root, "aardvark", "from lib import InputError", "raise InputError('No images: give one.')")
    write_notebook(root, "bear", "1 / 0")
    assert reproduce(study("laptop", root=root)) == 1
    said = capsys.readouterr()
    copies = root / "results" / "laptop" / "notebooks"
    assert f"[1/3] aardvark: FAILED: No images: give one.\n    traceback: {copies}/aardvark.failed.ipynb" in said.out
    assert "[2/3] bear: FAILED: ZeroDivisionError: division by zero" in said.out
    assert "[3/3] first: done in" in said.out
    assert said.err.endswith("2 of 3 notebooks failed: aardvark, bear\n")
    assert sorted(path.name for path in copies.iterdir()) == [
        "aardvark.failed.ipynb",
        "bear.failed.ipynb",
        "first.ipynb",
    ]
    assert "Traceback" in (copies / "bear.failed.ipynb").read_text()
    assert sorted(read_json(copies.parent / "provenance.json")) == ["first"]
    assert reason(root, "bear") == "never run here"


def test_a_good_copy_survives_a_later_failure_and_success_removes_the_failed_one(root):
    this = study("laptop", root=root)
    assert reproduce(this) == 0
    good, failed = this.copy("first"), this.copy("first").with_suffix(".failed.ipynb")
    before = good.read_text()
    (root / "lib" / "maths.py").write_text("TWO = undefined\n")
    assert reproduce(this) == 1
    assert good.read_text() == before
    assert failed.exists()
    (root / "lib" / "maths.py").write_text("TWO = 4.0\n")
    assert reproduce(this) == 0
    assert not failed.exists()


def test_a_dead_kernel_is_a_failure_with_a_cause(root, capsys):
    write_notebook(root, "first", "import os\nos._exit(9)")
    assert reproduce(study("laptop", root=root)) == 1
    assert "first: FAILED: the kernel died, most often because the memory was used up" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "lanes"), [(signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_an_interruption_says_what_is_kept_and_how_to_go_on(root, number, lanes):
    for name in ("second", "third")[:lanes]:
        write_notebook(root, name, f"open('started-{name}', 'w').close()\nimport time\ntime.sleep(1200)")
    code = "import sys; from pathlib import Path; from lib.run.commands import main\n"
    code += "sys.exit(main(['reproduce', '--workers', sys.argv[2]], root=Path(sys.argv[1])))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(root), str(lanes)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # where the tests themselves run in the background, SIGINT is ignored, and children inherit that
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 300
    while len(list(root.glob("started-*"))) < lanes and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "finished notebooks and finished units are kept; type the same command again" in errors
    assert "Traceback" not in errors
    assert reason(root, "first") == ""
    assert [p.name for p in (root / "results" / "laptop" / "notebooks").iterdir()] == ["first.ipynb"]


def test_an_output_folder_that_cannot_be_made_is_one_sentence(root, capsys):
    (root / "file").write_text("")
    assert main(["reproduce", "--output", str(root / "file")], root=root) == 2
    assert "give a folder you may write to with OUTPUT=." in capsys.readouterr().err


# -- what is published ---------------------------------------------------------------------------------------


def test_the_executed_copy_and_the_ledger_hold_no_machine_paths(root, tmp_path_factory):
    output = tmp_path_factory.mktemp("elsewhere")
    cells = [
        "import os, sys, warnings\nfrom pathlib import Path\nwarnings.warn('look')",
        "print(os.getcwd(), sys.executable, output, Path.home() / 'x')",
        "for text in ('\\r10%', '\\r20%', '\\r   '):\n    print(text, end='', file=sys.stderr)",
    ]
    write_notebook(root, "first", *cells)
    this = study("laptop", output=str(output), root=root)
    assert reproduce(this) == 0
    text = this.copy("first").read_text()
    for private in (str(root), str(output), sys.prefix, str(Path.home()) + "/", "ipykernel_", "papermill"):
        assert private not in text.replace('"papermill"', "")
    document = nbformat.reads(text, as_version=4)
    nbformat.validate(document)
    printed = next(o.text for c in document.cells if c.cell_type == "code" for o in c.outputs if "stdout" in str(o))
    assert printed == f". <environment>/bin/{Path(sys.executable).name} . ~/x\n"
    assert "footprint" not in text
    assert not (root / "results").exists()

    entry = read_json(this.results / "provenance.json")["first"]
    assert set(entry) == {
        *("code", "parameters", "settings", "seed", "versions", "tables", "processor"),
        *("seconds", "own_seconds", "device", "workers", "peak_memory_mb", "units", "units_reused", "unit_seconds"),
    }
    assert entry["seed"] == 0
    assert entry["settings"] == {"profile": "laptop", "seed": 0, "scale": 1.0}
    assert entry["device"] == "cpu"
    assert 30 < entry["peak_memory_mb"] < 3000
    assert 0 < entry["own_seconds"] == entry["seconds"] < 120  # it has no units
    assert str(output) not in json.dumps(entry)


def test_images_in_outputs_are_left_alone():
    picture = nbformat.v4.new_output("display_data", data={"image/png": "AAAA/root/AAAA", "text/plain": "/root/x"})
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[picture])])
    text = publishable(document, {"/root": "~"})
    assert "AAAA/root/AAAA" in text
    assert '"~/x"' in text
    assert publishable(document, {"/root/x": "x"}).count('"x"') == 1


def test_progress_left_on_standard_error_is_not_published_and_messages_are():
    bars = "digits:  33%|###   | 1/3 [00:00<00:01]\n\rtraining:   6%|#  | 5/9 [00:08]\x1b[A\n\x1b[A"
    outputs = [
        nbformat.v4.new_output("stream", name="stderr", text=bars),
        nbformat.v4.new_output("stream", name="stderr", text=f"{bars}a.pt is damaged and is trained again.\n"),
    ]
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=outputs)])
    (left,) = json.loads(publishable(document, {}))["cells"][0]["outputs"]
    assert left["text"] == "a.pt is damaged and is trained again.\n"


def test_a_notebooks_progress_bar_is_shown_while_it_runs(root, monkeypatch):
    """As tqdm writes it: a carriage return, then the bar, at most 60 characters wide on any terminal."""
    seen = []
    monkeypatch.setattr(Line, "write", lambda self, text: seen.append(text))
    write_notebook(root, "first", "from tqdm import tqdm\nfor _ in tqdm(range(3), desc='images'):\n    pass")
    assert reproduce(study("laptop", root=root)) == 0
    assert any("images: 100%" in text and "3/3" in text for text in seen)
    assert max(map(len, seen)) <= 61


# -- verification --------------------------------------------------------------------------------------------


def test_verify_recomputes_and_finds_a_changed_number(root, capsys):
    this = study("laptop", root=root)
    assert reproduce(this) == 0
    assert verify(this) == 0
    assert "first.csv: 2 rows equal" in capsys.readouterr().out
    table = root / "results" / "laptop" / "first.csv"
    table.write_text("metric,value\nm,2.5\nn,2.0\n")
    assert verify(this) == 1
    assert (
        "first.csv: DIFFERS: 1 of 2 numbers beyond tolerance, largest deviation 2.5 → 2 in value of (m)"
        in capsys.readouterr().out
    )
    assert table.read_text() == "metric,value\nm,2.5\nn,2.0\n"


@pytest.mark.parametrize(
    ("noted", "said"),
    [
        (None, "computed on a kind of processor that it does not name; this is Mine, model 2."),
        ("Theirs", "computed on Theirs; this is Mine, model 2."),
        ("Mine, model 2", ""),
    ],
)
def test_verify_says_on_what_a_record_was_computed_that_differs(root, capsys, monkeypatch, noted, said):
    this = study("laptop", root=root)
    assert reproduce(this) == 0
    monkeypatch.setattr(commands, "processor", lambda: "Mine, model 2")
    ledger, table = (root / "results" / "laptop" / name for name in ("provenance.json", "first.csv"))
    record = read_json(ledger)
    for entry in record.values():
        assert entry.pop("processor")
        entry |= {"processor": noted} if noted else {}
    ledger.write_text(json.dumps(record))
    assert verify(this) == 0
    assert "processor" not in capsys.readouterr().out  # nothing differs
    table.write_text("metric,value\nm,2.5\nn,2.0\n")
    assert verify(this) == 1
    out = capsys.readouterr().out
    assert said in out and ("docs/limits.md" in out) == bool(said)


def test_verify_without_committed_results_says_so(root, capsys):
    assert main(["verify", "--profile", "smoke"], root=root) == 2
    assert "There are no committed results of profile smoke" in capsys.readouterr().err


# -- claims --------------------------------------------------------------------------------------------------


def test_claim_runs_its_notebook_and_prints_its_row(root, capsys):
    (root / "params").mkdir()
    (root / "params" / "claims.yaml").write_text("C01: {notebook: first}\nC02: {notebook: second}\n")
    write_notebook(root, "second", "raise SystemError('must not run')")
    write = "import pandas as pd\npd.DataFrame({'claim': ['C01', 'C02'], 'verdict': ['holds here', 'not run']})"
    write_notebook(root, "report", f"{write}.to_csv('results/laptop/claims.csv', index=False)")
    assert claim(study("laptop", root=root), "C01") == 0
    said = capsys.readouterr().out
    assert "holds here" in said
    assert "not run" not in said
    assert main(["claim", "C03"], root=root) == 2
    assert "did you mean 'C0" in capsys.readouterr().err


def test_a_notebook_that_its_profile_leaves_out_is_said_and_neither_run_nor_planned(root, capsys):
    write_yaml(root, "first", 'left_out: "it is about something else"')
    this = study("laptop", root=root)
    assert reproduce(this) == 0
    assert "[1/1] first: not run: it is about something else" in capsys.readouterr().out
    assert not (this.results / "first.csv").exists()
    assert main(["plan"], root=root) == 0
    assert "nothing has to run" in capsys.readouterr().out
    write_yaml(root, "first", "left_out: true")
    assert refusal(root) == (
        "params/laptop/first.yaml sets left_out to True; say in a few words why the profile leaves it out."
    )
