"""Executed notebooks, as they are kept."""

import pandas as pd

from lib.reporting.rendered import plain_table
from lib.reporting.tables import styled


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
