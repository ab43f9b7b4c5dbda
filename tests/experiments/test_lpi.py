"""The LPI study: whose references, how many of them, from which neighbourhood, and at what cost."""

import numpy as np
import pandas as pd
import pytest
import torch

from lib.attribution import Adversarial, Lines, Riemann, attribute
from lib.attribution.references import FromPool, Single
from lib.data.digits import MEAN, STD, digits
from lib.experiments import lpi
from lib.experiments.recalibration import GAMES
from lib.experiments.subjects import Subject
from lib.models.fold import prepare
from lib.models.zoo import Network
from lib.training.fit import digit_cnn

KEYS = ["image", "path", "rule", "steps", "mode", "metric", "seed"]
CLUSTERS = 2


@pytest.fixture(scope="module")
def network():
    return Network("untrained", prepare(digit_cnn(seed=0), shape=(1, 28, 28)), 28, 28, "bilinear", MEAN, STD, "cnn")


@pytest.fixture(scope="module")
def of(network):
    """Three digits and the classes the network takes them for; the second is also row 7 of the pool."""
    pool = digits("train").take(slice(150))
    x = torch.stack([digits("test").x[0], pool.x[7], digits("test").x[1]])
    with torch.no_grad():
        target = network.model(x).argmax(1)
    return Subject(network, x, target, ["a", "b", "c"], pool.x, [-1, 7, -1])


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    return {"clusters": CLUSTERS, "cache": tmp_path_factory.mktemp("trained")}


@pytest.fixture(scope="module")
def rows(of, offline):
    return lpi.lpi_benchmark(lambda: of, sweep=[1, 2], seeds=[0, 1], **offline)


def test_rows_have_unique_keys_and_every_method_its_numbers_of_points(rows):
    assert not rows.duplicated(KEYS).any()
    assert (rows.groupby(KEYS[1:]).size() == 3).all()
    assert set(rows["metric"]) == {*GAMES, "diffid_gain"}
    games = rows[rows["metric"] != "diffid_gain"]
    sweeps = games.groupby(["path", "rule"])["steps"].agg(set)
    variants = ("density", "random_density", "equal_density", "one_cluster", "recalibrated_point")
    both = [*(("local", rule) for rule in variants), ("dataset", "riemann_abs"), ("dataset", "recalibrated_point")]
    both += [("straight", "riemann_abs"), ("adversarial", "riemann_abs")]
    assert sweeps.to_dict() == {("none", "random"): {0}} | {method: {1, 2} for method in both}
    assert (games.groupby(["path", "rule", "steps", "metric", "image"])["seed"].agg(set) == {0, 1}).all()
    assert games["value"].notna().all()
    np.testing.assert_allclose(games["curve"].map(sum) / 10, games["value"], rtol=1e-5, atol=1e-6)


def test_an_image_that_the_network_gets_wrong_has_no_score(of, offline):
    wrong = Subject(of.network, of.x, (of.target + 1) % 10, of.images, of.pool, of.own)
    table = lpi.lpi_benchmark(lambda: wrong, sweep=[1], seeds=[0], **offline)
    assert table["value"].isna().all()


def test_the_gain_is_the_difference_between_most_and_fewest_points(rows):
    plain = rows[(rows["path"] == "straight") & (rows["metric"] == "diffid_logit") & (rows["seed"] == 0)]
    wide = plain.pivot(index="image", columns="steps", values="value")
    gain = rows[rows["metric"] == "diffid_gain"].set_index("image")
    pd.testing.assert_series_equal(gain["value"], wide[2] - wide[1], check_names=False)
    assert (gain["steps"] == 2).all()


def test_seeds_change_what_is_drawn_and_leave_ig_alone(rows):
    scores = rows[rows["metric"] == "diffid_logit"].set_index(["path", "rule", "steps", "seed"]).sort_index()["value"]
    for path, rule in (("local", "random_density"), ("local", "density"), ("dataset", "riemann_abs")):
        assert (scores[path, rule, 2, 0].to_numpy() != scores[path, rule, 2, 1].to_numpy()).any()
    assert scores["straight", "riemann_abs", 2, 0].tolist() == scores["straight", "riemann_abs", 2, 1].tolist()


