"""Statistics: hand-worked cases, scipy as the oracle, and what must be refused."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib import InputError
from lib.reporting.bands import band
from lib.reporting.bca import bca_ends
from lib.reporting.statistics import (
    bootstrap,
    change,
    contrasts,
    holm,
    interval,
    needed_n,
    paired,
    resampled_means,
    select,
    sign_flip,
    summary,
)

VALUES = np.random.default_rng(0).normal(0.3, 1, 18)


def table(rows, columns="image model path rule steps metric value"):
    return pd.DataFrame(rows, columns=columns.split())


SCORES = table(
    [
        (image, model, path, rule, steps, "insertion", value)
        for image, level in (("cat", 1.0), ("dog", 2.0))
        for model in ("lite0", "resnet50")
        for path, most in (("straight", 16), ("guided", 8))
        for steps in (8, 16)
        if steps <= most
        for rule, value in (("riemann", level), ("idgi", level + steps / 8))
    ]
    + [
        (image, model, "none", "random", 0, "insertion", 0.5)
        for image in ("cat", "dog")
        for model in ("lite0", "resnet50")
    ]
)


@pytest.mark.parametrize("n", [2, 3, 12, 50])
@pytest.mark.parametrize("kind", ["normal", "skewed", "binary", "constant", "all but one zero"])
def test_the_interval_of_a_mean_is_scipys(n, kind):
    """Which knows nothing of how a mean changes when one image is left out."""
    generator = np.random.default_rng(n)
    values = {
        "normal": generator.normal(size=n),
        "skewed": generator.exponential(size=n),
        "binary": (generator.random(n) < 0.5).astype(float),
        "constant": np.ones(n),
        "all but one zero": np.eye(n)[0],
    }[kind]
    values = np.round(values * 1024) / 1024  # sums are exact, so that scipy sees ties as ties
    clusters = generator.integers(0, max(2, n // 2), n)  # images with one, two or more rows
    _, index = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(index, values), np.bincount(index)
    theirs = bootstrap(lambda units: sums[units].sum(-1) / sizes[units].sum(-1), len(sums), resamples=499)
    assert interval(values, clusters=clusters, resamples=499) == pytest.approx(theirs, rel=1e-12, nan_ok=True)


def test_an_interval_far_from_zero_is_the_one_at_zero():
    """Rounding is a million times as large there: scipy's own ends move by a tenth of the deviation."""
    values, images = np.random.default_rng(12).normal(size=12), list("aabbccddeefg")
    near, far = (interval(at + values, clusters=images, resamples=499) for at in (0, 1e6))
    np.testing.assert_allclose(np.array(far) - 1e6, near, atol=1e-8)


def test_constants_have_a_point_interval():
    assert interval([2.0] * 7) == (2, 2, 2)


def test_one_image_has_no_interval():
    mean, low, high = interval([3.0, 5.0], clusters=["cat", "cat"])
    assert mean == 4
    assert math.isnan(low)
    assert math.isnan(high)


def test_interval_is_scipys_bca_interval():
    expected = stats.bootstrap(
        (VALUES,), np.mean, method="BCa", n_resamples=2_000, rng=np.random.default_rng(3)
    ).confidence_interval
    assert interval(VALUES, seed=3, resamples=2_000) == pytest.approx((VALUES.mean(), expected.low, expected.high))


def test_the_bca_interval_does_not_depend_on_the_order_of_a_sum():
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.55, 0.7])
    drawn = values[np.random.default_rng(0).integers(6, size=(2_000, 6))]
    left_out = (values.sum() - values) / 5
    sums = [each.copy() for each in (drawn, drawn[:, ::-1], np.sort(drawn), np.sort(drawn)[:, ::-1])]
    means = [np.add.reduce([*each.T]) / 6 for each in sums]  # one addition after the other, in this order
    assert len({int((each < values.mean()).sum()) for each in means}) > 1  # ties fall on either side
    ends = [bca_ends(each, values.mean(), left_out, level=0.95) for each in means]
    np.testing.assert_allclose(ends, ends[:1] * 4, rtol=1e-12)


def test_the_bca_interval_does_not_depend_on_seven_digits():
    values = np.random.default_rng(3).integers(-3, 4, 17) / 3_000
    stored = np.array([float(f"{value:.7g}") for value in values])
    np.testing.assert_allclose(interval(stored), interval(values), rtol=1e-6)


