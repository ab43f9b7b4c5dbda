"""A method of one's own beside its rivals: differences on the same images, turned so that more speaks for it."""

import textwrap
from collections.abc import Collection, Mapping

import pandas as pd
from matplotlib.figure import Figure

from lib import InputError, nearest
from lib.experiments.own_rule import OWN, SCORED
from lib.reporting.claims.verdicts import FEWEST
from lib.reporting.plots.dots import forest
from lib.reporting.plots.names import named
from lib.reporting.statistics import contrasts

WORDS = {  # of rules, for the name of the path
    "riemann": "{}",
    "riemann_abs": "|{}|",
    "idgi": "{} + IDGI",
    "recalibrated_point": "{}, re-calibrated",
    "recalibrated_reference": "{}, re-calibrated by reference",
}
AHEAD, BEHIND, UNDECIDED = "ahead", "behind", "undecided"


def method_name(path: str, rule: str) -> str:
    """What a path with a rule is called; a method of one's own by the name that its author gave it.

    >>> method_name("blur", "idgi"), method_name("none", "gradient"), method_name("own", "mine")
    ('Blur IG + IDGI', 'gradient', 'mine')
    """
    if path in (OWN, "none"):
        return rule if path == OWN else named(rule)
    return WORDS.get(rule, "{}, " + named(rule)).format(named(path))


def by_method(scores: pd.DataFrame, metrics: Mapping[str, bool] = SCORED) -> pd.DataFrame:
    """The rows of some metrics, with columns image, model, method, metric, value; see `method_name`."""
    rows = scores[scores["metric"].isin([*metrics])]
    named_so = [method_name(*each) for each in zip(rows["path"], rows["rule"], strict=True)]
    return rows.assign(method=named_so)[["image", "model", "method", "metric", "value"]]


def against(scores: pd.DataFrame, mine: str, metrics: Mapping[str, bool] = SCORED) -> pd.DataFrame:
    """Mean differences of the method `mine` to every other, on the images that both have, with 95 % intervals.

    scores: of `by_method`; metrics: {metric: whether more is better}. Differences of the others are turned, so that a
    positive one always speaks for `mine`.
    Returns one row per rival and metric: mean, low, high, n, excluded, and `standing`, which is "undecided" where the
    interval contains 0. Intervals are of one comparison each: of twenty, one excludes 0 by chance. Fewer than FEWEST
    images have no interval (NaN) and decide nothing.
    Raises InputError for a method that has no rows.

    >>> rows = [(image, "net", method, "m", 2.0 * k) for image in "abcdef" for k, method in enumerate("xy")]
    >>> scores = pd.DataFrame(rows, columns=["image", "model", "method", "metric", "value"])
    >>> against(scores, "x", {"m": False})[["rival", "mean", "standing"]].values.tolist()
    [['y', 2.0, 'ahead']]
    """
    methods = list(dict.fromkeys(scores["method"]))
    if mine not in methods:
        raise InputError(f"no method {mine!r} was scored; {nearest(mine, methods)}")
    signs = scores["metric"].map({metric: 1 if more else -1 for metric, more in metrics.items()})
    turned = scores.assign(value=scores["value"] * signs)
    found = [
        contrasts(turned, {"method": mine}, {"method": rival}, by=["metric"]).assign(rival=rival)
        for rival in methods
        if rival != mine
    ]
    table = pd.concat(found, ignore_index=True)
    table.loc[table["n"] < FEWEST, ["low", "high"]] = float("nan")
    standing = pd.Series(UNDECIDED, index=table.index)
    return table.assign(standing=standing.mask(table["low"] > 0, AHEAD).mask(table["high"] < 0, BEHIND))


def counted_standings(table: pd.DataFrame) -> pd.DataFrame:
    """How many rivals the method is ahead of, behind, and neither, by each metric of `against`; n: images, at most."""
    counts = pd.crosstab(table["metric"], table["standing"]).reindex(columns=[AHEAD, BEHIND, UNDECIDED], fill_value=0)
    images = table.groupby("metric", sort=False)["n"].max()
    counts = counts.reindex(images.index).assign(n=images).rename(index=named)
    return counts.rename_axis(columns=None).reset_index()


def rivals_figure(table: pd.DataFrame, metrics: Collection[str], *, mine: str) -> Figure:
    """The differences of `against` by some metrics: a line for each rival, filled where the interval excludes 0."""
    rows = table[table["metric"].isin([*metrics])]
    titles = [textwrap.fill(named(metric), 16) for metric in rows["metric"]]
    rows = rows.assign(path=rows["rival"], model="", metric=titles)
    return forest(rows, xlabel="difference; to the right: better than the rival", favours=("the rival", mine))
