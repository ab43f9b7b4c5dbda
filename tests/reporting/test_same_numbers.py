"""claims.csv, README, the pages of docs/, the page of claims and the executed notebooks tell the same numbers.

What is shown is read back from the pages here, not by the functions that wrote it.
"""

import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from lib import ROOT
from lib.reporting.claims import COLUMNS, Claim, read_provenance
from lib.reporting.reading import SHOWN, verdict_table
from lib.reporting.readme import claims_block, headlines_block
from lib.reporting.reviewing import OPTIONS, checks_block
from lib.run.verification import tables_in
from lib.store.files import content_digest

NUMBERS = ("estimate", "ci_low", "ci_high", "n", "cells", "cells_won", "p_holm")
KEYS = ["claim", "metric", "protocol", "data", "network"]


def read(path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values={column: [""] for column in NUMBERS})


def shown(row) -> str:
    """A number and its interval, three digits each."""
    if pd.isna(row.estimate):
        return ""
    interval = "" if pd.isna(row.ci_low) else f" [{row.ci_low:#.3g}, {row.ci_high:#.3g}]"
    return f"{row.estimate:#.3g}{interval}"


def table_rows(text: str) -> list[dict]:
    """The rows of all Markdown tables of a text; an empty claim is that of the row above."""
    found, head = [], []
    for line in text.splitlines():
        if not line.startswith("|"):
            head = []
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not head:
            head = cells
        elif set("".join(cells)) != {"-"}:
            row = dict(zip(head, cells, strict=True))
            found.append(row | {"claim": row["claim"] or found[-1]["claim"]})
    return found


def apart_in_results(text: str, claims: pd.DataFrame) -> list[str]:
    """Verdicts of claims.csv that docs/results.md does not have, and claims that it has beyond them."""
    rows = table_rows(text)
    told = {(row["claim"], row["ours (95 % interval)"], row["corrected"]) for row in rows}
    released = {(row["claim"], row["released"].partition(" (")[0]) for row in rows}
    missing = []
    for row in claims.itertuples():
        if row.protocol in ("corrected", "both", "any"):
            there = (row.claim, shown(row), row.verdict) in told
        else:
            there = (
                row.claim,
                row.verdict,
            ) in released or row.protocol == "paper_era"  # that stands below the released
        missing += [] if there else [f"{row.claim} {row.protocol}"]
    return missing + sorted({row["claim"] for row in rows} ^ {*claims["claim"]})


def apart_in_checks(text: str, claims: pd.DataFrame) -> list[str]:
    """Lines of docs/REVIEWING.md and verdicts of claims.csv that do not say the same."""
    rows, missing = table_rows(text), []
    if len(rows) != len(claims):
        return [f"{len(rows)} lines for {len(claims)} verdicts"]
    of = {each: iter([row for row in rows if row["claim"] == each]) for each in dict.fromkeys(claims["claim"])}
    for row in claims.itertuples():
        line = next(of[row.claim], None)
        number = shown(row).partition(" [")[0] or "–"
        agree = line and number in line["expected"] and line["verdict"].partition(" (")[0] == row.verdict
        agree = agree and line["protocol"] == row.protocol and row.metric in line["on"] and row.data in line["on"]
        missing += [] if agree else [f"{row.claim} {row.protocol} {row.metric} {row.data}"]
    return missing


def apart_in_headlines(text: str, records: dict[str, pd.DataFrame]) -> list[str]:
    """Numbers of the front page that no verdict of the record they rest on has."""
    whole = pd.concat([table.assign(profile=profile) for profile, table in records.items()], ignore_index=True)
    missing, lines = [], table_rows(text)
    for line in lines:
        about = whole[whole["claim"].isin(line["claim"].split(", ")) & (whole["verdict"] != "not run")]
        about = about[about["profile"].isin(re.findall(r"`(\w+)`", line["rests on"]))]
        for kind in ("photographs", "digits"):
            number = line[kind].partition(" (")[0]
            fitting = [row for row in about[about["data"] == kind].itertuples() if shown(row) == number]
            of_kind = [part for part in line["verdict"].split("; ") if part.startswith(f"{kind}: ")]
            verdict = " ".join(of_kind) or line["verdict"]
            agree = number == "–" or any(row.verdict in verdict for row in fitting)
            missing += [] if agree else [f"{line['claim']} {kind}"]
    return missing if lines else ["no headlines"]


