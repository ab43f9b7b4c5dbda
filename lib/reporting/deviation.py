"""How far a number that is computed again may lie from the committed one: what `make verify` allows."""

import numpy as np
import pandas as pd

# Two machines agree to about 1e-5 in a network's output, but a near-tie that falls the other way moves an image's
# ranking score by a step of its curve. A metric's own spread says how much that is; its unit does not.
TOLERANCE = 1e-2
CLOCK = "seconds"  # the metric that depends on the machine and on its other work


def allowed(number, spread):
    """The deviation allowed: TOLERANCE of a number's size and of the spread of what it measures; numbers or arrays.

    >>> float(allowed(-2.0, 0.5))
    0.025
    """
    return TOLERANCE * (np.abs(number) + spread)


def interval_width(claims: pd.DataFrame) -> pd.Series:
    """The spread of each claim's number: the width of its interval, because no two claims share a unit.

    Infinite where there is no interval. Such a claim is exact: its number is the size of a rounding error, or a count,
    within a bound. Its verdict says so, and the size of a rounding error is nobody's result.

    >>> interval_width(pd.DataFrame({"ci_low": [0.1, np.nan], "ci_high": [0.3, np.nan]})).round(3).tolist()
    [0.2, inf]
    """
    return (claims["ci_high"] - claims["ci_low"]).fillna(np.inf)


def selects_seconds(test: object) -> bool:
    """Whether a claim's test, or a part of it, selects the metric CLOCK.

    >>> selects_seconds({"kind": "order", "where": {"metric": ["seconds", "auc"]}})
    True
    """
    if isinstance(test, dict):
        found = test.get("metric")
        return CLOCK in (found if isinstance(found, list) else [found]) or any(map(selects_seconds, test.values()))
    return isinstance(test, list) and any(map(selects_seconds, test))
