"""Mean curves over images, with pointwise bands."""

import math

import numpy as np
import pandas as pd

from lib.reporting.stored import StoredScores, plain, portions

AT_ONCE = 2**22  # draws of the bootstrap


def band(values, *, clusters=None, seed: int = 0, resamples: int = 2_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean curve and pointwise 95 % percentile bootstrap band.

    values: (n, points) without NaN
    clusters: (n,) the image of each curve, all of whose curves are resampled together; each its own when omitted
    returns: mean, low, high, each (points,); a single image has no band, its ends are NaN
    """
    values = np.asarray(values, float)
    index = np.arange(len(values)) if clusters is None else pd.factorize(pd.Series(clusters), sort=True)[0]
    sums, sizes = pd.DataFrame(values).groupby(index).sum().to_numpy(), np.bincount(index)
    mean, count = values.mean(0), len(sums)
    if count < 2:
        return mean, *np.full((2, len(mean)), math.nan)
    generator, even, means = np.random.default_rng(seed), np.full(count, 1 / count), []
    batch = max(1, AT_ONCE // count)
    for start in range(0, resamples, batch):
        picked = generator.multinomial(count, even, min(batch, resamples - start))
        means.append(picked @ sums / (picked @ sizes)[:, None])
    return mean, *np.quantile(np.concatenate(means), [0.025, 0.975], axis=0)


def mean_curves(
    curves: pd.DataFrame | StoredScores, by: list[str], at, *, where: dict | None = None, seed: int = 0
) -> pd.DataFrame:
    """The mean of each group of curves with its `band`; curves with a NaN, of excluded images, are left out.

    curves: columns image and curve, a list of as many numbers as `at`, in each row
    returns: one row per group and point: columns of `by`, at, mean, low, high; NaN where all curves are left out

    >>> curves = pd.DataFrame({"image": ["a", "b"], "rule": "idgi", "curve": [[0.0, 1.0], [1.0, 2.0]]})
    >>> mean_curves(curves, ["rule"], [0.1, 0.9])[["rule", "at", "mean"]].values.tolist()
    [['idgi', 0.1, 0.5], ['idgi', 0.9, 1.5]]
    """
    found = []
    for rows in portions(curves, by, where):
        for key, group in plain(rows).groupby(by, sort=False):
            values = np.stack(list(group["curve"]))
            there = ~np.isnan(values).any(1)
            ends = (math.nan,) * 3
            if there.any():
                ends = band(values[there], clusters=group["image"][there], seed=seed)
            points = pd.DataFrame({"at": at} | dict(zip(("mean", "low", "high"), ends, strict=True)))
            found.append(points.assign(**dict(zip(by, key, strict=True))))
    return pd.concat(found, ignore_index=True)[[*by, "at", "mean", "low", "high"]]
