"""A test of the registry in words: what is compared with what, where, and what decides."""

from lib.reporting.claims.evidence import ALPHA
from lib.reporting.plots.names import named

NOUNS = {"model": "network", "metric": "measure", "epsilon": "ε", "mode": "code"}
BARE = ("rule", "path", "metric", "method", "model", "attack")  # columns whose values speak for themselves
OWN_WORDS = ("axiom", "quantity", "experiment", "comparison")  # columns whose values are words already
EXTREMES = {"largest": "the largest number of", "smallest": "the smallest number of"}
SIGNS = {"greater": ("above", "below"), "less": ("below", "above")}


def in_words(test: dict) -> str:
    """A test, as in params/claims.yaml, in plain English; the header there says what each kind and key means.

    >>> in_words({"kind": "bound", "where": {"rule": "idgi", "metric": "lost"}, "statistic": "max", "at_most": 0})
    'Every value is at most 0 (rule base + IDGI; measure lost). One value beyond, or undefined, breaks the claim.'
    """
    kinds = {"order": _order, "share": _share, "bound": _bound}
    kinds |= {"equivalence": _equivalence, "exclusion": _exclusion, "agree": _agree}
    return kinds[test["kind"]](test)


def _order(test: dict) -> str:
    one, other = SIGNS[test["direction"]]
    units, how = (
        ("splits", "t tests for splits that share rows") if "overlap" in test else ("images", "sign-flip permutations")
    )
    said = [f"{_sides(test)}, on the same {units}{_where(test)}."]
    if "change" in test:
        said.append(f"What is compared is by how much the score changes from the fewest {test['change']} to the most.")
    said.append(f"Holds: the mean difference is {one} 0; fails: it is {other} 0.")
    said.append(f"Both need p < {ALPHA:g} by {how}, after Holm's correction.")
    if test["every"]:
        said.append("Whether that is so in every cell by itself is judged beside the mean.")
    return " ".join(said)


def _share(test: dict) -> str:
    one, other = SIGNS[test["direction"]]
    said = f"{_sides(test)}, on the same images{_where(test)}."
    if "within" in test:
        return (
            f"{said} Cells whose mean difference is {one} 0 are less frequent inside ({_selection(test['within'])}) "
            "than outside. Holds: the 95 % interval of the share outside minus the share inside lies above 0; fails: "
            "it lies below 0."
        )
    return (
        f"{said} The mean difference is {one} 0 in most cells, but not in all. Holds: the 95 % interval of the share "
        f"of such cells lies above one half, and some cell is clearly {other} 0; fails: the interval lies below one "
        f"half, or every cell is clearly {one} 0."
    )


def _bound(test: dict) -> str:
    limit = f"at most {test['at_most']:g}" if "at_most" in test else f"at least {test['at_least']:g}"
    if test["statistic"] == "max":
        return f"Every value is {limit}{_where(test)}. One value beyond, or undefined, breaks the claim."
    return (
        f"The mean over images is {limit}{_where(test)}. Holds: its whole 95 % interval is; "
        "fails: the interval lies wholly beyond."
    )


def _equivalence(test: dict) -> str:
    return (
        f"The mean is 0 but for {test['margin']:g} either way{_where(test)}. Holds: its 90 % interval lies within, "
        f"which is two one-sided tests at {100 * ALPHA:g} %; fails: its 95 % interval lies wholly beyond."
    )


def _exclusion(test: dict) -> str:
    return (
        f"To leave out the images without another score ({_selection(test['defined'])}) changes the mean by at most "
        f"{test['at_most']:g}{_where(test)}. Holds: the interval of every cell lies within; fails: that of some cell "
        "lies beyond."
    )


def _agree(test: dict) -> str:
    return (
        f"The cells of {_listed(test['claims'], 'and')} lead to the same conclusions (above 0, below 0, undecided) "
        "with the released code and with its defects repaired. Holds: all are equal, and some are decided; fails: some "
        "cell is above 0 with one and below 0 with the other."
    )


def _sides(test: dict) -> str:
    sides = [_side(test[side]) for side in ("a", "b")]
    return f"{sides[0][:1].upper()}{sides[0][1:]} against {sides[1]}"


def _side(selection: dict) -> str:
    """One side of a comparison; what needs no path is not said to have none."""
    parts = [(column, wanted) for column, wanted in selection.items() if (column, wanted) != ("path", "none")]
    return ", ".join(_wanted(column, wanted, bare=column in BARE) for column, wanted in parts)


def _where(test: dict) -> str:
    return f" ({_selection(test['where'])})" if test.get("where") else ""


def _selection(selection: dict) -> str:
    return "; ".join(_wanted(column, wanted, bare=False) for column, wanted in selection.items())


def _wanted(column: str, wanted: object, *, bare: bool) -> str:
    noun = NOUNS.get(column, column)
    if isinstance(wanted, str) and wanted in EXTREMES:
        return f"{EXTREMES[wanted]} {noun}"
    values = wanted if isinstance(wanted, list) else [wanted]
    said = _listed([_value(column, each) for each in values], "or")
    apart = ", each by itself" if column == "metric" and len(values) > 1 else ""
    return said if bare else f"{noun} {said}{apart}"


def _value(column: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    name = str(value) if column in OWN_WORDS else named(value) or "none"
    name = name.replace("_", " ").replace("*", "…")
    return f"“{name}”" if ", " in name else name  # a comma of its own, in a list


def _listed(words: list[str], last: str) -> str:
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
