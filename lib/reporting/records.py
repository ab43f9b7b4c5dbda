"""What is said of a record on every page, README's and the page of claims': headlines, lines of a claim, times."""

from pathlib import Path

import pandas as pd

from lib.reporting.claims import Claim
from lib.reporting.claims.verdicts import NOT_TESTABLE
from lib.reporting.plots.names import named
from lib.reporting.tables import brackets

RECORDS = ("sample", "laptop")  # the profiles whose records are committed, the one with more photographs first
NUMBERS = ("estimate", "ci_low", "ci_high", "n", "cells", "cells_won", "p_holm")
UNITS = "core-minutes of the units"


def read_claims(path: Path) -> pd.DataFrame:
    """The verdicts in a claims.csv, as `lib.reporting.report.build` wrote them."""
    return pd.read_csv(path, keep_default_na=False, na_values={column: [""] for column in NUMBERS})


def headlines(records: dict[str, pd.DataFrame], registry: list[Claim]) -> tuple[str, pd.DataFrame]:
    """The claims with a `headline`: what was published, and what is found on photographs and on digits.

    Claims that share a headline share a line, because one may be of photographs and the other of digits. Of each kind
    of data the first record counts that could decide, see `deciding`.

    records   {profile: its claims.csv}, the one that can decide most first
    returns   a sentence on how many of the papers' claims were judged as in the papers, and the table
    """
    own = {claim.id for claim in registry if claim.whose == "paper"}
    whole = _together(records)
    of: dict[str, list[Claim]] = {}
    for claim in registry:
        of.setdefault(claim.headline, []).append(claim)
    of.pop("", None)
    lines = []
    for headline, claims in of.items():
        rows = whole[whole["claim"].isin([claim.id for claim in claims])]
        found = {kind: deciding(rows[rows["data"] == kind]) for kind in ("photographs", "digits")}
        published = dict.fromkeys(claim.published for claim in claims if claim.published)
        line = {"claim": ", ".join(claim.id for claim in claims), "the paper says": headline}
        line["published"] = "; ".join(published)
        line |= {kind: _number(measures) if len(measures) else "–" for kind, measures in found.items()}
        found = {kind: measures for kind, measures in found.items() if len(measures)}
        verdicts = {kind: _verdicts(measures) for kind, measures in found.items()}
        line["verdict"] = next(iter(verdicts.values()), "not run")
        if len(set(verdicts.values())) > 1:
            line["verdict"] = "; ".join(f"{kind}: {verdict}" for kind, verdict in verdicts.items())
        line["rests on"] = "; ".join(_rests_on(measures.iloc[0]) for measures in found.values()) or "–"
        lines.append(line)
    return _counted(whole, own), pd.DataFrame(lines)


