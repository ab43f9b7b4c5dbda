"""Versions, device and memory of this process."""

import ast
import subprocess
import sys

import pytest

from lib import ROOT
from lib.store import provenance


def test_versions_are_those_installed():
    import torch

    found = provenance.versions()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert "missing" not in found.values()
    assert found["python"].count(".") == 2


def test_footprint_reports_the_peak_of_its_process_in_megabytes():
    code = "from lib.store.provenance import footprint\nbefore = footprint()['peak_memory_mb']\n"
    code += "block = b'x' * 300_000_000\ndel block\nprint(before, footprint()['peak_memory_mb'])"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(int, told.stdout.split())
    assert 290 < after - before < 310


# What is imported without a part in any number: files, progress, figures, pages, notebooks, command line.
NO_NUMBERS = {"tqdm", "yaml", "filelock", "matplotlib", "seaborn", "jinja2", "IPython", "psutil", "ipywidgets"}
NO_NUMBERS |= {"latex2mathml", "markupsafe", "nbconvert"}  # pages
NO_NUMBERS |= {"saliency", "torchcam", "quantus", "dask_jobqueue"}  # peers of the benchmark; batch systems
NO_NUMBERS |= {"pyarrow", "distributed", "dask", "ipykernel", "jupyter_client", "nbformat", "papermill", "pydantic"}
NAMES = {"PIL": "pillow", "sklearn": "scikit-learn", "skimage": "scikit-image", "pytorch_msssim": "pytorch-msssim"}


def test_every_package_that_lib_computes_with_is_recorded():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "lib").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    packages = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"lib"} - NO_NUMBERS
    assert {NAMES.get(name, name) for name in packages} <= set(provenance.RECORDED)


POSIX_ONLY = {"resource", "fcntl", "termios", "tty", "pty", "pwd", "grp", "posix", "syslog", "readline"}


def test_nothing_that_windows_lacks_is_imported_with_a_module():
    for path in (ROOT / "lib").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inner = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
        for node in ast.walk(tree):
            if id(node) not in inner and isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & POSIX_ONLY, path


def test_without_the_module_resource_everything_is_imported_and_memory_is_measured():
    code = "import psutil, sys; sys.modules['resource'] = None\n"  # psutil itself needs it here, and not on Windows
    code += "import lib.store.units, lib.run.commands, lib.run.clean, pathlib\n"
    code += "from lib.store.provenance import footprint\nprint(footprint()['peak_memory_mb'])\n"
    code += "def absent(self): raise OSError\npathlib.Path.read_text = absent\n"  # nor is there /proc on Windows
    code += "print(footprint()['peak_memory_mb'])"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    peak, used = map(int, told.stdout.split())
    assert 30 < used <= peak < 3000


def test_the_environment_names_the_kind_of_device_and_not_the_number_of_threads(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = provenance.environment()
    assert here == {"versions": provenance.versions(), "device": "cpu"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert provenance.environment() == {"versions": here["versions"], "device": "cuda"}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\nflags\t\t: sse avx2 avx512f\n\n"
            "processor\t: 1\nmodel\t\t: 3\n",
            "AMD EPYC, family 26, model 2, avx512f",
        ),
        ("cpu family : 6\nmodel name : Old\nflags : sse avx2", "Old, family 6, avx2"),
        (None, "arm64"),
    ],
)
def test_the_kind_of_processor_is_what_the_system_tells(told, said, monkeypatch):
    def read_text(path, **_):
        if told is None:
            raise FileNotFoundError(path)
        return told

    monkeypatch.setattr(provenance.Path, "read_text", read_text)
    monkeypatch.setattr(provenance.platform, "processor", lambda: "")
    monkeypatch.setattr(provenance.platform, "machine", lambda: "arm64")
    assert provenance.processor.__wrapped__() == said
