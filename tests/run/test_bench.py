"""The benchmark's bookkeeping, and that both sides of a case do the same; its timings are for `make bench` alone."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from lib import InputError
from lib.attribution import Blur, Guided, Straight
from lib.run import bench, costs, overheads, peers, timing
from lib.run.timing import Case

COLUMNS = ["case", "ours", "peer", "ratio_median", "ratio_low", "ratio_high", "runs", "device", "goal", "met"]
PIXELS = (3, 14, 14)  # 588 = 21 x 28 numbers, 196 = 7 x 28 pixels


class Counting(torch.nn.Module):
    """Logits of three classes without biases; counts the images it saw. Sharp images are of class 0 to it."""

    def __init__(self, images):
        super().__init__()
        sharp = (images[0] - images[0].mean()).flatten()
        others = torch.randn(2, len(sharp), generator=torch.Generator().manual_seed(0)) / 50
        self.weight = torch.nn.Parameter(torch.cat([sharp[None] / 10, others]), requires_grad=False)
        self.saw = 0

    def forward(self, x):
        self.saw += len(x)
        return torch.nn.functional.linear(x.flatten(1).tanh(), self.weight)

    def seen_by(self, action):
        before = self.saw
        action()
        return self.saw - before


@pytest.fixture
def tiny(monkeypatch):
    """Every network of the benchmark replaced by two tiny ones, prepared and as loaded."""
    x = torch.rand(4, *PIXELS, generator=torch.Generator().manual_seed(0))
    nets = SimpleNamespace(prepared=Counting(x).eval(), loaded=Counting(x).eval(), x=x)

    def photographed(images, name="", prepared=True):
        labels = torch.zeros(images, dtype=torch.long)
        return nets.prepared if prepared else nets.loaded, x[:images], labels

    def untrained(name, images):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(x[0].numel(), 3, bias=False)).eval()
        return model.requires_grad_(False), x[:1].expand(images, -1, -1, -1), torch.zeros(images, dtype=torch.long)

    for module in (costs, peers, overheads):
        monkeypatch.setattr(module, "photographed", photographed)
    monkeypatch.setattr(costs, "untrained", untrained)
    monkeypatch.setattr(peers, "TOGETHER", (2, 3))
    monkeypatch.setattr(overheads, "LONG", 1e-9)
    monkeypatch.setattr(overheads, "MANY", 3)
    return nets


# The table


@pytest.mark.parametrize(
    ("goal", "ratios", "said", "met"),
    [
        ({"most": 4.0}, (3.0, 4.0, 5.0), "<= 4", True),
        ({"most": 3.9}, (3.0, 4.0, 5.0), "<= 3.9", False),
        ({"least": 0.25}, (0.2, 0.25, 1 / 3), ">= 0.25", True),
        ({"least": 0.26}, (0.2, 0.25, 1 / 3), ">= 0.26", False),
        ({}, (3.0, 4.0, 5.0), "", ""),
    ],
)
def test_a_row_has_quartiles_of_the_paired_ratios_and_is_met_in_its_own_direction(goal, ratios, said, met):
    row = Case("case", None, **goal).row([(2.0, 1.0), (3.0, 1.0), (8.0, 2.0), (10.0, 2.0), (6.0, 1.0)])
    assert (row["ours"], row["peer"], row["measured_in"], row["runs"]) == (6.0, 1.0, "seconds", 5)
    assert (row["ratio_low"], row["ratio_median"], row["ratio_high"]) == pytest.approx(ratios)
    assert (row["goal"], row["met"]) == (said, met)
    assert type(row["met"]) is type(met)


def test_both_sides_take_turns_after_a_warm_up():
    calls = []
    pairs = timing.timed(lambda: (lambda: calls.append("ours"), lambda: calls.append("peer")), 2)
    assert calls == ["ours", "peer"] * 3 and len(pairs) == 2


@pytest.mark.parametrize(("runs", "each", "pairs"), [(5, 1, 5), (5, 15, 3), (5, 8, 4), (2, 100, 2)])
def test_what_takes_long_is_timed_less_often(monkeypatch, runs, each, pairs):
    monkeypatch.setattr(timing, "seconds", lambda action: each)
    assert timing.timed(lambda: (int, int), runs) == [(each, each)] * pairs


def read(path):
    return pd.read_csv(path).set_index("case")["ratio_median"].to_dict()


def test_an_interrupted_run_keeps_what_it_measured(tmp_path):
    def interrupted(runs):
        raise KeyboardInterrupt

    output = tmp_path / "bench.csv"
    output.write_text("case,ratio_median\nof an earlier run,9\n")
    with pytest.raises(KeyboardInterrupt):
        bench.measure([Case("a", lambda runs: [(3.0, 2.0)] * runs), Case("b", interrupted)], runs=3, output=output)
    assert read(output) == {"a": 1.5}
    assert pd.read_csv(output)["runs"].tolist() == [3]


def test_only_some_cases_are_measured_and_the_other_rows_stay(tmp_path):
    output = tmp_path / "bench.csv"
    first = [Case(name, lambda runs: [(1.0, 3.0)], most=0.5) for name in ("blur walk", "guided walk", "memory")]
    bench.measure(first, runs=1, output=output)
    before = output.read_text().splitlines()
    again = [Case(case.name, lambda runs: [(4.0, 2.0)]) for case in first]
    again += [Case(name, lambda runs: [(4.0, 2.0)]) for name in ("new walk", "DiffID")]
    table = bench.measure(again, runs=1, output=output, only="walk")
    assert read(output) == {"blur walk": 2, "guided walk": 2, "memory": 0.3333, "new walk": 2}
    assert output.read_text().splitlines()[3] == before[3]  # rewritten without loss
    assert table["case"].tolist() == list(read(output))


def test_an_unknown_case_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    output = tmp_path / "bench.csv"
    with pytest.raises(InputError, match=r"No case contains 'x'; give a part of one of these: a \| b\."):
        bench.measure([Case("a", None), Case("b", None)], runs=1, output=output, only="x")
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "no such", "--output", str(output)])
    with pytest.raises(SystemExit, match="No case contains 'no such'"):
        bench.bench()
    assert not output.exists()


def test_a_peer_that_is_not_installed_is_said_and_left_out(tmp_path, capsys):
    output = tmp_path / "bench.csv"
    found = [Case("ours beside theirs", None, needs="no_such_library"), Case("alone", lambda runs: [(1.0, 1.0)])]
    assert bench.measure(found, runs=1, output=output)["case"].tolist() == ["alone"]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "not measured: install no_such_library (pip install -e '.[bench]') for ours beside theirs"


# The cases


def test_every_case_runs_by_one_thread_and_the_table_has_the_contract_s_columns(tiny, tmp_path, monkeypatch):
    for needs in ("captum", "saliency", "torchcam", "quantus"):
        pytest.importorskip(needs)
    commands = []

    def alone(command, **options):
        commands.append(command[1:])
        return SimpleNamespace(stdout="100\n")

    monkeypatch.setattr(subprocess, "run", alone)
    monkeypatch.setattr(bench, "cases", partial(bench.cases, 2, 2))
    threads = torch.get_num_threads()
    found = bench.cases()
    watched = [Case(**(vars(case) | {"measure": partial(one_threaded, case.measure)})) for case in found]
    table = bench.measure(watched, runs=1, output=tmp_path / "bench.csv")
    assert torch.get_num_threads() == threads
    assert [name for name in table if name != "measured_in"] == COLUMNS
    assert table["case"].tolist() == [case.name for case in found] and table["case"].is_unique
    assert (table[["ours", "peer", "ratio_median"]] > 0).all(axis=None)
    goals = table.set_index("case")["goal"]
    assert (
        goals.to_dict()
        == pd.read_csv(tmp_path / "bench.csv", keep_default_na=False).set_index("case")["goal"].to_dict()
    )
    assert ((table["met"] == "") == (table["goal"] == "")).all() and set(table["met"]) <= {True, False, ""}
    assert table["measured_in"].tolist().count("MB") == 2
    walks = [command for command in commands if command[:2] == ["-m", "lib.run.bench"]]  # Dask asks the system for more
    assert len(walks) == 4 and all(command[2] == "--peak-of-walk" for command in walks)


def one_threaded(measure, runs):
    assert torch.get_num_threads() == 1
    return measure(runs)


@pytest.mark.parametrize("walk", [(2, 0), (2, 3)])
def test_the_peak_of_a_walk_is_this_process_s_own(tiny, monkeypatch, capsys, walk):
    monkeypatch.setattr(sys, "argv", ["bench", "--peak-of-walk", *map(str, walk)])
    bench.bench()
    assert 50 < float(capsys.readouterr().out) < 100_000
    assert tiny.prepared.saw == 2 * (walk[0] * walk[1] or walk[0] + 1)


@pytest.mark.parametrize(("images", "passes"), [(1, 17), (3, 5), (8, 2)])
def test_bare_passes_are_exactly_so_many(images, passes):
    x = torch.rand(images, 1, 2, 2)
    model = Counting(x).eval()
    assert model.seen_by(costs.bare_passes(model, x, torch.zeros(images, dtype=torch.long), passes)) == images * passes


@pytest.mark.parametrize(
    ("sides", "more"),
    [
        (partial(costs.walk_sides, Straight(8), rules=costs.RULES, sweep=True), 0),
        (partial(costs.walk_sides, Blur(8), rules=costs.RULES), 0),
        (partial(costs.walk_sides, Guided(8), rules=costs.RULES), 0),
        (partial(costs.lines_sides, references=3, points=4), 0),
        (partial(costs.diffid_sides, network=""), 1),  # sees the images themselves, too
    ],
)
def test_ours_and_its_bare_passes_see_equally_many_images(tiny, sides, more):
    ours, peer = sides(images=2)
    assert tiny.prepared.seen_by(ours) == tiny.prepared.seen_by(peer) + 2 * more


def test_step_counts_are_five_or_what_there_is():
    assert timing.step_counts(128) == [8, 16, 32, 64, 128]
    assert timing.step_counts(6) == [3, 6]


def answer_of(found):
    """Maps, or areas, of either side as one array."""
    if isinstance(found, Mapping):
        return np.array([found["insertion_auc"], found["deletion_auc"]])
    return np.stack([np.asarray(each) for each in found])


@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize(
    ("needs", "sides", "asked", "ours_sees", "they_see"),
    [
        ("captum", peers.captum_sides, {"steps": [6], "images": 2, "network": ""}, 12, 12),
        ("captum", peers.captum_sides, {"steps": [2, 4, 8], "images": 2, "network": ""}, 18, 28),
        ("saliency", peers.guided_sides, {"steps": 4, "images": 2}, 8, 8),
        ("torchcam", peers.torchcam_sides, {"steps": 4, "images": 2}, 16, 16),
    ],
)
def test_a_peer_gives_the_same_answer_of_as_many_evaluations(tiny, needs, sides, asked, ours_sees, they_see, prepared):
    pytest.importorskip(needs)
    ours, theirs = sides(prepared=prepared, **asked)
    found = []
    assert tiny.prepared.seen_by(lambda: found.append(ours())) == ours_sees
    other = tiny.prepared if prepared else tiny.loaded
    assert other.seen_by(lambda: found.append(theirs())) == they_see
    if needs == "torchcam":
        shown, hidden = found[0].probability.unbind(1)
        mine, their = np.array([shown.mean(), hidden.mean()]), answer_of(found[1])
    elif needs == "captum":
        mine, their = found[0]["ig" if len(asked["steps"]) == 1 else ("ig", 8)].numpy(), found[1][-1].numpy()
    else:
        mine, their = found[0]["map"].permute(0, 2, 3, 1).numpy(), answer_of(found[1])
    tolerance = 0.05 if len(asked["steps"] if needs == "captum" else [1]) > 1 else 1e-4  # another quadrature rule
    np.testing.assert_allclose(mine, their, atol=tolerance * np.abs(their).max(), rtol=0)


def test_blur_ig_pic_and_pixel_flipping_are_the_same_games(tiny):
    for needs in ("saliency", "quantus"):
        pytest.importorskip(needs)
    ours, theirs = peers.blur_sides(steps=4)
    np.testing.assert_allclose(ours()["map"][0].permute(1, 2, 0), theirs(), atol=1e-6)
    assert (tiny.prepared.seen_by(ours), tiny.loaded.seen_by(theirs)) == (4, 4)
    ours, theirs = peers.pic_sides()
    assert (tiny.prepared.seen_by(ours), tiny.loaded.seen_by(theirs)) == (15, 30)  # a curve at a time
    assert [each.excluded for each in ours()] == [("",)] * 2 and all(0 < each.auc <= 1 for each in theirs())
    assert "trapz" not in vars(np)  # NumPy is as it was
    ours, theirs = peers.quantus_sides(images=2)
    assert (tiny.prepared.seen_by(ours), tiny.loaded.seen_by(theirs)) == (
        44,
        42,
    )  # it does not look at the image itself


def test_a_peer_gets_the_batch_size_that_suits_it_best(monkeypatch):
    monkeypatch.setattr(peers, "TOGETHER", (4, 8, 16))
    monkeypatch.setattr(peers, "seconds", lambda action: {4: 3.0, 8: 1.0, 16: 2.0}[action()])
    assert peers.at_its_best(lambda together: together)() == 8


def test_the_released_mask_schedule_shows_96_images_for_each(tiny):
    shown = []

    def model(x):
        shown.append(x)
        return x.flatten(1)

    generator = torch.Generator().manual_seed(0)
    x, scores = torch.rand(3, 1, 8, 8, generator=generator), torch.randn(3, 8, 8, generator=generator)
    costs._released_schedule(model, x, scores, torch.zeros(3, dtype=torch.long))
    assert [len(each) for each in shown] == [2 * 96, 96]
    # the last of the first image's is that of order absolute, remove, fraction 1: every pixel with a score
    torch.testing.assert_close(shown[0][95], x[0])


# Units on a worker


def test_units_computed_in_this_process_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    overheads.worker_sides("", overheads.empty, range(3))[1]()
    assert not [*tmp_path.iterdir()]
