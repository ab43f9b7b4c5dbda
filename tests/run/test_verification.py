"""Tables that say the same, tables that do not, and what depends on the clock."""

import numpy as np
import pandas as pd
import pytest

from lib.experiments.cross_tables import CHOSEN
from lib.run.verification import ON_ALL, compare, compare_folders, timed_claims

TABLE_A = pd.DataFrame({"image": ["a", "a", "b"], "steps": [8, 16, 8], "value": [1.0, 0.0, float("nan")]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t, "3 rows equal"),
        (lambda t: t.iloc[::-1], "3 rows equal"),  # order does not count
        # the standard deviation of 1 and 0 is .5: tolerance .015 at 1, .005 at 0
        (lambda t: t.assign(value=[1.0149, 0, None]), "3 rows agree, largest deviation 1 → 1.0149"),
        (lambda t: t.assign(value=[1.0151, 0, None]), "DIFFERS: 1 of 3 numbers beyond tolerance"),
        (lambda t: t.assign(value=[1, 0.0049, None]), "3 rows agree"),
        (lambda t: t.assign(value=[1, 0.0051, None]), "DIFFERS: 1 of 3"),
        (lambda t: t.assign(value=[1, 0, 0.0]), "DIFFERS: 1 of 3 numbers beyond tolerance, largest dev"),
        (lambda t: t.assign(value=[1, float("inf"), None]), "DIFFERS: 1 of 3"),
        (lambda t: t.iloc[:2], "DIFFERS: 1 rows only committed, 0 only recomputed, as (b, 8)"),
        (lambda t: t.assign(steps=[8, 32, 8]), "DIFFERS: 1 rows only committed, 1 only recomputed"),
        (lambda t: t.rename(columns={"steps": "n"}), "DIFFERS: columns image, n, value instead of"),
    ],
)  # fmt: skip
def test_compare(change, said):
    assert compare(TABLE_A, change(TABLE_A)).startswith(said)


def test_where_numbers_differ_it_says_on_which_paths_and_how_far_the_means_moved():
    old = pd.DataFrame({"image": [*"abcabc"], "path": ["straight"] * 3 + ["guided"] * 3, "value": [1.0, 2, 3, 1, 2, 3]})
    said = compare(old, old.assign(value=[1.0, 2, 3, 1.5, 2.5, 3]))
    assert said.startswith("DIFFERS: 2 of 6 numbers beyond tolerance (guided: 2 of 3), largest deviation 1 → 1.5 in")
    # The mean of guided moves by a third, and its standard error is 1 / √3; that of straight stays.
    moved = "0 moved by more than their standard error, the most by 0.58 of it, half of them by less than 0.29"
    assert said.endswith(f"; of 2 means over images {moved}")
    assert "1 moved by more" in compare(old, old.assign(value=[1.0, 2, 3, 2, 3, 4]))
    alone = old[old["image"] == "a"]  # one image has no standard error
    assert "means" not in compare(alone, alone.assign(value=[1.0, 2.0]))


def test_compare_rows_with_equal_keys_by_their_order():
    twice = pd.DataFrame({"run": ["a", "a"], "value": [1.0, 2.0]})
    assert compare(twice, twice) == "2 rows equal"
    assert compare(twice, twice.iloc[::-1]).startswith("DIFFERS: 2 of 2")


def test_curves_are_compared_point_by_point(tmp_path):
    for folder, point in (("old", 0.5), ("near", 0.5001), ("far", 0.6)):
        (tmp_path / folder).mkdir()
        table = pd.DataFrame({"image": ["a", "b"], "curve": [[0.0, 0.5, 1.0], [0.0, point, 1.0]], "note": folder})
        table.to_parquet(tmp_path / folder / "nb_curves.parquet")
    said = {side: compare_folders(tmp_path / "old", tmp_path / side, partial=False) for side in ("near", "far")}
    assert said["near"]["nb_curves.parquet"].startswith("6 rows agree")
    assert said["far"]["nb_curves.parquet"].startswith("DIFFERS: 1 of 6 numbers")


