"""What claims that compare two sides rest on: per-image differences by cell, tested and Holm-corrected."""

from typing import NamedTuple

import pandas as pd

from lib.reporting.statistics import RESAMPLES, change, holm, needed_n, paired, sign_flip
from lib.reporting.stored import StoredScores, cells_of, portions, select

ALPHA = 0.05


class Evidence(NamedTuple):
    """The paired comparison behind one claim under one protocol.

    table: one row per image and cell: image, the columns that tell cells apart, cell, tested, difference
        (a - b), gain (the difference in the claimed direction)
    tests: one row per test (of a cell, or of all cells pooled): tested, gain, n, p, p_holm, family (its size), needed
        (images); None for a claim that needs no test
    images: how many images each cell has, excluded ones included
    lacking: what the table of scores does not have, of what the test asks for
    """

    table: pd.DataFrame
    tests: pd.DataFrame | None
    images: pd.Series
    lacking: list[str]


def gather(
    tests: dict[str, dict],
    papers: dict[str, str],
    scores: pd.DataFrame | StoredScores,
    protocol: str,
    *,
    seed: int = 0,
) -> dict[str, Evidence]:
    """The evidence for every claim of a notebook that compares two sides.

    A family of Holm's correction is all tests of one paper's claims in this notebook and protocol, so that
    the notebook and the page of all claims state the same p. Claims with `within` are decided by an interval
    alone and add no tests.

    tests: {claim: its test in the registry};  papers: {claim: its paper};  scores: the notebook's tidy table
    """
    found = {name: _compare(test, scores, protocol) for name, test in tests.items()}
    for paper in sorted({papers[name] for name in tests}):
        mine = [name for name in tests if papers[name] == paper and "within" not in tests[name]]
        tested = _test({name: found[name].table for name in mine}, seed)
        found |= {name: found[name]._replace(tests=rows) for name, rows in tested.items()}
    return found


def conditions(test: dict, scores: pd.DataFrame | StoredScores, protocol: str) -> dict:
    """What both sides of a test select: the protocol, if the table has a column `mode`, and its `where`."""
    return {**({"mode": protocol} if "mode" in scores.columns else {}), **test.get("where", {})}


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


def _compare(test: dict, scores: pd.DataFrame | StoredScores, protocol: str) -> Evidence:
    where = conditions(test, scores, protocol)
    sides = [{**where, **test[side]} for side in ("a", "b")]
    if lacking := [part for side in sides for part in lacking_for(scores, side)]:
        return Evidence(pd.DataFrame(), None, pd.Series(dtype=int), sorted(set(lacking)))
    if "change" in test:
        others = [column for column in scores.columns if column != test["change"]]
        rows = pd.concat(change(part, test["change"]) for part in portions(scores, others, where))
        table = paired(rows, test["a"], test["b"])
    else:
        table = paired(scores, test["a"], test["b"], where=where)
    fixed = {column for column, wanted in where.items() if not isinstance(wanted, list)}
    free = [c for c in table if c not in fixed | {"image", "label", "a", "b", "difference"}]
    table["cell"] = cell_names(table, free)
    table = table.drop(columns=["a", "b"])
    table["tested"] = table["cell"] if test.get("every", True) else pd.Categorical(["all cells"]).repeat(len(table))
    table["gain"] = table["difference"] * (1 if test["direction"] == "greater" else -1)
    usable = table.dropna(subset="difference")
    judged = set(usable["cell"].unique())
    unusable = [f"usable images for {cell}" for cell in table["cell"].unique() if cell not in judged]
    lacking = absent_from(scores, sides[0]) + unusable
    if table.empty:  # only `change` can leave nothing of what both sides have
        lacking = [f"two values of {test['change']} to compare"]
    return Evidence(usable, None, table.groupby("cell")["image"].nunique(), lacking)


def _test(tables: dict[str, pd.DataFrame], seed: int) -> dict[str, pd.DataFrame]:
    """{claim: the tests of its units}, corrected as one family; claims without usable images are left out."""
    sums = {
        (name, tested): rows.groupby("image")["gain"].sum()  # an image's cells flip their signs together
        for name, table in tables.items()
        if len(table)
        for tested, rows in table.groupby("tested", sort=False)
    }
    if not sums:
        return {}
    family = len(sums)
    flips = max(RESAMPLES, round(2 * family / ALPHA))  # the smallest possible p stays below ALPHA once corrected
    tests = pd.DataFrame(
        {
            "claim": name,
            "tested": tested,
            "gain": values.mean(),
            "n": len(values),
            "p": sign_flip(values, seed=seed, resamples=flips),
            "family": family,
            "needed": max(needed_n(values, level=ALPHA / family), len(values) + 1),
        }
        for (name, tested), values in sums.items()
    )
    tests["p_holm"] = holm(tests["p"])
    return {name: rows.reset_index(drop=True) for name, rows in tests.groupby("claim")}
