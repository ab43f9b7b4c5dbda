"""The kinds of test a claim can have (see the header of params/claims.yaml): from scores to a finding.

A kind is a function named as in the registry, (test, scores, protocol, evidence, seed) -> Finding.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.reporting.claims.evidence import ALPHA, Evidence, absent_from, cell_names, conditions, lacking_for, words
from lib.reporting.claims.notes import images_for, images_of_cells, joined, said_of_lacking, would_decide
from lib.reporting.statistics import bootstrap, interval, paired, resampled_means
from lib.reporting.stored import StoredScores, select

FEWEST = 6  # images: 2 / 2^6 is the first sign-flip p below .05
TOO_FEW = f"fewer than {FEWEST} images cannot decide: no sign-flip test could reach p < {ALPHA:g}"


@dataclass(frozen=True)
class Finding:
    """What a test found: `holds`, `fails`, `inconclusive` or `not run`, and the numbers beside it."""

    outcome: str
    note: str
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    p: float = math.nan


def order(test: dict, scores: pd.DataFrame | StoredScores, protocol: str, found: Evidence, seed: int) -> Finding:
    """Is a greater (less) than b: in every cell, or in the mean over cells?

    Estimate: the mean difference a - b over all cells, an image's cells resampled together. p: of the test
    that decides, the weakest one where the claim holds or stays open, the strongest adverse one where it
    fails.
    """
    if found.tests is None:
        return not_run(found.lacking)
    table, tests = found.table, found.tests.sort_values("p_holm", kind="stable")
    wins, losses = _significant(tests, 1), _significant(tests, -1)
    n, deciding = table["image"].nunique(), tests.iloc[-1]
    outcome, which = "inconclusive", "the weakest"
    if losses.any():
        outcome, which, deciding = "fails", "the strongest adverse", tests[losses].iloc[0]
    elif wins.all() and not found.lacking:
        outcome = "holds"
    if test["every"]:
        notes = [f"wins {wins.sum()} of {len(tests)} cells, loses {losses.sum()}"]
        notes += [f"p is of {which} cell, {deciding['tested']}"]
    else:
        gains = table.groupby("cell")["gain"].mean()
        notes = [f"mean over {len(gains)} cells, favourable in {(gains > 0).sum()}"]
    if n < FEWEST:
        notes.append(TOO_FEW)
    elif outcome == "inconclusive" and not wins.all():
        notes.append(would_decide(tests[~wins]))
    notes += [images_of_cells(found), f"family of {deciding['family']} tests", *said_of_lacking(found.lacking)]
    numbers = interval(table["difference"], clusters=table["image"], seed=seed)
    return Finding(outcome, joined(notes), *numbers, n, deciding["p_holm"])


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
    notes = [f"favourable in {(np.nanmean(matrix, 0) > 0).sum()} of {len(inside)} cells"]
    threshold, exceptional, universal, p = 0, True, False, math.nan
    if "within" in test:
        notes.append(f"{inside.sum()} of them with {words(test['within'])}")
    else:
        tests = found.tests
        wins, losses = _significant(tests, 1), _significant(tests, -1)
        threshold, exceptional, universal, p = 0.5, losses.any(), wins.all(), tests["p_holm"][losses].min()
        notes.append(f"{wins.sum()} won and {losses.sum()} lost significantly")
    outcome = "inconclusive"
    if n < FEWEST:
        notes.append(TOO_FEW)
    elif high < threshold or (universal and not found.lacking):
        outcome = "fails"
    elif low > threshold and exceptional and not found.lacking:
        outcome = "holds"
    elif low <= threshold:
        notes.append(images_for(threshold, estimate, low, high, n))
    elif not exceptional:
        notes.append(f"most, but no exception is significant; {would_decide(tests[~wins])}")
    notes += [images_of_cells(found), *said_of_lacking(found.lacking)]
    return Finding(outcome, joined(notes), estimate, low, high, n, p)


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
    holds = "inconclusive" if lacking else "holds"
    if test["statistic"] == "max":
        beyond = rows["value"] > limit if upper else rows["value"] < limit
        n = rows["image"].nunique() if "image" in rows else len(rows)
        worst = rows["value"].max() if upper else rows["value"].min()
        notes.insert(0, f"worst of {len(rows)} checks, {beyond.sum()} beyond the bound")
        return Finding("fails" if undefined or beyond.any() else holds, joined(notes), worst, n=n)
    if undefined == len(rows):
        return not_run([f"defined values with {words(where)}"])
    used = rows.dropna(subset="value")
    mean, low, high = interval(used["value"], clusters=used["image"], seed=seed)
    n, outcome = used["image"].nunique(), "inconclusive"
    if n < FEWEST:
        notes.append(TOO_FEW)
    elif high <= limit if upper else low >= limit:
        outcome = holds
    elif low > limit if upper else high < limit:
        outcome = "fails"
    else:
        notes.append(images_for(limit, mean, low, high, n))
    return Finding(outcome, joined(["mean over images", *notes]), mean, low, high, n)


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
    cells = list(both.groupby(cell_names(both, free), sort=False))
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
    notes = [
        f"largest of {len(cells)} cells, {largest}",
        f"{sum(inside)} within {limit:g}, {sum(beyond)} beyond",
    ]
    notes += [f"{both['difference'].isna().sum()} of {len(both)} scores left out"]
    outcome = "inconclusive"
    if min(rows["image"].nunique() for _, rows in cells) < FEWEST:
        notes.append(TOO_FEW)
    elif any(beyond):
        outcome = "fails"
    elif all(inside):
        outcome = "holds"
    else:
        notes.append(images_for(math.copysign(limit, shifts[largest][0]), *shifts[largest], len(both) // len(cells)))
    return Finding(outcome, joined(notes), *shifts[largest], both["image"].nunique())


def agree(test: dict, found: dict[str, dict[str, Evidence]], seed: int) -> Finding:
    """Are the conclusions (+, 0, -) of other claims' cells the same under both protocols?

    Estimate: the share of cells whose mean difference has the same sign in both, images resampled.

    found: {protocol: {claim: evidence}}
    """
    protocols = ("corrected", "released")
    if missing := [f"rows with mode = {protocol}" for protocol in protocols if protocol not in found]:
        return not_run(missing)
    signs, gains = {}, {}
    for protocol in protocols:
        mine = {name: found[protocol][name] for name in test["claims"]}
        if lacking := [part for evidence in mine.values() if evidence.tests is None for part in evidence.lacking]:
            return not_run(sorted(set(lacking)))
        tests = pd.concat([e.tests.assign(cell=f"{name} " + e.tests["tested"]) for name, e in mine.items()])
        signs[protocol] = (np.sign(tests["gain"]) * (tests["p_holm"] < ALPHA)).set_axis(tests["cell"])
        wide = {name: e.table.pivot_table(index="image", columns="tested", values="gain") for name, e in mine.items()}
        gains[protocol] = pd.concat([each.add_prefix(f"{name} ") for name, each in wide.items()], axis=1)
    corrected, released = (signs[protocol] for protocol in protocols)
    shared = corrected.index.intersection(released.index)
    images = gains["corrected"].index.intersection(gains["released"].index)
    if shared.empty or images.empty:
        return not_run(["cells and images that both protocols share"])
    matrix = np.hstack([gains[protocol].loc[images, shared] for protocol in protocols])

    def statistic(units: np.ndarray) -> np.ndarray:
        one, other = np.split(np.sign(resampled_means(matrix, units)), 2, axis=-1)
        return (one == other).mean(-1)

    flips = shared[corrected[shared] * released[shared] < 0]
    same = int((corrected[shared] == released[shared]).sum())
    alone = len(corrected) + len(released) - 2 * len(shared)
    notes = [f"{same} of {len(shared)} cells have the same conclusion", f"{len(flips)} flip"]
    notes += [f"flips: {', '.join(flips)}"] if len(flips) else []
    notes += [f"{alone} cells under one protocol only"] if alone else []
    n, outcome = len(images), "inconclusive"
    if n < FEWEST:
        notes.append(TOO_FEW)
    elif len(flips):
        outcome = "fails"
    elif same == len(shared) and corrected[shared].any() and not alone:
        outcome = "holds"
    elif same < len(shared):
        notes.append("the others are significant under one protocol only: more images would decide")
    else:
        notes.append("no cell is significant" if not corrected[shared].any() else "")
    return Finding(outcome, joined(notes), *bootstrap(statistic, n, seed=seed), n)


def not_run(lacking: list[str]) -> Finding:
    """The finding where the scores lack what the test asks for."""
    return Finding("not run", joined(said_of_lacking(lacking)))


def _significant(tests: pd.DataFrame, sign: int) -> pd.Series:
    return (tests["p_holm"] < ALPHA) & (np.sign(tests["gain"]) == sign)
