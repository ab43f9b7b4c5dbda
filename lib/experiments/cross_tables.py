"""What the rows of the cross matrix add up to: standings, a choice put to the test, comparisons at equal time.

A standing is the share of the other combinations that one beats on a photograph, between 0 and 1: it has one unit for
all metrics, and no photograph weighs more than another. A combination is a path with a rule, or a map without a path.
"""

from itertools import combinations as pairs_of

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from lib import InputError
from lib.experiments.cross_paths import ONE_LINE
from lib.experiments.cross_scores import FAMILIES, SMALLER_IS_BETTER

FAMILY = {metric: family for family, metrics in FAMILIES.items() for metric in metrics}
RANKED_TWICE = "insertion_ratio"  # on a photograph a constant times insertion, so that both give maps the same order
STANDING = "standing"  # the metric of a combination's mean standing, every family counting once
CHOSEN = "chosen"  # the path, in tables, of what was chosen on other photographs
METHODS = (
    "riemann",
    "riemann_abs",
    "idgi",
    "recalibrated_point",
    "recalibrated_reference",
)  # the other rules: controls
_BY_SEVERAL = ("riemann", "riemann_abs", "recalibrated_point", "recalibrated_reference")
TRIED = {  # rules that a paper of this study gives results of, on each path
    "straight": ("riemann", "riemann_abs", "idgi", "recalibrated_point"),
    "blur": ("riemann", "riemann_abs", "idgi"),
    "guided": ("riemann", "riemann_abs", "idgi"),
    "uniform": _BY_SEVERAL,
    "noise": _BY_SEVERAL,
    "dataset": _BY_SEVERAL,
    "adversarial": _BY_SEVERAL,
    "local": ("riemann", "riemann_abs"),
}
IMAGE = ["image", "label", "model", "mode"]
COMBINATION = ["path", "rule", "steps"]


def kind_of(path: str, rule: str) -> str:
    """ "tried" or "untried" by a paper of this study, or a "control", which no paper proposes, as relu(base).

    >>> kind_of("blur", "idgi"), kind_of("blur", "recalibrated_point"), kind_of("none", "gradient")
    ('tried', 'untried', 'control')
    """
    relu = path in ONE_LINE and rule == "recalibrated_reference"
    if path not in TRIED or rule not in METHODS or relu:
        return "control"
    return "tried" if rule in TRIED[path] else "untried"


