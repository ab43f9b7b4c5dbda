"""The page of claims and a notebook's page in a browser: without scripts, on a phone, on paper, in the dark."""

import base64
import io
import shutil
from itertools import cycle

import nbformat
import pandas as pd
import pytest
from PIL import Image

from lib import ROOT
from lib.reporting.claims import COLUMNS, load_registry
from lib.reporting.entries import VERDICTS, Record
from lib.reporting.page import page_of
from lib.reporting.rendered import render_notebooks

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")

NOTEBOOK = "xdnn_equivalence"  # one with many formulas
REGISTRY = load_registry()
READABLE = 4.5  # the least contrast of text that WCAG 2.2 asks for (1.4.3, AA)
CONTRASTS = """() => {
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const ground = (e) => {
    const found = numbers(getComputedStyle(e).backgroundColor);
    return found.length === 4 && found[3] === 0 && e.parentElement ? ground(e.parentElement) : found.slice(0, 3);
  };
  const seen = {};
  const kinds = "body, a, .note, .verdict, code, summary, label, button, select, figcaption, dt";
  for (const e of document.querySelectorAll(kinds)) {
    const [one, other] = [light(numbers(getComputedStyle(e).color).slice(0, 3)), light(ground(e))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const name = `${e.tagName} ${e.className}`;
    seen[name] = Math.min(seen[name] ?? 99, contrast);
  }
  return seen;
}"""
ACCESSIBLE = """() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const levels = all("h1, h2, h3, h4").map((heading) => Number(heading.tagName[1]));
  const ids = all("[id]").map((e) => e.id);
  return {
    "a control without a label": all("input, select").filter((e) => !e.labels.length).length,
    "a header without a scope": all("th").filter((e) => !e.scope).length,
    "a picture without a text": all("img").filter((e) => !e.hasAttribute("alt")).length,
    "a heading that skips a level": levels.filter((level, k) => level > (levels[k - 1] ?? 0) + 1).length,
    "two elements of one name": ids.length - new Set(ids).size,
    "a link without a target": all("a[href^='#']").filter((e) => !document.getElementById(e.hash.slice(1))).length,
    "a button without words": all("button").filter((e) => !e.textContent.trim()).length,
    "a page without a language": document.documentElement.lang === "en" ? 0 : 1,
  };
}"""


def claims(turn):
    """A row for each claim on photographs, and for every second one on digits, with one verdict after the other."""
    verdicts, rows = cycle([*VERDICTS[turn:], *VERDICTS[:turn]]), []
    for number, claim in enumerate(REGISTRY):
        for data in ("photographs", "digits")[: 1 + number % 2]:
            said = dict.fromkeys(COLUMNS, "") | {"claim": claim.id, "paper": claim.paper, "whose": claim.whose}
            said |= {"statement": claim.statement, "notebook": claim.notebook, "protocol": "corrected", "data": data}
            said |= {"network": "squeezenet1_1", "estimate": 0.1, "ci_low": 0.05, "ci_high": 0.2, "n": 20, "cells": 6}
            said |= {"cells_won": 4, "p_holm": 0.01, "verdict": next(verdicts), "note": "about 34 images would decide"}
            rows.append(said)
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A record with a figure and a notebook's page, beside another record; returns the path of its page of claims."""
    root = tmp_path_factory.mktemp("site")
    results, figures, buffer = root / "results" / "laptop", root / "figures" / "laptop", io.BytesIO()
    (results / "notebooks").mkdir(parents=True)
    figures.mkdir(parents=True)
    Image.new("RGB", (700, 300), "teal").save(buffer, "PNG")
    drawn = {"image/png": base64.b64encode(buffer.getvalue()).decode()}
    document = nbformat.read(ROOT / "notebooks" / f"{NOTEBOOK}.ipynb", as_version=4)
    table = pd.DataFrame({f"column {k}": [k / 7] for k in range(20)})
    outputs = [nbformat.v4.new_output("display_data", data) for data in (drawn, {"text/html": table._repr_html_()})]
    document.cells.append(nbformat.v4.new_code_cell("draw()", outputs=outputs))
    nbformat.write(document, results / "notebooks" / f"{NOTEBOOK}.ipynb")
    (figures / f"{NOTEBOOK}-teal.png").write_bytes(buffer.getvalue())
    captions = render_notebooks(results, figures)
    used = {"seconds": 90.0, "own_seconds": 9.0, "unit_seconds": 70.0, "units": 3, "workers": 2, "peak_memory_mb": 900}
    provenance, pages = {NOTEBOOK: used, "lens_maps": {"needs": "digits"}}, {NOTEBOOK: f"pages/{NOTEBOOK}.html"}
    names = enumerate(("sample", "laptop"))
    copies = {NOTEBOOK: f"notebooks/{NOTEBOOK}.ipynb"}
    records = [Record(name, claims(turn), provenance, pages, copies) for turn, name in names]
    figures = {f"{NOTEBOOK}-teal": buffer.getvalue()}
    page = page_of(records, REGISTRY, profile="laptop", figures=figures, captions=captions)
    (results / "report.html").write_text(page, encoding="utf-8")
    return results / "report.html"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM)
        yield started
        started.close()


