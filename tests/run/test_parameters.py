"""Parameters as a notebook declares them and as YAML overrides them."""

import pytest
from tiny_project import write_notebook

from lib import InputError
from lib.run.parameters import Parameter, declared, resolve
from lib.run.study import jobs_of, study


@pytest.mark.parametrize(
    ("kind", "fitting", "wrong"),
    [
        (int, [0, -3], [True, 1.0, "1", None, [1]]),
        (float, [0, 1.5, 1e-3], [True, "1e-3", None]),
        (bool, [True], [0, "yes"]),
        (str, ["a"], [1, None]),
        (list[int], [[], [1, 2]], [[1.0], [True], 1, ["a"], "12"]),
        (list[float], [[1, 2.5]], [["1e-3"], 2.5]),
        (tuple[str, ...], [["a", "b"]], [["a", 1], "ab"]),
        (list, [[1, "a"]], ["a", {}]),
        (int | None, [None, 3], ["3", 1.5]),
        (dict[str, int], [{}, {"a": 1}], [{"a": 1.5}, {"a": True}, {"a": "1"}, [1], [["a", 1]]]),
        (dict[str, list[float]], [{"a": [1, 2.5]}], [{"a": 1}, {"a": ["1"]}]),
        (dict, [{"a": [1, {}]}], [[], "a"]),
        (list[tuple[int, float]], [[[1, 2.5], [2, 3]]], [[[1]], [[1.5, 1]], [1, 2]]),
        (list[str | None], [["a", None]], [[1]]),
    ],
)
def test_types(kind, fitting, wrong):
    known = {"p": Parameter(kind, None)}
    for value in fitting:
        assert (
            list(resolve(known, {"p": value}, where="w")["p"] or []) == list(value)
            if isinstance(value, list)
            else resolve(known, {"p": value}, where="w") == {"p": value}
        )
    for value in wrong:
        with pytest.raises(InputError, match="w sets p to"):
            resolve(known, {"p": value}, where="w")


def test_declared_reads_types_and_defaults_without_running(tmp_path):
    cell = "steps: list[int] = [8, 16]  # of the path\nrate = 1e-3\n"
    cell += "rules: tuple[str, ...] = ('a',)\nlimit: int | None = None"
    found = declared(write_notebook(tmp_path, "n", parameters=cell))
    assert found == {
        "steps": Parameter(list[int], [8, 16]),
        "rate": Parameter(float, 0.001),
        "rules": Parameter(tuple[str, ...], ("a",)),
        "limit": Parameter(int | None, None),
    }
    assert resolve(found, {"rules": ["b", "c"]}, where="w")["rules"] == ("b", "c")


@pytest.mark.parametrize(
    "line",
    [
        *("import os", "x: int", "x = os.cpu_count()", "x: Path = '.'", "x = y = 1", "print(1)", "x: list[3] = []"),
        *("<<<<<<< HEAD", "x: int = ", "steps: list[int] = [8,", "x: int = 'a'", "x: dict[str, int] = {'a': 1.5}"),
        *("x: 3 = 3", "x: int = 1.0", "x: set = {1}"),
    ],
)
def test_a_parameters_cell_holds_constants_only(tmp_path, line):
    with pytest.raises(InputError, match="each line must read `name: type = constant`"):
        declared(write_notebook(tmp_path, "n", parameters=line))


@pytest.mark.parametrize("magic", ["%matplotlib inline", "!ls", "%load_ext autoreload\n%autoreload 2"])
def test_magics_in_the_parameters_cell_are_passed_over(tmp_path, magic):
    path = write_notebook(tmp_path, "n", parameters=f"{magic}\nsteps: int = 8  # of the path")
    assert declared(path) == {"steps": Parameter(int, 8)}


def test_values_are_kept_as_they_are_written():
    known = {"rate": Parameter(float, 1.0), "sizes": Parameter(dict[str, int], {})}
    found = resolve(known, {"rate": 3, "sizes": {"a": 1}}, where="w")
    assert found == {"rate": 3, "sizes": {"a": 1}}
    assert isinstance(found["rate"], int)


COUNTS = ("limit", "ig_limit", "audited", "untrained_photographs")  # photographs that a notebook explains
FIRST = {"idgi_evaluations": 5}  # and others before these


def test_the_profile_sample_explains_photographs_that_a_part_of_the_collection_has_too():
    """Counts that divide 200 choose some of every fifth class, see `lib.data.imagenet.explained_and_pool`."""
    jobs = [job for job in jobs_of(study("sample", images="/photographs")) if "images" in job.values]
    assert len(jobs) > 10 and [job.name for job in jobs if job.left_out] == ["explore"]  # which leaves no result
    for job in (each for each in jobs if not each.left_out):
        for name in set(COUNTS) & set(job.values):
            count = job.values[name] + FIRST.get(job.name, 0)
            assert count and 200 % count == 0, f"{job.name}: {name}"
        assert job.values.get("pool", 400) == 400, job.name
        assert not any("mnist" in str(value) for name, value in job.values.items() if name in ("networks", "pairs"))
