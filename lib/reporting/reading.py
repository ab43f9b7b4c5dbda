"""What a notebook says of its results: a text that names claims and values, which are put in from the run at hand."""

import re

import pandas as pd
from IPython.display import Markdown

from lib import InputError, nearest
from lib.reporting.plots.names import named
from lib.reporting.tables import brackets

SHOWN = ["claim", "metric", "whose", "statement", "protocol", "data", "network", "estimate", "ci_low", "ci_high"]
SHOWN += ["n", "cells", "cells_won", "every", "published", "verdict", "note"]
MODES = ("corrected", "released", "paper_era")
_FIELD = re.compile(r"\{([A-Z]+\d+[a-k]*)((?:\.\w+)*)\}")
EVERY = {"holds": ", in every cell", "fails": ", not in every cell"}


def verdict_table(verdicts: pd.DataFrame):
    """The verdicts on a notebook's claims as its last table shows them."""
    numbers = dict.fromkeys(("estimate", "ci_low", "ci_high"), "{:.3g}")
    return verdicts[SHOWN].style.hide().format(numbers, na_rep="")


def reading(text: str, verdicts: pd.DataFrame, **values: object) -> Markdown:
    """A text in Markdown with {claims} and {values} filled in.

    text       {N3} is what was found about that claim, by the corrected protocol where it has one: for each metric and
               population the verdict, estimate with interval, images and cells. {N3.photographs}, {N3.digits} are
               of one kind of data, {N3.released} of a protocol, {N3.insertion} of a metric; these can be joined.
               {share:.2f} is a value, formatted as Python does.
    verdicts   what `lib.reporting.claims.check` returned
    values     numbers or words that the cell has computed

    Raises InputError for a claim that has no verdict here, and for a value that is not given.

    >>> table = pd.DataFrame([{"claim": "N3", "metric": "top_k", "protocol": "corrected", "data": "digits",
    ...     "network": "mnist_cnn", "verdict": "holds here", "estimate": 0.25, "ci_low": 0.2, "ci_high": 0.3, "n": 12,
    ...     "cells": 2, "cells_won": 2, "every": "holds", "note": ""}])
    >>> reading("So: {N3}. Chance is {level:.1%}.", table, level=0.031).data
    'So: **holds here** on digits, 0.250 [0.200, 0.300], 12 images, 2 of 2 cells, in every cell. Chance is 3.1%.'
    """
    known = list(dict.fromkeys(verdicts["claim"]))

    def found(match: re.Match) -> str:
        name, rest = match[1], match[2].split(".")[1:]
        if name not in known:
            raise InputError(f"The text names claim {name!r}, which has no verdict here; {nearest(name, known)}")
        return finding(verdicts[verdicts["claim"] == name], rest)

    try:
        return Markdown(_FIELD.sub(found, text).format(**values))
    except KeyError as error:
        raise InputError(f"The text names {error}, which is not given; give {error.args[0]}=...") from error


def finding(rows: pd.DataFrame, wanted: list[str] | tuple[str, ...] = ()) -> str:
    """The verdicts on one claim in words, those of the `wanted` protocols, kinds of data and metrics."""
    modes = [each for each in wanted if each in MODES]
    there = rows["protocol"].isin(modes or ["corrected", "both", "any"])
    rows = rows[there] if modes or there.any() else rows  # an audit may have the released mode alone
    for column in ("data", "metric"):
        asked = [each for each in wanted if each in set(rows[column])]
        rows = rows[rows[column].isin(asked)] if asked else rows
    several = [column for column in ("metric", "network") if (rows.groupby("data")[column].nunique() > 1).any()]
    return "; ".join(_said(row, several) for row in rows.itertuples()) or "**not run**"


def _said(row, several: list[str]) -> str:
    if row.verdict == "not run":
        return f"**not run** ({row.note})"
    about = f" on {row.data}" if row.data and row.data != "paper" else ""
    network = "the paper's network" if row.network == "paper" else named(row.network)
    which = {"metric": named(row.metric), "network": network}
    about += f" ({', '.join(which[column] for column in several)})" if several else ""
    if row.verdict == "not testable here":
        return f"**{row.verdict}**{about} ({row.note.partition(';')[0]})"
    unit = "splits" if row.data.endswith("table") else "images"
    unit = "checks" if pd.isna(row.ci_low) else unit  # an exact claim has no interval
    parts = [f"**{row.verdict}**{about}", brackets(row.estimate, row.ci_low, row.ci_high), f"{row.n} {unit}"]
    parts += [f"{row.cells_won} of {row.cells} cells"] if row.cells > 1 else []
    return ", ".join(filter(None, parts)) + EVERY.get(row.every, "")