def _together(records: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The verdicts of all records in one table, with a column `profile`."""
    return pd.concat([table.assign(profile=profile) for profile, table in records.items()], ignore_index=True)


def deciding(rows: pd.DataFrame) -> pd.DataFrame:
    """The first verdict that data could decide, else the first that was judged; below it those of the claim's other
    measures on the same networks. No rows where nothing was judged.
    """
    judged = rows[rows["verdict"] != "not run"]
    ranked = judged.sort_values("verdict", key=lambda verdicts: verdicts == NOT_TESTABLE, kind="stable")
    alike = ["claim", "profile", "network", "protocol"]
    return ranked[(ranked[alike] == ranked[alike].iloc[0]).all(axis=1)] if len(ranked) else ranked


def _number(measures: pd.DataFrame) -> str:
    """The estimate of the first measure with its interval, and of which measure it is, where there are several."""
    first = measures.iloc[0]
    said = brackets(first["estimate"], first["ci_low"], first["ci_high"])
    return f"{said} ({named(first['metric'])})" if len(measures) > 1 else said


def _verdicts(measures: pd.DataFrame) -> str:
    counts = measures["verdict"].value_counts(sort=False)
    shares = [f"{verdict} ({count} of {len(measures)} measures)" for verdict, count in counts.items()]
    return ", ".join(shares) if len(counts) > 1 else counts.index[0]


def _rests_on(row: pd.Series) -> str:
    return f"{row['n']:.0f} {row['data']}, {networks_of(row['network'])} (`{row['profile']}`)"


def networks_of(network: str) -> str:
    """The networks of a verdict in words: by name where there are one or two, else how many.

    >>> networks_of("efficientnet_lite0, squeezenet1_1"), networks_of("paper"), networks_of("")
    ('EfficientNet-Lite0 and SqueezeNet', "the paper's network", '')
    """
    names = [named(each) for each in network.split(", ")]
    names = names if len(names) < 3 else [f"{len(names)} networks"]
    return "the paper's network" if network == "paper" else " and ".join(names)


def _counted(whole: pd.DataFrame, own: set[str]) -> str:
    """How many claims of the papers were judged as in the papers, in words."""
    mine = whole[whole["claim"].isin(own) & (whole["verdict"] != "not run")]
    with_code = mine[(mine["network"] == "paper") & (mine["code"] == "paper")]
    judged, there = set(mine["claim"]), set(with_code["claim"])
    exact = set(with_code.loc[with_code["data"] == "paper", "claim"])
    return (
        f"Of {len(own)} claims of the papers, {len(exact)} are judged in the paper's own setting (its data, networks "
        f"and code), {len(there - exact)} with its networks and code on other images, {len(judged - there)} on "
        f"stand-ins; {len(own - judged)} are not run."
    )


def lines_of(rows: pd.DataFrame) -> list[dict]:
    """A claim's verdicts: a line for each metric and population, in two columns, corrected and as released, or in one
    where a verdict concerns both.

    The code of a paper's own time, where it differs from the released code, stands below the latter.
    """
    lines = []
    for (metric, data), of in rows.groupby(["metric", "data"], sort=False):
        # a paper's networks and others have lines of their own, which protocols share whatever networks they ran with
        for own, part in of.groupby(of["network"] == "paper", sort=False):
            cells = {row.protocol: said_of(row) for row in part.itertuples()}
            sides = [[cells[p] for p in side if p in cells] for side in (("corrected",), ("released", "paper_era"))]
            sides = sides if any(sides) else [list(cells.values())]
            about = (metric, data, "the paper's network" if own else part["network"].iloc[0])
            lines.append({"about": ", ".join(filter(None, about)), "sides": sides})
    return lines


def said_of(row) -> dict:
    """What pages show of one verdict, a row of claims.csv, as text."""
    return {
        "label": "paper-era code" if row.protocol == "paper_era" else "",
        "verdict": row.verdict,
        "ours": brackets(row.estimate, row.ci_low, row.ci_high),
        "n": row.n,
        "cells": f"{row.cells_won:.0f} of {row.cells:.0f} cells" if row.cells > 1 else "",
        "every": {"holds": "in every cell", "fails": "not in every cell"}.get(row.every, ""),
        "p": "" if pd.isna(row.p_holm) else f"{row.p_holm:.2g}",
        "network": networks_of(row.network),
        "note": row.note,
    }


def times_table(provenance: dict) -> pd.DataFrame:
    """What each notebook takes, from the content of provenance.json: the longest first, and all of them together.

    Every value is text. `its own` minutes are those in which a notebook does not wait for its units of work.
    """
    lines = []
    finished = [(notebook, used) for notebook, used in provenance.items() if "seconds" in used]
    for notebook, used in sorted(finished, key=lambda item: -item[1]["seconds"]):
        line = {"notebook": f"`{notebook}`", "minutes": used["seconds"] / 60, "its own": used["own_seconds"] / 60}
        line |= {"workers": used["workers"], "units": used["units"], UNITS: used["unit_seconds"] / 60}
        lines.append(line | {"peak memory of a process": f"{used['peak_memory_mb'] / 1000:.1f} GB"})
    table = pd.DataFrame(lines)
    sums = table[["minutes", "its own", "units", UNITS]].sum()
    table = pd.concat([table, pd.DataFrame([{"notebook": "together", **sums}])], ignore_index=True)
    shown = {"minutes": "{:.1f}", "its own": "{:.1f}", UNITS: "{:.1f}", "workers": "{:.0f}", "units": "{:.0f}"}
    for column, form in shown.items():
        table[column] = ["" if pd.isna(value) else form.format(value) for value in table[column]]
    return table.fillna("")


def took(provenances: dict[str, dict]) -> str:
    """What the records took in all, in words; provenances: {profile: the content of its provenance.json}.

    Notebooks run side by side: the seconds of all cores, of kernels and units, are shared by the workers.
    """
    said = []
    for profile, provenance in provenances.items():
        finished = [used for used in provenance.values() if "seconds" in used]
        workers = max(used["workers"] for used in finished)
        minutes = sum(used["own_seconds"] + used["unit_seconds"] for used in finished) / workers / 60
        time = f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
        said.append(f"`{profile}` {time} on {workers} worker{'s' if workers > 1 else ''}")
    return ", ".join(said)
