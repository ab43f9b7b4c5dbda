"""The page of claims: results/<profile>/claims.csv, a self-contained report.html, and the README's table."""

import base64
import io
from pathlib import Path

import jinja2
import pandas as pd
from PIL import Image

from lib import ROOT, InputError
from lib.reporting.claims import PAPERS, Claim, judge, load_registry, read_provenance
from lib.reporting.tables import brackets, to_markdown
from lib.store.files import write_atomically

BEGIN, END = "<!-- claims:begin -->", "<!-- claims:end -->"
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Claims, profile {{ profile }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 72em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; width: 100% }
th, td { border-top: 1px solid #ccc; padding: .5em .6em; text-align: left; vertical-align: top }
thead th { border-top: 0; border-bottom: 2px solid #888 }
.claims td:nth-child(2) { width: 34% }
.verdict { padding: .1em .5em; border-radius: .7em; font-weight: 600; white-space: nowrap }
.reproduced { background: #2e7d4f; color: #fff } .holds { background: #cfe8d5 }
.contradicted { background: #b23b2e; color: #fff } .fails { background: #f6d0c8 }
.inconclusive { background: #fbe7b0 } .not { background: #e4e4e4 }
td > div + div { margin-top: .6em }
.note, figcaption, footer { color: #666; font-size: .85em }
figure { margin: 1.5em 0 } img { max-width: 100% }
</style>
</head>
<body>
<h1>What holds of the claims</h1>
<p>Profile <b>{{ profile }}</b>: {% for verdict, count in counts.items() %}{{ count }} {{ verdict }}
{{- ", " if not loop.last }}{% endfor %}.
Every claim's test was fixed in params/claims.yaml before its result was seen. <i>Reproduced</i> and
<i>contradicted</i> are kept for a paper's own data, models and released protocol; elsewhere a claim <i>holds
here</i> or <i>fails here</i>. Intervals are 95 % BCa bootstrap intervals over images, p is of sign-flip
permutation tests after Holm's correction within a paper's claims in one notebook and protocol.</p>
{% for paper, claims in papers.items() %}
<h2>{{ paper }}</h2>
<table class="claims">
<thead><tr><th></th><th>claim</th><th>corrected</th><th>as released</th></tr></thead>
<tbody>
{% for claim in claims %}
<tr><th>{{ claim.id }}</th>
<td>{{ claim.statement }}<br><span class="note">source: {{ claim.source }}; {{ claim.notebook }}
{%- if claim.published %}; published: {{ claim.published }}{% endif %}</span></td>
{% for side in claim.sides %}
<td{% if claim.sides | length == 1 %} colspan="2"{% endif %}>
{% for cell in side %}
<div id="{{ claim.id }}-{{ cell.protocol }}">{% if cell.label %}{{ cell.label }}: {% endif %}
<span class="verdict {{ cell.verdict.split()[0] }}">{{ cell.verdict }}</span> {{ cell.ours }}
{% if cell.n %}<br>n = {{ cell.n }}{% endif %}{% if cell.p %}, p = {{ cell.p }}{% endif %}
<div class="note">{{ cell.note }}</div></div>
{% endfor %}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
{% endfor %}
<h2>What was not run, and why</h2>
<ul>
{% for row in missing %}<li>{{ row.claim }} ({{ row.protocol }}): {{ row.note }}</li>
{% else %}<li>Every claim was judged.</li>
{% endfor %}
</ul>
<h2>Figures</h2>
{% for name, data in figures.items() %}
<figure><img alt="{{ name }}" src="data:image/webp;base64,{{ data }}">
<figcaption>{{ name }}</figcaption></figure>
{% else %}<p>None were made.</p>
{% endfor %}
<footer>
<h2>Provenance</h2>
<table>
<thead><tr><th>notebook</th>{% for field in fields %}<th>{{ field }}</th>{% endfor %}</tr></thead>
<tbody>
{% for notebook, record in provenance.items() %}
<tr><td>{{ notebook }}</td>{% for field in fields %}<td>{{ record.get(field, "") }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{% for notebook, record in provenance.items() %}
<p>{{ notebook }}: {% for name, version in record.get("versions", {}).items() %}{{ name }} {{ version }}
{{- ", " if not loop.last }}{% endfor %}</p>
{% endfor %}
</footer>
</body>
</html>
"""
NUMBERS = ("estimate", "ci_low", "ci_high", "n", "p_holm")
FIELDS = ("device", "seconds", "peak_memory_mb", "seed", "code", "parameters")


def build(profile: str, output: str | Path, *, registry: list[Claim] | None = None) -> pd.DataFrame:
    """Judge all claims of a profile, write claims.csv and report.html beside its tables, return the verdicts.

    output: the folder that holds results/<profile> and figures/<profile>
    """
    registry = load_registry() if registry is None else registry
    results = ROOT / output / "results" / profile
    claims = judge(results, registry=registry)
    write_atomically(results / "claims.csv", claims.to_csv(index=False, float_format="%.6g"))
    figures = {path.stem: _embedded(path) for path in sorted((ROOT / output / "figures" / profile).glob("*.png"))}
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
        for paper, title in PAPERS.items()
        if (claims["paper"] == paper).any()
    }
    return (
        jinja2.Environment(autoescape=True, trim_blocks=True)
        .from_string(PAGE)
        .render(
            profile=profile,
            counts=claims["verdict"].value_counts(),
            papers=papers,
            missing=claims[claims["verdict"] == "not run"].to_dict("records"),
            figures=figures,
            provenance=provenance,
            fields=FIELDS,
        )
    )


def _embedded(path: Path) -> str:
    """The figure in a file as base64 of a WebP, which takes a third of a PNG's room."""
    buffer = io.BytesIO()
    with Image.open(path) as figure:
        figure.convert("RGB").save(buffer, "WEBP", quality=90)
    return base64.b64encode(buffer.getvalue()).decode()


def _entry(claim: Claim, rows: pd.DataFrame) -> dict:
    return {**vars(claim), "sides": _sides(rows)}


def _sides(rows: pd.DataFrame) -> list[list[dict]]:
    """A claim's verdicts in two columns, corrected and as released, or in one where a verdict concerns both.

    The code of a paper's own time, where it differs from the released code, stands below the latter.
    """
    cells = {row.protocol: _cell(row) for row in rows.itertuples()}
    sides = [[cells[p] for p in side if p in cells] for side in (("corrected",), ("released", "paper_era"))]
    return sides if any(sides) else [list(cells.values())]


def _cell(row) -> dict:
    return {
        "protocol": row.protocol,
        "label": "paper-era code" if row.protocol == "paper_era" else "",
        "verdict": row.verdict,
        "ours": brackets(row.estimate, row.ci_low, row.ci_high),
        "n": row.n,
        "p": "" if pd.isna(row.p_holm) else f"{row.p_holm:.2g}",
        "note": row.note,
    }


def readme_block(claims: pd.DataFrame) -> str:
    """The verdicts in Markdown: a table for each paper, folded under the count of its verdicts (corrected, if any)."""
    blocks = []
    for paper, rows in claims.groupby("paper", sort=False):
        first = [(_sides(each)[0] or _sides(each)[-1])[0]["verdict"] for _, each in rows.groupby("claim", sort=False)]
        counts = ", ".join(f"{count} {verdict}" for verdict, count in pd.Series(first).value_counts().items())
        summary = f"<summary><b>{PAPERS.get(paper, paper)}</b>: {counts}</summary>"
        blocks.append(f"<details>{summary}\n\n{_readme_table(rows)}\n\n</details>")
    return "\n\n".join(blocks)


def _readme_table(claims: pd.DataFrame) -> str:
    """One line per claim, corrected beside released."""
    lines = []
    for claim, rows in claims.groupby("claim", sort=False):
        sides = _sides(rows)
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


def update_readme(path: Path, block: str) -> None:
    """Put `block` between the two markers of a README.

    Raises InputError when the markers are not there, once each and in order.
    """
    text = Path(path).read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InputError(f"{Path(path).name} needs one line {BEGIN} and, below it, one line {END}; add them.")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    write_atomically(Path(path), f"{before}{BEGIN}\n{block}\n{END}{after}")
