"""Tables, the page of claims, and the tables and examples of README.md and docs/."""

import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from lib import ROOT, InputError
from lib.reporting import readme, report
from lib.reporting.claims import COLUMNS, PAPERS, Claim, load_registry, read_provenance
from lib.reporting.entries import Record
from lib.reporting.page import page_of, read_papers
from lib.reporting.records import headlines, read_claims
from lib.reporting.rendered import Caption
from lib.reporting.tables import PUBLISHED, brackets, caption, comparison, save_parquet, styled, to_markdown


def claim(name, **fields):
    return Claim(
        **{
            "id": name,
            "paper": "tmlr",
            "statement": f"says |{name}| < 1",
            "source": "ours",
            "notebook": "nb",
            **fields,
        },
        test={"kind": "bound", "where": {"metric": "lost"}, "statistic": "max", "at_most": 0},
    )


REGISTRY = [claim("C1", published=".5"), claim("C2", paper="idgi"), claim("C3"), claim("C4"), claim("C5")]


def verdicts():
    def row(name, protocol, verdict, estimate=0.1234, low=0.1, high=0.2, n=14, p=0.012, note="a note", **fields):
        said = {"claim": name, "metric": "insertion", "paper": "idgi" if name == "C2" else "tmlr", "whose": "paper"}
        said |= {"source": "code", "statement": f"says |{name}| < 1", "notebook": "nb", "protocol": protocol}
        said |= {"data": "photographs", "network": "net", "code": "corrected", "estimate": estimate, "ci_low": low}
        said |= {"ci_high": high, "n": n, "cells": 6, "cells_won": 4, "every": "fails", "p_holm": p}
        return said | {"published": ".5" if name == "C1" else "", "verdict": verdict, "note": note} | fields

    nothing = [math.nan, math.nan, math.nan, 0, math.nan]
    rows = [
        row("C1", "corrected", "holds here"),
        row("C1", "released", "reproduced"),
        row("C1", "corrected", "fails here", data="digits", network="mnist_cnn"),
        row("C2", "corrected", "fails here"),
        row("C3", "both", "inconclusive", whose="audit"),
        row(
            "C4", "any", "not run", *nothing, "nb has <not> been run", metric="", data="", network="", cells=0, every=""
        ),
        row("C5", "released", "contradicted"),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


class Page(HTMLParser):
    """Checks that tags are closed in order; collects the text, the links, and the rows of each table as text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.links, self.tables = [], "", [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.links += [given[name] for name in ("src", "href") if name in given]
        if tag not in ("meta", "br", "img", "input", "link"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            assert tag == "td" or given["scope"] in ("row", "col")
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & {*self.open}:
            self.tables[-1][-1][-1] += data


def page(*tables, figures=()):
    """The page of (profile, claims), the last of which it is about."""
    records = [Record(name, table, {}, {}) for name, table in tables or [("laptop", verdicts())]]
    return page_of(records, REGISTRY, profile=records[-1].profile, figures=dict(figures), captions={})


def item(html, name):
    """What the page shows of one claim: its text, and the rows of its table, blanks joined."""
    part = Page(html[html.index(f'<li id="{name}"') :].partition("</li>")[0] + "</li>")
    rows = [[" ".join(cell.split()) for cell in row] for row in part.tables[-1]]
    return " ".join(part.text.split()), rows


def test_the_page_has_each_claim_once_and_a_line_for_each_population():
    html = page()
    for number in range(1, 6):
        assert Page(html).text.count(f"says |C{number}| < 1") == 1
    _, rows = item(html, "C1")
    assert rows[0] == ["on", "laptop"]
    about = [row[0] for row in rows[1:]]
    assert about == [
        "insertion, photographs, corrected code",
        "insertion, photographs, as released",
        "insertion, digits, corrected code",
    ]
    assert len(item(html, "C3")[1]) == 2


def test_the_page_shows_verdicts_numbers_and_what_was_not_run():
    html = page()
    text, rows = item(html, "C1")
    number = "0.123 [0.100, 0.200], n = 14, 4 of 6 cells, not in every cell, p = 0.012"
    assert rows[1][1] == f"holds here {number} net; a note"
    assert rows[2][1].startswith("reproduced 0.123") and rows[3][1].startswith("fails here 0.123")
    assert "Published .5" in text and "Published no value could be read" in item(html, "C2")[0]
    assert "Test Every value is at most 0 (measure lost)." in text
    assert "make claim-C1" in text
    everything = Page(html).text
    for word in ("contradicted", "inconclusive", "not run"):
        assert word in everything
    assert "C4: nb has <not> been run" in everything
    assert " nan" not in everything


def test_a_claims_line_counts_its_verdicts_of_the_corrected_code_and_gives_the_number_that_decides():
    text, _ = item(page(), "C1")
    assert "holds here fails here 0.123 [0.100, 0.200], 14 photographs" in text.partition("Test ")[0]
    several = pd.concat([verdicts()[:1].assign(verdict="not testable here"), verdicts()[:1].assign(estimate=0.5)] * 2)
    line = item(page(("laptop", several)), "C1")[0].partition("Test ")[0]
    assert "2 × not testable here 2 × holds here 0.500 [0.100, 0.200]" in line
    exact = verdicts()[:1].assign(data="", ci_low=math.nan, ci_high=math.nan, estimate=0.0)
    assert "0.00, 14 checks" in item(page(("laptop", exact)), "C1")[0]


def test_records_stand_beside_each_other():
    more = verdicts()[:1].assign(estimate=0.5, n=200, network="one, two, three")
    _, rows = item(page(("sample", more), ("laptop", verdicts())), "C1")
    assert rows[0] == ["on", "sample", "laptop"]
    assert "0.500 [0.100, 0.200], n = 200" in rows[1][1] and "3 networks" in rows[1][1] and "0.123" in rows[1][2]
    assert rows[2][1] == "–" and rows[2][2].startswith("reproduced")
    text = Page(page(("sample", more), ("laptop", verdicts()))).text
    assert "C4: nb has <not> been run" in text
    assert "C1:" not in text  # it was judged, in the other record


def test_the_headlines_are_those_of_readme():
    records = {"sample": verdicts()[:1].assign(n=200), "laptop": verdicts()}
    counted, table = headlines(records, HEADLINES)
    html = page_of(
        [Record(name, each, {}, {}) for name, each in records.items()],
        HEADLINES,
        profile="laptop",
        figures={},
        captions={},
    )
    assert counted in Page(html).text
    shown = [[" ".join(cell.split()) for cell in row] for row in Page(html).tables[0][1:]]
    assert len(shown) == len(table) == 2
    for row, line in zip(shown, table.to_dict("records"), strict=True):
        said = [line[column] or "–" for column in ("the paper says", "published", "photographs", "digits", "verdict")]
        assert row == [*said, line["rests on"].replace("`", ""), line["claim"]]
    assert "| " + " | ".join(table.iloc[0]) + " |" in readme.headlines_block(records, HEADLINES)


def test_the_page_embeds_figures_with_what_their_notebook_says_and_has_the_provenance():
    used = USED | {"device": "cpu", "versions": {"torch": "2.14.1"}, "excluded": {"cat.jpg": "cannot be read"}}
    record = Record("laptop", verdicts(), {"nb": used, "other": {"needs": "digits"}}, {"nb": "pages/nb.html"})
    captions = {"nb-forest_mnist_cnn": Caption("The forest", "<p>of <b>trees</b></p>", "7")}
    figures = {"nb-forest_mnist_cnn": picture(), "nb-lines": picture()}
    html = page_of([record], REGISTRY, profile="laptop", figures=figures, captions=captions)
    assert html.count("data:image/webp;base64,") == 2
    assert 'alt="The forest: forest, digit CNN"' in html and "of <b>trees</b>" in html
    assert 'href="pages/nb.html#cell-id=7"' in html
    assert 'href="#figure-nb-lines"' in html and 'id="figure-nb-lines"' in html
    text = " ".join(Page(html).text.split())
    assert "make claim-C1, 1.5 min on 2 workers" in text
    assert "laptop 1 min on 2 workers" in text and "torch 2.14.1" in text
    assert "What it took laptop 3 core-minutes in 1 notebooks" in text
    assert "other: digits" in text and "cat.jpg: cannot be read" in text


def test_the_page_says_of_each_paper_what_papers_yaml_says_and_counts_its_own_claims():
    html = page()
    text = " ".join(Page(html).text.split())
    about = read_papers()
    for key in ("tmlr", "idgi"):
        for field in ("sentence", "easy", "hard", "changed", "excluded"):
            assert " ".join(about[key][field].split()) in text
    assert about["lens"]["sentence"] not in text  # it has no claims here
    left_out = verdicts().assign(note="12 to 14 images a cell, at most 2 excluded; family of 3 tests")
    assert "12 to 14 images a cell, at most 2 excluded: C1, C3" in " ".join(
        Page(page(("laptop", left_out))).text.split()
    )


def test_what_is_said_of_the_papers_is_complete_and_holds_no_results():
    for key, said in read_papers().items():
        assert all(said[field] for field in ("sentence", "easy", "hard", "changed", "excluded")), key
        assert not re.search(r"\d\.\d|\.\d|\d ?%", " ".join(str(said[field]) for field in said if field != "crop")), key
        notebook, _, what = said["picture"].rstrip("0123456789").partition("-")  # a notebook may number its figures
        text = (ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8")
        assert f"{notebook}-" in text and what in text, key


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("idgi: {sentence: a}\n", "it must be about idgi, tmlr"),
        (
            "".join(f"{key}: {{sentence: a, hard: b}}\n" for key in PAPERS),
            "idgi: changed, crop, easy, excluded, picture",
        ),
    ],
)
def test_an_incomplete_papers_yaml_is_refused(tmp_path, text, said):
    (tmp_path / "papers.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        read_papers(tmp_path / "papers.yaml")


def test_the_page_needs_nothing_from_outside():
    html = page(figures={"nb-forest": picture()})
    for link in Page(html).links:
        assert link.startswith(("#", "data:", "pages/", "../")), link
    assert not re.search(r"url\(|@import|https?:", html)


def picture(colour=(200, 30, 30), size=(30, 20)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_build_writes_the_table_and_the_page(tmp_path):
    figures, results = tmp_path / "figures" / "laptop", tmp_path / "results" / "laptop"
    figures.mkdir(parents=True)
    (figures / "nb-forest.png").write_bytes(picture())
    found = report.build("laptop", tmp_path, registry=REGISTRY)
    written = pd.read_csv(results / "claims.csv", keep_default_na=False)
    assert list(written) == COLUMNS
    assert written["verdict"].tolist() == ["not run"] * 5 == found["verdict"].tolist()
    html = (results / "report.html").read_text(encoding="utf-8")
    embedded = html.split("data:image/webp;base64,")[1].split('"')[0]
    with Image.open(io.BytesIO(base64.b64decode(embedded))) as figure:
        assert figure.size == (30, 20) and figure.getpixel((15, 10)) == (200, 30, 30)
    report.build("laptop", tmp_path, registry=REGISTRY)
    assert (results / "report.html").read_text(encoding="utf-8") == html


def test_a_paper_has_the_picture_of_the_record_that_drew_it(tmp_path):
    (tmp_path / "figures" / "laptop").mkdir(parents=True)
    said = read_papers()["tmlr"]
    (tmp_path / "figures" / "laptop" / f"{said['picture']}.png").write_bytes(picture(size=said["crop"][2:]))
    report.build("laptop", tmp_path, registry=REGISTRY)
    for profile, shown in (("laptop", 2), ("sample", 1), ("smoke", 0)):  # as a figure, too, where it was drawn
        report.build(profile, tmp_path, registry=REGISTRY)
        html = (tmp_path / "results" / profile / "report.html").read_text(encoding="utf-8")
        assert html.count("data:image/webp") == shown, profile


def test_a_record_beside_is_shown_if_it_has_the_columns_of_today(tmp_path):
    (tmp_path / "results" / "sample").mkdir(parents=True)
    beside = tmp_path / "results" / "sample" / "claims.csv"
    verdicts().to_csv(beside, index=False)
    report.build("laptop", tmp_path, registry=REGISTRY)
    html = (tmp_path / "results" / "laptop" / "report.html").read_text(encoding="utf-8")
    assert item(html, "C1")[1][0] == ["on", "sample", "laptop"] and 'href="../sample/report.html"' in html
    report.build("smoke", tmp_path, registry=REGISTRY)
    assert "sample" not in (tmp_path / "results" / "smoke" / "report.html").read_text(encoding="utf-8")
    verdicts().drop(columns="every").to_csv(beside, index=False)
    report.build("laptop", tmp_path, registry=REGISTRY)
    html = (tmp_path / "results" / "laptop" / "report.html").read_text(encoding="utf-8")
    assert item(html, "C1")[1][0] == ["on", "laptop"]


def test_a_claim_leads_to_its_executed_notebook_which_is_there_where_its_page_is_not(tmp_path):
    for profile in ("sample", "laptop"):
        folder = tmp_path / "results" / profile / "notebooks"
        folder.mkdir(parents=True)
        nbformat.write(nbformat.v4.new_notebook(), folder / "nb.ipynb")
    verdicts().to_csv(tmp_path / "results" / "sample" / "claims.csv", index=False)
    report.build("laptop", tmp_path, registry=REGISTRY)
    links = Page((tmp_path / "results" / "laptop" / "report.html").read_text(encoding="utf-8")).links
    there = {"../sample/notebooks/nb.ipynb", "notebooks/nb.ipynb", "pages/nb.html"}
    assert {link for link in links if "nb." in link} == there
    assert all((tmp_path / "results" / "laptop" / link).exists() for link in there)


def claim_lines(block):
    """The lines of a README table below its heads, in order."""
    return [line for line in block.splitlines() if line.startswith("|") and not line.startswith(("| claim", "| ---"))]


def test_readme_block_puts_corrected_beside_released():
    block = readme.claims_block(verdicts())
    papers = verdicts()["paper"].nunique()
    assert block.count("<details><summary><b>") == block.count("</details>") == papers
    assert "3 claims: 1 holds here, 1 not run, 1 contradicted; 1 audits, controls and identities" in block
    assert "1 claims: 1 fails here; 0 audits" in block
    lines = claim_lines(block)
    assert len(lines) == 6
    assert lines[0].startswith(
        "| C1 | paper | says \\|C1\\| < 1 | insertion, photographs, net | holds here | reproduced |"
    )
    assert "| 0.123 [0.100, 0.200] | 14 | 4 of 6 cells | .5 |" in lines[0]
    assert lines[1].startswith("|  |  |  | insertion, digits, mnist_cnn | fails here | – |")
    assert "| inconclusive | inconclusive |" in lines[2]
    assert "| not run | not run |" in lines[3]
    assert "| – | contradicted |" in lines[4]
    assert "| fails here | – |" in lines[5]


HEADLINES = [
    claim("C1", headline="better", source="code", published=".5"),
    claim("C9", headline="worse", source="code"),
]


def test_headlines_come_from_the_record_that_can_decide():
    own = {"verdict": "holds with the paper's network", "network": "paper", "code": "paper"}
    more = verdicts()[:1].assign(n=200, estimate=0.5, **own)
    text = readme.headlines_block({"sample": more, "laptop": verdicts()}, HEADLINES)
    said, *_, first, second = text.splitlines()
    assert said == (
        "Of 2 claims of the papers, 0 are judged in the paper's own setting (its data, networks and code), 1 with its "
        "networks and code on other images, 0 on stand-ins; 1 are not run."
    )
    assert first == (
        "| C1 | better | .5 | 0.500 [0.100, 0.200] | 0.123 [0.100, 0.200] "
        "| photographs: holds with the paper's network; digits: fails here "
        "| 200 photographs, the paper's network (`sample`); 14 digits, digit CNN (`laptop`) |"
    )
    assert second == "| C9 | worse |  | – | – | not run | – |"


@pytest.mark.parametrize(
    ("sample", "shown"),
    [("inconclusive", "sample"), ("fails here", "sample"), ("not testable here", "laptop"), ("not run", "laptop")],
)
def test_a_headline_is_of_the_first_record_that_could_decide(sample, shown):
    records = {"sample": verdicts()[:1].assign(verdict=sample), "laptop": verdicts()[:1]}
    line = readme.headlines_block(records, HEADLINES[:1]).splitlines()[-1]
    assert line.endswith(f"| 14 photographs, net (`{shown}`) |")
    untestable = {name: each.assign(verdict="not testable here") for name, each in records.items()}
    assert "(`sample`)" in readme.headlines_block(untestable, HEADLINES[:1])


def test_claims_with_one_headline_share_a_line():
    digits = claim("C2", paper="idgi", headline="better", source="code", published=".7")
    table = verdicts()
    table.loc[table["claim"] == "C2", "data"] = "digits"
    table = table[(table["claim"] != "C1") | (table["data"] == "photographs")]
    *_, line, _ = readme.headlines_block({"laptop": table}, [HEADLINES[0], digits, HEADLINES[1]]).splitlines()
    assert line.startswith("| C1, C2 | better | .5; .7 | 0.123 [0.100, 0.200] | 0.123 [0.100, 0.200] |")
    assert line.endswith("| 14 photographs, net (`laptop`); 14 digits, net (`laptop`) |")


def test_measures_that_disagree_are_counted():
    one = verdicts()[:1]
    other, third = one.assign(metric="aic_png", verdict="inconclusive"), one.assign(metric="sic_png")
    table = pd.concat([one.assign(verdict="not testable here"), other, third, one.assign(network="paper", n=3)])
    *_, line = readme.headlines_block({"laptop": table}, HEADLINES[:1]).splitlines()
    assert "| 0.123 [0.100, 0.200] (AIC, entropy) | – |" in line
    said = "inconclusive (1 of 3 measures), holds here (1 of 3 measures), not testable here (1 of 3 measures)"
    assert f"| {said} | 14 photographs, net (`laptop`) |" in line


def test_many_networks_are_counted_and_the_papers_own_setting_is_said():
    table = verdicts()[:1].assign(network="a, b, c", data="photographs")
    assert "14 photographs, 3 networks (" in readme.headlines_block({"laptop": table}, HEADLINES)
    table = verdicts()[:1].assign(network="paper", data="paper", code="paper", verdict="reproduced")
    assert "1 are judged in the paper's own setting" in readme.headlines_block({"imagenet": table}, HEADLINES)


def with_paper_era():
    """C1 judged under three protocols, in the order `check` has them, C2 under two, C3 and C5 under one each."""
    table = verdicts()
    again = table[table["claim"].isin(["C1", "C2", "C5"])].drop_duplicates("claim")
    era = again.assign(protocol="paper_era", verdict="inconclusive", estimate=0.5, note="of its time")
    table = pd.concat([table, era], ignore_index=True).sort_values(
        ["claim", "protocol"], kind="stable", ignore_index=True
    )
    return table[(table["claim"] != "C5") | (table["protocol"] == "paper_era")]


def test_the_page_shows_the_paper_era_as_a_line_of_its_own():
    _, rows = item(page(("laptop", with_paper_era())), "C1")
    (era,) = [row for row in rows if "paper-era code" in row[0]]
    assert era[0] == "insertion, photographs, paper-era code"
    assert era[1].startswith("inconclusive 0.500 [0.100, 0.200]") and "of its time" in era[1]


def test_the_readme_keeps_two_columns_with_the_paper_era():
    lines = claim_lines(readme.claims_block(with_paper_era()))
    assert "| holds here | reproduced | 0.123 [0.100, 0.200] | 14 |" in lines[0]
    assert "| – | inconclusive (paper-era code) | 0.500" in lines[4]
    assert "| fails here | inconclusive (paper-era code) | 0.123" in lines[5]


BEGIN, END = "<!-- claims:begin -->", "<!-- claims:end -->"


def test_updating_a_page_twice_is_updating_it_once(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n{BEGIN}\nold\n{END}\nrest\n<!-- times:begin -->\n<!-- times:end -->\n")
    block = readme.claims_block(verdicts())
    readme.update_block(path, "claims", block)
    once = path.read_text()
    readme.update_block(path, "claims", block)
    expected = f"# Title\n{BEGIN}\n{block}\n{END}\nrest\n<!-- times:begin -->\n<!-- times:end -->\n"
    assert path.read_text() == once == expected


@pytest.mark.parametrize("text", ["no markers", f"{END}\n{BEGIN}\n", BEGIN])
def test_a_page_without_markers_is_refused_and_left_alone(tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(InputError, match="needs one line"):
        readme.update_block(path, "claims", "block")
    assert path.read_text() == text


def test_times_are_listed_from_the_longest_and_summed():
    record = {"a": USED, "b": USED | {"seconds": 600.0}, "c": {"needs": "photographs"}}
    lines = readme.times_block(record).splitlines()
    assert lines[0].startswith("| notebook | minutes | its own | workers | units | core-minutes of the units | peak")
    assert lines[2:] == [
        "| `b` | 10.0 | 0.2 | 2 | 7 | 2.5 | 2.3 GB |",
        "| `a` | 1.5 | 0.2 | 2 | 7 | 2.5 | 2.3 GB |",
        "| together | 11.5 | 0.5 |  | 14 | 5.0 |  |",
    ]


def test_the_benchmark_shows_ratios_and_what_was_not_met():
    row = {"case": "a", "measured_in": "seconds", "ours": 1.2345, "peer": 1.0, "ratio_median": 1.2345, "ratio_low": 1.1}
    row |= {"ratio_high": 1.3, "runs": 5, "device": "cpu", "goal": "≤ 1.05", "met": False}
    assert readme.bench_block(pd.DataFrame([row])).splitlines()[2] == (
        "| a | 1.23 | 1 | seconds | 1.23 [1.1, 1.3] | ≤ 1.05 | False |"
    )


def scores():
    rows = [
        (
            f"img{i}",
            model,
            "straight",
            rule,
            128,
            "insertion",
            level + 0.01 * (i % 3) + shift * (rule == "idgi"),
        )
        for i in range(9)
        for model, shift in (("lite0", 0.1), ("lite1", 0.0), ("lite2", -0.1))
        for rule, level in (("riemann", 0.3), ("idgi", 0.3 + 0.001 * (-1) ** i))
    ]
    return pd.DataFrame(rows, columns=["image", "model", "path", "rule", "steps", "metric", "value"])


SIDES = ({"rule": "idgi"}, {"rule": "riemann"})


def test_a_winner_is_named_only_where_the_interval_excludes_zero():
    table = comparison(scores(), *SIDES, by=["model"])
    assert table["winner"].tolist() == ["idgi", "", "riemann"]
    assert comparison(scores(), *SIDES, by=["model"], larger_is_better=False)["winner"].tolist() == [
        "riemann",
        "",
        "idgi",
    ]
    assert table["difference"].iloc[0].startswith("0.100 [")
    assert table["riemann"].iloc[0].startswith("0.310 [0.30")


def test_an_image_that_one_side_lacks_leaves_both():
    table = scores()
    table.loc[(table["image"] == "img2") & (table["rule"] == "idgi"), "value"] = math.nan
    found = comparison(table, *SIDES, by=["model"])
    assert found[["n", "excluded"]].to_numpy().tolist() == [[8, 1]] * 3
    assert found["riemann"].iloc[0].startswith("0.309 ")  # (0 + 1 + 0 + 1 + 2 + 0 + 1 + 2) / 800 above .3
    assert "8 images per row, at most 1 excluded" in caption(found, "Insertion.")


def test_published_values_stand_beside_ours_only_where_model_and_steps_agree():
    published = pd.DataFrame(
        {
            "model": ["lite0", "lite1"],
            "path": "straight",
            "rule": ["idgi", "riemann"],
            "steps": [128, 64],
            "metric": "insertion",
            "value": [0.4567, 0.9],
        }
    )
    where = {"path": "straight", "steps": 128, "metric": "insertion"}
    table = comparison(scores(), *SIDES, by=["model"], where=where, published=published)
    assert table["idgi, published"].tolist() == ["0.457", "", ""]
    assert table["riemann, published"].tolist() == ["", "", ""]


def test_the_authors_log_is_complete_and_names_no_model():
    table = pd.read_csv(PUBLISHED)
    columns = "paper item model path rule steps fraction metric value source note attack epsilon clusters"
    assert list(table) == columns.split()
    log = table[table["paper"] == "tmlr"]
    assert len(log) == 20
    assert log["model"].isna().all()
    values = log.set_index(["rule", "steps", "metric"])["value"]
    assert values["idgi", 8, "insertion"] == 0.17853
    assert values["riemann", 128, "insertion_ratio"] == 0.40996
    # probability / ratio is the mean final confidence, whatever the map: about .853
    ratio = values.unstack("metric").eval("insertion / insertion_ratio")
    assert ratio.between(0.85, 0.856).all()


def test_styled_marks_winners_and_carries_its_caption():
    html = styled(comparison(scores(), *SIDES, by=["model"]), "The caption.").to_html()
    assert "<caption>The caption.</caption>" in html
    assert html.count("font-weight: bold") == 1


@pytest.mark.parametrize("value", [np.arange(500) % 7 / 8, np.random.default_rng(0).random(500)])
@pytest.mark.parametrize("curve", [[], [0.1, 1.5]])
def test_what_is_judged_is_what_the_file_keeps(tmp_path, value, curve):
    table = pd.DataFrame({"image": [f"img{k}" for k in range(500)], "share": np.linspace(0, 0.1, 500), "value": value})
    table["curve"] = [np.array(curve)] * 500
    judged = save_parquet(table, "nb", "laptop", tmp_path)
    path = tmp_path / "results" / "laptop" / "nb.parquet"
    found = pd.read_parquet(path)
    assert found.dtypes.equals(table.dtypes)
    pd.testing.assert_frame_equal(found, judged)
    pd.testing.assert_frame_equal(found[["image", "share"]], table[["image", "share"]])  # rows are selected by them
    np.testing.assert_allclose(found["value"], table["value"], rtol=2**-16)
    np.testing.assert_allclose(np.stack(found["curve"]), np.stack(table["curve"]), rtol=2**-16)
    assert path.stat().st_size < 10_000
    pd.testing.assert_frame_equal(save_parquet(judged, "nb", "laptop", tmp_path), judged)


def test_brackets_and_markdown():
    assert brackets(0.5, 0.25, 0.75) == "0.500 [0.250, 0.750]"
    assert brackets(1e-7, math.nan, math.nan) == "1.00e-07"
    assert brackets(math.nan, math.nan, math.nan) == ""
    assert to_markdown(pd.DataFrame({"a": ["x|y"], "b": [1]})) == "| a | b |\n| --- | --- |\n| x\\|y | 1 |"


USED = {"seconds": 90.0, "own_seconds": 15.0, "workers": 2, "units": 7, "unit_seconds": 150.0, "peak_memory_mb": 2345}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def between(path, name):
    return path.read_text(encoding="utf-8").split(f"<!-- {name}:begin -->\n")[1].split(f"\n<!-- {name}:end -->")[0]


def project(folder, **records):
    """The pages of this project beside the records that are given."""
    (folder / "docs").mkdir()
    for path in PAGES:
        (folder / path.relative_to(ROOT)).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    for profile, table in records.items():
        results = folder / "results" / profile
        results.mkdir(parents=True)
        table.to_csv(results / "claims.csv", index=False)
        (results / "provenance.json").write_text(json.dumps({"nb": USED}))
    return folder


def test_the_pages_show_the_records_that_are_there(tmp_path):
    root = project(tmp_path, laptop=verdicts())
    before = between(root / "docs" / "results.md", "claims-sample")
    readme.update_pages(root, HEADLINES)
    assert between(root / "README.md", "headlines") == readme.headlines_block({"laptop": verdicts()}, HEADLINES)
    assert between(root / "README.md", "took") == "The committed records took: `laptop` 1 min on 2 workers."
    assert between(root / "docs" / "results.md", "claims-laptop") == readme.claims_block(verdicts())
    assert between(root / "docs" / "results.md", "claims-sample") == before
    assert between(root / "docs" / "times.md", "times-laptop") == readme.times_block({"nb": USED})


def test_both_records_are_on_the_pages(tmp_path):
    root = project(tmp_path, laptop=verdicts(), sample=verdicts().assign(estimate=0.5))
    readme.update_pages(root, HEADLINES)
    assert "0.500" in between(root / "docs" / "results.md", "claims-sample")
    assert "(`sample`)" in between(root / "README.md", "headlines")
    assert between(root / "README.md", "took").startswith("The committed records took: `sample` 1 min on 2 workers, ")


def test_long_runs_are_said_in_hours():
    used = USED | {"own_seconds": 8850.0, "workers": 1}
    assert readme.took_block({"sample": {"a": used, "b": used}}).endswith("`sample` 5.0 h on 1 worker.")


def test_the_front_page_is_short_with_all_its_tables(tmp_path):
    """At most 15 KB, whatever the records say of the claims that it shows."""
    registry, (like, *_) = load_registry(), verdicts().to_dict("records")
    assert all(each.whose == "paper" for each in registry if each.headline)
    found = {"verdict": "not testable here", "estimate": -0.123, "network": "efficientnet_lite0, squeezenet1_1"}
    rows = [
        like | {"claim": each.id, "data": data} | found
        for each in registry
        for data in ("photographs", "digits")
        if data not in each.test.get("where", {}).get("data", data)
    ]
    rows += [like | {"claim": each.id} | found for each in registry]
    root = project(tmp_path, laptop=pd.DataFrame(rows, columns=COLUMNS), sample=verdicts())
    readme.update_pages(root, registry)
    assert (root / "README.md").stat().st_size <= 15_000


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_and_commands_of_the_pages_exist(path):
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]*)", text):
        assert not link or (path.parent / link).exists(), link
    targets = re.findall(r"^([a-z%-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    typed = " ".join(re.findall(r"```\n.*?```|`[^`\n]*`", text, re.S))
    for command in re.findall(r"\bmake ([a-z]+)", typed):
        assert command in targets or ("claim-%" in targets and command == "claim"), command
    for name in re.findall(r"`((?:lib|params|notebooks|docs)/[\w./]+)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"^\| `(\w+_\w+)` \|", text, re.M):
        assert (ROOT / "notebooks" / f"{name}.ipynb").exists(), name


def test_the_list_of_notebooks_is_complete():
    listed = re.findall(r"^\| `(\w+)` \| .*\?|^\| `(report)` ", (ROOT / "docs" / "results.md").read_text(), re.M)
    assert {one or other for one, other in listed} == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}


def fences(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize(
    ("path", "number"), [(path, number) for path in PAGES for number in range(len(fences(path)))], ids=str
)
def test_examples_of_the_pages_run(path, number):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)
    model, x = nn.Sequential(*layers).eval(), torch.rand(2, 3, 8, 8)
    exec(fences(path)[number], {"model": model, "x": x, "target": torch.tensor([0, 3]), "ids": ["a", "b"]})


@pytest.mark.parametrize("profile", readme.RECORDS)
def test_the_pages_show_the_committed_records(profile):
    record = ROOT / "results" / profile
    if not (record / "claims.csv").exists() or list(pd.read_csv(record / "claims.csv", nrows=0)) != COLUMNS:
        pytest.skip(f"there is no record of {profile} yet with the columns of today")
    table = read_claims(record / "claims.csv")
    assert between(ROOT / "docs" / "results.md", f"claims-{profile}") == readme.claims_block(table)
    assert between(ROOT / "docs" / "times.md", f"times-{profile}") == readme.times_block(read_provenance(record))
    shown = between(ROOT / "README.md", "headlines")
    assert shown.startswith("Of ") and f"(`{profile}`)" in shown


def test_columns_that_rows_are_selected_by_are_kept_exactly(tmp_path):
    table = pd.DataFrame({"epsilon": [0.3, 0.1], "contrast": [0.1, 0.7], "value": [1 / 3, 0.1]})
    save_parquet(table, "t", "laptop", str(tmp_path))
    found = pd.read_parquet(tmp_path / "results" / "laptop" / "t.parquet")
    assert found[["epsilon", "contrast"]].equals(table[["epsilon", "contrast"]])
    assert found["value"].tolist() == pytest.approx(table["value"].tolist(), rel=2**-16)
