"""The page of claims: results/<profile>/claims.csv and a self-contained report.html."""

import base64
import io
from functools import lru_cache
from pathlib import Path

import jinja2
import pandas as pd
from PIL import Image

from lib import ROOT
from lib.reporting.claims import PAPERS, Claim, judge, load_registry, read_provenance
from lib.reporting.tables import brackets
from lib.store.files import write_atomically

NUMBERS = ("estimate", "ci_low", "ci_high", "n", "cells", "cells_won", "p_holm")
FIELDS = ("device", "seconds", "peak_memory_mb", "seed", "code", "parameters")


def build(profile: str, output: str | Path, *, registry: list[Claim] | None = None) -> pd.DataFrame:
    """Judge all claims of a profile, write claims.csv and report.html beside its tables, return the verdicts.

    output: the folder that holds results/<profile> and figures/<profile>
    """
    registry = load_registry() if registry is None else registry
    results = ROOT / output / "results" / profile
    claims = judge(results, registry=registry)
    write_atomically(results / "claims.csv", claims.to_csv(index=False, float_format="%.6g"))
    drawn = sorted((ROOT / output / "figures" / profile).glob("[!.]*"))
    figures = {path.stem: _embedded(path.read_bytes()) for path in drawn if path.suffix in (".png", ".jpeg")}
    page = page_of(claims, registry, profile=profile, figures=figures, provenance=read_provenance(results))
    write_atomically(results / "report.html", page)
    return claims


def read_claims(path: Path) -> pd.DataFrame:
    """The verdicts in a claims.csv, as `build` wrote them."""
    return pd.read_csv(path, keep_default_na=False, na_values={column: [""] for column in NUMBERS})


def page_of(
    claims: pd.DataFrame, registry: list[Claim], *, profile: str, figures: dict[str, str], provenance: dict
) -> str:
    """The HTML page; figures: {name: base64 of a WebP}, provenance: the content of provenance.json."""
    papers = {
        title: [_entry(claim, claims[claims["claim"] == claim.id]) for claim in registry if claim.paper == paper]
        for paper, (title, _) in PAPERS.items()
        if (claims["paper"] == paper).any()
    }
    templates = jinja2.Environment(loader=jinja2.PackageLoader("lib.reporting", "."), autoescape=True, trim_blocks=True)
    return templates.get_template("report.html.j2").render(
        profile=profile,
        counts=claims["verdict"].value_counts(),
        papers=papers,
        missing=claims[claims["verdict"] == "not run"].drop_duplicates(["claim", "note"]).to_dict("records"),
        figures=figures,
        provenance=provenance,
        fields=FIELDS,
    )


@lru_cache(maxsize=256)
def _embedded(picture: bytes) -> str:
    """A figure as base64 of a WebP, which takes half of its room; kept, because the next page has it again."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as figure:
        figure.convert("RGB").save(buffer, "WEBP", quality=75)
    return base64.b64encode(buffer.getvalue()).decode()


def _entry(claim: Claim, rows: pd.DataFrame) -> dict:
    return {**vars(claim), "statement": rows["statement"].iloc[0], "lines": lines_of(rows)}


def lines_of(rows: pd.DataFrame) -> list[dict]:
    """A claim's verdicts: a line for each metric and population, in two columns, corrected and as released, or in one
    where a verdict concerns both.

    The code of a paper's own time, where it differs from the released code, stands below the latter.
    """
    lines = []
    for (metric, data), of in rows.groupby(["metric", "data"], sort=False):
        # a paper's networks and others have lines of their own, which protocols share whatever networks they ran with
        for own, part in of.groupby(of["network"] == "paper", sort=False):
            cells = {row.protocol: _cell(row) for row in part.itertuples()}
            sides = [[cells[p] for p in side if p in cells] for side in (("corrected",), ("released", "paper_era"))]
            sides = sides if any(sides) else [list(cells.values())]
            about = (metric, data, "the paper's network" if own else part["network"].iloc[0])
            lines.append({"about": ", ".join(filter(None, about)), "sides": sides})
    return lines


def _cell(row) -> dict:
    return {
        "protocol": row.protocol,
        "label": "paper-era code" if row.protocol == "paper_era" else "",
        "verdict": row.verdict,
        "ours": brackets(row.estimate, row.ci_low, row.ci_high),
        "n": row.n,
        "cells": f"{row.cells_won:.0f} of {row.cells:.0f} cells" if row.cells > 1 else "",
        "every": {"holds": "in every cell", "fails": "not in every cell"}.get(row.every, ""),
        "p": "" if pd.isna(row.p_holm) else f"{row.p_holm:.2g}",
        "note": row.note,
    }
