"""What questions that compare two sides rest on: per-image differences by cell, tested and Holm-corrected."""

import math
from typing import NamedTuple

import pandas as pd

from lib.reporting.claims.questions import Question, conditions, unit_of
from lib.reporting.splits import overlapping_p
from lib.reporting.statistics import RESAMPLES, change, holm, needed_n, paired, sign_flip
from lib.reporting.stored import StoredScores, cells_of, portions, select

ALPHA = 0.05


class Evidence(NamedTuple):
    """The paired comparison behind one question.

    table: one row per image and cell: image, the columns that tell cells apart, cell, difference (a - b), gain (the
        difference in the claimed direction)
    overlap: of splits, see `lib.reporting.splits`; None for other units
    unit: the column whose values are independent of each other: `image`, or `group` for scores that are adjusted by
        chance levels which the images of a group share
    mean: the test of the mean over all cells: gain, n (units), p, p_holm, family (tests), needed (units); None for a
        question that needs no test, and where the table lacks what it asks for
    cells: the same for each cell, one row each
    images: how many images each cell has, excluded ones included
    lacking: what the table of scores does not have, of what the test asks for
    """

    table: pd.DataFrame
    overlap: float | None
    unit: str
    mean: pd.Series | None
    cells: pd.DataFrame | None
    images: pd.Series
    lacking: list[str]


def gather(questions: list[Question], scores: pd.DataFrame | StoredScores, *, seed: int = 0) -> list[Evidence | None]:
    """The evidence for every question that compares two sides, None for the others.

    Holm's correction sees the means of a family of questions together, see `Question.family`, and their cells together.
    Questions with `within` are decided by an interval alone and add no tests. A protocol other than the corrected one
    is judged on the images that the corrected one scores, so that the two differ by code and not by images.
    """
    found, scored = [], {}
    for question in questions:
        if "a" not in question.test:
            found.append(None)
            continue
        evidence = _compare(question, scores)
        same = question.claim.id, question.metric, question.population.kind
        if question.protocol == "corrected":
            scored[same] = _identities(evidence.table)
        elif same in scored and len(evidence.table):
            there = _identities(evidence.table.assign(difference=0.0)).isin(scored[same])
            kept = evidence.table[there.to_numpy()]
            evidence = evidence._replace(table=kept.assign(cell=kept["cell"].cat.remove_unused_categories()))
        found.append(evidence)
    families: dict[tuple, list[int]] = {}
    for place, (question, evidence) in enumerate(zip(questions, found, strict=True)):
        if evidence is not None and len(evidence.table) and "within" not in question.test:
            families.setdefault(question.family, []).append(place)
    for places in families.values():
        means, cells = [], []
        for place in places:
            means.append(_tested(found[place], found[place].table.assign(cell="all cells"), seed))
            cells.append(_tested(found[place], found[place].table, seed))
        for tests, name in ((_corrected(means), "mean"), (_corrected(cells), "cells")):
            for place, rows in zip(places, tests, strict=True):
                found[place] = found[place]._replace(**{name: rows.iloc[0] if name == "mean" else rows})
    return found


def _identities(table: pd.DataFrame) -> pd.Series:
    """Which image of which network each usable row is about."""
    if table.empty:
        return pd.Series(dtype=object)
    rows = table.dropna(subset="difference")
    return rows["image"].astype(str) + (" " + rows["model"].astype(str) if "model" in rows else "")


def lacking_for(scores: pd.DataFrame | StoredScores, where: dict) -> list[str]:
    """Empty when some row satisfies a selection; else the parts no row satisfies, or the whole of it."""
    cells = cells_of(scores)
    if not select(cells, where).empty:
        return []
    absent = [{column: wanted} for column, wanted in where.items() if select(cells, {column: wanted}).empty]
    return [f"rows with {words(part)}" for part in absent or [where]]


def absent_from(scores: pd.DataFrame | StoredScores, where: dict) -> list[str]:
    """The values listed in a selection that the rows it picks do not contain."""
    rows = select(cells_of(scores), where)
    listed = [(column, value) for column, values in where.items() if isinstance(values, list) for value in values]
    return [f"rows with {column} = {value}" for column, value in listed if select(rows, {column: value}).empty]