def test_the_sets_of_references(of, offline):
    first, second = (lpi.sets(of, seed=seed, **offline) for seed in (0, 1))
    near = lpi.local_set(of.network, of.pool, **offline)
    cluster = near.nearest(of.answers()[0])
    local = first["local", "density"]
    assert torch.equal(local.index, near.members[cluster]) and local.count == lpi.REFERENCES
    torch.testing.assert_close(local.weights, near.densities[cluster].float())
    assert torch.equal(local.index, first["local", "random_density"].index)
    assert torch.equal(local.index, first["local", "equal_density"].index)
    assert first["local", "equal_density"].weights is None
    weights = [found["local", "random_density"].weights for found in (first, second)]
    assert not torch.allclose(*weights)
    torch.testing.assert_close(weights[0].sum(1), torch.ones(3))
    one = first["local", "one_cluster"]
    assert (one.index == one.index[0]).all() and (one.weights == one.weights[0]).all()
    everyone = Subject(of.network, of.x, of.target, of.images, of.pool[:21], of.own)
    drawn = everyone.drawn(lpi.REFERENCES).index[1].tolist()
    assert sorted(drawn) == [row for row in range(21) if row != 7]  # all but the image itself


def test_maps_do_not_depend_on_the_company(of, offline):
    together = lpi.maps_at(of, [1, 2], **offline)
    for b, image in enumerate(of.images):
        alone = Subject(of.network, of.x[b : b + 1], of.target[b : b + 1], [image], of.pool, of.own[b : b + 1])
        for key, each in lpi.maps_at(alone, [1, 2], **offline).items():
            torch.testing.assert_close(each[0], together[key][b], rtol=1e-4, atol=1e-6, msg=str(key))


def test_maps_of_a_shared_walk_are_those_of_a_walk_each(of, offline):
    maps = lpi.maps_at(of, [1, 2], **offline) | lpi.ig_maps(of, [1, 2])
    assert {key[:2] for key in maps} == {key[:2] for key in maps if key[2] == 1}
    found = lpi.sets(of, **offline) | {("straight", "riemann_abs"): None, ("adversarial", "riemann_abs"): None}
    for (path, rule), references in found.items():
        for points in (1, 2):
            rules = {"a": Riemann("left" if path == "adversarial" else "mean")}
            way = lpi.walk_of(of, path, points, references=references)
            alone = attribute(of.model, of.x, of.target, path=way, rules=rules, objective="logit")["a"].abs().sum(1)
            torch.testing.assert_close(maps[path, rule, points, "corrected"], alone, rtol=1e-4, atol=1e-6)


def test_evaluations_are_twenty_a_point_and_one_more_for_each_class_of_agi(of, offline):
    table = lpi.cost(lambda: of, sweep=[1, 3], **offline)
    assert not table.duplicated(KEYS).any()
    found = table[table["metric"] == "evaluations"].set_index(["path", "rule", "steps"])["value"].to_dict()
    twenty = [("straight", "riemann_abs"), ("dataset", "riemann_abs"), ("local", "density")]
    expected = {(*method, points): 20 * points for method in twenty for points in (1, 3)}
    assert found == expected | {("adversarial", "riemann_abs", points): 21 * points for points in (1, 3)}
    assert set(table["image"]) == {"a"}  # a unit has one time


def test_a_method_is_timed_with_its_own_references_only(of, offline, monkeypatch):
    calls, drawn = [], Subject.drawn
    monkeypatch.setattr(Subject, "drawn", lambda self, count, **options: calls.append(count) or drawn(self, count))
    lpi.cost(lambda: of, sweep=[1, 2], **offline)
    assert calls == [lpi.REFERENCES] * 2 * lpi.ROUNDS


def test_the_shortest_time_of_three_counts(of, offline, monkeypatch):
    steps = iter([0, 5, 0, 3, 0, 4])  # IG's beginning and end in each round
    monkeypatch.setattr(lpi, "product", lambda rounds, sweep, names: [(r, 1, "straight") for r in rounds])
    monkeypatch.setattr(lpi, "perf_counter", lambda: next(steps))
    table = lpi.cost(lambda: of, sweep=[1], **offline)
    assert table[table["metric"] == "seconds"]["value"].tolist() == [3 / len(of.images)]


# -- fewer samples, other neighbourhoods -----------------------------------------------------------------------


