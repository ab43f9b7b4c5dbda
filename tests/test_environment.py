"""One list of exact versions, installed by every way of setting up, and really the one in use."""

import re
import sys
import tomllib
from importlib import metadata

import pytest
import yaml

from lib import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = "bench"  # the extra that only `make bench` needs: peers of heavy weight
EXTRAS = {name: pins for name, pins in PROJECT["optional-dependencies"].items() if name != OPTIONAL}
PEERS = PROJECT["optional-dependencies"][OPTIONAL]
PINS = [*PROJECT["dependencies"], *(pin for extra in EXTRAS.values() for pin in extra)]
EXACT = re.compile(r"^([A-Za-z0-9._-]+)==(\d+(?:\.\d+)*)$")


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[=<>!~\[ ]", requirement)[0]).lower()


@pytest.mark.parametrize("pin", PINS)
def test_every_pin_is_exact_and_installed(pin):
    name, version = EXACT.match(pin).groups()
    assert metadata.version(name).split("+")[0] == version  # +cpu, +cu130: the same release, another build


def test_the_peers_of_the_benchmark_are_pinned_exactly_where_they_are_installed_or_not():
    assert all(EXACT.match(pin) for pin in PEERS)


def test_nothing_is_pinned_twice():
    names = [name_of(pin) for pin in (*PINS, *PEERS)]
    assert sorted(names) == sorted(set(names))


def test_conda_installs_exactly_the_project_with_all_its_extras():
    *packages, pip = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    assert pip == {"pip": [f"-e .[{','.join(sorted(EXTRAS))}]"]}
    assert [name_of(package) for package in packages] == ["python", "pip"]
    lowest = re.fullmatch(r">=3\.(\d+)", PROJECT["requires-python"])
    given = re.fullmatch(r"python=3\.(\d+)", packages[0])
    assert int(given[1]) >= int(lowest[1])
    assert sys.version_info >= (3, int(lowest[1]))


def test_the_makefile_asks_for_the_same_python_and_extras():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    minor = re.fullmatch(r">=3\.(\d+)", PROJECT["requires-python"])[1]
    assert f"sys.version_info < (3, {minor})" in makefile
    assert f"-e '.[{','.join(sorted(EXTRAS))}]'" in makefile
    assert len(makefile.splitlines()) <= 90


def test_every_package_that_lib_imports_is_pinned_here():
    """One that merely arrives with another disappears when that one changes its mind."""
    distributions = metadata.packages_distributions()
    pattern = re.compile(r"^\s*(?:import|from)\s+([A-Za-z_]\w*)", re.MULTILINE)
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "lib").rglob("*.py"))
    foreign = {module for module in pattern.findall(text) if module in distributions and module != "lib"}
    pinned = {name_of(pin) for pin in (*PINS, *PEERS)}
    assert {"torch", "yaml", "papermill"} <= foreign
    assert {module for module in foreign if not pinned & set(map(name_of, distributions[module]))} == set()
