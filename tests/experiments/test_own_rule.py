"""A method of one's own gets the scores that the same method gets as a published one, on the same photographs."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from lib import InputError
from lib.attribution import IDGI, Blur, Lines, Riemann, Straight
from lib.data.imagenet import Photograph
from lib.experiments import own_rule
from lib.models.own_network import own_network
from lib.store.unkept import computed_now

SIDE = 12
PROTOCOL = {"ratios": 3, "insertion_steps": 3, "information_points": 3, "draws": 5, "k": 10, "radius": 1}
SHARED = {"objective": "logit", "protocol": PROTOCOL}
SAME = {  # methods of one's own: the published ones that they are
    "my IG": (Straight(8), Riemann()),
    "my IG + IDGI": (Straight(8), IDGI()),
    "my Blur IG": (Blur(8), Riemann()),
    "my EG": (lambda of: Lines(of.drawn(2), 4, "closed"), Riemann()),
    "my line": (own_rule.Through(lambda x, share: share * x, 8), Riemann()),
}
PUBLISHED = {
    "my IG": ("straight", "riemann"),
    "my IG + IDGI": ("straight", "idgi"),
    "my Blur IG": ("blur", "riemann"),
    "my EG": ("dataset", "riemann"),
    "my line": ("straight", "riemann"),
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 5)]
    return own_network(nn.Sequential(*layers).eval(), name="small", size=SIDE, resize=SIDE)


@pytest.fixture(scope="module")
def units(network, tmp_path_factory):
    folder, numbers = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    photos = []
    for name in "abcd":
        pixels = numbers.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        photos.append(Photograph(folder / f"{name}.png", 0, name))
    return own_rule.answered_units(network, photos, group=2)


@pytest.fixture(scope="module")
def published(units, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    sizes = {"paths": ["straight", "blur", "dataset"], "points": 4, "references": 2, "clusters": 1}
    return computed_now(
        units, partial(own_rule.published_scores, **sizes, **SHARED, cache=cache), cache=cache, label=""
    )


@pytest.fixture(scope="module")
def own(units, tmp_path_factory):
    compute = partial(own_rule.own_scores, methods=SAME, **SHARED)
    return computed_now(units, compute, cache=tmp_path_factory.mktemp("cache"), label="")


def values(rows: pd.DataFrame, path: str, rule: str) -> pd.Series:
    return rows[(rows["path"] == path) & (rows["rule"] == rule)].set_index(["image", "metric"])["value"].sort_index()


def test_every_method_has_every_score_of_every_photograph(published, own):
    for rows, methods in ((published, 4 + 3 + 4 + 2), (own, len(SAME))):
        scored = rows[rows["metric"] != "right"]
        assert not rows.duplicated(["image", "path", "rule", "steps", "metric"]).any()
        assert len(scored) == methods * 4 * len(own_rule.SCORED)
        assert set(scored["metric"]) == set(own_rule.SCORED)
        assert (rows.loc[rows["metric"] == "right", "value"] == 1).all()
        assert rows["image"].drop_duplicates().tolist() == ["a", "b", "c", "d"]


@pytest.mark.parametrize("name", SAME)
def test_the_same_method_has_the_same_scores(published, own, name):
    ours, theirs = values(own, own_rule.OWN, name), values(published, *PUBLISHED[name])
    pd.testing.assert_series_equal(ours, theirs, rtol=1e-5, atol=1e-6)
    assert ours.notna().mean() > 0.6  # AIC and SIC alone need a network that is sure


def test_steps_are_evaluations(own):
    steps = own[own["metric"] == "insertion"].groupby("rule")["steps"].first()
    assert steps.to_dict() == dict.fromkeys(SAME, 9)


def test_photographs_that_the_network_gets_wrong_have_no_scores(units):
    of = next(iter(units.values()))[0]()
    wrong = replace(of, target=torch.stack([of.target[0], (of.target[1] + 1) % 5]))
    rows = own_rule.own_scores(lambda: wrong, SAME, **SHARED)
    assert rows[rows["metric"] == "right"].set_index("image")["value"].to_dict() == {"a": 1, "b": 0}
    assert set(rows.loc[rows["metric"] != "right", "image"]) == {"a"}
    none = own_rule.own_scores(lambda: replace(of, target=(of.target + 1) % 5), SAME, **SHARED)
    assert none["metric"].tolist() == ["right", "right"]


def test_a_rule_that_says_nothing_has_no_rank_correlation(units):
    methods = {"nothing": (Straight(4), lambda node, following: 0 * node.grad)}
    rows = own_rule.own_scores(*next(iter(units.values())), methods, **SHARED)
    means = rows.groupby("metric")["value"].mean()
    assert np.isnan(means["jpeg_spearman"])
    assert np.isfinite(means["insertion"])


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ({"mine": Riemann()}, "give a pair"),
        ({"mine": (Riemann(), Riemann())}, "path is Riemann"),
        ({"mine": (Straight(4), "idgi")}, "rule 'mine' is a str"),
        ({"mine": (Straight(4), lambda node, following: node.grad / 0)}, "NaN or infinite"),
        ({"mine": (own_rule.Through(lambda x, share: x / 2, 4), IDGI())}, "does not end at the image"),
        ({"mine": (own_rule.Through(lambda x, share: x.mean(1), 4), IDGI())}, r"gives shape \(2, 12, 12\) at share 1"),
        ({"mine": (own_rule.Through(lambda x, share: share, 4), IDGI())}, "gives a float"),
    ],
)
def test_what_is_no_method_is_refused_in_a_sentence(units, methods, said):
    with pytest.raises(InputError, match=said):
        own_rule.own_scores(*next(iter(units.values())), methods, **SHARED)


def test_a_path_of_ones_own_needs_steps():
    with pytest.raises(InputError, match="steps is 0"):
        own_rule.Through(lambda x, share: share * x, 0)


def test_a_path_that_no_paper_tried_is_refused(units, tmp_path):
    sizes = {"paths": ["strait"], "points": 4, "references": 1, "clusters": 1, "cache": tmp_path}
    with pytest.raises(InputError, match="did you mean 'straight'"):
        own_rule.published_scores(*next(iter(units.values())), **sizes, **SHARED)


def test_units_need_images(network, tmp_path):
    with pytest.raises(InputError, match="group is 0"):
        own_rule.answered_units(network, [], group=0)
    with pytest.raises(InputError, match="mine was given no units"):
        computed_now({}, own_rule.own_scores, cache=tmp_path, label="mine")
