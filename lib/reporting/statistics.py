"""Comparisons paired on images: selections, bootstrap intervals, sign-flip tests, Holm's correction.

The unit is the image. Every estimate is the mean of per-image values; when several models (or metrics) are
pooled, an image's rows are resampled together, because they are not independent. A tidy table has one row per
score, with columns such as image, model, path, rule, steps, mode, metric and value; NaN is an excluded image.
"""

import fnmatch
import math
import warnings

import numpy as np
import pandas as pd
from scipy import stats

from lib import InputError, nearest

EXACT = 20  # images up to which all sign patterns are enumerated: 2^19 sums, a few milliseconds
RESAMPLES = 9_999


def select(frame: pd.DataFrame, where: dict) -> pd.DataFrame:
    """Rows of a tidy table that agree with `where`: a value, a list, a pattern ("resnet*") or an extreme.

    The extremes "largest" and "smallest" are taken last, within each model, path and mode, so that
    {"steps": "largest"} finds the finest grid of every path even where they were run with different grids.

    Raises InputError for a column the table does not have.
    """
    for column in where:
        if column not in frame:
            raise InputError(f"The table has no column {column!r}; {nearest(column, frame.columns)}.")
    extremes = {column: wanted for column, wanted in where.items() if wanted in ("largest", "smallest")}
    for column, wanted in where.items():
        if column not in extremes:
            wanted = wanted if isinstance(wanted, list | tuple) else [wanted]
            match = frame[column].isin(list(wanted))
            for pattern in (w for w in wanted if isinstance(w, str) and "*" in w):
                match |= frame[column].astype(str).map(lambda value, p=pattern: fnmatch.fnmatchcase(value, p))
            frame = frame[match]
    for column, wanted in extremes.items():
        within = [c for c in ("mode", "model", "path") if c in frame]
        steps = frame.groupby(within)[column] if within else frame[column]
        reduce = "max" if wanted == "largest" else "min"
        frame = frame[frame[column] == (steps.transform(reduce) if within else getattr(steps, reduce)())]
    return frame


def paired(frame: pd.DataFrame, a: dict, b: dict, *, where: dict | None = None) -> pd.DataFrame:
    """Per-image differences value(a) - value(b) of two selections of a tidy table.

    Rows are aligned on every column that neither `a` nor `b` fixes (image and model among them). Columns
    fixed by `b` alone stay free in `a`: one random map serves as the control of every path.

    where: selection common to both sides; a side's own value takes precedence
    returns: the columns that `a` leaves free, the values `a` and `b`, and `difference`: NaN, to be counted
        and dropped by the caller, where either value is NaN (an excluded image) or the counterpart is missing
    Raises InputError when several rows of `b` could be the counterpart of one row of `a`.
    """
    where = where or {}
    left = select(frame, {**where, **a}).drop(columns=list(a))
    right = select(frame, {**where, **b}).drop(columns=list(b))
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
    statistic, n: int, *, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95
) -> tuple[float, float, float]:
    """Estimate and BCa interval of `statistic(indices)`, where the indices of n units are resampled.

    The percentile interval takes over where BCa is undefined (all resamples equal, or all on one side of the
    estimate). A single unit has no interval: its ends are NaN.

    statistic: maps indices (..., n) of units to (...), vectorised over the leading axes
    """

    def of_units(picked, axis=-1):
        return statistic(picked.astype(int))

    units = np.arange(n)
    estimate = float(of_units(units))
    if n < 2:
        return estimate, math.nan, math.nan
    for method in ("BCa", "percentile"):
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
            ).confidence_interval
        if np.isfinite([found.low, found.high]).all():
            break
    return estimate, float(found.low), float(found.high)


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
    values = _checked(values)
    clusters = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    _, index = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(index, values), np.bincount(index)
    return bootstrap(
        lambda units: sums[units].sum(-1) / sizes[units].sum(-1),
        len(sums),
        seed=seed,
        resamples=resamples,
        level=level,
    )


def band(values, *, seed: int = 0, resamples: int = 2_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean curve and pointwise 95 % percentile bootstrap band; values: (images, points) without NaN."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return values.mean(0), *np.full((2, values.shape[1]), math.nan)
    picked = np.random.default_rng(seed).multinomial(len(values), np.full(len(values), 1 / len(values)), resamples)
    return values.mean(0), *np.quantile(picked @ values / len(values), [0.025, 0.975], axis=0)


def summary(frame: pd.DataFrame, by: list[str], *, seed: int = 0, resamples: int = RESAMPLES) -> pd.DataFrame:
    """Mean, interval, number of images and number of excluded images of each group of a tidy table.

    Models left out of `by` are pooled, an image's rows being resampled together.

    returns: columns of `by`, mean, low, high, n, excluded
    """

    def summarise(group: pd.DataFrame) -> pd.Series:
        used = group.dropna(subset="value")
        ends = (math.nan,) * 3
        if len(used):
            ends = interval(used["value"], clusters=used["image"], seed=seed, resamples=resamples)
        n = used["image"].nunique()
        return pd.Series([*ends, n, group["image"].nunique() - n], ["mean", "low", "high", "n", "excluded"])

    found = frame.groupby(by, sort=False)[["image", "value"]].apply(summarise).reset_index()
    return found.astype({"n": int, "excluded": int})


def contrasts(
    frame: pd.DataFrame, a: dict, b: dict, *, by: list[str], where: dict | None = None, seed: int = 0
) -> pd.DataFrame:
    """`summary` of the per-image differences a - b (see `paired`): the rows of a forest plot."""
    differences = paired(frame, a, b, where=where).rename(columns={"difference": "value"})
    return summary(differences, by, seed=seed)


def sign_flip(values, *, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Two-sided sign-flip permutation p of the hypothesis that differences are symmetric about 0.

    p = share of the sign patterns s with |Σ s_i v_i| >= |Σ v_i|: of all patterns up to 20 values, else of
    `resamples` random ones, (1 + count) / (1 + resamples). No p of n values is below 2 / 2^n, so p < .05
    takes six values. scipy's permutation_test(permutation_type="samples") of |Σ| gives the same p, in ten times as long
    for random signs and a thousand times for twenty values. Raises InputError for no values or NaN.
    """
    values = _checked(values)
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
    p = _checked(p)
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]).clip(max=1)
    return adjusted


def needed_n(values, *, level: float = 0.05) -> float:
    """Number of values at which a normal interval would exclude 0 if mean and spread stayed as observed.

    n = (z s / mean)^2 with z the two-sided normal quantile of `level` (to be divided by a family's size, to
    allow for Holm's correction). Infinite when the mean is 0; at least 6, the fewest a sign-flip test can do.
    """
    values = _checked(values)
    if values.mean() == 0 or len(values) < 2:
        return math.inf
    return max(6, math.ceil((stats.norm.isf(level / 2) * values.std(ddof=1) / values.mean()) ** 2))


def _checked(values) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values) or np.isnan(values).any():
        raise InputError(
            f"Statistics need a list of numbers without NaN, not {values.size} values with "
            f"{int(np.isnan(values).sum())} NaN; drop the excluded images first and report their number."
        )
    return values