def absolute(of, path, rule="mean"):
    found = attribute(of.model, of.x, of.target, path=path, rules={"a": Riemann(rule)}, objective="logit")
    return found["a"].abs().sum(1)


def test_maps_of_fewer_samples_are_those_of_walks_with_so_many(of, offline):
    """The first references of EG, the first steps of AGI; IG on a coarser line; LPI with larger parts of a cluster."""
    count = 5
    maps = lpi.maps_at(of, [1, 2], samples=[count], **offline) | lpi.ig_maps(of, [1, 2], [count])
    fewer = {key[:2]: each for key, each in maps.items() if key[2:] == (count, lpi.FEWER)}
    drawn = of.drawn(lpi.REFERENCES)
    eg = lpi.walk_of(of, "dataset", 1, references=FromPool(of.pool, drawn.index[:, :count]))
    whole = lpi.walk_of(of, "adversarial", 1)
    near = lpi.local_set(of.network, of.pool, references=count, **offline)
    references = lpi.weighted_references(of, near, of.answers()[0])
    assert references.count == count
    expected = {
        ("dataset", "riemann_abs"): absolute(of, eg),
        ("adversarial", "riemann_abs"): absolute(of, Adversarial(whole.targets, count), "left"),
        ("straight", "riemann_abs"): absolute(of, Lines(Single("black"), count)),
        ("local", "density"): absolute(of, lpi.walk_of(of, "local", 1, references=references)),
    }
    assert set(fewer) == set(expected)
    for key, each in expected.items():  # a map's scale does not matter to what is removed
        torch.testing.assert_close(fewer[key] / fewer[key].sum(), each / each.sum(), rtol=1e-4, atol=1e-7, msg=str(key))


def test_maps_of_another_number_of_neighbourhoods_are_those_with_its_clusters(of, offline):
    found = lpi.maps_at(of, [1], neighbourhoods=[3], **offline)["local", "density", 3, lpi.NEAR]
    other = lpi.maps_at(of, [1], clusters=3, cache=offline["cache"])["local", "density", 1, "corrected"]
    torch.testing.assert_close(found, other)


@pytest.fixture(scope="module")
def studied(of, offline):
    return lpi.lpi_benchmark(lambda: of, sweep=[1, 2], seeds=[0, 1], samples=[5], neighbourhoods=[1, 2, 3], **offline)


def test_samples_and_neighbourhoods_have_metrics_of_their_own(rows, studied):
    assert not studied.duplicated(KEYS).any() and set(studied["mode"]) == {"corrected"}
    added = studied["metric"].str.startswith(("diffid_samples", "diffid_neighbourhoods"))
    both = [each.set_index(KEYS)["value"].sort_index() for each in (studied[~added], rows)]
    pd.testing.assert_series_equal(*both, rtol=1e-5)
    numbers = studied[added].groupby(["metric", "path", "rule"])["steps"].agg(set).to_dict()
    plain = {("dataset", "riemann_abs"), ("adversarial", "riemann_abs"), ("straight", "riemann_abs")}
    expected = {("diffid_samples", *method): {5, 20} for method in plain | {("local", "density")}}
    expected |= {("diffid_neighbourhoods", "local", "density"): {1, CLUSTERS, 3}}
    assert numbers == expected | {("diffid_neighbourhoods_moved", "local", "density"): {1, 3}}


def test_the_ends_of_samples_and_neighbourhoods_are_known_scores(studied):
    value = studied.set_index(["metric", "path", "rule", "steps", "seed", "image"])["value"].sort_index()
    for path, rule in (("dataset", "riemann_abs"), ("local", "density"), ("straight", "riemann_abs")):
        both = value["diffid_samples", path, rule, 20, 1], value["diffid_logit", path, rule, 1, 1]
        pd.testing.assert_series_equal(*both)
    few, most = (value["diffid_neighbourhoods", "local", "density", count, 1] for count in (1, CLUSTERS))
    pd.testing.assert_series_equal(few, value["diffid_logit", "local", "one_cluster", 1, 1])
    pd.testing.assert_series_equal(most, value["diffid_logit", "local", "density", 1, 1])
    pd.testing.assert_series_equal(value["diffid_neighbourhoods_moved", "local", "density", 1, 1], few - most)
