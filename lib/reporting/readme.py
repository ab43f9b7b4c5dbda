"""The tables of README.md and docs/ that are made from the records: verdicts, times of the notebooks, the benchmark."""

from pathlib import Path

import pandas as pd

from lib import InputError
from lib.reporting.cards import card_blocks
from lib.reporting.claims import PAPERS, Claim, read_provenance
from lib.reporting.records import RECORDS, headlines, lines_of, read_claims, times_table, took
from lib.reporting.reviewing import reviewing_blocks
from lib.reporting.tables import to_markdown
from lib.store.files import write_atomically


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
    """The claims with a `headline` in Markdown, see `lib.reporting.records.headlines`."""
    counted, table = headlines(records, registry)
    return f"{counted}\n\n{to_markdown(table)}"


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
    return to_markdown(times_table(provenance))


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
    """What the records took in all, in words; provenances: {profile: the content of its provenance.json}."""
    return f"The committed records took: {took(provenances)}."


def update_pages(root: Path, registry: list[Claim]) -> None:
    """Write the tables of README.md and of the pages in docs/ below `root` anew, from the records there."""
    folders = {profile: root / "results" / profile for profile in RECORDS}
    folders = {profile: folder for profile, folder in folders.items() if (folder / "claims.csv").exists()}
    records = {profile: read_claims(folder / "claims.csv") for profile, folder in folders.items()}
    provenances = {profile: read_provenance(folder) for profile, folder in folders.items()}
    update_block(root / "README.md", "headlines", headlines_block(records, registry))
    update_block(root / "README.md", "took", took_block(provenances))
    for profile in records:
        update_block(root / "docs" / "results.md", f"claims-{profile}", claims_block(records[profile]))
        update_block(root / "docs" / "times.md", f"times-{profile}", times_block(provenances[profile]))
    for name, block in reviewing_blocks(records, provenances, registry).items():
        update_block(root / "docs" / "REVIEWING.md", name, block)
    for name, block in card_blocks(provenances).items():
        update_block(root / "docs" / "cards.md", name, block)


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