@pytest.fixture
def visit(browser):
    """visit(path, **options of the browser's context): the page, its complaints, and what it asked for."""
    contexts = []

    def go(path, at="", **options):
        contexts.append(browser.new_context(**options))
        page, complaints, asked = contexts[-1].new_page(), [], []
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri() + at)
        return page, complaints, [url for url in asked if not url.startswith("data:")]

    yield go
    for context in contexts:
        context.close()


def shown(page):
    items = "[...document.querySelectorAll('#claims > li')].filter((item) => item.checkVisibility())"
    return page.evaluate(f"{items}.map((item) => item.id)")


def test_the_page_opens_without_a_complaint_or_a_request(site, visit):
    page, complaints, asked = visit(site)
    assert (complaints, asked) == ([], [site.as_uri()])
    assert page.locator("#count").inner_text() == f"{len(REGISTRY)} claims"
    assert page.locator(".cards article").count() > 5
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


def test_claims_are_filtered_and_counted(site, visit):
    page, complaints, _ = visit(site)
    both = pd.concat([claims(0), claims(1)])
    page.select_option("select[name=verdict]", "holds here")
    page.select_option("select[name=data]", "digits")
    wanted = {*both.loc[(both["verdict"] == "holds here") & (both["data"] == "digits"), "claim"]}
    assert {*shown(page)} == wanted
    assert page.locator("#count").inner_text() == f"{len(wanted)} of {len(REGISTRY)} claims"
    page.click("button[type=reset]")
    page.wait_for_function(f"document.getElementById('count').textContent === '{len(REGISTRY)} claims'")
    page.select_option("select[name=paper]", "lens")
    page.select_option("select[name=whose]", "paper")
    assert shown(page) == [claim.id for claim in REGISTRY if (claim.paper, claim.whose) == ("lens", "paper")]
    page.click("button[type=reset]")
    page.fill("input[name=words]", "JPEG mse no-such-word")
    assert shown(page) == [] and page.locator("#count").inner_text().startswith("0 of ")
    page.fill("input[name=words]", "jpeg COMPRESSION")
    assert "E10" in shown(page) and "N3" not in shown(page)
    assert complaints == []


def test_claims_are_sorted(site, visit):
    page, *_ = visit(site)
    assert shown(page) == [claim.id for claim in REGISTRY]
    page.select_option("select[name=sort]", "rank")
    ranks = page.evaluate("[...document.querySelectorAll('#claims > li')].map((item) => Number(item.dataset.rank))")
    assert ranks == sorted(ranks) and len({*ranks}) > 3
    page.select_option("select[name=sort]", "id")
    assert shown(page).index("E9") < shown(page).index("E10") < shown(page).index("N1")
    page.select_option("select[name=sort]", "")
    assert shown(page) == [claim.id for claim in REGISTRY]


