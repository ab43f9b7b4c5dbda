"""A sampled `verify`: which units are recomputed, which rows are compared with them, and what is said."""

import importlib

import pandas as pd
import pytest
from tiny_project import write_notebook

from lib.run import spot_check
from lib.run.commands import main, verify
from lib.run.slicing import needed
from lib.run.spot_check import chosen
from lib.run.study import study
from lib.run.verification import compare

PARAMETERS = 'profile: str = "lab"\noutput: str = "."\nscale: float = 1.0  # of the values'
CELLS = (
    "from functools import partial\nfrom test_spot_check import scored\nfrom lib.reporting import tables\n"
    "from lib.store.units import evaluate, units_folder",
    "units = {f'{name}-{i}': (name, f'image {i}') for name in ('a', 'b') for i in range(10)}\n"
    "compute = partial(scored, scale=scale)",
    "scores = evaluate(units, compute, cache=units_folder(output), label='scores')",
    "tables.save_parquet(scores, 'first', profile, output)",
    "draw = scores.pivot_table(index='image', columns='model', values='value')['b'].loc['image 9']",  # not of a sample
)
asked: list = []  # the units that were computed in this process


def scored(model: str, image: str, *, scale: float) -> pd.DataFrame:
    asked.append((model, image))
    rows = [(image, model, metric, scale * int(image[-1])) for metric in ("m", "n")]
    return pd.DataFrame(rows, columns=["image", "model", "metric", "value"])


@pytest.fixture
def recorded(root):
    """The tiny project with a committed record of twenty units."""
    write_notebook(root, "first", *CELLS, parameters=PARAMETERS)
    this = study("laptop", root=root)
    table = pd.concat([scored(name, f"image {i}", scale=1.0) for name in "ab" for i in range(10)])
    this.results.mkdir(parents=True)
    table.to_parquet(this.results / "first.parquet", index=False)
    asked.clear()
    return root


def test_a_share_of_the_units_is_recomputed_named_and_agrees(recorded, capsys):
    this = study("laptop", root=recorded)
    assert verify(this, share=0.1) == 0
    said = capsys.readouterr().out
    assert f"first: scores: 2 of 20 units: {asked[0][0]}-{asked[0][1][-1]}, " in said
    assert "first.parquet: 4 rows equal" in said and len(asked) == 2
    first = asked.copy()
    asked.clear()
    assert verify(this, share=0.1) == 0 and asked == first  # by a seed
    asked.clear()
    assert verify(this, share=0.1, seed=1) == 0 and asked != first


def test_a_changed_number_a_lost_and_an_invented_row_of_a_sampled_unit_are_found(recorded, capsys):
    this = study("laptop", root=recorded)
    path = this.results / "first.parquet"
    table = pd.read_parquet(path)
    verify(this, share=0.1)
    model, image = asked[0]
    mine = (table["model"] == model) & (table["image"] == image)
    other = (table["model"] == "b") & ~table["image"].isin([image for _, image in asked])
    table.assign(value=table["value"].mask(other, 99.0)).to_parquet(path, index=False)
    assert verify(this, share=0.1) == 0  # of units that are not sampled nothing is said
    table.assign(value=table["value"] + 9.0 * mine).to_parquet(path, index=False)
    assert verify(this, share=0.1) == 1
    assert "first.parquet: DIFFERS: 2 of 4 numbers beyond tolerance" in capsys.readouterr().out
    table[~(mine & (table["metric"] == "n"))].to_parquet(path, index=False)
    assert verify(this, share=0.1) == 1
    assert "DIFFERS: 0 rows only committed, 1 only recomputed" in capsys.readouterr().out
    pd.concat([table, table[mine].assign(metric="k")]).to_parquet(path, index=False)
    assert verify(this, share=0.1) == 1
    assert "DIFFERS: 2 rows only committed, 0 only recomputed" in capsys.readouterr().out


def test_a_table_that_cannot_be_made_of_a_sample_differs(recorded, capsys):
    cells = [*CELLS[:3], "scores = scores[scores['image'].isin([list(units)[99]])]", CELLS[3]]
    write_notebook(recorded, "first", *cells, parameters=PARAMETERS)
    assert verify(study("laptop", root=recorded), share=0.1) == 1
    said = capsys.readouterr().out
    assert "IndexError" in said and "first: DIFFERS: its table could not be made from the sampled units" in said


def test_the_command_takes_a_share_and_refuses_others(recorded, capsys):
    assert main(["verify", "--share", "0.25", "--workers", "1"], root=recorded) == 0
    assert "5 of 20 units" in capsys.readouterr().out
    for share in ("0", "1.5", "-0.1", "nan"):
        assert main(["verify", "--share", share], root=recorded) == 2
        assert "is no share; give a number above 0 and at most 1" in capsys.readouterr().err


def test_equally_many_units_are_sampled_at_the_same_places():
    names = [[f"{network}-{place}" for place in range(40)] for network in ("one", "two")]
    one, two = (chosen(each, 0.1, seed=3) for each in names)
    assert [each[4:] for each in one] == [each[4:] for each in two] and len(one) == 4
    assert chosen(["a"], 0.1, seed=0) == ["a"]


def test_units_whose_rows_make_others_are_computed_whole(recorded, monkeypatch, capsys):
    for name in spot_check.WHOLE:
        module, _, function = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function))
    monkeypatch.setattr(spot_check, "WHOLE", ("test_spot_check.scored",))
    assert verify(study("laptop", root=recorded), share=0.1) == 0
    assert "20 of 20 units" in capsys.readouterr().out


def test_the_seconds_of_a_unit_do_not_ask_for_the_scores_of_its_image():
    keys = {
        "image": "a",
        "model": "net",
        "metric": ["m", "evaluations"],
        "label": [3, -1],
    }  # timed: no class of its own
    table = pd.DataFrame(keys | {"value": [0.5, 4.0]})
    assert compare(table, table[1:], units=True) == "1 rows equal"
    assert compare(table.assign(label=3), table[1:].assign(label=3), units=True).startswith("DIFFERS: 1 rows only comm")


def test_rows_without_a_column_about_units_are_compared_whole():
    table = pd.DataFrame({"axiom": ["a", "b"], "value": [1.0, 2.0]})
    assert compare(table, table, units=True) == "2 rows equal"
    assert compare(table, table[:1], units=True).startswith("DIFFERS: 1 rows only committed")


def test_statements_that_save_are_needed_with_what_they_use():
    cells = ["import tables", "rows = evaluate(1)", "more = rows + 1", "draw(more)", "tables.save_csv(more)"]
    assert len(needed(cells)) == 1
    assert len(needed(cells, ("evaluate", "tables.save_csv"))) == 4