def whole_walks(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of all metrics of FAMILIES, without those of half the evaluations."""
    scored = scores[scores["metric"].isin([*FAMILY])]
    most = scored.groupby(["path", "model"])["steps"].transform("max")
    return scored[(scored["path"] == "none") | (scored["steps"] == most)]


def standings(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of `whole_walks` with standings as values, and after them the rows of the metric STANDING.

    Without RANKED_TWICE, whose standings are those of insertion.

    Ties count half. A score that is not defined has no standing, and the others are ranked without it; of no photograph
    is a single combination ranked. STANDING is the mean over families of the mean over a family's metrics, of those
    that are defined. Raises InputError where no photograph has scores.

    >>> rows = pd.DataFrame({"image": "a", "label": 0, "model": "m", "mode": "corrected", "path": ["blur", "guided"],
    ...     "rule": "idgi", "steps": 4, "metric": "deletion_logit", "value": [0.2, 0.3]})
    >>> standings(rows)[["path", "metric", "value"]].values.tolist()[1:3]
    [['guided', 'deletion_logit', 0.0], ['blur', 'standing', 1.0]]
    """
    rows = whole_walks(scores)
    rows = rows[rows["metric"] != RANKED_TWICE]
    if rows.empty:
        raise InputError("no network classifies any of the photographs correctly; give others or other networks")
    better = rows["value"] * np.where(rows["metric"].isin(SMALLER_IS_BETTER), -1, 1)
    contest = better.groupby([rows[column] for column in (*IMAGE, "metric")])
    others = contest.transform("count") - 1
    rows = rows.assign(value=((contest.rank() - 1) / others.where(others > 0)))
    families = rows["metric"].map(FAMILY).rename("family")
    by_family = rows.groupby([*IMAGE, *COMBINATION, families], sort=False)["value"].mean()
    overall = by_family.groupby([*IMAGE, *COMBINATION], sort=False).mean().reset_index().assign(metric=STANDING)
    return pd.concat([rows, overall[rows.columns]], ignore_index=True)


def accord(places: pd.DataFrame) -> pd.DataFrame:
    """How alike the metrics rank on single photographs: rows of the metric "agreement", of no combination.

    The mean of Kendall's tau-b over all pairs of metrics from different families; NaN where no pair is defined.
    """
    rows = []
    for image, own in places[places["metric"].isin([*FAMILY])].groupby(IMAGE, sort=False):
        wide = own.pivot(index=COMBINATION, columns="metric", values="value").dropna(axis=1, how="all")
        pairs = [(a, b) for a, b in pairs_of(wide, 2) if FAMILY[a] != FAMILY[b]]
        taus = pd.Series([kendalltau(wide[a], wide[b], nan_policy="omit").statistic for a, b in pairs], dtype=float)
        rows.append((*image, taus.mean()))
    found = pd.DataFrame(rows, columns=[*IMAGE, "value"])
    return found.assign(path="none", rule="-", steps=0, metric="agreement")[places.columns]


def halves(images: list[str], seed: int) -> tuple[set[str], set[str]]:
    """The photographs in two halves, drawn by a seed; of an odd number the second has one more.

    >>> sorted(map(len, halves(["a", "b", "c"], seed=0)))
    [1, 2]
    """
    drawn = np.random.default_rng(seed).permutation(sorted(set(images))).tolist()
    middle = len(drawn) // 2
    return set(drawn[:middle]), set(drawn[middle:])


def choices(places: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The best of each kind on either half of the photographs: columns half, kind, path, rule, value (mean STANDING).

    Networks count alike. Of equal ones the first in the table's order. Half 0 and 1 are those of `halves`.
    """
    overall = places[places["metric"] == STANDING]
    found = []
    for number, half in enumerate(halves(overall["image"].tolist(), seed)):
        rows = overall[overall["image"].isin(half)]
        means = rows.groupby(["path", "rule", "model"], sort=False)["value"].mean()
        means = means.groupby(["path", "rule"], sort=False).mean().reset_index()
        means["kind"] = [kind_of(*each) for each in zip(means["path"], means["rule"], strict=True)]
        best = means.loc[means.groupby("kind", sort=False)["value"].idxmax()]
        found.append(best.assign(half=number))
    return pd.concat(found, ignore_index=True)[["half", "kind", "path", "rule", "value"]]


def put_to_test(rows: pd.DataFrame, places: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Rows of what was chosen on one half of the photographs, from the other half, in both directions.

    rows: of any metrics, STANDING among them; each combination of `choices` has path CHOSEN, and its kind as rule.
    """
    split = halves(places["image"].tolist(), seed)
    found = []
    for choice in choices(places, seed).itertuples():
        other = rows["image"].isin(split[1 - choice.half])
        mine = rows[other & (rows["path"] == choice.path) & (rows["rule"] == choice.rule)]
        found.append(mine.assign(path=CHOSEN, rule=choice.kind, steps=0))
    return pd.concat(found, ignore_index=True)


def at_equal_time(scores: pd.DataFrame) -> pd.DataFrame:
    """DiffID of ALSO_AT_HALF's rules with all evaluations, and with those that fit into the time of the quickest path.

    A path's time an evaluation is that of its whole walk, the median over photographs, because the first walk of a
    process takes longer. Between half the evaluations and all of them a photograph's score is taken from the straight
    line; less than half is not scored, and half stands for it. Photographs without a score are left out. Returns the
    columns of IMAGE, path, rule, evaluations (of the comparison), compared and value.
    """
    by = ["model", "path"]
    costs = scores[scores["metric"].isin(["seconds", "evaluations"])]
    costs = costs.pivot_table(index=by, columns="metric", values="value", aggfunc="median")
    quickest = costs["seconds"].groupby("model").transform("min")
    fits = (costs["evaluations"] * quickest / costs["seconds"]).rename("fits")
    rows = scores[(scores["metric"] == "diffid_logit") & ~scores["path"].isin(["none", CHOSEN])]
    keys = [*IMAGE, "path", "rule"]
    few, many = rows["steps"].min(), rows["steps"].max()
    wide = (
        rows.pivot(index=keys, columns="steps", values="value").dropna().reset_index().merge(fits.reset_index(), on=by)
    )
    at = wide["fits"].clip(few, many)
    between = wide[few] + (wide[many] - wide[few]) * (at - few) / (many - few)
    parts = [
        wide.assign(compared="evaluations", evaluations=float(many), value=wide[many]),
        wide.assign(compared="seconds", evaluations=at, value=between),
    ]
    return pd.concat(parts, ignore_index=True)[[*keys, "evaluations", "compared", "value"]]
