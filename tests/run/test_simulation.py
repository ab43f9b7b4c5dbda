"""Schedules worked by hand, and the page that is written from them."""

import pandas as pd
import pytest

from lib import ROOT, InputError
from lib.run import scale
from lib.run.scale import BEGIN, CASES, END, GPUS, MEASURED, PAGE, notebook_hours, with_numbers
from lib.run.simulation import Batch, fitted_spread, makespan
from lib.run.study import Study, jobs_of

# -- schedules, worked by hand -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batches", "workers", "seconds"),
    [
        ([], 3, 0.0),
        ([Batch(0, 5.0)], 3, 0.0),
        ([Batch(7, 2.0)], 1, 14.0),  # one machine: the sum
        ([Batch(3, 2.0), Batch(2, 5.0)], 1, 16.0),
        ([Batch(6, 2.0)], 6, 2.0),  # n equal units on n machines
        ([Batch(7, 2.0)], 6, 4.0),  # the tail: five machines wait for the last unit
        ([Batch(1, 2.0), Batch(1, 2.0)], 6, 4.0),  # a batch waits for the one before
    ],
)
def test_makespans_by_hand(batches, workers, seconds):
    assert makespan(batches, workers) == seconds


def test_a_worker_loads_a_network_once_in_a_row():
    assert makespan([Batch(3, 1.0, "a")], 1, loading=10) == 13
    assert makespan([Batch(1, 1.0, "a"), Batch(1, 1.0, "a")], 1, loading=10) == 12
    assert makespan([Batch(1, 1.0, "a"), Batch(1, 1.0, "b"), Batch(1, 1.0, "a")], 1, loading=10) == 33
    assert makespan([Batch(1, 1.0, "a"), Batch(1, 1.0), Batch(1, 1.0, "a")], 1, loading=10) == 23  # digits forget it
    assert makespan([Batch(2, 1.0, "a")], 2, loading=10) == 11  # side by side


def test_stragglers_keep_the_mean_and_lengthen_the_tail():
    batch = Batch(20_000, 1.0)
    assert makespan([batch], 1, spread=0.5) == pytest.approx(20_000, rel=0.02)
    even, spread = (makespan([Batch(64, 1.0)] * 50, 64, spread=width) for width in (0.0, 0.5))
    assert even == 50 and 2 * even < spread < 5 * even  # the largest of 64 with sigma .5 is about exp(.5 * 2.4)
    assert makespan([Batch(64, 1.0)], 8, spread=0.5, seed=1) == makespan([Batch(64, 1.0)], 8, spread=0.5, seed=1)


@pytest.mark.parametrize("workers", [1, 2, 5, 16])
def test_no_schedule_beats_the_bounds_and_list_scheduling_keeps_to_its_own(workers):
    batch = Batch(37, 1.3)
    found, ideal = makespan([batch], workers, spread=0.8, seed=3), makespan([batch], 1, spread=0.8, seed=3) / workers
    longest = makespan([batch], 1000, spread=0.8, seed=3)
    assert max(ideal, longest) <= found * (1 + 1e-9) and found <= ideal + longest  # Graham (1966)


def test_the_spread_of_seconds_is_that_of_their_logarithms():
    assert fitted_spread([2.0, 2.0, 2.0]) == 0
    assert fitted_spread([1.0, 100.0]) == pytest.approx(2 * 2.302585 / 2**0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: makespan([Batch(1, 1.0)], 0),
        lambda: makespan([Batch(1, 1.0)], 1, loading=-1),
        lambda: makespan([Batch(1, 1.0)], 1, spread=-0.1),
        lambda: makespan([Batch(-1, 1.0)], 1),
        lambda: makespan([Batch(1, float("nan"))], 1),
        lambda: fitted_spread([1.0]),
        lambda: fitted_spread([1.0, 0.0]),
        lambda: with_numbers("no marks", pd.DataFrame()),
        lambda: with_numbers(f"{END} {BEGIN}", pd.DataFrame()),
    ],
)
def test_bad_input_is_refused_in_one_sentence(wrong):
    with pytest.raises(InputError, match=r"give|must have"):
        wrong()


# -- the page ----------------------------------------------------------------------------------------------------------


def toy_table() -> pd.DataFrame:
    """Two notebooks; in the middle case, without loading and spread, 10 units of 2 s and 8 of digits of 3 s."""
    columns = ["notebook", "batch", "units", "network", "passes", "rest", "own", "disk"]
    rows = [("a", "vgg16", 10, "vgg16", 150.0, 10.0, 36.0, 0.5), ("a", "digits", 8, None, 0.0, 3.0, 36.0, 0.5)]
    return pd.DataFrame([*rows, ("b", "", 0, None, 0.0, 0.0, 72.0, 0.0)], columns=columns)


@pytest.mark.parametrize(("gpus", "seconds"), [(1, 20 + 24), (8, 4 + 3), (64, 2 + 3)])
def test_hours_of_a_notebook_by_hand(gpus, seconds):
    assumed = scale.Assumed(dense=150, light=60, rest=10, loading=0, spread=0)
    hours = notebook_hours(toy_table(), gpus, assumed)
    assert hours.to_dict() == pytest.approx({"a": (seconds + 36) / 3600, "b": 72 / 3600})


def test_the_cases_are_in_order_and_the_page_is_written_between_its_marks():
    slow, middle, fast = (notebook_hours(toy_table(), 1, how)["a"] for how in CASES.values())
    assert slow > middle > fast
    page = with_numbers(f"above\n{BEGIN}\nold\n{END}\nbelow\n", toy_table())
    assert page.startswith(f"above\n{BEGIN}\n") and page.endswith(f"{END}\nbelow\n") and "old" not in page
    (line,) = (line for line in page.splitlines() if line.startswith("| a "))
    assert [cell.strip() for cell in line.split("|")][1:4] == ["a", "18", "0.5"]  # (10 * 160 + 8 * 3) / 3600 hours
    assert with_numbers(page, toy_table()) == page


def test_the_committed_page_has_the_numbers_of_the_measurement():
    page = PAGE.read_text(encoding="utf-8")
    assert with_numbers(page, pd.read_csv(MEASURED)) == page, "type: python -m lib.run.scale"
    assert all(f"{n} GPU" in page for n in GPUS) and "## SLURM" in page


def test_the_page_counts_the_notebooks_of_the_profile_and_no_others(monkeypatch):
    asked = []
    monkeypatch.setattr(scale, "predict", lambda _, jobs, photos: asked.extend(jobs) or [])
    scale.measured_profile()
    studied = {job.name for job in jobs_of(Study(ROOT, "imagenet", ROOT, "packaged", "")) if not job.left_out}
    assert {job.name for job in asked} == studied == {*pd.read_csv(MEASURED)["notebook"]}
    assert "explore" not in studied