def test_a_wider_level_gives_a_wider_interval():
    _, low, high = interval(VALUES)
    _, lower, higher = interval(VALUES, level=0.99)
    assert lower < low < high < higher


def test_repeating_an_images_rows_does_not_narrow_its_clusters_interval():
    images = np.repeat(np.arange(18), 3)
    assert interval(np.repeat(VALUES, 3), clusters=images) == pytest.approx(interval(VALUES))
    _, low, high = interval(np.repeat(VALUES, 3))
    assert high - low < 0.7 * (interval(VALUES)[2] - interval(VALUES)[1])


def test_unbalanced_clusters_weigh_by_their_rows():
    assert interval([0.0, 3.0, 3.0], clusters=["a", "b", "b"])[0] == 2


@pytest.mark.parametrize("function", [interval, sign_flip, holm, needed_n])
@pytest.mark.parametrize("values", [[], [1.0, math.nan]])
def test_nan_and_nothing_are_refused(function, values):
    with pytest.raises(InputError, match="without NaN"):
        function(values)


def test_bootstrap_falls_back_to_percentiles_for_a_degenerate_statistic():
    matrix = np.array([[1.0], [2.0], [3.0]])
    found = bootstrap(lambda units: np.sign(resampled_means(matrix, units)[..., 0]), 3)
    assert found == (1, 1, 1)


def test_resampled_means_leave_nan_out():
    matrix = np.array([[1.0, np.nan], [3.0, 4.0], [5.0, 8.0]])
    np.testing.assert_allclose(resampled_means(matrix, np.array([[0, 0, 1], [2, 1, 0]])), [[5 / 3, 4], [3, 6]])


def test_band_is_narrowest_where_images_agree():
    mean, low, high = band(np.stack([np.zeros(12), np.arange(12.0)], axis=1))
    np.testing.assert_allclose(mean, [0, 5.5])
    assert low[0] == high[0] == 0
    # normal approximation: 5.5 ± 1.96 * 3.45 / sqrt(12)
    np.testing.assert_allclose([low[1], high[1]], [3.55, 7.45], atol=0.3)


def test_sign_flip_of_six_positive_values_is_two_in_64():
    assert sign_flip([1.0, 2, 3, 4, 5, 6]) == 2 / 64
    assert sign_flip([-1.0, -2, -3, -4, -5]) == 2 / 32


def test_sign_flip_by_hand():
    # sums of (±3, ±1, ±1): |sum| >= 3 for +++, ++-, +-+ and their negatives; 3 - 1 - 1 = 1 is below
    assert sign_flip([3.0, 1.0, -1.0]) == 6 / 8
    assert sign_flip([0.0, 0.0]) == 1


@pytest.mark.parametrize("n", [7, 13])
def test_exact_sign_flip_is_scipys_permutation_test(n):
    expected = stats.permutation_test(
        (VALUES[:n],), np.sum, permutation_type="samples", n_resamples=math.inf, vectorized=True
    ).pvalue
    assert sign_flip(VALUES[:n]) == pytest.approx(expected)


def test_random_sign_flips_agree_with_the_t_test_and_never_reach_zero():
    values = np.random.default_rng(1).normal(0.15, 1, 150)
    assert sign_flip(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)
    assert sign_flip(np.ones(40)) == 1 / 10_000
    assert sign_flip(np.ones(40), resamples=99) == 1 / 100


def test_exact_and_random_sign_flips_agree():
    exact = sign_flip(VALUES)
    random = sign_flip(np.concatenate([VALUES, np.zeros(5)]))  # zeros change nothing but the method
    assert random == pytest.approx(exact, abs=0.01)


def test_holm_by_hand():
    # sorted: 3 * .01, 2 * .02 = .04, 1 * .03 raised to the one before
    np.testing.assert_allclose(holm([0.03, 0.01, 0.02]), [0.04, 0.03, 0.04])
    np.testing.assert_allclose(holm([0.6, 0.5]), [1, 1])


def test_needed_n_by_hand():
    values = [
        0.0,
        2.0,
        0.0,
        2.0,
        0.0,
        2.0,
        0.0,
        2.0,
    ]  # mean 1, variance 8/7: n = 1.96^2 * 8/7 = 4.4, at least 6
    assert needed_n(values) == 6
    assert needed_n(np.subtract(values, 0.9)) == math.ceil(1.959964**2 * 8 / 7 / 0.1**2)
    assert needed_n(np.subtract(values, 0.9), level=0.001) > needed_n(np.subtract(values, 0.9))
    assert needed_n([1.0, -1.0]) == math.inf


