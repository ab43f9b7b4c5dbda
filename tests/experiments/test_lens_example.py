"""The cases where LENS's answer is known, and the figures that show what it counts."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from lib.experiments import lens_example
from lib.reporting import plots


def test_a_shift_within_the_window_costs_top_k_but_not_lens():
    maps = torch.rand(2, 40, 40, generator=torch.Generator().manual_seed(0))
    found = lens_example.shifted(maps, ["a", "b"], shifts=[0, 1, 3], k=30, radii=[1])
    means = found.groupby(["metric", "shift"])["value"].mean()
    assert means["top_k", 0] == means["lens_recall_1", 0] == 1
    assert means["lens_recall_1", 1] > 0.9 > 0.5 > means["top_k", 1]
    assert means["lens_recall_1", 3] < 0.5


def test_unrelated_maps_score_about_the_formula_and_infeasible_cells_have_no_score():
    found = lens_example.unrelated({28: 100}, count=6, radii=[1, 2]).set_index("w")
    assert found.loc[1, "recall"] == pytest.approx(found.loc[1, "formula"], abs=0.05)
    assert found.loc[1, "formula"] == pytest.approx(1 - (1 - 100 / 784) ** 9)
    assert found.loc[1, "picked"] == 100 > found.loc[2, "picked"]
    assert pd.isna(found.loc[2, "recall_div"])


def test_figures_of_neighbourhoods_and_of_chance_levels():
    maps = {name: torch.rand(20, 20, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("abc")}
    figure = plots.neighbourhoods(maps["a"][None], maps, k=20, w=1, notes={"b": "top-k .5"})
    assert [axis.get_title() for axis in figure.axes[:4]] == ["image", "a", "b", "c"]
    rows = [("gradient", "top_k", 0.4), ("gradient", "top_k_chance", 0.1), ("lrp", "top_k", 0.5)]
    table = pd.DataFrame(rows, columns=["method", "metric", "mean"]).assign(model="m")
    figure = plots.beside_chance(table.assign(low=0.3, high=0.6), rows="method", panels="model", xlabel="share")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["gradient", "LRP-ε"]
    drawn = [line.get_xdata().tolist() for line in figure.axes[0].lines]
    assert [0.4, 0.5] in drawn and any(each[:1] == [0.1] for each in drawn)
    plt.close("all")
