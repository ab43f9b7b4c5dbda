"""The kinds of test a claim can have (see the header of params/claims.yaml): from scores to a finding.

A kind is a function named as in the registry, (test, scores, protocol, evidence, seed) -> Finding.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.reporting.claims.evidence import ALPHA, Evidence, absent_from, cell_names, fewest_units, lacking_for, words
from lib.reporting.claims.notes import images_for, images_of_cells, joined, said_of_lacking, too_few, would_decide
from lib.reporting.claims.questions import conditions, unit_of
from lib.reporting.splits import overlapping_interval
from lib.reporting.statistics import bootstrap, interval, paired, resampled_means
from lib.reporting.stored import StoredScores, select

FEWEST = fewest_units(1)
NOT_TESTABLE = "not testable here"


@dataclass(frozen=True)
class Finding:
    """What a test found: `holds`, `fails`, `inconclusive`, `not testable here` or `not run`, and the numbers beside it.

    n: how many images, or splits, or for an exact claim, which has no interval, checks
    cells, cells_won: how many cells the mean is over, and how many of them have the claimed direction
    every: whether the claim holds in every cell, where that is what the paper says
    """

    outcome: str
    note: str
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    p: float = math.nan
    cells: int = 0
    cells_won: int = 0
    every: str = ""


def order(test: dict, scores: pd.DataFrame | StoredScores, protocol: str, found: Evidence, seed: int) -> Finding:
    """Is a greater (less) than b in the mean over cells, and, beside that, in every cell?

    Estimate: the mean difference a - b over all cells, a unit's cells resampled together. p: of that mean.
    Cells that the table lacks are named; the mean is over those that it has, whichever way it points.
    """
    if found.mean is None:
        return not_run(found.lacking)
    table, mean, cells = found.table, found.mean, found.cells
    wins, losses = _significant(cells, 1), _significant(cells, -1)
    n, favourable = table["image"].nunique(), int((cells["gain"] > 0).sum())
    outcome = "inconclusive"
    if mean["p_holm"] < ALPHA:
        outcome = "holds" if mean["gain"] > 0 else "fails"
    every = ""
    if test["every"]:
        every = "holds" if wins.all() and not found.lacking else "fails" if losses.any() else "inconclusive"
    notes = [f"mean over {len(cells)} cells, favourable in {favourable}"] if len(cells) > 1 else []
    notes += [f"{wins.sum()} of them by themselves, {losses.sum()} against"] if len(cells) > 1 else []
    if found.unit == "group":
        notes.append(f"{mean['n']} groups of images that share chance levels")
    if outcome == "inconclusive" and found.overlap is None and mean["n"] < fewest_units(mean["family"]):
        outcome = NOT_TESTABLE
        notes.append(too_few(mean["n"], mean["family"], fewest_units(mean["family"]), found.unit))
    elif outcome == "inconclusive":
        notes.append(would_decide(mean["needed"], found.unit))
    notes += [images_of_cells(found), f"family of {mean['family']} tests", *said_of_lacking(found.lacking)]
    if found.overlap is not None:
        numbers = overlapping_interval(table.groupby(found.unit)["difference"].mean(), found.overlap)
        notes.append("variance corrected for overlapping training sets")
    else:
        numbers = interval(table["difference"], clusters=table[found.unit], seed=seed)
    return Finding(outcome, joined(notes), *numbers, n, mean["p_holm"], len(cells), favourable, every)


def share(test: dict, scores: pd.DataFrame | StoredScores, protocol: str, found: Evidence, seed: int) -> Finding:
    """In which share of cells does a beat b: most, but not all? With `within`: are the exceptions inside?

    Estimate: the share of cells whose mean difference has the claimed direction (with `within`: the share
    outside minus the share inside), images resampled. p: of the strongest exception.
    """
    if found.table.empty:
        return not_run(found.lacking)
    gains = found.table.pivot(index="image", columns="cell", values="gain")
    matrix, n = gains.to_numpy(), len(gains)
    inside = np.zeros(matrix.shape[1], bool)
    if "within" in test:
        inside = gains.columns.isin(select(found.table, test["within"])["cell"])
        if inside.all() or not inside.any():
            return not_run([f"cells {'but' if inside.all() else 'with'} {words(test['within'])}"])

    def statistic(units: np.ndarray) -> np.ndarray:
        won = resampled_means(matrix, units) > 0
        return won[..., ~inside].mean(-1) - (won[..., inside].mean(-1) if inside.any() else 0)

    estimate, low, high = bootstrap(statistic, n, seed=seed)
    won = int((np.nanmean(matrix, 0) > 0).sum())
    notes = [f"favourable in {won} of {len(inside)} cells"]
    threshold, exceptional, universal, p, fewest = 0, True, False, math.nan, FEWEST
    if "within" in test:
        notes.append(f"{inside.sum()} of them with {words(test['within'])}")
    else:
        wins, losses = _significant(found.cells, 1), _significant(found.cells, -1)
        threshold, exceptional, universal = 0.5, losses.any(), wins.all()
        p, fewest = found.cells["p_holm"][losses].min(), fewest_units(found.cells["family"].iloc[0])
        notes.append(f"{wins.sum()} won and {losses.sum()} lost significantly")
    outcome = "inconclusive"
    if n < FEWEST:
        outcome = NOT_TESTABLE
        notes.append(too_few(n, 1, FEWEST))
    elif high < threshold or (universal and not found.lacking):
        outcome = "fails"
        notes.append("in all, where the claim says not in all" if universal else "")
    elif low > threshold and exceptional and not found.lacking:
        outcome = "holds"
    elif n < fewest:
        outcome = NOT_TESTABLE
        notes.append(too_few(n, found.cells["family"].iloc[0], fewest))
    elif low <= threshold:
        notes.append(images_for(threshold, estimate, low, high, n))
    elif not exceptional:
        notes += ["in most; whether in all is open", would_decide(found.cells["needed"][~wins].min())]
    notes += [images_of_cells(found), *said_of_lacking(found.lacking)]
    return Finding(outcome, joined(notes), estimate, low, high, n, p, len(inside), won)


def bound(test: dict, scores: pd.DataFrame | StoredScores, protocol: str, found: None, seed: int) -> Finding:
    """Is a quantity within its bound: its extreme (an exact claim), or its mean over images?"""
    where = conditions(test, scores, protocol)
    if lacking := lacking_for(scores, where):
        return not_run(lacking)
    rows, lacking = select(scores, where), absent_from(scores, where)
    upper = "at_most" in test
    limit = test["at_most" if upper else "at_least"]
    undefined = int(rows["value"].isna().sum())
    notes = [f"bound {limit:g}", f"{undefined} undefined" if undefined else "", *said_of_lacking(lacking)]
    if test["statistic"] == "max":
        beyond = rows["value"] > limit if upper else rows["value"] < limit
        worst = rows["value"].max() if upper else rows["value"].min()
        notes.insert(0, f"worst of {len(rows)} checks, {beyond.sum()} beyond the bound")
        holds = "inconclusive" if lacking else "holds"
        return Finding("fails" if undefined or beyond.any() else holds, joined(notes), worst, n=len(rows))
    if undefined == len(rows):
        return not_run([f"defined values with {words(where)}"])
    numbers, n, units = _mean(rows, test, seed)
    mean, low, high = numbers
    outcome = "inconclusive"
    if units < FEWEST:
        outcome = NOT_TESTABLE
        notes.append(too_few(units, 1, FEWEST))
    elif high <= limit if upper else low >= limit:
        outcome = "holds"
    elif low > limit if upper else high < limit:
        outcome = "fails"
    else:
        notes.append(images_for(limit, mean, low, high, n))
    return Finding(outcome, joined(["mean over images", *notes]), mean, low, high, n)


def equivalence(test: dict, scores: pd.DataFrame | StoredScores, protocol: str, found: None, seed: int) -> Finding:
    """Is a mean zero but for a margin? Two one-sided tests at 5 % each: its 90 % interval lies within the margin.

    It fails where the 95 % interval, which is the one shown, lies wholly beyond the margin on one side.
    """
    where = conditions(test, scores, protocol)
    if lacking := lacking_for(scores, where):
        return not_run(lacking)
    rows, margin = select(scores, where), test["margin"]
    if rows["value"].isna().all():
        return not_run([f"defined values with {words(where)}"])
    (mean, low, high), n, units = _mean(rows, test, seed)
    (_, inner, outer), *_ = _mean(rows, test, seed, level=1 - 2 * ALPHA)
    notes, outcome = [f"margin {margin:g}, 90 % interval {inner:.3g} to {outer:.3g}"], "inconclusive"
    notes += said_of_lacking(absent_from(scores, where))
    if units < FEWEST:
        outcome = NOT_TESTABLE
        notes.append(too_few(units, 1, FEWEST))
    elif -margin <= inner and outer <= margin:
        outcome = "holds"
    elif low > margin or high < -margin:
        outcome = "fails"
    else:
        notes.append(images_for(math.copysign(margin, mean), mean, inner, outer, n))
    return Finding(outcome, joined(notes), mean, low, high, n)


def _mean(rows: pd.DataFrame, test: dict, seed: int, level: float = 0.95) -> tuple[tuple, int, int]:
    used, unit = rows.dropna(subset="value"), unit_of(test, rows)
    units = used[unit].nunique()
    if "overlap" in test and units > 1:
        overlap = float(used[test["overlap"]].iloc[0])
        numbers = overlapping_interval(used.groupby(unit)["value"].mean(), overlap, level=level)
    else:
        numbers = interval(used["value"], clusters=used[unit], seed=seed, level=level)
    return numbers, used["image"].nunique(), units


def exclusion(test: dict, scores: pd.DataFrame | StoredScores, protocol: str, found: None, seed: int) -> Finding:
    """Does leaving out the images without a second score change the mean of the first?

    Estimate: mean over its own images - mean over the common ones, of the cell where that is largest, with an
    interval that is simultaneous over the cells (Bonferroni).
    """
    where = conditions(test, scores, protocol)
    if lacking := lacking_for(scores, where) + lacking_for(scores, {**where, **test["defined"]}):
        return not_run(lacking)
    first = {column: where[column] for column in test["defined"]}
    both = paired(scores, first, test["defined"], where=where).dropna(subset="a")
    if both.empty:
        return not_run([f"defined values with {words(where)}"])
    limit, shifts = test["at_most"], {}
    free = [c for c in both if c not in ("image", "label", "a", "b", "difference") and both[c].nunique() > 1]
    cells = list(both.groupby(cell_names(both, free), sort=False, observed=True))
    for name, rows in cells:
        matrix = np.stack([rows["a"].where(rows["difference"].notna()), rows["a"]], axis=1)
        shifts[name] = bootstrap(
            lambda units, matrix=matrix: np.diff(resampled_means(matrix, units))[..., 0],
            len(matrix),
            seed=seed,
            level=1 - ALPHA / len(cells),
        )
    inside = [-limit <= low and high <= limit for _, low, high in shifts.values()]
    beyond = [low > limit or high < -limit for _, low, high in shifts.values()]
    largest = max(shifts, key=lambda name: abs(shifts[name][0]))
    notes = [f"largest of {len(cells)} cells, {largest}", f"{sum(inside)} within {limit:g}, {sum(beyond)} beyond"]
    notes += [f"{both['difference'].isna().sum()} of {len(both)} scores left out"]
    outcome, fewest = "inconclusive", min(rows["image"].nunique() for _, rows in cells)
    if fewest < FEWEST:
        outcome = NOT_TESTABLE
        notes.append(too_few(fewest, 1, FEWEST))
    elif any(beyond):
        outcome = "fails"
    elif all(inside):
        outcome = "holds"
    else:
        notes.append(images_for(math.copysign(limit, shifts[largest][0]), *shifts[largest], len(both) // len(cells)))
    n = both["image"].nunique()
    return Finding(outcome, joined(notes), *shifts[largest], n, cells=len(cells), cells_won=sum(inside))


def not_run(lacking: list[str]) -> Finding:
    """The finding where the scores lack what the test asks for."""
    return Finding("not run", joined(said_of_lacking(lacking)))


def _significant(tests: pd.DataFrame, sign: int) -> pd.Series:
    return (tests["p_holm"] < ALPHA) & (np.sign(tests["gain"]) == sign)
