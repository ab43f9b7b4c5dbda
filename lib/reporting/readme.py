"""The tables of README.md and docs/ that are made from the records: verdicts, times of the notebooks, the benchmark."""

from pathlib import Path

import pandas as pd

from lib import InputError
from lib.reporting.claims import PAPERS, Claim, read_provenance
from lib.reporting.claims.verdicts import NOT_TESTABLE
from lib.reporting.plots.names import named
from lib.reporting.report import lines_of, read_claims
from lib.reporting.tables import brackets, to_markdown
from lib.store.files import write_atomically

RECORDS = ("sample", "laptop")  # the profiles whose records are committed, the one with more photographs first
UNITS = "core-minutes of the units"


def claims_block(claims: pd.DataFrame) -> str:
    """The verdicts in Markdown: a table for each paper, folded under the counts of its own claims' first verdicts.

    A claim's first verdict is that of its first metric, with the paper's networks or photographs where there are any,
    corrected where there is such a protocol.
    """
    blocks = []
    for paper, rows in claims.groupby("paper", sort=False):
        first = rows[rows["whose"] == "paper"].drop_duplicates("claim")
        counts = ", ".join(f"{count} {verdict}" for verdict, count in first["verdict"].value_counts().items())
        others = rows["claim"].nunique() - len(first)
        said = f"{len(first)} claims: {counts}" if len(first) else "no claims"
        summary = f"<summary><b>{PAPERS[paper].title}</b>: {said}; {others} audits, controls and identities</summary>"
        blocks.append(f"<details>{summary}\n\n{_claims_table(rows)}\n\n</details>")
    return "\n\n".join(blocks)


def headlines_block(records: dict[str, pd.DataFrame], registry: list[Claim]) -> str:
    """The claims with a `headline`: what was published, and what is found on photographs and on digits.

    Claims that share a headline share a line, because one may be of photographs and the other of digits. Of each kind
    of data the first record counts that could decide, see `_deciding`.

    records: {profile: its claims.csv}, the one that can decide most first
    """
    own = {claim.id for claim in registry if claim.whose == "paper"}
    whole = pd.concat([table.assign(profile=profile) for profile, table in records.items()], ignore_index=True)
    of: dict[str, list[Claim]] = {}
    for claim in registry:
        of.setdefault(claim.headline, []).append(claim)
    of.pop("", None)
    lines = []
    for headline, claims in of.items():
        rows = whole[whole["claim"].isin([claim.id for claim in claims])]
        found = {kind: _deciding(rows[rows["data"] == kind]) for kind in ("photographs", "digits")}
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
    return f"{_counted(whole, own)}\n\n{to_markdown(pd.DataFrame(lines))}"


def _deciding(rows: pd.DataFrame) -> pd.DataFrame:
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
    networks = [named(network) for network in row["network"].split(", ")]
    networks = networks if len(networks) < 3 else [f"{len(networks)} networks"]
    network = "the paper's network" if row["network"] == "paper" else " and ".join(networks)
    return f"{row['n']:.0f} {row['data']}, {network} (`{row['profile']}`)"


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


def _claims_table(claims: pd.DataFrame) -> str:
    """One line per claim, metric and population, corrected beside released."""
    lines = []
    for claim, rows in claims.groupby("claim", sort=False):
        statement, whose = rows[["statement", "whose"]].iloc[0]
        for line in lines_of(rows):
            sides = line["sides"]
            corrected, released = (_verdict(side) for side in (sides[0], sides[-1]))
            shown = (sides[0] or sides[-1])[0]
            row = {"claim": claim, "whose": whose, "statement": statement, "on": line["about"], "corrected": corrected}
            row |= {"released": released, "ours (95 % interval)": shown["ours"], "n": shown["n"]}
            lines.append(row | {"cells": shown["cells"], "published": rows["published"].iloc[0]})
            claim = whose = statement = ""  # said once
    return to_markdown(pd.DataFrame(lines))


def _verdict(side: list[dict]) -> str:
    """The first verdict of a column, labelled where it is not of the column's own protocol."""
    if not side:
        return "–"
    first = side[0]
    return f"{first['verdict']} ({first['label']})" if first["label"] else first["verdict"]


def times_block(provenance: dict) -> str:
    """What each notebook takes, from the content of provenance.json: the longest first, and all of them together."""
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
    return to_markdown(table.fillna(""))


def bench_block(table: pd.DataFrame) -> str:
    """The content of results/bench.csv: our time or memory over the peer's, the goal, and whether it is met."""
    shown = pd.DataFrame(
        {"case": table["case"], "ours": table["ours"], "peer": table["peer"], "in": table["measured_in"]}
    )
    spread = zip(table["ratio_median"], table["ratio_low"], table["ratio_high"], strict=True)
    shown["ratio [quartiles]"] = [f"{middle:.3g} [{low:.3g}, {high:.3g}]" for middle, low, high in spread]
    for column in ("ours", "peer"):
        shown[column] = [f"{value:.3g}" for value in shown[column]]
    for column in ("goal", "met"):
        shown[column] = table[column].fillna("–").astype(str) if column in table else "–"
    return to_markdown(shown)


def took_block(provenances: dict[str, dict]) -> str:
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
    return f"The committed records took: {', '.join(said)}."


def update_pages(root: Path, registry: list[Claim]) -> None:
    """Write the tables of README.md, docs/results.md and docs/times.md below `root` anew, from the records there."""
    folders = {profile: root / "results" / profile for profile in RECORDS}
    folders = {profile: folder for profile, folder in folders.items() if (folder / "claims.csv").exists()}
    records = {profile: read_claims(folder / "claims.csv") for profile, folder in folders.items()}
    provenances = {profile: read_provenance(folder) for profile, folder in folders.items()}
    update_block(root / "README.md", "headlines", headlines_block(records, registry))
    update_block(root / "README.md", "took", took_block(provenances))
    for profile in records:
        update_block(root / "docs" / "results.md", f"claims-{profile}", claims_block(records[profile]))
        update_block(root / "docs" / "times.md", f"times-{profile}", times_block(provenances[profile]))


def update_block(path: Path, name: str, block: str) -> None:
    """Put `block` between the lines <!-- name:begin --> and <!-- name:end --> of a page.

    Raises InputError when these are not there, once each and in order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = Path(path).read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise InputError(f"{Path(path).name} needs one line {begin} and, below it, one line {end}; add them.")
    before, after = text.split(begin)[0], text.split(end)[1]
    write_atomically(Path(path), f"{before}{begin}\n{block}\n{end}{after}")
