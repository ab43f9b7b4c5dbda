"""A method beside its rivals: who is ahead, on which metric, and when nobody is."""

import pandas as pd
import pytest

from lib import InputError
from lib.experiments.own_rule import OWN, SCORED
from lib.reporting.claims.verdicts import FEWEST
from lib.reporting.rivals import against, by_method, counted_standings, method_name, rivals_figure

IMAGES = [f"image {n}" for n in range(8)]


@pytest.fixture(scope="module")
def scores():
    """One's own is better than IG by .1 on each image by two metrics, and now better, now worse than a random map."""
    rows = []
    for n, image in enumerate(IMAGES):
        alike = 0.1 if n % 2 else -0.1
        levels = {("straight", "riemann"): -0.1, ("none", "random"): alike, (OWN, "mine"): 0.0}
        for (path, rule), level in levels.items():
            for metric, sign in (("insertion", 1), ("deletion_logit", -1)):
                value = 0.5 + n / 20 + sign * level
                rows.append((image, "net", path, rule, 8, metric, value))
        rows.append((image, "net", "none", "-", 0, "right", 1.0))
    return pd.DataFrame(rows, columns=["image", "model", "path", "rule", "steps", "metric", "value"])


@pytest.fixture(scope="module")
def table(scores):
    return against(by_method(scores), "mine")


def test_methods_have_the_names_that_papers_use():
    named = [method_name(*each) for each in (("straight", "riemann"), ("guided", "idgi"), ("noise", "riemann_abs"))]
    assert named == ["IG", "Guided IG + IDGI", "|IG-SG|"]
    assert method_name("straight", "squared_gradient") == "IG, Σ gradient²"
    assert method_name(OWN, "riemann") == "riemann"  # the author's own name, whatever it is


def test_only_scores_are_compared(scores):
    rows = by_method(scores)
    assert set(rows["metric"]) == {"insertion", "deletion_logit"} <= set(SCORED)
    assert list(rows["method"].unique()) == ["IG", "random", "mine"]


def test_better_is_positive_whether_more_is_better_or_less(table):
    rows = table.set_index(["rival", "metric"])
    for metric in ("insertion", "deletion_logit"):
        assert rows.loc[("IG", metric), "mean"] == pytest.approx(0.1)
        assert rows.loc[("IG", metric), "standing"] == "ahead"
        assert rows.loc[("random", metric), "mean"] == pytest.approx(0, abs=1e-12)
        assert rows.loc[("random", metric), "standing"] == "undecided"
    assert (rows["n"] == len(IMAGES)).all()


def test_the_other_side_is_behind(scores):
    rows = against(by_method(scores), "IG").set_index(["rival", "metric"])
    assert (rows.loc["mine", "standing"] == "behind").all()


def test_a_handful_of_images_decides_nothing(scores):
    rows = against(by_method(scores[scores["image"].isin(IMAGES[: FEWEST - 1])]), "mine")
    assert (rows["standing"] == "undecided").all()
    assert rows[["low", "high"]].isna().all(None)
    assert rows.loc[rows["rival"] == "IG", "mean"].tolist() == pytest.approx([0.1, 0.1])
    assert rivals_figure(rows, ["insertion"], mine="mine").axes  # means without intervals
    enough = against(by_method(scores[scores["image"].isin(IMAGES[:FEWEST])]), "mine")
    assert (enough.loc[enough["rival"] == "IG", "standing"] == "ahead").all()


def test_standings_are_counted_by_metric(table):
    counted = counted_standings(table).set_index("metric")
    assert counted.loc["insertion"].to_dict() == {"ahead": 1, "behind": 0, "undecided": 1, "n": 8}


def test_a_method_without_scores_is_refused(scores):
    with pytest.raises(InputError, match="did you mean 'mine'"):
        against(by_method(scores), "mime")


def test_the_figure_has_a_panel_a_metric_and_a_line_a_rival(table):
    figure = rivals_figure(table, ["insertion", "deletion_logit"], mine="mine")
    assert [axis.get_title() for axis in figure.axes] == ["insertion", "pixel\nperturbation\n(logit)"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["IG", "random"]
