"""Claims: every kind of test and every verdict on scores whose verdict is known, and the real registry."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import yaml

from lib import ROOT, InputError
from lib.reporting.claims import COLUMNS, Claim, check, judge, load_registry
from lib.reporting.statistics import holm, sign_flip

NOTEBOOKS = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
SIDES = {"a": {"rule": "idgi"}, "b": {"rule": "riemann"}}
ORDER = {"kind": "order", **SIDES, "direction": "greater", "every": True}
SHARE = {"kind": "share", **SIDES, "direction": "greater"}


def scores(effects, *, images=12, mode="corrected", noise=0.2, seed=0):
    """IDGI's mean gain in each cell (model, path, metric); the base scores are 1."""
    random = np.random.default_rng(seed)
    rows = []
    for (model, path, metric), effect in effects.items():
        gains = effect + noise * abs(effect) * random.uniform(-1, 1, images)
        for image, gain in enumerate(gains):
            cell = (f"img{image:02d}", model, path, 8, mode, metric)
            rows += [(*cell, "riemann", 1.0), (*cell, "idgi", 1 + gain)]
    return pd.DataFrame(rows, columns=["image", "model", "path", "steps", "mode", "metric", "rule", "value"])


def cells(*gains):
    return {(f"net{i}", "straight", "insertion"): gain for i, gain in enumerate(gains)}


def claim(test, name="C1", **fields):
    return Claim(
        **{"id": name, "paper": "tmlr", "statement": "s", "source": "summary", "notebook": "nb", **fields},
        test=test,
    )


def verdict(test, table, **options):
    (row,) = check("nb", table, registry=[claim(test)], **options).to_dict("records")
    return row


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ((0.1, 0.2), "holds here"),
        ((0.1, -0.2), "fails here"),  # one significant exception refutes a universal claim
        ((-0.1, -0.2), "fails here"),
        ((0.1, 0.0), "inconclusive"),
    ],
)
def test_order_in_every_cell(gains, expected):
    row = verdict(ORDER, scores(cells(*gains)))
    assert row["verdict"] == expected
    assert row["estimate"] == pytest.approx(np.mean(gains), abs=0.02)
    assert row["n"] == 12


def test_order_less_reverses_the_direction_but_not_the_estimate():
    row = verdict({**ORDER, "direction": "less"}, scores(cells(-0.1, -0.2)))
    assert row["verdict"] == "holds here"
    assert row["ci_high"] < 0


def test_order_of_the_mean_lets_cells_disagree():
    row = verdict({**ORDER, "every": False}, scores(cells(0.3, -0.1)))
    assert row["verdict"] == "holds here"
    assert "favourable in 1" in row["note"]
    assert verdict({**ORDER, "every": False}, scores(cells(-0.3, 0.1)))["verdict"] == "fails here"


def test_order_p_is_the_weakest_cells_after_holm():
    table = scores(cells(0.1, 0.2, 0.02), noise=4)
    wide = table.pivot(index="image", columns=["model", "rule"], values="value")
    p = [sign_flip(wide[model]["idgi"] - wide[model]["riemann"]) for model in ("net0", "net1", "net2")]
    assert verdict(ORDER, table)["p_holm"] == pytest.approx(max(holm(p)))


def test_an_inconclusive_verdict_says_how_many_images_would_decide():
    row = verdict({**ORDER, "every": False}, scores(cells(0.05), noise=8))
    assert row["verdict"] == "inconclusive"
    needed = int(row["note"].split("about ")[1].split()[0])
    assert needed > 12
    assert (
        verdict({**ORDER, "every": False}, scores(cells(0.05), noise=8, images=2 * needed))["verdict"] == "holds here"
    )


@pytest.mark.parametrize("test", [ORDER, SHARE])
def test_five_images_decide_nothing(test):
    row = verdict(test, scores(cells(0.5, 0.5), images=5))
    assert row["verdict"] == "inconclusive"
    assert "fewer than 6 images" in row["note"]
    assert row["n"] == 5


def test_excluded_images_are_counted_and_excluded_cells_prevent_a_universal_claim():
    table = scores(cells(0.1, 0.2))
    first = table["model"] == "net0"
    table.loc[first & (table["image"] < "img04") & (table["rule"] == "riemann"), "value"] = math.nan
    row = verdict(ORDER, table)
    assert "8 to 12 images a cell, at most 4 excluded" in row["note"]
    table.loc[first, "value"] = math.nan
    row = verdict(ORDER, table)
    assert row["verdict"] == "inconclusive"
    assert "no usable images for net0" in row["note"]


