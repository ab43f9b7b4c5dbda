"""The tables of README.md that are made from the records: verdicts, times of the notebooks, the benchmark."""

from pathlib import Path

import pandas as pd

from lib import InputError
from lib.reporting.claims import PAPERS
from lib.reporting.report import sides_of
from lib.reporting.tables import to_markdown
from lib.store.files import write_atomically

UNITS = "core-minutes of the units"


def claims_block(claims: pd.DataFrame) -> str:
    """The verdicts in Markdown: a table for each paper, folded under the count of its verdicts (corrected, if any)."""
    blocks = []
    for paper, rows in claims.groupby("paper", sort=False):
        first = [
            (sides_of(each)[0] or sides_of(each)[-1])[0]["verdict"] for _, each in rows.groupby("claim", sort=False)
        ]
        counts = ", ".join(f"{count} {verdict}" for verdict, count in pd.Series(first).value_counts().items())
        summary = f"<summary><b>{PAPERS.get(paper, paper)}</b>: {counts}</summary>"
        blocks.append(f"<details>{summary}\n\n{_claims_table(rows)}\n\n</details>")
    return "\n\n".join(blocks)


def _claims_table(claims: pd.DataFrame) -> str:
    """One line per claim, corrected beside released."""
    lines = []
    for claim, rows in claims.groupby("claim", sort=False):
        sides = sides_of(rows)
        corrected, released = (_verdict(side) for side in (sides[0], sides[-1]))
        shown = (sides[0] or sides[-1])[0]
        lines.append(
            {
                "claim": claim,
                "statement": rows["statement"].iloc[0],
                "corrected": corrected,
                "released": released,
                "ours (95 % interval)": shown["ours"],
                "n": shown["n"],
                "published": rows["published"].iloc[0],
            }
        )
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