class Text(HTMLParser):
    """The text of an HTML page, without scripts and styles, and its tables."""

    def __init__(self, html: str):
        super().__init__()
        self.text, self.tables, self.inside = "", [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag in ("script", "style"):
            self.inside.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr" and self.tables:
            self.tables[-1].append([])
        if tag in ("td", "th") and self.tables and self.tables[-1]:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        if self.inside and tag == self.inside[-1]:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.text += f" {data}"
            if self.tables and self.tables[-1] and self.tables[-1][-1]:
                self.tables[-1][-1][-1] += data


def plain(text: str) -> str:
    return re.sub(r"\s+", "", text.replace("`", ""))


OUTCOME = "|".join(
    plain(outcome)
    for outcome in (
        *("reproduced", "contradicted", "holds with the paper's network", "fails with the paper's network"),
        *("holds here", "fails here", "inconclusive", "not testable here", "not run"),
    )
)


def apart_on_page(html: str, claims: pd.DataFrame) -> list[str]:
    """Verdicts of claims.csv that do not stand, with numbers, between its claim's statement and the next one.

    A verdict stands before its number, and no other between them.
    """
    text = plain(Text(html).text)
    statements = {claim: plain(rows["statement"].iloc[0]) for claim, rows in claims.groupby("claim", sort=False)}
    starts = sorted(match.start() for said in {*statements.values()} for match in re.finditer(re.escape(said), text))
    missing = []
    for row in claims.itertuples():
        said = statements[row.claim]
        begins = [match.end() for match in re.finditer(re.escape(said), text)]
        parts = [text[begin : next((start for start in starts if start >= begin), None)] for begin in begins]
        cells = [cell for part in parts for cell in re.findall(f"({OUTCOME})((?:(?!{OUTCOME}).)*)", part)]
        there = any(verdict == plain(row.verdict) and plain(shown(row)) in after for verdict, after in cells)
        missing += [] if there else [f"{row.claim} {row.protocol} {row.metric} {row.data}"]
    return missing


def verdict_tables(path) -> list[list[list[str]]]:
    """The tables of verdicts that an executed notebook shows."""
    found = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            html = "".join(output.get("data", {}).get("text/html", ""))
            found += [table for table in Text(html).tables if table and [*map(str.strip, table[0])] == SHOWN]
    return found


def apart_in_notebook(tables: list[list[list[str]]], claims: pd.DataFrame) -> list[str]:
    """Lines of an executed notebook's verdicts that claims.csv does not have.

    Both judged the scores that are stored; the notebook shows three digits.
    """
    known = claims.set_index(KEYS)
    missing = []
    for _, *lines in tables:
        for cells in lines:
            line = dict(zip(SHOWN, map(str.strip, cells), strict=True))
            key = tuple(line[column] for column in KEYS)
            if key not in known.index:
                missing.append(" ".join(key))
                continue
            row = known.loc[key]
            width = 0 if pd.isna(row["ci_low"]) else row["ci_high"] - row["ci_low"]
            agree = line["verdict"] == row["verdict"]
            for name in ("estimate", "ci_low", "ci_high"):
                agree &= (line[name] == "") == pd.isna(row[name])
                agree &= (
                    line[name] == "" or abs(float(line[name]) - row[name]) <= 0.006 * abs(row[name]) + 0.001 * width
                )
            missing += [] if agree else [" ".join(key)]
    return missing


def between(page: str, name: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    return text.split(f"<!-- {name}:begin -->\n")[1].split(f"\n<!-- {name}:end -->")[0]


def committed() -> dict[str, pd.DataFrame]:
    """{profile: its claims.csv} of the committed records that have the columns of today."""
    paths = {profile: ROOT / "results" / profile / "claims.csv" for profile in OPTIONS}
    tables = {profile: read(path) for profile, path in paths.items() if path.exists()}
    return {profile: table for profile, table in tables.items() if list(table) == COLUMNS}


def record(profile: str) -> pd.DataFrame:
    if profile not in committed():
        pytest.skip(f"there is no record of {profile} yet with the columns of today")
    return committed()[profile]


each_record = pytest.mark.parametrize("profile", OPTIONS)


@each_record
def test_the_tables_are_those_that_the_finished_notebooks_left(profile):
    record(profile)
    results = ROOT / "results" / profile
    known = {name: kept for used in read_provenance(results).values() for name, kept in used.get("tables", {}).items()}
    tables = {path.name: content_digest(path) for path in tables_in(results).values()}
    tables.pop("claims.csv")
    assert known == tables


@each_record
def test_the_pages_of_the_docs_tell_the_numbers_of_the_record(profile):
    claims = record(profile)
    assert apart_in_results(between("docs/results.md", f"claims-{profile}"), claims) == []
    assert apart_in_checks(between("docs/REVIEWING.md", f"checks-{profile}"), claims) == []


@each_record
def test_the_page_of_claims_tells_the_numbers_of_the_record(profile):
    claims = record(profile)
    html = (ROOT / "results" / profile / "report.html").read_text(encoding="utf-8")
    assert apart_on_page(html, claims) == []


@each_record
def test_the_executed_notebooks_tell_the_numbers_of_the_record(profile):
    claims = record(profile)
    for notebook in claims.loc[claims["verdict"] != "not run", "notebook"].unique():
        tables = verdict_tables(ROOT / "results" / profile / "notebooks" / f"{notebook}.ipynb")
        assert tables, f"{notebook} shows no verdicts"
        assert apart_in_notebook(tables, claims) == [], notebook


def test_the_front_page_tells_the_numbers_of_the_records():
    records = committed()
    if not records:
        pytest.skip("there is no record yet with the columns of today")
    assert apart_in_headlines(between("README.md", "headlines"), records) == []


def verdicts() -> pd.DataFrame:
    common = {"paper": "tmlr", "whose": "paper", "source": "code", "notebook": "nb", "code": "corrected", "n": 14}
    common |= {"cells": 6, "cells_won": 4, "every": "", "p_holm": 0.012, "published": "", "note": "a note"}
    rows = [
        ("C1", "insertion", "corrected", "photographs", "net", 0.1234, 0.1, 0.2, "holds here"),
        ("C1", "insertion", "released", "photographs", "net", 0.2345, 0.1, 0.3, "inconclusive"),
        ("C1", "insertion", "corrected", "digits", "mnist_cnn", -0.2, -0.3, -0.1, "fails here"),
        ("C2", "", "any", "", "", 3e-9, float("nan"), float("nan"), "holds here"),
        ("C3", "", "any", "", "", float("nan"), float("nan"), float("nan"), "not run"),
    ]
    named = (*KEYS, "estimate", "ci_low", "ci_high", "verdict")
    found = [common | dict(zip(named, (row[0], row[1], *row[2:]), strict=True)) for row in rows]
    return pd.DataFrame([row | {"statement": f"says |{row['claim']}| < 1"} for row in found], columns=COLUMNS)


REGISTRY = [
    Claim(name, "tmlr", "says", "code", "nb", {"statistic": "max", "at_most": 1e-6}, headline=headline)
    for name, headline in (("C1", "better"), ("C2", ""), ("C3", ""))
]
PAGE = """<style>p {}</style><h2>C1</h2><p>says |C1| &lt; 1</p><b>holds here</b> 0.123 [0.100, 0.200]<i>inconclusive</i>
0.234 [0.100, 0.300] <i>fails here</i> -0.200 [-0.300, -0.100]<h2>C2</h2>says |C2| &lt; 1 holds here 3.00e-09
<h2>C3</h2> says |C3| &lt; 1 not run<script>"says |C3| < 1"</script>"""
SOURCES = {
    "results": lambda: (apart_in_results, claims_block(verdicts())),
    "checks": lambda: (apart_in_checks, checks_block("laptop", verdicts(), {}, REGISTRY)),
    "page": lambda: (apart_on_page, PAGE),
    "notebook": lambda: (apart_in_notebook, Text(verdict_table(verdicts()).to_html()).tables),
    "headlines": lambda: (
        lambda text, claims: apart_in_headlines(text, {"laptop": claims}),
        headlines_block({"laptop": verdicts()}, REGISTRY),
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_number_or_verdict_that_differs_is_seen(source):
    apart, told = SOURCES[source]()
    claims = verdicts()
    assert apart(told, claims) == []
    for column, value in (("estimate", 0.125), ("verdict", "fails here")):
        other = claims.copy()
        other.loc[0, column] = value
        assert len(apart(told, other)) == 1, column
