"""The tables of README.md that are made from the records: verdicts, times of the notebooks, the benchmark."""

from pathlib import Path

import pandas as pd

from lib import InputError
from lib.reporting.claims import PAPERS, Claim
from lib.reporting.plots.names import named
from lib.reporting.report import lines_of
from lib.reporting.tables import brackets, to_markdown
from lib.store.files import write_atomically

AS_PUBLISHED = ("reproduced", "contradicted", "holds with the paper's network", "fails with the paper's network")


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

    records: {profile: its claims.csv}, the one that can decide most first: of each claim the first that has such data
    """
    own = {claim.id for claim in registry if claim.whose == "paper"}
    whole = pd.concat([table.assign(profile=profile) for profile, table in records.items()], ignore_index=True)
    first = whole[whole["claim"].isin(own)].drop_duplicates("claim")
    count = whole[whole["claim"].isin(own) & whole["verdict"].isin(AS_PUBLISHED)]["claim"].nunique()
    lines = []
    for claim in (each for each in registry if each.headline):
        rows = whole[(whole["claim"] == claim.id) & ~whole["verdict"].isin(["not run"])]
        found = {kind: next(rows[rows["data"] == kind].itertuples(), None) for kind in ("photographs", "digits")}
        best = next((row for row in found.values() if row), None)
        line = {"claim": claim.id, "the paper says": claim.headline, "published": claim.published}
        line |= {kind: brackets(row.estimate, row.ci_low, row.ci_high) if row else "–" for kind, row in found.items()}
        line["verdict"] = best.verdict if best else "not run"
        line["rests on"] = "–"
        if best:
            network = "the paper's network" if best.network == "paper" else named(best.network)
            line["rests on"] = f"{best.n} {best.data}, {network} ({best.profile})"
        lines.append(line)
    said = f"Of {len(first)} claims of the papers, {count} were judged with the paper's own networks and protocol."
    return f"{said}\n\n{to_markdown(pd.DataFrame(lines))}"


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
    """What each notebook took, from the content of provenance.json: the longest first, and all of them together."""
    lines = []
    for notebook, used in sorted(provenance.items(), key=lambda item: -item[1]["seconds"]):
        line = {"notebook": f"`{notebook}`", "minutes": used["seconds"] / 60, "workers": used.get("workers", 1)}
        line |= {"units": used.get("units"), "core-minutes of the units": used.get("unit_seconds", float("nan")) / 60}
        lines.append(line | {"peak memory of a process": f"{used['peak_memory_mb'] / 1000:.1f} GB"})
    table = pd.DataFrame(lines)
    sums = table[["minutes", "units", "core-minutes of the units"]].sum(min_count=1)
    table = pd.concat([table, pd.DataFrame([{"notebook": "together", **sums}])], ignore_index=True)
    shown = {"minutes": "{:.1f}", "core-minutes of the units": "{:.1f}", "workers": "{:.0f}", "units": "{:.0f}"}
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


def update_readme(path: Path, name: str, block: str) -> None:
    """Put `block` between the lines <!-- name:begin --> and <!-- name:end --> of a README.

    Raises InputError when these are not there, once each and in order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = Path(path).read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise InputError(f"{Path(path).name} needs one line {begin} and, below it, one line {end}; add them.")
    before, after = text.split(begin)[0], text.split(end)[1]
    write_atomically(Path(path), f"{before}{begin}\n{block}\n{end}{after}")