def test_a_listed_metric_that_is_absent_prevents_a_universal_claim():
    row = verdict({**ORDER, "where": {"metric": ["insertion", "sic_png"]}}, scores(cells(0.1)))
    assert row["verdict"] == "inconclusive"
    assert "no rows with metric = sic_png" in row["note"]


def test_change_compares_the_dependence_on_steps():
    coarse = scores(cells(0.1))
    fine = coarse.assign(steps=128, value=coarse["value"] + np.where(coarse["rule"] == "idgi", -0.3, 0.01))
    table = pd.concat([coarse, fine])
    row = verdict({**ORDER, "every": False, "change": "steps"}, table)
    assert row["verdict"] == "holds here"
    assert row["estimate"] == pytest.approx(0.3 - 0.01)


def test_change_needs_two_numbers_of_steps():
    row = verdict({**ORDER, "change": "steps"}, scores(cells(0.1)))
    assert (row["verdict"], row["note"]) == ("not run", "the table has no two values of steps to compare")


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ((0.1, 0.1, 0.1, 0.1, -0.1), "holds here"),  # most, but not all
        ((0.1, 0.1, 0.1, 0.1, 0.1), "fails here"),  # all
        ((0.1, -0.1, -0.1, -0.1), "fails here"),  # not most
        ((0.1, -0.1), "inconclusive"),  # the share is one half
        ((0.1, 0.1, 0.1, 0.1, 0.0), "inconclusive"),  # no significant exception
    ],
)
def test_share_most_but_not_all(gains, expected):
    row = verdict(SHARE, scores(cells(*gains)))
    assert row["verdict"] == expected


def test_share_estimate_is_the_share_of_cells():
    row = verdict(SHARE, scores(cells(0.1, 0.1, 0.1, -0.1)))
    assert (row["estimate"], row["ci_low"], row["ci_high"]) == (0.75, 0.75, 0.75)


def test_share_within_asks_where_the_exceptions_are():
    test = {**SHARE, "within": {"model": "resnet*"}}
    names = ("vgg16", "vgg19", "resnet50", "resnet101")
    concentrated = dict(zip([(n, "straight", "insertion") for n in names], (0.1, 0.1, -0.1, 0.1), strict=True))
    row = verdict(test, scores(concentrated))
    assert row["verdict"] == "holds here"
    assert row["estimate"] == 0.5
    elsewhere = dict(zip(concentrated, (-0.1, 0.1, 0.1, 0.1), strict=True))
    assert verdict(test, scores(elsewhere))["verdict"] == "fails here"
    row = verdict(test, scores(cells(0.1)))
    assert row["verdict"] == "not run"
    assert "resnet*" in row["note"]


def axioms(*values):
    return pd.DataFrame({"axiom": "completeness", "path": "straight", "rule": "idgi", "value": values})


@pytest.mark.parametrize(
    ("values", "expected"),
    [((0, 1e-6), "holds here"), ((0, 1e-3), "fails here"), ((0, math.nan), "fails here")],
)
def test_bound_on_a_maximum_is_exact_and_needs_no_images(values, expected):
    test = {"kind": "bound", "where": {"axiom": "completeness"}, "statistic": "max", "at_most": 1e-4}
    row = verdict(test, axioms(*values))
    assert row["verdict"] == expected
    assert row["protocol"] == "corrected"
    assert row["estimate"] == pytest.approx(np.nanmax(values))


def test_bound_on_a_mean_needs_its_whole_interval():
    def judged(values):
        table = pd.DataFrame({"image": range(len(values)), "metric": "r", "value": values})
        return verdict({"kind": "bound", "where": {"metric": "r"}, "statistic": "mean", "at_least": 0.9}, table)

    assert judged([0.95, 0.96, 0.97, 0.95, 0.96, 0.97])["verdict"] == "holds here"
    assert judged([0.85, 0.86, 0.87, 0.85, 0.86, 0.87])["verdict"] == "fails here"
    row = judged([0.85, 0.96, 0.99, 0.85, 0.96, 0.87])
    assert row["verdict"] == "inconclusive"
    assert "images would decide" in row["note"]
    assert "fewer than 6" in judged([0.95, 0.96, 0.97])["note"]


