"""Claims: every kind of test and every verdict on scores whose verdict is known, and the real registry."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from lib import ROOT, InputError
from lib.reporting.claims import COLUMNS, Claim, check, judge, load_registry
from lib.reporting.claims.evidence import fewest_units
from lib.reporting.statistics import holm, interval, sign_flip
from lib.store.files import content_digest

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
    ("gains", "expected", "every"),
    [
        ((0.1, 0.2), "holds here", "holds"),
        ((0.1, -0.2), "fails here", "fails"),
        ((0.2, -0.1), "holds here", "fails"),  # one significant exception refutes "in every cell", not the mean
        ((-0.1, -0.2), "fails here", "fails"),
        ((0.1, 0.0), "holds here", "inconclusive"),
    ],
)
def test_the_mean_decides_and_every_cell_stands_beside_it(gains, expected, every):
    row = verdict(ORDER, scores(cells(*gains)))
    assert (row["verdict"], row["every"]) == (expected, every)
    assert (row["cells"], row["cells_won"]) == (2, sum(gain > 0 for gain in gains))
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
    assert row["every"] == ""  # the paper does not say so
    assert verdict({**ORDER, "every": False}, scores(cells(-0.3, 0.1)))["verdict"] == "fails here"


def test_p_is_of_the_mean_and_cells_have_a_family_of_their_own():
    table = scores(cells(0.1, 0.2, 0.02), noise=4)
    wide = table.pivot(index="image", columns=["model", "rule"], values="value")
    gains = [wide[model]["idgi"] - wide[model]["riemann"] for model in ("net0", "net1", "net2")]
    row = verdict(ORDER, table)
    assert row["p_holm"] == pytest.approx(sign_flip(sum(gains)))
    won = (holm([sign_flip(each) for each in gains]) < 0.05).sum()
    assert f"{won} of them by themselves" in row["note"]


def test_an_inconclusive_verdict_says_how_many_images_would_decide():
    row = verdict({**ORDER, "every": False}, scores(cells(0.05), noise=8))
    assert row["verdict"] == "inconclusive"
    needed = int(row["note"].split("about ")[1].split()[0])
    assert needed > 12
    assert (
        verdict({**ORDER, "every": False}, scores(cells(0.05), noise=8, images=2 * needed))["verdict"] == "holds here"
    )


@pytest.mark.parametrize("test", [ORDER, SHARE])
def test_five_images_can_decide_nothing(test):
    row = verdict(test, scores(cells(0.5, 0.5), images=5))
    assert row["verdict"] == "not testable here"
    assert "5 images can decide nothing" in row["note"] and "it takes 6" in row["note"]
    assert row["n"] == 5


def test_how_few_are_too_few_grows_with_the_family():
    """Two tests: the smallest p of six images, 2 / 2^6, is above .05 / 2; that of seven is not."""
    registry = [claim(ORDER), claim({**ORDER, "direction": "less"}, "C2")]
    six, seven = (check("nb", scores(cells(0.5), images=count), registry=registry) for count in (6, 7))
    assert list(six["verdict"]) == ["not testable here"] * 2
    assert "6 images can decide nothing in a family of 2 tests: it takes 7" in six["note"][0]
    assert list(seven["verdict"]) == ["holds here", "fails here"]
    for family in (1, 2, 54):
        few = fewest_units(family)
        assert 2 / 2**few < 0.05 / family <= 2 / 2 ** (few - 1)


def test_excluded_images_are_counted_and_excluded_cells_prevent_a_universal_claim():
    table = scores(cells(0.1, 0.2))
    first = table["model"] == "net0"
    table.loc[first & (table["image"] < "img04") & (table["rule"] == "riemann"), "value"] = math.nan
    row = verdict(ORDER, table)
    assert "8 to 12 images a cell, at most 4 excluded" in row["note"]
    table.loc[first, "value"] = math.nan
    row = verdict(ORDER, table)
    assert (row["verdict"], row["every"], row["cells"]) == ("holds here", "inconclusive", 1)
    assert "no usable images for net0" in row["note"]


@pytest.mark.parametrize(("gain", "expected"), [(0.1, "holds here"), (-0.1, "fails here")])
def test_a_listed_path_that_is_absent_is_named_whichever_way_the_mean_points(gain, expected):
    row = verdict({**ORDER, "where": {"path": ["straight", "blur"]}}, scores(cells(gain)))
    assert row["verdict"] == expected
    assert row["every"] == ("fails" if gain < 0 else "inconclusive")
    assert "no rows with path = blur" in row["note"]


def test_metrics_are_questions_of_their_own():
    table = pd.concat([scores(cells(0.1)), scores({("net0", "straight", "sic_png"): -30.0})])
    test = {**ORDER, "where": {"metric": ["insertion", "sic_png", "aic_png"]}}
    rows = check("nb", table, registry=[claim(test)])
    assert rows["metric"].tolist() == ["insertion", "sic_png", "aic_png"]
    assert rows["verdict"].tolist() == ["holds here", "fails here", "not run"]
    assert rows["estimate"][:2].tolist() == pytest.approx([0.1, -30.0], rel=0.05)


def test_photographs_and_digits_and_the_papers_networks_are_judged_apart():
    gains = {"vgg16": 0.1, "efficientnet_lite0": -0.2, "mnist_cnn": 0.3, "made up": 0.4}
    rows = check("nb", scores({(name, "straight", "m"): gain for name, gain in gains.items()}), registry=[claim(ORDER)])
    assert rows[["data", "network"]].to_numpy().tolist() == [
        ["photographs", "paper"],
        ["photographs", "efficientnet_lite0"],
        ["digits", "mnist_cnn"],
        ["made-up inputs", "made up"],
    ]
    assert rows["estimate"].round(1).tolist() == [0.1, -0.2, 0.3, 0.4]
    assert rows["p_holm"].tolist() == [2 / 2**12] * 4  # a family each


def test_tables_without_networks_say_what_their_data_are():
    table = scores(cells(0.1)).drop(columns="model").assign(data="table")
    assert check("nb", table, registry=[claim(ORDER)])[["data", "network"]].to_numpy().tolist() == [["table", "table"]]


def test_what_the_stand_in_lacks_is_not_testable():
    names = [(name, "straight", "m") for name in ("efficientnet_lite0", "mnist_cnn")]
    rows = check(
        "nb", scores(dict.fromkeys(names, 0.1)), registry=[claim(ORDER, untestable={"digits": "ten classes only"})]
    )
    assert rows["verdict"].tolist() == ["holds here", "not testable here"]
    assert rows["note"][1].startswith("ten classes only; ")


def test_another_protocol_is_judged_on_the_images_of_the_corrected_one():
    """The released mode scores images that the corrected one leaves out; with them its mean would be far lower."""
    corrected = scores(cells(0.1))
    corrected.loc[corrected["image"] >= "img10", "value"] = math.nan
    released = scores(cells(0.1), mode="released")
    released.loc[(released["image"] >= "img10") & (released["rule"] == "idgi"), "value"] = -9.0
    rows = check("nb", pd.concat([corrected, released]), registry=[claim(ORDER)])
    assert rows["n"].tolist() == [10, 10]
    assert rows["estimate"].round(1).tolist() == [0.1, 0.1]


def test_scores_with_shared_chance_levels_are_resampled_by_group():
    """Twelve images in three groups whose members are alike: as independent as three values."""
    table = scores({("net0", "straight", "top_k_adjusted"): 0.1})
    number = table["image"].str[3:].astype(int)
    table["group"] = number // 4
    table["value"] += np.where(table["rule"] == "idgi", 0.2 * (number // 4), 0)
    test = {**ORDER, "where": {"metric": "top_k_adjusted"}}
    row, alone = verdict(test, table), verdict(test, table.drop(columns="group"))
    assert row["verdict"] == "not testable here" and alone["verdict"] == "holds here"
    assert "3 groups of images that share chance levels; 3 groups can decide nothing" in row["note"]
    assert row["ci_high"] - row["ci_low"] > alone["ci_high"] - alone["ci_low"]
    assert row["estimate"] == pytest.approx(alone["estimate"])
    plain = table.assign(metric="top_k")
    assert verdict({**ORDER, "where": {"metric": "top_k"}}, plain)["verdict"] == "holds here"


def test_overlapping_splits_have_a_larger_variance():
    table = scores(cells(0.1), noise=3).assign(overlap=3.69)
    independent, corrected = (
        verdict(ORDER, table.drop(columns="overlap")),
        verdict({**ORDER, "overlap": "overlap"}, table),
    )
    gains = table.pivot(index="image", columns="rule", values="value")
    gains = gains["idgi"] - gains["riemann"]
    error = gains.std() * math.sqrt(1 / 12 + 3.69)
    half = stats.t.isf(0.025, 11) * error
    assert corrected["ci_high"] - corrected["ci_low"] == pytest.approx(2 * half)
    assert corrected["p_holm"] == pytest.approx(2 * stats.t.sf(gains.mean() / error, 11))
    assert corrected["p_holm"] > independent["p_holm"]
    assert "overlapping training sets" in corrected["note"]


@pytest.mark.parametrize("overlap", [0.0, 3.69])
@pytest.mark.parametrize("kind", ["bound", "equivalence"])
def test_means_over_overlapping_splits_have_a_larger_variance(kind, overlap):
    values = np.random.default_rng(0).normal(0.1, 0.02, 12)
    table = pd.DataFrame({"image": range(12), "metric": "r", "value": values, "overlap": overlap})
    test = {"kind": kind, "where": {"metric": "r"}, "overlap": "overlap"}
    test |= {"statistic": "mean", "at_least": 0.05} if kind == "bound" else {"margin": 0.15}
    row = verdict(test, table)
    half = stats.t.isf(0.025, 11) * values.std(ddof=1) * math.sqrt(1 / 12 + overlap)
    assert (row["ci_high"] - row["ci_low"]) / 2 == pytest.approx(half)
    assert row["verdict"] == ("inconclusive" if overlap else "holds here")


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
    ("gains", "expected", "said"),
    [
        ((0.1, 0.1, 0.1, 0.1, -0.1), "holds here", "4 won and 1 lost significantly"),
        ((0.1, 0.1, 0.1, 0.1, 0.1), "fails here", "in all, where the claim says not in all"),
        ((0.1, -0.1, -0.1, -0.1), "fails here", "1 won and 3 lost significantly"),
        ((0.1, -0.1), "inconclusive", "1 won and 1 lost significantly"),
        ((0.1, 0.1, 0.1, 0.1, 0.0), "inconclusive", "in most; whether in all is open"),
    ],
)
def test_share_most_but_not_all(gains, expected, said):
    row = verdict(SHARE, scores(cells(*gains)))
    assert row["verdict"] == expected
    assert said in row["note"] and (row["note"].count("in all") == said.count("in all"))


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
    assert row["n"] == 2  # checks


def test_bound_on_a_mean_needs_its_whole_interval():
    def judged(values):
        table = pd.DataFrame({"image": range(len(values)), "metric": "r", "value": values})
        return verdict({"kind": "bound", "where": {"metric": "r"}, "statistic": "mean", "at_least": 0.9}, table)

    assert judged([0.95, 0.96, 0.97, 0.95, 0.96, 0.97])["verdict"] == "holds here"
    assert judged([0.85, 0.86, 0.87, 0.85, 0.86, 0.87])["verdict"] == "fails here"
    row = judged([0.85, 0.96, 0.99, 0.85, 0.96, 0.87])
    assert row["verdict"] == "inconclusive"
    assert "images would decide" in row["note"]
    few = judged([0.95, 0.96, 0.97])
    assert few["verdict"] == "not testable here" and "it takes 6" in few["note"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.01, -0.01, 0.02, -0.02, 0.01, -0.01, 0, 0], "holds here"),
        ([0.5, 0.51, 0.52, 0.5, 0.51, 0.52, 0.5, 0.5], "fails here"),
        ([-0.5, -0.51, -0.52, -0.5, -0.51, -0.52, -0.5, -0.5], "fails here"),
        ([0.2, -0.2, 0.3, -0.1, 0.2, -0.3, 0.1, 0.1], "inconclusive"),
        ([0, 0, 0, 0, 0], "not testable here"),
    ],
)
def test_equivalence_is_one_row_with_two_one_sided_tests(values, expected):
    table = pd.DataFrame({"image": range(len(values)), "metric": "gap", "value": values})
    row = verdict({"kind": "equivalence", "where": {"metric": "gap"}, "margin": 0.05}, table)
    assert row["verdict"] == expected
    assert "margin 0.05" in row["note"]


def test_equivalence_uses_the_interval_of_ninety_percent():
    values = np.random.default_rng(0).normal(0, 1, 400)
    table = pd.DataFrame({"image": range(400), "metric": "gap", "value": values})
    low, high = (interval(values, level=level)[1:] for level in (0.9, 0.95))
    between = (max(map(abs, low)) + max(map(abs, high))) / 2
    assert (
        verdict({"kind": "equivalence", "where": {"metric": "gap"}, "margin": between}, table)["verdict"]
        == "holds here"
    )


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


def test_no_other_verdict_depends_on_the_clock():
    def judged(gain):
        table = pd.concat([scores(cells(0.1)), scores(cells(gain)).assign(metric="seconds")])
        of_seconds, of_scores = (ORDER | {"where": {"metric": metric}} for metric in ("seconds", "insertion"))
        return check("nb", table, registry=[claim(of_seconds), claim(of_scores, "C2")]).set_index("claim")

    fast, slow = judged(0.1), judged(-0.1)
    assert (fast.loc["C1", "verdict"], slow.loc["C1", "verdict"]) == ("holds here", "fails here")
    told = ["verdict", "p_holm", "note"]
    assert fast.loc["C2", told].tolist() == slow.loc["C2", told].tolist()
    assert fast.loc["C2", "p_holm"] == 2 / 2**12


def test_reproduced_is_kept_for_the_papers_own_data_network_and_protocol():
    def words(gain, *, model="vgg16", setting="paper", **fields):
        cell = {(model, "straight", "insertion"): gain}
        table = pd.concat([scores(cell), scores(cell, mode="released")])
        return check("nb", table, registry=[claim(ORDER, **fields)], setting=setting)["verdict"].tolist()

    assert words(0.1) == ["holds here", "reproduced"]
    assert words(-0.1) == ["fails here", "contradicted"]
    assert words(0.1, setting="analogue") == ["holds here", "holds with the paper's network"]
    assert words(-0.1, setting="analogue") == ["fails here", "fails with the paper's network"]
    assert words(0.1, model="efficientnet_lite0") == ["holds here", "holds here"]
    assert words(0.1, model="mnist_cnn") == ["holds here", "holds here"]
    assert words(0.1, source="ours") == words(0.1, source="derived") == ["holds here", "holds here"]
    assert words(0.1, whose="audit") == ["holds here", "holds here"]
    with pytest.raises(InputError, match="did you mean 'paper'"):
        check("nb", scores(cells(0.1)), registry=[claim(ORDER)], setting="papers")


@pytest.mark.parametrize(("iterations", "expected"), [(300, "with the paper's network"), (50, "here")])
def test_a_corrected_protocol_is_the_papers_where_its_settings_are(iterations, expected):
    table = scores({("squeezenet1_1", "straight", "top_k"): 0.1}).assign(iterations=iterations)
    registry = [claim(ORDER, paper="lens", as_published={"iterations": 300})]
    assert check("nb", table, registry=registry)["verdict"].tolist() == [f"holds {expected}"]


def test_what_had_been_seen_is_said_in_the_statement():
    (row,) = check("nb", scores(cells(0.1)), registry=[claim(ORDER, added="after a look")]).to_dict("records")
    assert row["statement"] == "s (added after a look)"


def test_a_missing_notebook_and_missing_rows_are_verdicts(tmp_path):
    rows = judge(tmp_path, registry=[claim(ORDER)])
    assert rows[["protocol", "verdict"]].to_numpy().tolist() == [["any", "not run"]]
    assert rows["note"][0] == "nb is still to be written"
    rows = judge(tmp_path, registry=[claim(ORDER, notebook="idgi_axioms")])
    assert rows["note"][0] == "idgi_axioms has not been run: make reproduce ONLY=idgi_axioms"
    row = verdict({**ORDER, "b": {"rule": "random"}}, scores(cells(0.1)))
    assert (row["verdict"], row["note"]) == ("not run", "the table has no rows with rule = random")


def finished(results, table, **record):
    """Note that a notebook ended with this table."""
    tables = {table: content_digest(results / table)}
    (results / "provenance.json").write_text(json.dumps({table.split(".")[0]: {"tables": tables, **record}}))


def test_a_table_counts_only_as_a_finished_notebook_left_it(tmp_path):
    table, registry = scores(cells(0.1)), [claim(ORDER)]
    table.to_csv(tmp_path / "nb.csv", index=False)
    cut_off = judge(tmp_path, registry=registry)
    finished(tmp_path, "nb.csv")
    assert judge(tmp_path, registry=registry)["verdict"].tolist() == ["holds here"]
    table.assign(value=table["value"] + 1).to_csv(tmp_path / "nb.csv", index=False)  # another run began, and stopped
    for rows in (cut_off, judge(tmp_path, registry=registry)):
        assert rows["verdict"].tolist() == ["not run"]
        assert rows["note"].tolist() == ["nb has a table that no finished run left: make reproduce ONLY=nb"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_judge_reads_tables_and_provenance(tmp_path, suffix):
    table = pd.concat([scores(cells(0.1)), scores(cells(0.1), mode="released")])
    table = table.assign(path="none", model="vgg16")  # "none" is a name, not a missing value
    table.to_csv(tmp_path / "nb.csv", index=False) if suffix == "csv" else table.to_parquet(tmp_path / "nb.parquet")
    registry = [claim({**ORDER, "where": {"path": "none"}})]
    for images, expected in (("val", "reproduced"), ("packaged", "holds with the paper's network")):
        finished(tmp_path, f"nb.{suffix}", settings={"setting": "paper", "images": images})
        rows = judge(tmp_path, registry=registry)
        assert rows["verdict"].tolist() == ["holds here", expected]
        assert list(rows) == COLUMNS


def test_judge_keeps_the_registrys_order(tmp_path):
    registry = [claim(ORDER, "Z"), claim(ORDER, "B", notebook="other"), claim(ORDER, "A")]
    assert judge(tmp_path, registry=registry)["claim"].tolist() == ["Z", "B", "A"]


def test_the_notebook_and_the_page_say_the_same(tmp_path):
    table = scores(cells(0.1, -0.2, 0.01), noise=3)
    table.to_csv(tmp_path / "nb.csv", index=False)
    finished(tmp_path, "nb.csv")
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
    assert [Claim("C1", **{**GOOD, "source": source}).whose for source in ("ours", "derived", "code")] == [
        "control",
        "identity",
        "paper",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"papre": "tmlr"}, "did you mean 'paper'"),
        ({"paper": "idgy"}, "did you mean 'idgi'"),
        ({"source": "our"}, "did you mean 'ours'"),
        ({"whose": "controls"}, "did you mean 'control'"),
        ({"untestable": {"digit": "why"}}, "did you mean 'digits'"),
        ({"as_published": 300}, "wrong type"),
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
    recalibration = [*range(1, 11), 21, 22, 23, 24]
    letters = {"E": range(1, 17), "R": recalibration, "L": range(11, 20), "XD": range(1, 24)}
    numbers = letters | {"N": range(1, 12), "D": range(17, 25), "C": range(1, 10)}
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
    rows = check("idgi_benchmark", study_scores(images=14))
    expected = {
        "E1": "holds here",
        "E2": "inconclusive",  # guided wins as much as blur loses
        "E3": "holds here",
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
            found = rows[(rows["claim"] == name) & (rows["protocol"] == protocol)]
            assert set(found["verdict"]) == {expected[name]}, (name, found["note"].tolist())
    of = rows.set_index("claim")
    assert of.loc["E11", "verdict"] == "holds here"
    assert of.loc["E14", "verdict"] == "holds here"
    assert set(of.loc["E3", "every"]) == {"fails"}
    assert of.loc["E3", "metric"].tolist()[::2] == ["aic_png", "sic_png", "aic_msssim", "sic_msssim"]
    assert len(rows) == len(rows.drop_duplicates(["claim", "metric", "protocol", "data", "network"]))


def test_three_images_leave_all_but_exact_claims_open():
    rows = check("idgi_benchmark", study_scores(images=3))
    decided = rows[~rows["verdict"].isin(["inconclusive", "not testable here", "not run"])]
    assert set(decided["claim"]) == {"E6b"}


def test_the_exact_claims_on_the_axioms_table():
    rows = [("cost", "blur", "idgi", "extra evaluations", 0.0)]
    rows += [(axiom, "blur", "idgi", "relative completeness error", 1e-6) for axiom in ("any path", "completeness")]
    rows += [("completeness", "blur", "riemann", "relative completeness error", 0.5)]
    table = pd.DataFrame(rows, columns=["axiom", "path", "rule", "quantity", "value"])
    assert check("idgi_axioms", table)["verdict"].tolist() == ["holds here"] * 3
    table.loc[0, "value"] = 1
    assert check("idgi_axioms", table)["verdict"].tolist() == ["fails here", "holds here", "holds here"]
