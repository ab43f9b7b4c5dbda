"""Rankings with their certainty: cases worked by hand, scipy as the oracle; and the table drawn in colours."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, kendalltau

from lib.reporting import plots
from lib.reporting.rankings import ENOUGH, leaders, resampled_ranking, taus


def table(values: dict[str, list[float]], metric: str = "insertion", model: str = "net") -> pd.DataFrame:
    """Scores of contestants on images i0, i1, …"""
    rows = [(f"i{n}", model, metric, name, value) for name, each in values.items() for n, value in enumerate(each)]
    return pd.DataFrame(rows, columns=["image", "model", "metric", "rule", "value"])


def of(rows: pd.DataFrame) -> pd.DataFrame:
    return leaders(resampled_ranking(rows, ["rule"], resamples=500)).set_index("rule")


def test_who_is_best_on_every_image_wins_where_images_suffice():
    found = of(table({"a": [1.0] * ENOUGH, "b": [0.5] * ENOUGH, "c": [0.0] * ENOUGH}))
    assert found["rank"].tolist() == found["low"].tolist() == found["high"].tolist() == [1, 2, 3]
    assert found["first"].tolist() == [1, 0, 0] and found["top_three"].tolist() == [1, 1, 1]
    assert found["winner"].tolist() == [True, False, False]
    equal = of(table({"a": [1.0] * ENOUGH, "b": [1.0] * ENOUGH, "c": [0.0] * ENOUGH}))
    assert equal["first"].tolist() == [1, 1, 0] and not equal["winner"].any()  # nobody is first alone
    few = of(table({"a": [1.0] * (ENOUGH - 1), "b": [0.5] * (ENOUGH - 1)}))
    assert few["first"].tolist() == [1, 0] and not few["winner"].any()


def test_the_share_of_firsts_is_that_of_resamples_in_which_nobody_is_better():
    # b leads only where image i0, on which alone it is better, is drawn at least twice: 2 k > 5 - k
    found = of(table({"a": [0.0, 1, 1, 1, 1], "b": [2.0, 0, 0, 0, 0]}))
    assert found.loc["b", "first"] == pytest.approx(binom.sf(1, 5, 0.2), abs=0.07)
    assert not found["winner"].any()


def test_networks_of_an_image_are_drawn_together_and_count_alike():
    good, bad = [0.0, 1.0, 2.0, 7.0, 3.0, 5.0], [5.0, 4.0, 3.0, -2.0, 2.0, 0.0]
    rows = pd.concat([table({"a": good, "b": bad}, model="one"), table({"a": bad, "b": good}, model="other")])
    found = of(rows)
    assert found["rank"].tolist() == found["low"].tolist() == found["high"].tolist() == [1.5, 1.5]
    assert found["first"].tolist() == [1, 1]


def test_an_image_without_a_score_is_left_out_of_that_metric_only():
    rows = pd.concat(
        [table({"a": [1.0, np.nan], "b": [0.0, np.nan]}, "sic_png"), table({"a": [0.0, 0], "b": [1.0, 1]})]
    )
    ranking = resampled_ranking(rows, ["rule"], resamples=200)
    np.testing.assert_array_equal(ranking.means, [[1, 0], [0, 1]])
    lead = leaders(ranking).set_index(["metric", "rule"])
    assert lead.loc[("sic_png", "a"), "first"] == 1  # of the resamples that have the image
    none = leaders(resampled_ranking(table({"a": [np.nan], "b": [np.nan]}), ["rule"], resamples=50))
    assert none["first"].tolist() == [0, 0] and none["rank"].isna().all()


def test_tau_is_scipys_with_ties():
    generator = np.random.default_rng(0)
    scores = {
        name: generator.integers(0, 4, (7, 12)).astype(float) for name in ("insertion", "diffid_logit", "aic_png")
    }
    rows = pd.concat([table(dict(zip("abcdefghijkl", each.T, strict=True)), name) for name, each in scores.items()])
    found = taus(resampled_ranking(rows, ["rule"], resamples=100)).set_index(["one", "other"])
    assert len(found) == 3
    for (one, other), row in found.iterrows():
        assert row["mean"] == pytest.approx(kendalltau(scores[one].mean(0), scores[other].mean(0)).statistic)
        assert -1 <= row["low"] <= row["high"] <= 1


def test_equal_and_opposite_rankings_have_tau_one_and_minus_one_in_every_resample():
    values = {"a": [3.0] * 6, "b": [2.0] * 6, "c": [1.0] * 6}
    up, down = table(values), table({name: [-v for v in each] for name, each in values.items()}, "aic_png")
    found = taus(resampled_ranking(pd.concat([up, up.assign(metric="sic_png"), down]), ["rule"], resamples=50))
    assert found[["mean", "low", "high"]].to_numpy().tolist() == [[1, 1, 1], [-1, -1, -1], [-1, -1, -1]]


def test_a_heat_map_has_names_a_scale_and_a_frame_around_what_is_marked():
    index = pd.MultiIndex.from_tuples([("straight", "idgi"), ("straight", "riemann"), ("none", "random")])
    values = pd.DataFrame([[0.1, 0.9], [0.5, np.nan], [0.3, 0.4]], index=index, columns=["insertion", "aic_png"])
    figure = plots.heat_map(values, label="standing", span=(0, 1), marked=[(("straight", "idgi"), "aic_png")])
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["IG, base + IDGI", "IG, base", "random"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["insertion", "AIC, entropy"]
    assert axis.collections[0].get_clim() == (0, 1) and axis.collections[0].get_cmap().name == "RdBu"
    assert [text.get_text() for text in axis.texts] == ["0.10", "0.90", "0.50", "0.30", "0.40"]
    (frame,) = axis.patches
    assert frame.get_xy() == (1, 0)
    plt.close("all")
