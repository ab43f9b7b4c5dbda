"""The page of claims: results/<profile>/claims.csv, a self-contained report.html, and the notebooks' pages with it."""

from collections import ChainMap
from pathlib import Path

import pandas as pd

from lib import ROOT
from lib.reporting.claims import COLUMNS, Claim, judge, load_registry, read_provenance
from lib.reporting.entries import Record
from lib.reporting.page import page_of
from lib.reporting.records import RECORDS, read_claims
from lib.reporting.rendered import render_notebooks
from lib.store.files import write_atomically


def build(profile: str, output: str | Path, *, registry: list[Claim] | None = None) -> pd.DataFrame:
    """Judge all claims of a profile, write claims.csv, report.html and pages/ beside its tables, return the verdicts.

    Where the profile is one of RECORDS, the page shows the others that are there beside it.

    output: the folder that holds results/<profile> and figures/<profile>
    """
    registry = load_registry() if registry is None else registry
    results, drawn = ROOT / output / "results" / profile, ROOT / output / "figures" / profile
    claims = judge(results, registry=registry)
    write_atomically(results / "claims.csv", claims.to_csv(index=False, float_format="%.6g"))
    captions = render_notebooks(results, drawn)
    shown = RECORDS if profile in RECORDS else (profile,)
    records = [_record(name, results.parent / name, results) for name in shown]
    others = [_figures(drawn.parent / name) for name in shown if name != profile]
    page = page_of(
        [*filter(None, records)],
        registry,
        profile=profile,
        figures=_figures(drawn),
        captions=captions,
        beside=dict(ChainMap(*others)),
    )
    write_atomically(results / "report.html", page)
    return claims


def _figures(folder: Path) -> dict[str, bytes]:
    """{name: content} of the figures in a folder."""
    return {path.stem: path.read_bytes() for path in sorted(folder.glob("[!.]*")) if path.suffix in (".png", ".jpeg")}


def _record(profile: str, folder: Path, here: Path) -> Record | None:
    """The record in a folder of results, seen from the page in another; None where there is none of today's columns."""
    table = folder / "claims.csv"
    if not table.exists() or list(claims := read_claims(table)) != COLUMNS:
        return None
    beside = "" if folder == here else f"../{profile}/"
    kinds = (("pages", "html"), ("notebooks", "ipynb"))
    pages, copies = (
        {path.stem: f"{beside}{where}/{path.name}" for path in sorted((folder / where).glob(f"*.{kind}"))}
        for where, kind in kinds
    )
    return Record(profile, claims, read_provenance(folder), pages, copies)