def exclusion(excluded_level, models=1):
    rows = [
        (f"img{i:02d}", f"net{model}", metric, 0.5 + (excluded_level if i < 8 else 0) + i % 2 / 1000)
        for i in range(24)
        for model in range(models)
        for metric in ("sic_png", "aic_png")
    ]
    table = pd.DataFrame(rows, columns=["image", "model", "metric", "value"])
    table.loc[(table["metric"] == "aic_png") & (table["image"] < "img08"), "value"] = math.nan
    test = {
        "kind": "exclusion",
        "where": {"metric": "sic_png"},
        "defined": {"metric": "aic_png"},
        "at_most": 0.01,
    }
    return verdict(test, table)


def test_exclusion_compares_own_images_with_common_ones():
    row = exclusion(0.3)  # a third of the images lie .3 higher: the mean moves by .1
    assert row["verdict"] == "fails here"
    assert row["estimate"] == pytest.approx(0.1)
    assert "8 of 24 scores left out" in row["note"]
    assert exclusion(0.0)["verdict"] == "holds here"
    assert exclusion(0.03)["verdict"] == "inconclusive"


def test_exclusion_intervals_are_simultaneous_over_cells():
    one, many = exclusion(0.3), exclusion(0.3, models=5)
    assert one["estimate"] == pytest.approx(many["estimate"])
    assert many["ci_low"] < one["ci_low"] < one["ci_high"] < many["ci_high"]


def agreement(corrected, released, **options):
    table = pd.concat([scores(cells(*corrected), **options), scores(cells(*released), mode="released", **options)])
    registry = [claim(ORDER), claim({"kind": "agree", "claims": ["C1"]}, "C2")]
    return check("nb", table, registry=registry).set_index(["claim", "protocol"]).loc[("C2", "both")]


@pytest.mark.parametrize(
    ("corrected", "released", "expected", "estimate"),
    [
        ((0.1, -0.2), (0.2, -0.1), "holds here", 1),
        ((0.1, -0.2), (0.2, 0.1), "fails here", 0.5),
        ((0.1, 0.2), (0.2, 0.0), "inconclusive", 0.5),
    ],
)
def test_agree_compares_conclusions_between_protocols(corrected, released, expected, estimate):
    row = agreement(corrected, released)
    assert (row["verdict"], row["estimate"]) == (expected, estimate)


def test_agree_names_the_cells_that_flip_and_needs_both_protocols():
    assert "flips: C1 net1" in agreement((0.1, -0.2), (0.2, 0.1))["note"]
    row = check("nb", scores(cells(0.1)), registry=[claim(ORDER), claim({"kind": "agree", "claims": ["C1"]}, "C2")])
    assert row.set_index("claim").loc["C2", "verdict"] == "not run"
    assert "mode = released" in row.set_index("claim").loc["C2", "note"]


def test_each_protocol_is_judged_separately_and_in_its_own_family():
    table = pd.concat([scores(cells(0.1)), scores(cells(-0.1), mode="released")])
    rows = check("nb", table, registry=[claim(ORDER)])
    assert rows[["protocol", "verdict"]].to_numpy().tolist() == [
        ["corrected", "holds here"],
        ["released", "fails here"],
    ]
    assert set(rows["p_holm"]) == {2 / 2**12}
    only = [claim(ORDER, protocols=("corrected",))]
    assert check("nb", table, registry=only)["protocol"].tolist() == ["corrected"]


def test_the_images_that_would_decide_grow_with_the_family():
    def needed(size):
        table = scores(cells(0.05), noise=8)
        rows = check("nb", table, registry=[claim(ORDER, f"C{number}") for number in range(size)])
        return int(rows["note"][0].split("about ")[1].split()[0])

    assert needed(1) < needed(20)


def test_a_family_is_a_papers_claims_in_a_notebook():
    table = scores(cells(0.1))
    alone = check("nb", table, registry=[claim(ORDER)])["p_holm"][0]
    three = check("nb", table, registry=[claim(ORDER), claim(ORDER, "C2"), claim(ORDER, "C3", paper="idgi")])
    np.testing.assert_allclose(three["p_holm"], [2 * alone, 2 * alone, alone])