def test_select_values_lists_and_patterns():
    assert set(select(SCORES, {"model": "resnet*"})["model"]) == {"resnet50"}
    assert set(select(SCORES, {"path": ["guided", "none"]})["path"]) == {"guided", "none"}
    assert select(SCORES, {"rule": "unheard of", "steps": "largest"}).empty


def test_select_takes_the_largest_steps_of_each_path():
    found = select(SCORES, {"rule": "idgi", "steps": "largest"})
    assert set(found[["path", "steps"]].itertuples(index=False, name=None)) == {
        ("straight", 16),
        ("guided", 8),
    }
    assert set(select(SCORES, {"path": "straight", "steps": "smallest"})["steps"]) == {8}


def test_select_names_the_nearest_column():
    with pytest.raises(InputError, match="did you mean 'metric'"):
        select(SCORES, {"metrc": "insertion"})


def test_paired_differences_by_hand():
    found = paired(SCORES, {"rule": "idgi"}, {"rule": "riemann"}, where={"path": "straight"})
    assert len(found) == 2 * 2 * 2
    np.testing.assert_allclose(found["difference"], found["steps"] / 8)


def test_paired_is_aligned_on_image_and_model_whatever_the_order_of_rows():
    shuffled = SCORES.sample(frac=1, random_state=1)
    found = paired(shuffled, {"rule": "idgi"}, {"rule": "riemann"})
    np.testing.assert_allclose(found["difference"], found["steps"] / 8)


def test_one_random_map_is_the_control_of_every_path():
    control = {"rule": "random", "path": "none", "steps": 0}
    found = paired(SCORES, {"rule": "riemann"}, control)
    assert set(found["path"]) == {"straight", "guided"}
    assert set(found["difference"]) == {0.5, 1.5}


def test_paired_keeps_what_has_no_counterpart_as_nan():
    holed = SCORES.drop(SCORES[(SCORES["rule"] == "riemann") & (SCORES["image"] == "dog")].index)
    holed.loc[(holed["image"] == "cat") & (holed["model"] == "lite0"), "value"] = np.nan
    found = paired(holed, {"rule": "idgi"}, {"rule": "riemann"})
    assert set(found.dropna()["image"] + found.dropna()["model"]) == {"catresnet50"}
    assert len(found) == 12


def test_an_ambiguous_counterpart_is_refused():
    with pytest.raises(InputError, match="several rows"):
        paired(SCORES, {"rule": "idgi", "steps": 8}, {"rule": "riemann", "path": "straight"})


def test_change_between_the_ends_of_a_grid():
    found = change(SCORES, "steps")
    assert set(found["path"]) == {"straight"}  # one grid only: guided and random have no change
    assert found.groupby("rule")["value"].unique().map(list).to_dict() == {"riemann": [0], "idgi": [1]}
    assert "steps" not in found


def test_summary_of_no_scores_has_its_columns():
    """As where a network recognises no photograph."""
    scores = pd.DataFrame({"image": [], "model": [], "value": []})
    found = summary(scores, ["model"])
    assert list(found) == ["model", "mean", "low", "high", "n", "excluded"]
    assert len(found) == 0
    assert found["mean"].dtype == float


def test_summary_pools_models_by_image_and_counts_exclusions():
    holed = SCORES.copy()
    holed.loc[(holed["image"] == "dog") & (holed["rule"] == "idgi"), "value"] = np.nan
    found = summary(holed[holed["path"] == "guided"], ["rule"]).set_index("rule")
    assert found.loc["riemann", ["mean", "n", "excluded"]].tolist() == [1.5, 2, 0]
    assert found.loc["idgi", ["mean", "n", "excluded"]].tolist() == [2, 1, 1]


def test_contrasts_summarise_paired_differences():
    found = contrasts(SCORES, {"rule": "idgi"}, {"rule": "riemann"}, by=["path", "steps"])
    assert found.set_index(["path", "steps"])["mean"].to_dict() == {
        ("straight", 8): 1,
        ("straight", 16): 2,
        ("guided", 8): 1,
    }
