"""Results over random splits of one table, whose training sets overlap."""

import math

import numpy as np
from scipy import stats

from lib import InputError
from lib.reporting.statistics import checked_values


def overlapping_p(values, overlap: float) -> float:
    """Two-sided p that the mean of `values` is 0, each of another random split of a table into training and test rows.

    The corrected resampled t test of Nadeau & Bengio (Machine Learning 52, 2003): training sets overlap, so that the
    variance of the mean is s² (1/n + overlap) instead of s²/n. overlap: test rows / training rows of a split.

    >>> round(overlapping_p([1.0, 2.0, 3.0], 0.0), 4), round(overlapping_p([1.0, 2.0, 3.0], 1.0), 4)
    (0.0742, 0.2254)
    """
    values, error = checked_values(values), _overlapping_error(values, overlap)
    if not error:
        return 1.0 if values.mean() == 0 else 0.0
    return float(2 * stats.t.sf(abs(values.mean()) / error, len(values) - 1))


def overlapping_interval(values, overlap: float, *, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and interval of values of overlapping splits, see `overlapping_p`.

    >>> [round(end, 3) for end in overlapping_interval([1.0, 2.0, 3.0], 0.0)]
    [2.0, -0.484, 4.484]
    """
    values = checked_values(values)
    half = stats.t.isf((1 - level) / 2, len(values) - 1) * _overlapping_error(values, overlap)
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def _overlapping_error(values, overlap: float) -> float:
    if len(values) < 2:
        raise InputError("There is one split; the spread of a result over splits takes two or more")
    return float(np.std(values, ddof=1) * math.sqrt(1 / len(values) + overlap))
