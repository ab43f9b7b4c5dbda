"""Readings: what they say comes from the verdicts at hand, whatever these are."""

import json
import re

import pandas as pd
import pytest

from lib import ROOT, InputError
from lib.reporting.claims import COLUMNS, load_registry
from lib.reporting.reading import finding, reading, verdict_table

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RESULT = re.compile(r"(?<![\w.$])[-−+]?\.\d+|(?<![\w.])\d+ of (?:the )?\d+\b")  # .87, 5 of 6


def row(claim="N3", **fields):
    about = {"claim": claim, "metric": "top_k", "protocol": "corrected", "data": "photographs", "network": "net"}
    numbers = {"estimate": 0.25, "ci_low": 0.2, "ci_high": 0.3, "n": 12, "cells": 4, "cells_won": 3}
    return dict.fromkeys(COLUMNS, "") | about | numbers | {"verdict": "holds here"} | fields


def table(*rows):
    return pd.DataFrame(rows, columns=COLUMNS)


def test_populations_protocols_and_metrics_can_be_asked_for():
    rows = table(
        row(),
        row(data="digits", verdict="fails here", estimate=-0.1, ci_low=-0.2, ci_high=-0.05, every="fails"),
        row(metric="spearman", estimate=0.5, cells=1),
        row(protocol="released", estimate=0.75),
    )
    assert finding(rows) == (
        "**holds here** on photographs (top-k intersection), 0.250 [0.200, 0.300], 12 images, 3 of 4 cells; "
        "**fails here** on digits (top-k intersection), -0.100 [-0.200, -0.0500], 12 images, 3 of 4 cells, not in "
        "every cell; **holds here** on photographs (rank correlation), 0.500 [0.200, 0.300], 12 images"
    )
    assert finding(rows, ["digits"]).startswith("**fails here** on digits, -0.100")
    assert "0.750" in finding(rows, ["released"])
    assert finding(rows, ["paper_era"]) == "**not run**"
    assert "0.750" in finding(rows[rows["protocol"] == "released"])  # an audit of the released code
    for data in ("table", "generated table"):
        assert "12 splits" in finding(table(row(data=data)))
    exact = row(data="", network="", ci_low=float("nan"), ci_high=float("nan"))
    assert finding(table(exact)) == "**holds here**, 0.250, 12 checks, 3 of 4 cells"
    assert (
        finding(rows, ["photographs", "spearman"]) == "**holds here** on photographs, 0.500 [0.200, 0.300], 12 images"
    )


def test_two_networks_are_named_and_what_cannot_be_tested_says_why():
    rows = table(row(network="paper"), row(verdict="not testable here", note="too few; family of 2 tests"))
    assert finding(rows) == (
        "**holds here** on photographs (the paper's network), 0.250 [0.200, 0.300], 12 images, 3 of 4 cells; "
        "**not testable here** on photographs (net) (too few)"
    )


def test_what_was_not_run_says_what_it_needs():
    rows = table(row(verdict="not run", protocol="any", data="", note="needs photographs"))
    assert reading("So: {N3}.", rows).data == "So: **not run** (needs photographs)."


def test_unknown_claims_and_values_are_refused():
    with pytest.raises(InputError, match="'N4', which has no verdict here; it must be one of N3"):
        reading("{N4}", table(row()))
    with pytest.raises(InputError, match=r"names 'share', which is not given; give share=\.\.\."):
        reading("{share:.2f}", table(row()))


def test_the_table_shows_the_verdicts():
    assert "holds here" in verdict_table(table(row())).to_html()


def reading_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [
        "".join(cell["source"])
        for cell in cells
        if cell["cell_type"] == "code" and "reading(" in "".join(cell["source"])
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_prose_holds_no_typed_results(path):
    """Neither in Markdown nor in a reading's text; formulas and code spans aside."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"] + [
        "".join(re.findall(r'"""(.*?)"""', cell, re.S)) for cell in reading_cells(path)
    ]
    plain = [re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\{[^}]*\}|^>.*?$", "", text, flags=re.S | re.M) for text in prose]
    assert [found for text in plain for found in RESULT.findall(text)] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_reading_reads_true_of_two_tables(path):
    """Its claims are those of the notebook, and what it says of them is what either table says."""
    mine = [claim.id for claim in load_registry() if claim.notebook == path.stem]
    for cell in reading_cells(path):
        asked = re.findall(r"\{([A-Z]+\d+[a-k]*)[.}]", cell)
        assert set(asked) <= set(mine)
        text = re.search(r'"""(.*?)"""', cell, re.S)[1]
        names = set(re.findall(r"\{([a-z_]+)[^}]*\}", text))
        for verdict, estimate in (("holds here", 0.125), ("fails here", -0.375)):
            found = {"verdict": verdict, "estimate": estimate, "metric": ""}
            rows = table(*(row(name, protocol=mode, **found) for name in mine for mode in ("corrected", "released")))
            said = reading(text, rows, **dict.fromkeys(names, 0.5)).data
            assert said.count(f"**{verdict}**") >= len(asked) and "**not run**" not in said
            assert said.count(f"{estimate:#.3g}") >= len(asked)
    assert not mine or reading_cells(path)
