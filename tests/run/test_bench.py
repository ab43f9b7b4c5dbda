"""The benchmark's bookkeeping; its timings are for `make bench` alone."""

import sys

import pandas as pd
import pytest
import torch

from lib import InputError
from lib.run import bench


def test_a_row_has_medians_and_quartiles_of_the_paired_ratios():
    row = bench.row("case", [(2.0, 1.0), (3.0, 1.0), (8.0, 2.0), (10.0, 2.0), (6.0, 1.0)])
    assert row["case"] == "case" and row["runs"] == 5
    assert (row["ours"], row["peer"], row["measured_in"]) == (6.0, 1.0, "seconds")
    assert (row["ratio_low"], row["ratio_median"], row["ratio_high"]) == (3.0, 4.0, 5.0)


def test_both_sides_take_turns_after_a_warm_up():
    calls = []
    pairs = bench.alternate(lambda: calls.append("ours"), lambda: calls.append("peer"), 2)
    assert calls == ["ours", "peer"] * 3 and len(pairs) == 2


@pytest.mark.parametrize(("images", "passes"), [(1, 17), (3, 5), (8, 2)])
def test_the_peer_does_exactly_the_bare_passes(images, passes):
    evaluated = 0

    def model(x):
        nonlocal evaluated
        evaluated += len(x)
        return x.flatten(1)

    x = torch.rand(images, 1, 2, 2)
    bench.bare_passes(model, x, torch.zeros(images, dtype=torch.long), passes)()
    assert evaluated == images * passes


def read(path):
    return pd.read_csv(path).set_index("case")["ratio_median"].to_dict()


def test_an_interrupted_run_keeps_what_it_measured(tmp_path):
    def interrupted(runs):
        raise KeyboardInterrupt

    output = tmp_path / "bench.csv"
    output.write_text("case,ratio_median\nof an earlier run,9\n")
    with pytest.raises(KeyboardInterrupt):
        bench.measure({"a": lambda runs: [(3.0, 2.0)] * runs, "b": interrupted}, runs=3, output=output)
    assert read(output) == {"a": 1.5}
    assert pd.read_csv(output)["runs"].tolist() == [3]


def test_only_some_cases_are_measured_and_the_other_rows_stay(tmp_path):
    output = tmp_path / "bench.csv"
    first = {name: lambda runs: [(1.0, 3.0)] for name in ("blur walk", "guided walk", "memory")}
    bench.measure(first, runs=1, output=output)
    before = output.read_text().splitlines()
    again = {name: lambda runs: [(4.0, 2.0)] for name in (*first, "new walk", "DiffID")}
    table = bench.measure(again, runs=1, output=output, only="walk")
    assert read(output) == {"blur walk": 2, "guided walk": 2, "memory": 0.3333, "new walk": 2}
    assert output.read_text().splitlines()[3] == before[3]  # rewritten without loss
    assert table["case"].tolist() == list(read(output))


def test_an_unknown_case_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    output = tmp_path / "bench.csv"
    with pytest.raises(InputError, match=r"No case contains 'x'; give a part of one of these: a \| b\."):
        bench.measure(dict.fromkeys("ab"), runs=1, output=output, only="x")
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "no such", "--output", str(output)])
    with pytest.raises(SystemExit, match="No case contains 'no such'"):
        bench.bench()
    assert not output.exists()


def test_the_cases_cover_memory_and_every_path_with_many_and_one_image():
    names = list(bench.cases(64))
    assert len(names) == 2 + 2 * 7 + 2
    assert [bench.row(name, [(1.0, 1.0)])["measured_in"] for name in names].count("MB") == 2
    assert sum("memory" in name for name in names) == 2
    parts = {"straight": 2, "blur": 2, "guided": 4, "re-calibrated": 2, "DiffID": 2, "; 4 images": 7, "; 1 images": 7}
    parts |= {"X-Gradient": 2, "mask games": 2}
    assert {part: sum(part in name for name in names) for part in parts} == parts
    assert all("3 rules, 4 step counts" in name for name in names if "straight" in name)  # 8, 16, 32, 64


def test_a_walk_and_its_peer_make_the_same_number_of_passes(monkeypatch):
    evaluated = []

    def model(x):
        evaluated.append(len(x))
        return x.flatten(1)

    x = torch.rand(2, 1, 4, 4)
    monkeypatch.setattr(
        bench, "photographed", lambda images: (model, x[:images], torch.zeros(images, dtype=torch.long))
    )
    pairs = bench.time_walk(1, path=bench.Straight(8), images=2)
    assert len(pairs) == 1 and min(pairs[0]) > 0
    assert sum(evaluated) == 2 * 2 * 2 * 9  # sides, warm-up and run, images, points


def test_the_released_mask_schedule_shows_96_images_for_each(monkeypatch):
    shown = []

    def model(x):
        shown.append(x)
        return x.flatten(1)

    generator = torch.Generator().manual_seed(0)
    x, scores = torch.rand(3, 1, 8, 8, generator=generator), torch.randn(3, 8, 8, generator=generator)
    bench._released_schedule(model, x, scores, torch.zeros(3, dtype=torch.long))
    assert [len(each) for each in shown] == [2 * 96, 96]
    # the last of the first image's is that of order absolute, remove, fraction 1: every pixel with a score
    torch.testing.assert_close(shown[0][95], x[0])


def test_many_references_and_removal_make_as_many_passes_as_their_peers(monkeypatch):
    evaluated = []

    def model(x):
        evaluated.append(len(x))
        return x.flatten(1)

    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(bench, "photographed", lambda images: (model, x, torch.zeros(2, dtype=torch.long)))
    bench.time_lines(1, images=2, references=3, points=4)
    assert sum(evaluated) == 2 * (2 * 12 + 2 * 12)  # warm-up and run, ours and peer
    evaluated.clear()
    bench.time_diffid(1, images=2)
    assert sum(evaluated) == 2 * (2 * 19 + 2 * 18)  # ours sees the images themselves, too
