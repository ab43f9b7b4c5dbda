"""Comparisons paired on images: selections, bootstrap intervals, sign-flip tests, Holm's correction.

The unit is the image. Every estimate is the mean of per-image values; when several models (or metrics) are
pooled, an image's rows are resampled together, because they are not independent. A tidy table has one row per
score, with columns such as image, model, path, rule, steps, mode, metric and value; NaN is an excluded image.
"""

import math
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from lib import InputError
from lib.reporting.bca import bca_ends
from lib.reporting.stored import StoredScores, plain, portions, sides
from lib.reporting.stored import select as select  # the first step of any statistic

EXACT = 20  # images up to which all sign patterns are enumerated: 2^19 sums, a few milliseconds
RESAMPLES = 9_999


def paired(scores: pd.DataFrame | StoredScores, a: dict, b: dict, *, where: dict | None = None) -> pd.DataFrame:
    """Per-image differences value(a) - value(b) of two selections of a tidy table.

    Rows are aligned on every column that neither `a` nor `b` fixes (image and model among them). Columns
    fixed by `b` alone stay free in `a`: one random map serves as the control of every path.

    where: selection common to both sides; a side's own value takes precedence
    returns: the columns that `a` leaves free, the values `a` and `b`, and `difference`: NaN, to be counted
        and dropped by the caller, where either value is NaN (an excluded image) or the counterpart is missing
    Raises InputError when several rows of `b` could be the counterpart of one row of `a`.
    """
    return pd.concat(pairs(scores, a, b, where=where), ignore_index=True)


def pairs(
    scores: pd.DataFrame | StoredScores, a: dict, b: dict, *, where: dict | None = None, by: list[str] | None = None
) -> Iterator[pd.DataFrame]:
    """What `paired` returns, in portions that memory takes, each with whole groups of the columns `by`."""
    where = where or {}
    keys = [column for column in scores.columns if column not in {*a, *b}]
    for left, right in sides(scores, {**where, **a}, {**where, **b}, keys=keys, by=by):
        yield _matched(left.drop(columns=list(a)), right.drop(columns=list(b)), b)


def _matched(left: pd.DataFrame, right: pd.DataFrame, b: dict) -> pd.DataFrame:
    keys = [column for column in left if column in right and column not in ("value", "label")]
    if right.duplicated(keys).any():
        raise InputError(
            f"The selection {b} has several rows for one {' × '.join(keys)}; fix more columns in it so that "
            "each image has one score."
        )
    right = right[[*keys, "value"]].rename(columns={"value": "b"})
    both = left.rename(columns={"value": "a"}).merge(right, on=keys, how="left")
    return both.assign(difference=both["a"] - both["b"])