def words(where: dict) -> str:
    """A selection as text."""
    return ", ".join(f"{column} = {wanted}" for column, wanted in where.items())


def cell_names(table: pd.DataFrame, columns: list[str]) -> pd.Categorical:
    """One name per row, of its values in `columns`."""
    cell = (
        table.groupby(columns, sort=False, dropna=False, observed=True).ngroup() if columns else 0 * table["a"].isna()
    )
    firsts = table[columns][~cell.duplicated()].itertuples(index=False)
    names = [" ".join(map(str, key)) or "all" for key in firsts]
    return pd.Categorical.from_codes(cell, names).reorder_categories(sorted(names))


def _compare(question: Question, scores: pd.DataFrame | StoredScores) -> Evidence:
    test, unit = question.test, unit_of(question.test, scores)
    where = conditions(test, scores, question.protocol)
    sides = [{**where, **test[side]} for side in ("a", "b")]
    if lacking := [part for side in sides for part in lacking_for(scores, side)]:
        return Evidence(pd.DataFrame(), None, unit, None, None, pd.Series(dtype=int), sorted(set(lacking)))
    if "change" in test:
        others = [column for column in scores.columns if column != test["change"]]
        rows = pd.concat(change(part, test["change"]) for part in portions(scores, others, where))
        table = paired(rows, test["a"], test["b"])
    else:
        table = paired(scores, test["a"], test["b"], where=where)
    fixed = {column for column, wanted in where.items() if not isinstance(wanted, list)}
    about = {"image", "label", "group", test.get("overlap"), "a", "b", "difference"}  # of a unit, not of a cell
    free = [column for column in table if column not in fixed | about]
    overlap = float(table[test["overlap"]].iloc[0]) if "overlap" in test else None
    table["cell"] = cell_names(table, free)
    table = table.drop(columns=["a", "b"])
    table["gain"] = table["difference"] * (1 if test["direction"] == "greater" else -1)
    usable = table.dropna(subset="difference")
    judged = set(usable["cell"].unique())
    unusable = [f"usable images for {cell}" for cell in table["cell"].unique() if cell not in judged]
    lacking = absent_from(scores, sides[0]) + unusable
    if table.empty:  # only `change` can leave nothing of what both sides have
        lacking = [f"two values of {test['change']} to compare"]
    usable = usable.assign(cell=usable["cell"].cat.remove_unused_categories())
    images = table.groupby("cell", observed=True)["image"].nunique()
    return Evidence(usable, overlap, unit, None, None, images, lacking)


def _tested(of: Evidence, table: pd.DataFrame, seed: int) -> list[tuple]:
    """(cell, gains of its units, seed, overlap) of every cell; a unit's rows flip their signs together."""
    cells = table.groupby("cell", sort=False, observed=True)
    return [(cell, rows.groupby(of.unit)["gain"].sum(), seed, of.overlap) for cell, rows in cells]


def _corrected(tests: list[list[tuple]]) -> list[pd.DataFrame]:
    """One frame of tests for each question, their p corrected as one family."""
    family = sum(map(len, tests))
    flips = max(RESAMPLES, round(2 * family / ALPHA))  # the smallest possible p stays below ALPHA once corrected
    rows = [
        {
            "question": place,
            "cell": cell,
            "gain": values.mean(),
            "n": len(values),
            "p": sign_flip(values, seed=seed, resamples=flips) if overlap is None else overlapping_p(values, overlap),
            "family": family,
            "needed": max(needed_n(values, level=ALPHA / family), len(values) + 1),
        }
        for place, of in enumerate(tests)
        for cell, values, seed, overlap in of
    ]
    frame = pd.DataFrame(rows)
    frame["p_holm"] = holm(frame["p"])
    return [frame[frame["question"] == place].reset_index(drop=True) for place in range(len(tests))]


def fewest_units(family: int) -> int:
    """The fewest units with which a sign-flip test can be significant, corrected for a family of so many tests.

    The smallest p of n units is 2 / 2^n.

    >>> fewest_units(1), fewest_units(54)
    (6, 12)
    """
    return math.ceil(1 + math.log2(family / ALPHA))
