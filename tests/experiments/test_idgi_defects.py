"""The defects of the released code of the IDGI study: which maps each changes, at no evaluation, and how far."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lib.attribution import IDGI, Blur, Guided, Riemann, Straight, attribute
from lib.data.imagenet import photographs
from lib.experiments import defects, idgi, subjects
from lib.experiments.defects import OF_MAPS, ButLast, idgi_walks, moved, pixel_maps, walked
from lib.models.zoo import Network

STD = (0.25, 0.5, 0.75)
STEPS = 4
CHANGED = {  # by each defect alone: {path: rules}
    "early end": {"straight": {"riemann", "idgi"}},
    "one-sided sums": {"straight": {"riemann"}, "blur": {"riemann"}},
    "normalised gradients": {"straight": {"idgi"}, "blur": {"idgi"}, "guided": {"riemann", "idgi"}},
    "last step": {"guided": {"idgi"}},
    "tangents": {"blur": {"riemann", "idgi"}},
    "sharp end": {"blur": {"idgi"}},
    "half precision": {path: {"riemann", "idgi"} for path in ("straight", "blur", "guided")},
}


class Counting(nn.Module):
    """A small smooth network that counts the images it is asked to differentiate."""

    def __init__(self, classes: int = 10):
        super().__init__()
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 5, stride=4), nn.Softplus(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        layers += (nn.Linear(64, classes),)
        self.body, self.seen = nn.Sequential(*layers), 0
        self.eval().requires_grad_(False)

    def forward(self, x):
        self.seen += len(x) * torch.is_grad_enabled()
        return 5 * self.body(x)


def small(classes: int) -> Network:
    return Network("small", Counting(classes), 176, 200, "bilinear", (0.5,) * 3, STD, "none")


@pytest.fixture
def network(monkeypatch):
    for module in (defects, subjects):
        monkeypatch.setattr(module, "best_device", lambda: torch.device("cpu"))
    return small(classes=10)


@pytest.fixture
def images():
    return torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 4])


def maps_of(network, images, modes):
    maps = {}
    for walk in idgi_walks(network, STEPS, modes):
        maps |= pixel_maps(*walked(network, *images, walk, steps=STEPS))
    return maps


def test_a_defect_alone_changes_the_maps_that_it_is_about_and_no_others(network, images):
    maps = maps_of(network, images, ["corrected", *OF_MAPS])
    for defect in OF_MAPS:
        found = {}
        for path, rule, _, mode in maps:
            if mode == defect:
                found.setdefault(path, set()).add(rule)
                assert not torch.equal(maps[path, rule, STEPS, defect], maps[path, rule, STEPS, "corrected"])
        assert found == CHANGED[defect]


def test_one_divisor_for_all_channels_shows_nothing_of_normalised_gradients(network):
    grey = replace(network, std=(0.5,) * 3)
    assert idgi_walks(grey, STEPS, [defects.NORMALISED]) == []
    assert len(idgi_walks(network, STEPS, [defects.NORMALISED])) == 3


def test_released_has_all_defects_at_once(network, images):
    """Against the paths' own released options, which this protocol does not use where walks can be shared."""
    x, target = images
    scale = torch.tensor(STD).view(-1, 1, 1)
    guided = Guided(STEPS, fraction=0.5, max_dist=1.0, released=True, scale=scale)
    expected = {
        "straight": (Straight(STEPS, released=True), {"riemann": Riemann("right"), "idgi": IDGI(scale=scale)}),
        "blur": (Blur(STEPS, released=True), {"riemann": Riemann("left"), "idgi": IDGI("right", scale=scale)}),
        "guided": (guided, {"riemann": Riemann("left"), "idgi": IDGI()}),
    }
    maps = maps_of(network, images, ["released"])
    assert {key[:2] for key in maps} == {(path, rule) for path in expected for rule in ("riemann", "idgi")}
    for name, (path, rules) in expected.items():
        found = attribute(network.model, x, target, path=path, rules=rules)
        for rule in rules:
            assert torch.equal(maps[name, rule, STEPS, "released"], found[rule].sum(1).half().float())


def test_all_defects_are_read_off_the_walks_of_the_two_modes(network, images):
    modes = ["corrected", "released"]
    both, alone = (idgi_walks(network, STEPS, asked) for asked in (modes, [*modes, *OF_MAPS]))
    assert len(both) == len(alone) == 6

    def evaluations(walks):
        network.model.seen = 0
        for walk in walks:
            walked(network, *images, walk, steps=STEPS)
        return network.model.seen

    assert evaluations(alone) == evaluations(both) == 2 * (5 + 5 + 5 + 4 + 4 + 5)


def test_the_last_step_is_all_that_is_missing(network, images):
    x, target = images
    whole, short = (Guided(STEPS, 0.5, 1.0, released=released) for released in (False, True))
    rules = {"but the last": ButLast(IDGI()), "all": IDGI()}
    found = attribute(network.model, x, target, path=whole, rules=rules, objective="logit")
    short = attribute(network.model, x, target, path=short, rules={"all": IDGI()}, objective="logit")
    assert torch.equal(found["but the last"], short["all"])
    missing = found.completeness_error("but the last").abs().min()
    assert found.completeness_error("all").abs().max() < 1e-5 < 1e-3 < missing


