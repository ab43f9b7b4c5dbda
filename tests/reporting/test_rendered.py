"""Executed notebooks as pages: formulas, tables, figures, and when a page is made again."""

import base64
import hashlib
import io
import json
import re

import nbformat
import pandas as pd
import pytest
from PIL import Image

from lib import ROOT
from lib.reporting.rendered import html_of, mathml, notebook_page, plain_table, render_notebooks
from lib.reporting.tables import styled
from lib.run.execution import publishable

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), colour).save(buffer, "PNG")
    return buffer.getvalue()


def executed(*cells):
    """A notebook of (kind, source, outputs) as text."""
    document = nbformat.v4.new_notebook()
    for number, (kind, source, *outputs) in enumerate(cells):
        cell = nbformat.v4.new_code_cell(source) if kind == "code" else nbformat.v4.new_markdown_cell(source)
        cell["id"] = str(number)
        if kind == "code":
            cell["outputs"] = [nbformat.v4.new_output("display_data", data) for data in outputs]
        document.cells.append(cell)
    return nbformat.writes(document)


def shown(content):
    return {"image/png": base64.b64encode(content).decode(), "text/plain": "<Figure>"}


RED, BLUE = png("red"), png("blue")
PROSE = "## A *figure*\n\nWhat it is.\n\nHow far $x$ is:"
TEXT = executed(("markdown", "# What holds?"), ("markdown", PROSE), ("code", "draw(a < b)", shown(RED), shown(BLUE)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_formula_of_the_notebooks_is_known(path):
    document = nbformat.read(path, as_version=4)
    texts = [cell.source for cell in document.cells if cell.cell_type == "markdown"]
    code = "\n".join(cell.source for cell in document.cells if cell.cell_type == "code")
    texts += re.findall(r'(?s)"""(.*?)"""', code)  # readings
    for text in texts:
        html = html_of(text)
        assert "<code>\\" not in html and "$" not in re.sub(r"(?s)<(code|pre)>.*?</\1>", "", html), html
    written = sum(len(re.findall(r"(?s)\$\$.+?\$\$|\$[^$]+\$", text)) for text in texts)
    assert written == sum(html_of(text).count("<math") for text in texts)


def test_a_formula_is_mathml_and_an_unknown_one_is_code():
    fraction = "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>"
    assert mathml(r"\frac{a}{b}", block=True) == f'<math display="block"><mrow>{fraction}</mrow></math>'
    assert mathml(r"\unheard{<}") == r"<code>\unheard{&lt;}</code>"
    assert "<mtext>arg&#x000A0;</mtext><msub><mo>min</mo>" in mathml(r"\arg\min_c")
    assert "<mtext>sign</mtext>" in mathml(r"\operatorname{sign}\nabla J")


def test_a_styled_table_keeps_its_content_caption_and_bold_rows():
    table = pd.DataFrame({"n": [1, 2], "of <": ["a", "b"], "winner": ["", "b"]})
    html = plain_table(styled(table, "What it shows.").to_html())
    assert "<caption>What it shows.</caption>" in html
    assert '<th scope="col">n</th><th scope="col">of <</th>' in html.replace("&lt;", "<")
    assert "<tr><td>1</td><td>a</td><td></td></tr><tr><td><b>2</b></td><td><b>b</b></td><td><b>b</b></td></tr>" in html
    assert "style" not in html and "id=" not in html


def test_a_plain_table_has_headers_for_columns_rows_and_groups():
    table = pd.DataFrame({"value": [1.5, 2.5]}, index=pd.MultiIndex.from_tuples([("a", "x"), ("a", "y")]))
    html = plain_table(table._repr_html_())
    assert '<tr><td></td><td></td><th scope="col">value</th></tr>' in html
    assert '<tr><th scope="row" rowspan="2">a</th><th scope="row">x</th><td>1.5</td></tr>' in html
    assert plain_table("<b>no table</b>") == "<b>no table</b>"


def test_figures_are_links_to_their_files_and_other_pictures_stay():
    links = {hashlib.sha256(RED).hexdigest(): "../../../figures/laptop/nb-red.png"}
    html = notebook_page(TEXT, links, name="nb", key="k")
    assert '<img alt="A figure" src="../../../figures/laptop/nb-red.png"/>' in html
    assert html.count("data:image/png;base64,") == 1 and base64.b64encode(BLUE).decode() in html
    assert "<title>What holds?</title>" in html and "<math>" in html
    assert "<pre>draw(a &lt; b)</pre>" in html and 'id="cell-id=2"' in html
    assert 'href="../report.html"' in html and 'href="../notebooks/nb.ipynb"' in html


def test_scripts_of_outputs_are_left_out():
    wild = {"application/javascript": "alert(1)", "text/plain": "what it says"}
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "VBox()"}
    html = notebook_page(executed(("code", "1", wild, widget)), {}, name="nb")
    assert "<script" not in html and "what it says" in html
    assert "VBox" not in html and "This part is interactive" in html
    assert not re.search(r"https?:(?!//www.w3.org)", html)


@pytest.fixture
def record(tmp_path):
    results, figures = tmp_path / "results" / "laptop", tmp_path / "figures" / "laptop"
    (results / "notebooks").mkdir(parents=True)
    figures.mkdir(parents=True)
    (results / "notebooks" / "nb.ipynb").write_text(TEXT, encoding="utf-8")
    (figures / "nb-red.png").write_bytes(RED)
    return results, figures


def test_captions_are_what_the_notebook_says_before_its_figure(record):
    ((name, caption),) = render_notebooks(*record).items()
    assert (name, caption.title, caption.cell) == ("nb-red", "A figure", "2")
    assert caption.text == "<p>How far <math><mrow><mi>x</mi></mrow></math> is.</p>\n"


def test_a_page_is_made_again_only_where_its_notebook_or_a_figure_has_changed(record):
    results, figures = record
    page = results / "pages" / "nb.html"
    render_notebooks(results, figures)
    page.write_text(page.read_text(encoding="utf-8") + "<!-- as it was -->", encoding="utf-8")
    render_notebooks(results, figures)
    assert "as it was" in page.read_text(encoding="utf-8")
    (figures / "nb-blue.png").write_bytes(BLUE)
    render_notebooks(results, figures)
    assert "as it was" not in page.read_text(encoding="utf-8") and "nb-blue.png" in page.read_text(encoding="utf-8")
    changed = json.loads(TEXT) | {"cells": json.loads(TEXT)["cells"][:2]}
    (results / "notebooks" / "nb.ipynb").write_text(json.dumps(changed), encoding="utf-8")
    assert render_notebooks(results, figures) == {}
    assert "<img" not in page.read_text(encoding="utf-8")
    (results / "notebooks" / "nb.ipynb").unlink()
    render_notebooks(results, figures)
    assert not page.exists()


def test_the_report_and_failed_notebooks_have_no_page(record):
    results, figures = record
    for name in ("report", "nb.failed"):
        (results / "notebooks" / f"{name}.ipynb").write_text(TEXT, encoding="utf-8")
    render_notebooks(results, figures)
    assert [path.name for path in (results / "pages").iterdir()] == ["nb.html"]


def test_executed_copies_have_plain_tables():
    html = styled(pd.DataFrame({"n": [1], "winner": ["b"]}), "What it shows.").to_html()
    copy = json.loads(publishable(nbformat.reads(executed(("code", "table", {"text/html": html})), as_version=4), {}))
    (output,) = copy["cells"][0]["outputs"]
    assert output["data"]["text/html"] == plain_table(html) != html
