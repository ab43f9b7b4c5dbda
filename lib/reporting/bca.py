"""The ends of a BCa bootstrap interval, where the statistic of all units but one needs no pass over them."""

import numpy as np
from scipy.special import ndtr, ndtri


def bca_ends(resampled: np.ndarray, estimate: float, left_out: np.ndarray, *, level: float) -> tuple[float, float]:
    """Bias-corrected and accelerated interval (Efron & Tibshirani 1993, eqs. 14.10 and 14.15); NaN where undefined.

    resampled: (R,) the statistic of R resamples; estimate: of the units themselves; left_out: (n,) of all units but one

    scipy.stats.bootstrap(method="BCa") gives the same ends, but evaluates the statistic n times for them. A resample
    that differs from the estimate by rounding alone (six images in another order) is a tie here, so that the ends do
    not depend on the order of a sum.

    >>> values = np.arange(20.0) ** 2
    >>> means = values[np.random.default_rng(0).integers(20, size=(999, 20))].mean(1)
    >>> low, high = bca_ends(means, values.mean(), (values.sum() - values) / 19, level=0.95)
    >>> bool(low < values.mean() < high)
    True
    """
    with np.errstate(all="ignore"):
        tied = np.abs(resampled - estimate) <= 1e-6 * resampled.std() + 1e-14 * abs(estimate)
        bias = ndtri(np.where(tied, 0.5, resampled < estimate).mean())
        influence = left_out.mean() - left_out
        acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
        moved = bias + np.array([1, -1]) * ndtri((1 - level) / 2)
        places = ndtr(bias + moved / (1 - acceleration * moved))
    if not np.isfinite(places).all():
        return np.nan, np.nan
    low, high = np.quantile(resampled, places)
    return float(low), float(high)
