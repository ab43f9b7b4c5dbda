"""A claim as the page of claims shows it: its test in words, its verdicts in each record, how it is checked."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

import pandas as pd

from lib.reporting.claims import PAPERS, Claim
from lib.reporting.claims.verdicts import NOT_TESTABLE
from lib.reporting.plots.names import named
from lib.reporting.records import said_of
from lib.reporting.reviewing import OPTIONS, reproducibility
from lib.reporting.wording import in_words

VERDICTS = ("reproduced", "holds with the paper's network", "holds here", "inconclusive", "fails here")
VERDICTS += ("fails with the paper's network", "contradicted", NOT_TESTABLE, "not run")
MAIN = ("corrected", "both", "any")  # protocols whose verdicts a claim's line shows, where there are any
CODE = {"corrected": "corrected code", "released": "as released", "paper_era": "paper-era code"}
WHOSE = {
    "paper": "the paper's claim",
    "audit": "an audit of its code or protocol",
    "control": "our control",
    "identity": "an exact identity",
    "ours": "our own claim",
}
SOURCES = {
    "text": "the paper's text or figures",
    "abstract": "the paper's abstract",
    "summary": "summaries of the paper by others",
    "common": "what is commonly said of the paper, whose wording was not seen",
    "code": "the paper's released code",
    "derived": "the definition, from which it follows",
    "ours": "this study",
}


@dataclass(frozen=True)
class Record:
    """What the results of one profile hold.

    claims       its claims.csv, see `lib.reporting.records.read_claims`
    provenance   the content of its provenance.json
    pages        {notebook: link to its page, from the page of claims}
    copies       {notebook: link to the executed notebook itself}
    """

    profile: str
    claims: pd.DataFrame
    provenance: dict
    pages: dict[str, str]
    copies: dict[str, str] = field(default_factory=dict)


def claim_entry(
    claim: Claim, found: list[list], records: list[Record], registry: list[Claim], figures: list[dict]
) -> dict:
    """One claim as the page shows it.

    found     its verdicts in each record: a list of rows of claims.csv, as `itertuples` gives them
    figures   as `lib.reporting.embedded.figure_entry` gives them; those of the claim's notebook are listed
    """
    judged = [first_decided(rows) for rows in found]
    every = [*chain(*found)]
    shown = {(row.data, row.verdict) for row in every} or {("", "not run")}
    best = first_decided(every)
    used = [record.provenance.get(claim.notebook, {}) for record in records]
    minutes = [each["seconds"] / 60 for each in used if "seconds" in each]
    return {
        "id": claim.id,
        "paper": claim.paper,
        "title": PAPERS[claim.paper].title,
        "statement": every[0].statement if every else claim.statement,
        "whose": claim.whose,
        "said_by": WHOSE[claim.whose],
        "source": SOURCES[claim.source],
        "published": claim.published,
        "test": in_words(claim.test),
        "asides": [*_asides(claim)],
        "notebook": claim.notebook,
        "records": [_short(*each) for each in zip(records, found, judged, strict=True)],
        "lines": _lines(found),
        "checks": [_check(claim, record) for record in records],
        "label": reproducibility(claim, best.data, registry) if best else "",
        "figures": [figure for figure in figures if figure["notebook"] == claim.notebook],
        "found": ";".join(f"{data}|{verdict}" for data, verdict in sorted(shown)),
        "rank": VERDICTS.index(best.verdict if best else "not run"),
        "minutes": min(minutes, default=1e6),
    }


def _asides(claim: Claim) -> Iterator[str]:
    if claim.protocols:
        yield f"Judged with {' and '.join(CODE[each] for each in claim.protocols)} only."
    for data, why in claim.untestable.items():
        yield f"Not testable on {data}: {why}."


def first_decided(rows: list):
    """Of a claim's rows the first that its data could decide, else the first that was judged, else None.

    Where the paper's networks, or the corrected code, were judged, theirs come first.
    """
    judged = [row for row in rows if row.verdict != "not run"]
    return next((row for row in judged if row.verdict != NOT_TESTABLE), next(iter(judged), None))


def _short(record: Record, rows: list, deciding) -> dict:
    """A claim's line: how often each verdict was found in a record, and the number of the first that could decide."""
    counts = Counter(row.verdict for row in [row for row in rows if row.protocol in MAIN] or rows)
    said = ""
    if deciding is not None:
        unit = "splits" if deciding.data.endswith("table") else deciding.data.replace("paper", "") or "images"
        unit = "checks" if pd.isna(deciding.ci_low) and not deciding.data else unit  # of an exact claim
        said = f"{said_of(deciding)['ours']}, {deciding.n:.0f} {unit}"
    return {"profile": record.profile, "counts": [*counts.items()], "said": said}


def _lines(found: list[list]) -> list[dict]:
    """A claim's verdicts, the records beside each other: what a line is about, and a cell for each record or None."""
    lines: dict[tuple, list] = {}
    for position, rows in enumerate(found):
        for row in rows:
            about = row.metric, row.data, row.network == "paper", row.protocol
            lines.setdefault(about, [None] * len(found))[position] = said_of(row)
    return [{"about": _about(*about), "cells": cells} for about, cells in lines.items()]


def _about(metric: str, data: str, own_network: bool, protocol: str) -> str:
    data = "the paper's data" if data == "paper" else data
    return ", ".join(filter(None, (metric and named(metric), data, CODE.get(protocol, "")))) or "all"


def _check(claim: Claim, record: Record) -> dict:
    """The command that checks a claim, its minutes, and the executed notebook and its page."""
    used = record.provenance.get(claim.notebook, {})
    option = OPTIONS.get(record.profile, f" PROFILE={record.profile}")
    minutes = (
        f"{used['seconds'] / 60:.1f} min on {used['workers']} worker{'s' * (used['workers'] > 1)}"
        if "seconds" in used
        else ""
    )
    command = f"make claim-{claim.id}{option}"
    links = {"page": record.pages.get(claim.notebook, ""), "executed": record.copies.get(claim.notebook, "")}
    return {"profile": record.profile, "command": command, "minutes": minutes, **links}