def test_a_table_in_parts_says_what_one_file_says(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    (new / "nb.parquet").mkdir(parents=True)
    old.mkdir()
    TABLE_A.to_parquet(old / "nb.parquet", index=False)
    for number, part in enumerate((TABLE_A[:2], TABLE_A[2:])):
        part.to_parquet(new / "nb.parquet" / f"part-{number:05}.parquet", index=False)
    for folders in ((old, new), (new, old), (new, new)):
        assert compare_folders(*folders, partial=False) == {"nb.parquet": "3 rows equal"}
    TABLE_A[2:].assign(steps=32).to_parquet(new / "nb.parquet" / "part-00001.parquet", index=False)
    assert compare_folders(old, new, partial=False)["nb.parquet"].startswith("DIFFERS: 1 rows only committed")


def test_what_is_chosen_on_all_photographs_is_compared_where_all_are_computed_again(tmp_path):
    both = {"image": ["a", "b", "a", "b"], "path": ["straight", "straight", CHOSEN, CHOSEN]}
    for folder, rows in (("old", slice(None)), ("new", slice(0, None, 2))):  # the choice is another one without "b"
        (tmp_path / folder).mkdir()
        values = [0.5, 0.25, 0.75 if folder == "old" else 0.125, 0.5]
        pd.DataFrame(both | {"value": values})[rows].to_parquet(tmp_path / folder / "nb.parquet")
    folders = tmp_path / "old", tmp_path / "new"
    said = compare_folders(*folders, partial=True, units=True)["nb.parquet"]
    assert said == "1 rows equal; not compared, resting on all units: 1 rows"
    assert compare_folders(*folders, partial=True)["nb.parquet"].startswith("DIFFERS")
    assert ON_ALL == CHOSEN


@pytest.mark.parametrize("size", [1e-9, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize(
    ("change", "agrees"),
    [
        (lambda small: small, True),
        (lambda small: small * 1.005, True),
        (lambda small: small * 1e6, False),
        (lambda small: small / 1e6, False),
        (lambda small: small * 1.1, False),
        (lambda small: small + 0.1 * small.std(), False),
        (lambda small: -small, False),
    ],
)
def test_a_metric_is_measured_by_its_own_spread_whatever_its_unit_and_company(size, change, agrees):
    noise = np.random.default_rng(0).normal(size=(2, 100))
    small, large = size * noise[0], 0.5 + 0.2 * noise[1]

    def table(small) -> pd.DataFrame:
        keys = pd.DataFrame({"image": np.tile(np.arange(100), 2), "metric": ["mse_l1"] * 100 + ["spearman"] * 100})
        return keys.assign(value=np.concatenate([small, large]))

    assert compare(table(small), table(change(small))).startswith("DIFFERS") is not agrees


def test_a_claim_is_measured_by_its_own_interval():
    claims = pd.DataFrame({"claim": ["A", "B"], "estimate": [0.0, 1e6], "ci_low": [-1e-6, 9e5], "ci_high": [1e-6, 2e6]})
    assert "rows agree" in compare(claims, claims.assign(estimate=[1e-8, 1e6]))
    assert "DIFFERS" in compare(claims, claims.assign(estimate=[1e-7, 1e6]))


def test_a_constant_metric_may_move_by_its_size_alone():
    table = pd.DataFrame({"metric": ["a", "a"], "value": [2.0, 2.0]})
    assert "agree" in compare(table, table.assign(value=[2.0, 2.01]))
    assert "DIFFERS" in compare(table, table.assign(value=[2.0, 2.03]))


REGISTRY = """
L1: {notebook: n, test: {kind: order, where: {metric: seconds, steps: smallest}}}
L2: {notebook: n, test: {kind: bound, where: {metric: accuracy_cost}}}
L3: {notebook: n, test: {kind: agree, claims: [L2]}}
L4: {notebook: n, test: {kind: bound, where: {metric: evaluations}, either: [{metric: auc}, {metric: seconds}]}}
"""


def test_what_depends_on_the_clock_is_shown_and_not_compared(tmp_path):
    (tmp_path / "claims.yaml").write_text(REGISTRY)
    timed = timed_claims(tmp_path / "claims.yaml")
    assert timed == ("L1", "L4")
    for folder, time, auc in (("old", 1.0, 0.5), ("new", 9.0, 0.5), ("other", 1.0, 0.7)):
        (tmp_path / folder).mkdir()
        rows = {
            "claim": ["L1", "L2"],
            "p_holm": [0.01 * time, auc],
            "verdict": ["holds" if time < 2 else "fails", "holds"],
        }
        pd.DataFrame(rows).to_csv(tmp_path / folder / "claims.csv", index=False)
        table = pd.DataFrame({"metric": ["seconds", "auc"], "value": [time, auc]})
        table.to_csv(tmp_path / folder / "n.csv", index=False)

    def said(folder: str) -> dict:
        return compare_folders(tmp_path / "old", tmp_path / folder, partial=False, timed=timed)

    assert said("new") == {
        "claims.csv": "1 rows equal; not compared, by the clock: L1 holds → fails",
        "n.csv": "1 rows equal; not compared, by the clock: mean seconds 1 → 9",
    }
    assert all(line.startswith("DIFFERS") for line in said("other").values())
    assert timed_claims(tmp_path / "none.yaml") == ()


def test_of_the_verdicts_only_those_on_recomputed_tables_count(tmp_path):
    for folder, second in (("old", "fails"), ("new", "not run")):
        (tmp_path / folder).mkdir()
        rows = {"claim": ["A", "B"], "notebook": ["one", "two"], "estimate": [0.5, 0.1], "verdict": ["holds", second]}
        pd.DataFrame(rows).to_csv(tmp_path / folder / "claims.csv", index=False)
        TABLE_A.to_csv(tmp_path / folder / "one.csv", index=False)
    TABLE_A.to_csv(tmp_path / "old" / "two.csv", index=False)
    said = compare_folders(tmp_path / "old", tmp_path / "new", partial=True)
    assert said == {"claims.csv": "1 rows equal", "one.csv": "3 rows equal"}
    said = compare_folders(tmp_path / "old", tmp_path / "new", partial=False)
    assert said["claims.csv"].startswith("DIFFERS") and said["two.csv"] == "DIFFERS: only committed"


def test_a_claim_without_an_interval_is_told_by_its_verdict():
    claims = pd.DataFrame({"claim": ["A"], "estimate": 3e-12, "ci_low": np.nan, "ci_high": np.nan, "verdict": "holds"})
    said = compare(claims, claims.assign(estimate=8e-13))
    assert said == "1 rows agree, exact claims by their verdicts"
    assert "DIFFERS" in compare(claims, claims.assign(estimate=np.nan))
    assert "DIFFERS" in compare(claims, claims.assign(verdict="fails"))