def test_moved_by_hand():
    scores = {
        ("corrected", "riemann", "insertion"): (0.3, 0.5),
        ("corrected", "idgi", "insertion"): (0.4, 0.8),
        ("last step", "idgi", "insertion"): (0.3, 0.9),  # the base method stays as it is
        ("PNG", "riemann", "insertion"): (0.2, 0.5),  # without PNG: its being there moves the other way
        ("PNG", "idgi", "insertion"): (0.4, 0.5),
        ("corrected", "idgi", "completeness"): (0.0, 0.0),
    }
    about = {"label": 1, "path": "guided", "steps": 8, "curve": None}
    rows = pd.DataFrame(
        about | {"image": image, "mode": mode, "rule": rule, "metric": metric, "value": value}
        for (mode, rule, metric), values in scores.items()
        for image, value in zip("ab", values, strict=True)
    )
    table = moved(rows)
    assert set(table["mode"]) == {"corrected"}
    found = table.pivot(index=["rule", "metric"], columns="image", values="value")
    expected = {
        ("idgi", "insertion"): (0.4, 0.8),
        ("riemann", "insertion"): (0.3, 0.5),
        ("idgi", "completeness"): (0.0, 0.0),
        ("idgi", "insertion_gain"): (0.1, 0.3),
        ("last step", "insertion_moved"): (-0.1, 0.1),
        ("last step", "insertion_moved_riemann"): (0.0, 0.0),
        ("last step", "insertion_moved_idgi"): (-0.1, 0.1),
        ("PNG", "insertion_moved"): (-0.1, 0.3),
        ("PNG", "insertion_moved_riemann"): (0.1, 0.0),
        ("PNG", "insertion_moved_idgi"): (0.0, 0.3),
    }
    assert set(found.index) == set(expected)
    for key, values in expected.items():
        np.testing.assert_allclose(found.loc[key], values, atol=1e-12)


SETTINGS = {"steps": STEPS, "sweep": [2], "modes": ["corrected", "released"], "webp": ["straight"]}
KEYS = ["image", "path", "rule", "steps", "mode", "metric"]


def test_the_benchmark_with_each_defect_alone_keeps_its_other_rows(network, monkeypatch):
    monkeypatch.setattr(idgi, "network_named", lambda name, weights: small(classes=1000))
    asked = photographs(limit=2), [True, False]
    plain, rows = (idgi.idgi_benchmark("small", *asked, alone=alone, **SETTINGS) for alone in (False, True))
    assert not rows.duplicated(KEYS).any()
    added = rows["metric"].str.contains("_moved|_gain")
    both = [each.set_index(KEYS)["value"].sort_index() for each in (rows[~added], plain)]
    pd.testing.assert_series_equal(*both, rtol=1e-4)
    assert set(rows["mode"]) == {"corrected", "released"} and (rows[added]["mode"] == "corrected").all()

    moves = rows[rows["metric"].str.endswith("_moved")]
    together = moves[moves["rule"] == defects.TOGETHER]
    assert set(together["path"]) == {"straight", "blur", "guided"} and set(together["steps"]) == {2, STEPS}
    moves = moves[moves["rule"] != defects.TOGETHER]
    of_maps = moves[moves["metric"] == "insertion_moved"]
    assert {(row.rule, row.path) for row in of_maps.itertuples()} == {(d, p) for d in CHANGED for p in CHANGED[d]}
    assert set(of_maps[of_maps["rule"] == "early end"]["steps"]) == {2, STEPS}
    assert (of_maps.groupby(["rule", "path", "steps"]).size() == 2).all()
    of_scores = moves[~moves["rule"].isin(OF_MAPS)].groupby("rule")["metric"].agg(set).to_dict()
    four = {f"{curve}_{name}_moved" for curve in ("aic", "sic") for name in ("png", "msssim")}
    assert of_scores == {
        "raw MS-SSIM": {"aic_msssim_moved", "sic_msssim_moved"},
        "100 points": four,
        "PNG": {"aic_png_moved", "sic_png_moved"},
        "JPEG of the blur": four,
    }
    wide = rows.set_index([*KEYS[1:], "image"])["value"].sort_index()

    def difference(metric):
        return (
            wide["straight", "idgi", STEPS, "corrected", metric]
            - wide["straight", "riemann", STEPS, "corrected", metric]
        )

    gain = wide["straight", "idgi", STEPS, "corrected", "insertion_gain"]
    pd.testing.assert_series_equal(gain, difference("insertion"))
    files = wide["straight", "PNG", STEPS, "corrected", "aic_png_moved"]
    pd.testing.assert_series_equal(files, difference("aic_png") - difference("aic_webp"))
