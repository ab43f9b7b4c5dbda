"""make clean: what goes, what stays, and what is said of it."""

import subprocess
import sys

import pytest

from lib import ROOT
from lib.run.clean import clean_up

TOOLS = [".pytest_cache/a", "lib/__pycache__/a.pyc", "lib/deep/er/__pycache__/a.pyc", "notebooks/.ipynb_checkpoints/a"]
COMPUTED = [".cache/units/a.parquet", ".cache/trained/a.pt", "results/imagenet/a.csv", "results/smoke/a.csv"]
COMPUTED += ["figures/smoke/a.png", "results/notes.txt"]
COMMITTED = ["results/laptop/a.csv", "results/laptop/notebooks/a.ipynb", "results/bench.csv", "figures/laptop/a.png"]
OTHERS = [".venv/lib/__pycache__/a.pyc", ".git/build/a", "lib/a.py", "notebooks/a.ipynb", "README.md"]


@pytest.fixture
def project(tmp_path):
    for name in TOOLS + COMPUTED + COMMITTED + OTHERS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def left(root) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_the_caches_of_tools_go_and_everything_computed_stays(project, capsys):
    assert clean_up([], root=project) == 0
    assert left(project) == {*COMPUTED, *COMMITTED, *OTHERS}
    removing, keeping = capsys.readouterr().out.splitlines()
    assert ".pytest_cache" in removing
    assert "lib/deep/er/__pycache__" in removing
    assert "results" not in removing
    kept = ".cache, results/imagenet, results/notes.txt, results/smoke, figures/smoke"
    assert keeping == f"keeping: {kept}; make clean RESULTS=1 removes that too"


def test_results_go_when_that_is_asked_for_and_are_named_first(project, capsys):
    assert clean_up(["--results"], root=project) == 0
    assert left(project) == {*COMMITTED, *OTHERS}
    (said,) = capsys.readouterr().out.splitlines()
    for name in (".cache", "results/imagenet", "results/smoke", "figures/smoke"):
        assert name in said
    assert clean_up(["--results"], root=project) == 0
    assert capsys.readouterr().out == "removing: nothing\n"


def test_another_output_folder_is_cleaned_instead(project, tmp_path_factory, capsys):
    output = tmp_path_factory.mktemp("output")
    (output / "results" / "imagenet").mkdir(parents=True)
    assert clean_up(["--results", "--output", str(output)], root=project) == 0
    assert left(project) == {*COMPUTED, *COMMITTED, *OTHERS}
    assert str(output / "results" / "imagenet") in capsys.readouterr().out
    assert not (output / "results" / "imagenet").exists()


def test_links_are_removed_and_not_followed(project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "photograph.jpg").write_text("x")
    (project / "results" / "linked").symlink_to(elsewhere)
    (project / "lib" / "linked").symlink_to(elsewhere)
    assert clean_up(["--results"], root=project) == 0
    assert (elsewhere / "photograph.jpg").exists()
    assert not (project / "results" / "linked").is_symlink()


def test_it_runs_without_the_environment():
    code = "import sys; sys.path.insert(0, '.'); import lib.run.clean\n"
    code += "print(sorted(name for name in sys.modules if name[:3] == 'lib'))"
    command = [sys.executable, "-S", "-I", "-c", code]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "['lib', 'lib.run', 'lib.run.clean']\n"