def test_reproduced_is_kept_for_the_papers_own_setting():
    def words(gain, **fields):
        table = pd.concat([scores(cells(gain)), scores(cells(gain), mode="released")])
        return check("nb", table, registry=[claim(ORDER, **fields)], setting="paper")["verdict"].tolist()

    assert words(0.1) == ["holds here", "reproduced"]
    assert words(-0.1) == ["fails here", "contradicted"]
    assert words(0.1, source="ours") == ["holds here", "holds here"]
    with pytest.raises(InputError, match="did you mean 'paper'"):
        check("nb", scores(cells(0.1)), registry=[claim(ORDER)], setting="papers")


def test_a_missing_notebook_and_missing_rows_are_verdicts(tmp_path):
    rows = judge(tmp_path, registry=[claim(ORDER)])
    assert rows[["protocol", "verdict"]].to_numpy().tolist() == [["any", "not run"]]
    assert "make reproduce ONLY=nb" in rows["note"][0]
    row = verdict({**ORDER, "b": {"rule": "random"}}, scores(cells(0.1)))
    assert (row["verdict"], row["note"]) == ("not run", "the table has no rows with rule = random")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_judge_reads_tables_and_provenance(tmp_path, suffix):
    table = pd.concat([scores(cells(0.1)), scores(cells(0.1), mode="released")])
    table = table.assign(path="none")  # a name, not a missing value
    table.to_csv(tmp_path / "nb.csv", index=False) if suffix == "csv" else table.to_parquet(tmp_path / "nb.parquet")
    registry = [claim({**ORDER, "where": {"path": "none"}})]
    for images, expected in (("val", "reproduced"), ("packaged", "holds here")):
        settings = {"nb": {"settings": {"setting": "paper", "images": images}}}
        (tmp_path / "provenance.json").write_text(json.dumps(settings))
        rows = judge(tmp_path, registry=registry)
        assert rows["verdict"].tolist() == ["holds here", expected]
        assert list(rows) == COLUMNS


def test_judge_keeps_the_registrys_order(tmp_path):
    registry = [claim(ORDER, "Z"), claim(ORDER, "B", notebook="other"), claim(ORDER, "A")]
    assert judge(tmp_path, registry=registry)["claim"].tolist() == ["Z", "B", "A"]


def test_the_notebook_and_the_page_say_the_same(tmp_path):
    table = scores(cells(0.1, -0.2, 0.01), noise=3)
    table.to_csv(tmp_path / "nb.csv", index=False)
    registry = [claim(ORDER), claim(SHARE, "C2"), claim(ORDER, "C3", notebook="other")]
    here = check("nb", table, registry=registry)
    page = judge(tmp_path, registry=registry)
    pd.testing.assert_frame_equal(here, page[page["notebook"] == "nb"], atol=1e-12)


GOOD = {
    "paper": "tmlr",
    "statement": "s",
    "source": "ours",
    "notebook": "nb",
    "test": {"kind": "bound", "where": {"rule": "idgi"}, "statistic": "max", "at_most": 0},
}


def written(folder, entry, name="C1"):
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump({name: entry}))
    return path


