"""The benchmark's bookkeeping; its timings are for `make bench` alone."""

import pytest
import torch

from lib import bench


def test_a_row_has_medians_and_quartiles_of_the_paired_ratios():
    row = bench.row("case", [(2.0, 1.0), (3.0, 1.0), (8.0, 2.0), (10.0, 2.0), (6.0, 1.0)])
    assert row["case"] == "case" and row["runs"] == 5
    assert (row["ours"], row["peer"]) == (6.0, 1.0)
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
    bench.bare(model, x, torch.zeros(images, dtype=torch.long), passes)()
    assert evaluated == images * passes
