"""Tables, the page of claims and the README's table."""

import base64
import io
import math
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib import ROOT, InputError
from lib.reporting import readme, report
from lib.reporting.claims import COLUMNS, Claim, read_provenance
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
        test={},
    )


REGISTRY = [claim("C1", published=".5"), claim("C2", paper="idgi"), claim("C3"), claim("C4"), claim("C5")]


def verdicts():
    def row(name, protocol, verdict, estimate=0.1234, low=0.1, high=0.2, n=14, p=0.012, note="a note"):
        paper = "idgi" if name == "C2" else "tmlr"
        published = ".5" if name == "C1" else ""
        return [
            name,
            paper,
            f"says |{name}| < 1",
            "nb",
            protocol,
            estimate,
            low,
            high,
            n,
            p,
            published,
            verdict,
            note,
        ]

    nothing = [math.nan, math.nan, math.nan, 0, math.nan]
    rows = [
        row("C1", "corrected", "holds here"),
        row("C1", "released", "reproduced"),
        row("C2", "corrected", "fails here"),
        row("C3", "both", "inconclusive"),
        row("C4", "any", "not run", *nothing, "nb has <not> been run"),
        row("C5", "released", "contradicted"),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects ids, verdicts and text."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.open, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.ids += [value for key, value in attributes if key == "id"]
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page(**options):
    options = {"profile": "laptop", "figures": {}, "provenance": {}, **options}
    return report.page_of(verdicts(), REGISTRY, **options)


def test_the_page_has_each_claim_once_per_protocol():
    found = Page(page())
    assert sorted(found.ids) == [
        "C1-corrected",
        "C1-released",
        "C2-corrected",
        "C3-both",
        "C4-any",
        "C5-released",
    ]
    for number in range(1, 6):
        assert found.text.count(f"says |C{number}| < 1") == 1


def test_the_page_shows_verdicts_numbers_and_what_was_not_run():
    text = Page(page()).text
    for word in ("reproduced", "contradicted", "holds here", "fails here", "inconclusive", "not run"):
        assert word in text
    assert "0.123 [0.100, 0.200]" in text
    assert "p = 0.012" in text
    assert "published: .5" in text
    assert "C4 (any): nb has <not> been run" in text
    assert " nan" not in text


def test_the_page_embeds_figures_and_provenance():
    record = {"nb": {"device": "cpu", "seconds": 12.5, "versions": {"torch": "2.14.1"}}}
    text = page(figures={"nb-forest": "QUJD"}, provenance=record)
    assert 'src="data:image/webp;base64,QUJD"' in text
    assert "12.5" in text
    assert "torch 2.14.1" in text


def test_build_writes_the_table_and_the_page(tmp_path):
    figures = tmp_path / "figures" / "laptop"
    figures.mkdir(parents=True)
    Image.new("RGB", (30, 20), (200, 30, 30)).save(figures / "nb-forest.png")
    found = report.build("laptop", tmp_path, registry=REGISTRY)
    written = pd.read_csv(tmp_path / "results" / "laptop" / "claims.csv", keep_default_na=False)
    assert list(written) == COLUMNS
    assert written["verdict"].tolist() == ["not run"] * 5 == found["verdict"].tolist()
    html = (tmp_path / "results" / "laptop" / "report.html").read_text()
    embedded = html.split("data:image/webp;base64,")[1].split('"')[0]
    with Image.open(io.BytesIO(base64.b64decode(embedded))) as figure:
        assert figure.size == (30, 20) and figure.getpixel((15, 10)) == pytest.approx((200, 30, 30), abs=6)
    before = html
    report.build("laptop", tmp_path, registry=REGISTRY)
    assert (tmp_path / "results" / "laptop" / "report.html").read_text() == before


def claim_lines(block):
    """The head of a README table, and the lines of all its claims in order."""
    table = [line for line in block.splitlines() if line.startswith("|")]
    return table[:2] + sorted(line for line in table if line.startswith("| C"))


def test_readme_block_puts_corrected_beside_released():
    block = readme.claims_block(verdicts())
    papers = verdicts()["paper"].nunique()
    assert block.count("<details><summary><b>") == block.count("</details>") == papers
    assert "1 holds here" in block and "1 fails here" in block
    lines = claim_lines(block)
    assert len(lines) == 2 + 5
    assert "| holds here | reproduced | 0.123 [0.100, 0.200] | 14 | .5 |" in lines[2]
    assert "| fails here | – |" in lines[3]
    assert "| inconclusive | inconclusive |" in lines[4]
    assert "| – | contradicted |" in lines[6]
    assert "\\|C1\\|" in lines[2]


def with_paper_era():
    """C1 judged under three protocols, in the order `check` has them, C2 under two, C3 and C5 under one each."""
    table = verdicts()
    again = table[table["claim"].isin(["C1", "C2", "C5"])].drop_duplicates("claim")
    era = again.assign(protocol="paper_era", verdict="inconclusive", estimate=0.5, note="of its time")
    table = pd.concat([table, era], ignore_index=True).sort_values(["claim", "protocol"], ignore_index=True)
    return table[(table["claim"] != "C5") | (table["protocol"] == "paper_era")]


def test_the_page_shows_the_paper_era_below_the_released_verdict():
    html = report.page_of(with_paper_era(), REGISTRY, profile="laptop", figures={}, provenance={})
    ids = Page(html).ids
    assert [each for each in ids if each.startswith("C1")] == ["C1-corrected", "C1-released", "C1-paper_era"]
    assert len(ids) == len(with_paper_era()) and "C5-paper_era" in ids
    row = html[html.index("<th>C1</th>") :]
    row = row[: row.index("</tr>")]
    assert row.count("<td") == 3  # the claim and two columns
    released = row[row.rindex("<td") :]
    text = " ".join(Page(released).text.split())
    assert text.startswith("reproduced 0.123 [0.100, 0.200]")
    assert "paper-era code: inconclusive 0.500 [0.100, 0.200]" in text and "of its time" in text
    assert "paper-era" not in row[: row.rindex("<td")]


def test_the_readme_keeps_two_columns_with_the_paper_era():
    lines = claim_lines(readme.claims_block(with_paper_era()))
    assert lines[0] == claim_lines(readme.claims_block(verdicts()))[0]
    assert "| holds here | reproduced | 0.123 [0.100, 0.200] | 14 | .5 |" in lines[2]
    assert "| fails here | inconclusive (paper-era code) | 0.123" in lines[3]
    assert "| inconclusive | inconclusive |" in lines[4]
    assert "| – | inconclusive (paper-era code) | 0.500" in lines[6]


BEGIN, END = "<!-- claims:begin -->", "<!-- claims:end -->"


def test_updating_the_readme_twice_is_updating_it_once(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n{BEGIN}\nold\n{END}\nrest\n<!-- times:begin -->\n<!-- times:end -->\n")
    block = readme.claims_block(verdicts())
    readme.update_readme(path, "claims", block)
    once = path.read_text()
    readme.update_readme(path, "claims", block)
    expected = f"# Title\n{BEGIN}\n{block}\n{END}\nrest\n<!-- times:begin -->\n<!-- times:end -->\n"
    assert path.read_text() == once == expected


@pytest.mark.parametrize("text", ["no markers", f"{END}\n{BEGIN}\n", BEGIN])
def test_a_readme_without_markers_is_refused_and_left_alone(tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(InputError, match="needs one line"):
        readme.update_readme(path, "claims", "block")
    assert path.read_text() == text


def test_times_are_listed_from_the_longest_and_summed():
    used = {"seconds": 90.0, "own_seconds": 15.0, "workers": 2, "units": 7, "unit_seconds": 150.0}
    used |= {"peak_memory_mb": 2345}
    record = {"a": used, "b": used | {"seconds": 600.0}, "c": {"needs": "photographs"}}
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
    columns = "paper item model path rule steps fraction metric value source note attack epsilon"
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


@pytest.mark.parametrize("value", [np.arange(500) % 7 / 8, np.random.default_rng(0).random(500), [[0.5, 1.5]] * 500])
def test_a_packed_table_keeps_seven_digits_and_its_types(tmp_path, value):
    table = pd.DataFrame({"image": [f"img{k}" for k in range(500)], "steps": range(500), "value": list(value)})
    save_parquet(table, "nb", "laptop", tmp_path)
    path = tmp_path / "results" / "laptop" / "nb.parquet"
    found = pd.read_parquet(path)
    assert found.dtypes.equals(table.dtypes)
    pd.testing.assert_frame_equal(found.drop(columns="value"), table.drop(columns="value"))
    np.testing.assert_allclose(np.stack(found["value"]), np.stack(table["value"]), rtol=6e-8)
    assert path.stat().st_size < 10_000


def test_brackets_and_markdown():
    assert brackets(0.5, 0.25, 0.75) == "0.500 [0.250, 0.750]"
    assert brackets(1e-7, math.nan, math.nan) == "1.00e-07"
    assert brackets(math.nan, math.nan, math.nan) == ""
    assert to_markdown(pd.DataFrame({"a": ["x|y"], "b": [1]})) == "| a | b |\n| --- | --- |\n| x\\|y | 1 |"


def test_the_readme_shows_the_committed_records():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    record = ROOT / "results" / "laptop"
    assert readme.claims_block(report.read_claims(record / "claims.csv")) in text
    assert readme.times_block(read_provenance(record)) in text
    assert readme.bench_block(pd.read_csv(ROOT / "results" / "bench.csv")) in text


def test_columns_that_rows_are_selected_by_are_kept_exactly(tmp_path):
    table = pd.DataFrame({"epsilon": [0.3, 0.1], "contrast": [0.1, 0.7], "value": [1 / 3, 0.1]})
    save_parquet(table, "t", "laptop", str(tmp_path))
    found = pd.read_parquet(tmp_path / "results" / "laptop" / "t.parquet")
    assert found[["epsilon", "contrast"]].equals(table[["epsilon", "contrast"]])
    assert found["value"].tolist() == pytest.approx(table["value"].tolist(), rel=1e-7)