def test_a_well_formed_registry_loads(tmp_path):
    (loaded,) = load_registry(written(tmp_path, GOOD))
    assert loaded == Claim("C1", **GOOD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"papre": "tmlr"}, "did you mean 'paper'"),
        ({"paper": "idgy"}, "did you mean 'idgi'"),
        ({"source": "our"}, "did you mean 'ours'"),
        ({"test": {**ORDER, "kind": "ordr"}}, "did you mean 'order'"),
        ({"test": {**ORDER, "direction": "greatr"}}, "did you mean 'greater'"),
        ({"test": {**ORDER, "every": "yes"}}, "wrong type"),
        ({"test": {**ORDER, "tolerance": 1}}, "'tolerance' is unknown"),
        ({"test": {**GOOD["test"], "at_most": True}}, "wrong type"),
        ({"test": {**GOOD["test"], "at_least": 0}}, "either at_most or at_least"),
        ({"test": SIDES}, "kind None is unknown"),
        ({"test": {"kind": "order", **SIDES}}, "lacks direction, every"),
        ({"test": {"kind": "agree", "claims": ["C9"]}}, "'C9' is unknown"),
        ({"test": {"kind": "agree", "claims": ["C1"]}}, "C1 must be an order claim of nb"),
    ],
)
def test_a_malformed_registry_is_refused_with_the_nearest_name(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        load_registry(written(tmp_path, {**GOOD, **change}))


def test_a_missing_key_and_a_repeated_claim_are_refused(tmp_path):
    with pytest.raises(InputError, match="claim C1 lacks statement"):
        load_registry(written(tmp_path, {key: GOOD[key] for key in GOOD if key != "statement"}))
    path = written(tmp_path, GOOD)
    path.write_text(path.read_text() * 2)
    with pytest.raises(InputError, match="'C1' is given 2 times"):
        load_registry(path)


def test_the_studys_registry_is_complete_and_every_claim_names_a_notebook():
    registry = load_registry()
    names = [entry.id for entry in registry]
    recalibration = [1, 2, 3, 4, 6, 7, 9, 10, 21, 22, 23, 24]
    letters = {"E": range(1, 16), "R": recalibration, "L": range(11, 17), "XD": range(1, 24)}
    numbers = letters | {"N": range(1, 12)}
    expected = {f"{letter}{number}" for letter in numbers for number in numbers[letter]}
    assert {name.rstrip("abcdefghijk") for name in names} == expected
    assert {entry.notebook for entry in registry} <= NOTEBOOKS
    assert all("\n" not in entry.statement and len(entry.statement) < 130 for entry in registry)


def study_scores(images):
    """A table like idgi_benchmark's: IDGI gains .1 on straight and guided paths and loses .1 on blur."""
    metrics = ["insertion", "insertion_ratio", "aic_png", "sic_png", "aic_msssim", "sic_msssim"]
    parts = []
    for mode in ("corrected", "released"):
        for path, gain in (("straight", 0.1), ("guided", 0.1), ("blur", -0.1)):
            table = scores({("lite0", path, metric): gain for metric in metrics}, images=images, mode=mode)
            half = table["value"].where(table["rule"] == "riemann", 1 + (table["value"] - 1) / 2)
            ours = table[table["rule"] == "idgi"]
            parts += [
                table,
                *([table.assign(steps=4, value=half)] if path != "guided" else []),
                ours.assign(rule="squared_gradient", value=ours["value"] - 0.05),
                ours.assign(rule="riemann_abs", value=0.5),
                ours[ours["metric"] == "insertion"].assign(metric="completeness", value=0.0),
                ours[ours["metric"] == "insertion"].assign(metric="spearman_squared_gradient", value=0.95),
            ]
    straight = parts[0][parts[0]["rule"] == "idgi"]
    parts.append(straight.assign(rule="random", path="none", steps=0, mode="corrected", value=0.1))
    return pd.concat(parts, ignore_index=True)


def test_the_studys_claims_on_scores_with_known_verdicts():
    rows = check("idgi_benchmark", study_scores(images=14)).set_index(["claim", "protocol"])
    expected = {
        "E1": "holds here",
        "E2": "fails here",  # guided wins, blur loses
        "E3": "fails here",
        "E6b": "holds here",
        "E7": "holds here",
        "E8": "not run",
        "E9": "holds here",
        "E12a": "holds here",
        "E12b": "holds here",
        "E12c": "holds here",
        "E13a": "fails here",
        "E13b": "holds here",
    }
    controls = {"E12a", "E12b", "E12c", "E13a", "E13b"}  # ours, so without a released version
    for protocol in ("corrected", "released"):
        for name in expected if protocol == "corrected" else set(expected) - controls:
            row = rows.loc[(name, protocol)]
            assert row["verdict"] == expected[name], (name, row["note"])
    assert rows.loc[("E11", "both"), "verdict"] == "holds here"
    assert rows.loc[("E14", "corrected"), "verdict"] == "holds here"
    assert len(rows) == 2 * len(expected) - len(controls) + 2


def test_three_images_leave_all_but_exact_claims_open():
    rows = check("idgi_benchmark", study_scores(images=3))
    decided = rows[~rows["verdict"].isin(["inconclusive", "not run"])]
    assert set(decided["claim"]) == {"E6b"}


def test_the_exact_claims_on_the_axioms_table():
    rows = [("cost", "blur", "idgi", "extra evaluations", 0.0)]
    rows += [(axiom, "blur", "idgi", "relative completeness error", 1e-6) for axiom in ("any path", "completeness")]
    rows += [("completeness", "blur", "riemann", "relative completeness error", 0.5)]
    table = pd.DataFrame(rows, columns=["axiom", "path", "rule", "quantity", "value"])
    assert check("idgi_axioms", table)["verdict"].tolist() == ["holds here"] * 3
    table.loc[0, "value"] = 1
    assert check("idgi_axioms", table)["verdict"].tolist() == ["fails here", "holds here", "holds here"]