def change(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """|score at the largest - score at the smallest| value of `column` (e.g. steps), all else being equal.

    Groups with a single value of `column` have no change and are left out.
    """
    keys = [c for c in frame if c not in (column, "value")]
    low, high = (
        frame.loc[frame.groupby(keys, dropna=False)[column].transform(which) == frame[column]]
        for which in ("min", "max")
    )
    ends = low.merge(high, on=keys, suffixes=("_low", "_high"))
    ends = ends[ends[f"{column}_low"] < ends[f"{column}_high"]]
    return ends[keys].assign(value=(ends["value_high"] - ends["value_low"]).abs())


def bootstrap(
    statistic, n: int, *, left_out=None, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95
) -> tuple[float, float, float]:
    """Estimate and BCa interval of `statistic(indices)`, where the indices of n units are resampled.

    The percentile interval takes over where BCa is undefined (all resamples equal, or all on one side of the
    estimate). A single unit has no interval: its ends are NaN.

    statistic: maps indices (..., n) of units to (...), vectorised over the leading axes
    left_out: (n,) the statistic without each unit, where it is known; else it is computed, in n² steps
    """

    def of_units(picked, axis=-1):
        return statistic(picked.astype(int, copy=False))

    units = np.arange(n)
    estimate = float(of_units(units))
    if n < 2:
        return estimate, math.nan, math.nan
    for method in ("BCa", "percentile") if left_out is None else ("percentile",):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # scipy warns of the degenerate cases that the fallback is for
            found = stats.bootstrap(
                (units,),
                of_units,
                vectorized=True,
                method=method,
                n_resamples=resamples,
                confidence_level=level,
                batch=max(1, 2_000_000 // n),
                rng=np.random.default_rng(seed),
            )
        low, high = found.confidence_interval
        if left_out is not None:
            ends = bca_ends(found.bootstrap_distribution, estimate, left_out, level=level)
            low, high = ends if np.isfinite(ends).all() else (low, high)
        if np.isfinite([low, high]).all():
            break
    return estimate, float(low), float(high)


def resampled_means(matrix: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Column means over resampled rows, NaN left out: (rows, columns), (..., n) indices -> (..., columns)."""
    flat = units.reshape(-1, units.shape[-1])
    cells = flat + len(matrix) * np.arange(len(flat))[:, None]
    weights = np.bincount(cells.ravel(), minlength=len(flat) * len(matrix)).reshape(len(flat), -1)
    there = ~np.isnan(matrix)
    with np.errstate(invalid="ignore"):
        means = (weights @ np.where(there, matrix, 0)) / (weights @ there)
    return means.reshape(*units.shape[:-1], -1)


def interval(
    values, *, clusters=None, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean and bootstrap interval (see `bootstrap`) of per-image values.

    Whole clusters are resampled: mean = Σ_c (sum of cluster c) / Σ_c (size of cluster c), which is the mean
    of the cluster means when every image has as many rows, and stays right when some rows were excluded.

    values: (n,) without NaN
    clusters: (n,) the image of each value; each value its own when omitted
    returns: mean, low, high
    Raises InputError for no values or NaN.
    """
    values = checked_values(values)
    index = np.arange(len(values)) if clusters is None else pd.factorize(pd.Series(clusters), sort=True)[0]
    sums, sizes = np.bincount(index, values), np.bincount(index)
    return bootstrap(
        lambda units: sums[units].sum(-1) / sizes[units].sum(-1),
        len(sums),
        left_out=(sums.sum() - sums) / np.maximum(sizes.sum() - sizes, 1),
        seed=seed,
        resamples=resamples,
        level=level,
    )


def summary(
    scores: pd.DataFrame | StoredScores,
    by: list[str],
    *,
    where: dict | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """Mean, interval, number of images and number of excluded images of each group of a tidy table.

    Models left out of `by` are pooled, an image's rows being resampled together.

    where: the rows that count, all when left out
    returns: columns of `by`, mean, low, high, n, excluded; of no scores, these columns without rows
    """
    of_group = ["mean", "low", "high", "n", "excluded"]

    def summarise(group: pd.DataFrame) -> pd.Series:
        used = group.dropna(subset="value")
        ends = (math.nan,) * 3
        if len(used):
            ends = interval(used["value"], clusters=used["image"], seed=seed, resamples=resamples)
        n = used["image"].nunique()
        return pd.Series([*ends, n, group["image"].nunique() - n], of_group)

    found = [
        plain(rows.groupby(by, sort=False)[["image", "value"]].apply(summarise).reset_index())
        for rows in portions(scores, by, where)
        if len(rows)
    ]
    table = pd.concat(found) if found else pd.DataFrame(columns=[*by, *of_group])
    kinds = {"mean": float, "low": float, "high": float, "n": int, "excluded": int}
    return table.reset_index(drop=True).astype(kinds)


def contrasts(
    scores: pd.DataFrame | StoredScores, a: dict, b: dict, *, by: list[str], where: dict | None = None, seed: int = 0
) -> pd.DataFrame:
    """`summary` of the per-image differences a - b (see `paired`): the rows of a forest plot."""
    differences = (rows.rename(columns={"difference": "value"}) for rows in pairs(scores, a, b, where=where, by=by))
    return pd.concat([summary(rows, by, seed=seed) for rows in differences], ignore_index=True)


def sign_flip(values, *, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Two-sided sign-flip permutation p of the hypothesis that differences are symmetric about 0.

    p = share of the sign patterns s with |Σ s_i v_i| >= |Σ v_i|: of all patterns up to 20 values, else of
    `resamples` random ones, (1 + count) / (1 + resamples). No p of n values is below 2 / 2^n, so p < .05
    takes six values. scipy's permutation_test(permutation_type="samples") of |Σ| gives the same p, in ten times as long
    for random signs and a thousand times for twenty values. Raises InputError for no values or NaN.
    """
    values = checked_values(values)
    observed = abs(values.sum()) - 1e-12 * np.abs(values).sum()  # sums that are equal but for rounding count
    if len(values) <= EXACT:
        sums = values[:1]  # |Σ| is even, so the first sign may stay
        for value in values[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= observed))
    generator, count = np.random.default_rng(seed), 0
    batch = max(1, 4_000_000 // len(values))
    for start in range(0, resamples, batch):
        signs = generator.integers(0, 2, (min(batch, resamples - start), len(values)), dtype=np.int8) * 2 - 1
        count += int((np.abs(signs @ values) >= observed).sum())
    return (1 + count) / (1 + resamples)


def holm(p) -> np.ndarray:
    """Holm's adjusted p-values: max over j <= i of (m - j + 1) p_(j), at most 1, in the order given."""
    p = checked_values(p)
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]).clip(max=1)
    return adjusted


def needed_n(values, *, level: float = 0.05) -> float:
    """Number of values at which a normal interval would exclude 0 if mean and spread stayed as observed.

    n = (z s / mean)^2 with z the two-sided normal quantile of `level` (to be divided by a family's size, to
    allow for Holm's correction). Infinite when the mean is 0; at least 6, the fewest a sign-flip test can do.
    """
    values = checked_values(values)
    if values.mean() == 0 or len(values) < 2:
        return math.inf
    return max(6, math.ceil((stats.norm.isf(level / 2) * values.std(ddof=1) / values.mean()) ** 2))


def checked_values(values) -> np.ndarray:
    """The values as an array; raises InputError for none, and for NaN."""
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values) or np.isnan(values).any():
        raise InputError(
            f"Statistics need a list of numbers without NaN, not {values.size} values with "
            f"{int(np.isnan(values).sum())} NaN; drop the excluded images first and report their number."
        )
    return values