def test_the_keyboard_opens_a_claim_and_its_figures_appear(site, visit):
    page, complaints, _ = visit(site)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    (name, *_) = [claim.id for claim in REGISTRY if claim.notebook == NOTEBOOK]
    page.focus(f"#{name} summary")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#{name} .figures img")
    assert page.locator(f"#{name} dl").is_visible() and f"make claim-{name}" in page.locator(f"#{name}").inner_text()
    page.click("#unfold")
    assert page.locator("#claims > li > details:not([open])").count() == 0
    page.click("#unfold")
    assert page.locator("#claims > li > details[open]").count() == 0
    assert complaints == []


def test_an_address_opens_its_claim_whatever_the_filters_say(site, visit):
    page, *_ = visit(site, "#E9")
    assert page.locator("#E9 dl").is_visible() and not page.locator("#E8 dl").is_visible()
    page.select_option("select[name=paper]", "lens")
    assert not page.locator("#E9").is_visible()
    page.evaluate("location.hash = 'E10'")
    page.wait_for_selector("#E10 dl")
    assert page.locator("#E10").is_visible()


def test_without_scripts_all_claims_are_there_and_open(site, visit):
    page, *_ = visit(site, java_script_enabled=False)
    assert not page.locator("form").is_visible()
    assert len(shown(page)) == len(REGISTRY)
    page.click("#E1 summary")
    assert page.locator("#E1 dl").is_visible()


def test_nothing_is_wider_than_a_phone(site, visit):
    for path in (site, site.parent / "pages" / f"{NOTEBOOK}.html"):
        page, *_ = visit(path, viewport={"width": 360, "height": 740})
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path.name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(site, visit, scheme):
    for path in (site, site.parent / "pages" / f"{NOTEBOOK}.html"):
        page, *_ = visit(path, color_scheme=scheme)
        contrasts = page.evaluate(CONTRASTS)
        assert {name: ratio for name, ratio in contrasts.items() if ratio < READABLE} == {}
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


def test_readers_of_screens_find_names_and_headers(site, visit):
    for path in (site, site.parent / "pages" / f"{NOTEBOOK}.html"):
        page, *_ = visit(path)
        assert {what: count for what, count in page.evaluate(ACCESSIBLE).items() if count} == {}, path.name
    page, *_ = visit(site)
    assert page.get_attribute("#count", "aria-live") == "polite"
    assert page.get_by_role("searchbox", name="Search").is_visible()


def test_on_paper_there_are_claims_and_no_controls(site, visit):
    page, *_ = visit(site)
    page.emulate_media(media="print")
    assert not page.locator("form").is_visible() and page.locator("#E1 summary").is_visible()
    assert page.pdf()[:4] == b"%PDF"
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 between its margins
    beyond = "[...document.querySelectorAll('table')].filter((t) => t.getBoundingClientRect().right > 719)"
    assert page.evaluate(f"{beyond}.map((t) => t.parentElement.ariaLabel)") == []


def test_a_notebooks_page_shows_formulas_and_figures_from_the_record_alone(site, visit):
    path = site.parent / "pages" / f"{NOTEBOOK}.html"
    page, complaints, asked = visit(path)
    figure = site.parents[2] / "figures" / "laptop" / f"{NOTEBOOK}-teal.png"
    assert (complaints, {*asked}) == ([], {path.as_uri(), figure.as_uri()})
    assert page.evaluate("document.images[0].naturalWidth") == 700
    boxes = page.evaluate("[...document.querySelectorAll('math')].map((m) => m.getBoundingClientRect().width)")
    assert len(boxes) > 10 and min(boxes) > 2
    page.click("text=All claims")
    assert page.url == site.as_uri()
