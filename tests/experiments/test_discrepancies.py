"""Every recorded defect on its toy case: ours gives the value found by hand, the released code another one or none."""

import ast
import inspect
import math
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from lib.attribution.blur import gaussian_blur
from lib.experiments.discrepancies_record import LIBRARIES, READ_AT, TMLR, Discrepancy, Outcome, Place, run_or_nan
from lib.experiments.discrepancies_table import RECORDS, effects, moved_rows, outcomes, overview, toy_rows
from lib.experiments.discrepancies_unshown import UNSHOWN
from lib.experiments.subjects import Subject
from lib.models.zoo import Network

each = pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
SIDE = 176  # MS-SSIM wants more than 160 pixels


@each
def test_ours_is_right_and_the_released_code_is_not(record):
    if record.missing:
        pytest.skip(record.missing)
    outcome = record.check()
    assert math.isfinite(outcome.expected)
    assert record.right(outcome), outcome
    assert record.wrong(outcome), f"{outcome}: what the record says of {record.where.text} is no longer so"
    assert record.shown(outcome)


@each
def test_a_record_says_where_what_and_how_it_is_shown(record):
    assert {place.repository for place in (record.where, *record.also)} <= {*READ_AT, *LIBRARIES}
    assert len(record.quote.splitlines()) <= 2
    text = record.described(Outcome(1.0, math.nan, 0.5))
    for part in (record.name, record.quote, record.does, record.should, record.where.link, record.options, "none"):
        assert part in text
    for words in (record.does, record.should, record.shows):
        assert words == words.strip() and not words.endswith(".")


def test_names_and_places_are_told_apart():
    assert [name for name, count in Counter(record.name for record in RECORDS).items() if count > 1] == []
    assert len(UNSHOWN) == len(set(UNSHOWN))


@pytest.mark.parametrize(
    "record", [record for record in RECORDS if record.where.repository in LIBRARIES], ids=lambda record: record.name
)
def test_the_line_of_an_installed_library_reads_as_quoted(record):
    if record.missing:
        pytest.skip(record.missing)
    top, _, rest = record.where.file.partition("/")
    source = (Path(find_spec(top).origin).parent / rest).read_text(encoding="utf-8").splitlines()
    line = source[record.where.line - 1]
    assert " ".join(record.quote.split()) in " ".join(line.split()), line


def test_versions_are_those_that_the_project_installs():
    written = (Path(inspect.getfile(Subject)).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    for name, version in LIBRARIES.values():
        assert f'"{name}=={version}"' in written


def test_a_released_value_that_is_mended_is_noticed():
    record = Discrepancy("x", Place(TMLR, "a", 1), "q", "d", "s", "v", "o", lambda: Outcome(1.0, 1.0, 1.0))
    assert record.right(record.check()) and not record.wrong(record.check())
    assert not record.right(Outcome(0.0, math.nan, 1.0)) and record.wrong(Outcome(math.nan, 1.0, 1.0))
    assert record.missing == ""


def test_only_the_named_error_counts_as_stopping():
    assert math.isnan(run_or_nan(lambda: [][0], IndexError)) and run_or_nan(lambda: 3) == 3.0
    with pytest.raises(KeyError):
        run_or_nan(lambda: {}["x"], IndexError)


class Smooth(nn.Module):
    """A small network whose answers change with every pixel."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 5, stride=4), nn.Softplus(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 10)
        self.body = nn.Sequential(*layers)
        self.eval().requires_grad_(False)

    def forward(self, x):
        return 5 * self.body(x)


@pytest.fixture(scope="module")
def of() -> Subject:
    network = Network("smooth", Smooth(), SIDE, SIDE, "bilinear", (0.5,) * 3, (0.25, 0.5, 0.75), "none")
    x = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    gain = network.model(x).softmax(1) - network.model(gaussian_blur(x, 20.0)).softmax(1)
    return Subject(network, x, gain.argmax(1), ["a", "b"], x, [0, 1])  # classes that a blur makes less probable


@pytest.fixture(scope="module")
def moved(of) -> dict:
    return effects(RECORDS, of, steps=8)


def test_a_defect_moves_the_map_or_score_that_it_is_said_to_move(moved, of):
    assert set(moved) == {record.name for record in RECORDS if record.effect is not None}
    for name, (released, corrected) in moved.items():
        assert released.shape == corrected.shape and released.shape in ((2,), (2, SIDE, SIDE)), name
        assert corrected.isfinite().all() and (released - corrected).abs().max() > 0, name


def test_tables_hold_each_number_once(moved, of):
    few = [record for record in RECORDS if record.effect is not None][:2]
    found = outcomes(few)
    rows = pd.concat([toy_rows(found), moved_rows(moved, of)], ignore_index=True)
    assert not rows.duplicated(["record", "image", "metric"]).any()
    table = overview(RECORDS, rows).set_index("defect")
    assert list(table.index) == [record.name for record in RECORDS]
    first = few[0].name
    assert table.loc[first, "released"] == pytest.approx(found[first].released)
    mine = rows[(rows["record"] == first) & (rows["metric"] == "map_difference")]["value"]
    assert table.loc[first, "map moved by"] == pytest.approx(mine.mean()) and len(mine) == 2
    scores = rows[rows["metric"].str.startswith("score_")].pivot_table(index="record", columns="metric", values="value")
    for name, line in scores.iterrows():
        assert table.loc[name, "score"] == pytest.approx(line["score_corrected"])
        assert table.loc[name, "score moved by"] == pytest.approx(line["score_released"] - line["score_corrected"])


def test_libraries_are_imported_only_when_they_are_run():
    """Two of them are no part of what the study needs."""
    for path in Path(inspect.getfile(Discrepancy)).parent.glob("discrepancies_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & {"captum", "saliency", "quantus"}, path
