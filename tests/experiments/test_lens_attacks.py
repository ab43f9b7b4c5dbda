"""The experiment of the LENS attacks: tidy, complete, excluded images counted; the network that standardises images."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from lib import InputError
from lib.attacks import Method, normalised, raw_maps
from lib.data.digits import digits
from lib.experiments import lens_attacks
from lib.experiments.subjects import Subject
from lib.metrics.stability import spearman
from lib.models.rar_resnet import Standardize, rar_network
from lib.models.zoo import Network
from lib.reporting import claims, plots
from lib.training.fit import digit_cnn


@pytest.fixture(scope="module")
def of():
    """Six random images, the network's own answers as labels but for the last."""
    torch.manual_seed(0)
    model = digit_cnn().eval().requires_grad_(False)
    x = torch.rand(6, 1, 28, 28)
    target = model(x).argmax(1)
    target[5] = (target[5] + 1) % 10
    network = Network("small", model, 28, 28, "bilinear", (0.0,), (1.0,), "small-cnn")
    return Subject(network, x, target, [f"image-{i}" for i in range(6)], x, [-1] * 6)


NOISE_AND_ATTACK = {"random1": 0.3, "top_k": 0.1}
ASKED = {"epsilons": [0.05, 0.1], "level": 1.0, "k": 50, "iterations": 2, "steps": 2}


@pytest.fixture(scope="module")
def rows(of):
    methods = ["gradient", "integrated_gradients"]
    return lens_attacks.attacked(lambda: of, methods=methods, attacks=lens_attacks.ATTACKS, radii=[1], **ASKED)


def test_attacked_is_tidy_and_counts_the_wrong_answer_as_left_out(rows):
    keys = [column for column in rows if column != "value"]
    assert not rows.duplicated(keys).any()
    top = rows[rows["metric"] == "top_k"]
    assert (top.groupby(["method", "attack", "epsilon"]).size() == 6).all() and len(top) == 2 * 4 * 2 * 6
    assert set(top[top["value"].isna()]["image"]) == {"image-5"}
    for name in ("top_k", "lens_recall_1", "lens_recall_div_1", "spearman"):
        assert {f"{name}_chance", f"{name}_adjusted"} <= set(rows["metric"])
    assert set(rows["data"]) == {"digits"}


def test_only_one_shot_noise_may_change_an_answer_and_all_stay_in_the_ball(rows):
    flipped = rows[(rows["metric"] == "flipped") & (rows["attack"] != "random1")]
    assert (flipped["value"].dropna() == 0).all()
    amplitude = rows[rows["metric"] == "amplitude"]
    attacked = amplitude[amplitude["image"] != "image-5"]
    assert (attacked["value"] <= attacked["epsilon"] + 1e-6).all()
    assert (attacked.loc[attacked["attack"] == "random1", "value"] > 0).all()


def test_images_that_the_network_gets_wrong_are_not_attacked(of, rows):
    assert rows[(rows["image"] == "image-5") & (rows["metric"] == "amplitude")]["value"].isna().all()
    wrong = replace(of, target=(of.model(of.x).argmax(1) + 1) % 10)
    asked = ASKED | {"methods": ["gradient"], "attacks": ["top_k"], "radii": [1]}
    still = lens_attacks.attacked(lambda: wrong, **asked)
    assert still["value"].isna().all() and set(still["metric"]) == {"top_k", "amplitude"}
    wrong.target[0] = of.target[0]  # right, but alone: not attacked either
    assert lens_attacks.attacked(lambda: wrong, **asked)["value"].isna().all()


def test_the_strength_of_an_attack_is_in_its_rows_and_bounds_what_it_moves(of, rows):
    assert (rows["step"] == 2.5 * rows["epsilon"] / 2).all() and set(rows["measure"]) == {"spearman"}
    asked = ASKED | {"step": 0.02, "measure": "top_k", "steps": 1}
    asked |= {"methods": ["gradient"], "attacks": ["random_walk", "top_k"], "radii": [1]}
    small = lens_attacks.attacked(lambda: of, **asked)
    strength = small[["iterations", "step", "measure"]].drop_duplicates()
    assert strength.to_dict("records") == [{"iterations": 2, "step": 0.02, "measure": "top_k"}]
    moved = small[small["metric"] == "amplitude"]["value"]
    assert 0 < moved.max() <= 0.04 + 1e-6


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "holds with the paper's network"),
        ({"iterations": 30}, "holds here"),
        ({"step": 2.0}, "holds here"),
        ({"measure": "spearman"}, "holds here"),
        ({"model": "efficientnet_lite0"}, "holds here"),
    ],
)
def test_only_the_published_attack_on_the_published_network_is_the_papers(change, verdict):
    published = {"model": "squeezenet1_1", "method": "gradient", "data": "photographs", "epsilon": 8.0, "k": 1000}
    published |= {"iterations": 300, "step": 0.5, "measure": "top_k", "metric": "top_k"}
    images = [(f"image {i}", attack, value + i / 100) for i in range(12) for attack, value in NOISE_AND_ATTACK.items()]
    table = pd.DataFrame(images, columns=["image", "attack", "value"]).assign(**published | change)
    registry = [claim for claim in claims.load_registry() if claim.id == "N3a"]
    (found,) = claims.check("lens_attacks", table, registry=registry)["verdict"]
    assert found == verdict


def test_digits_are_each_others_chance_level_in_eights(tmp_path):
    chosen = {"images": "packaged", "limit": 10, "digits_limit": 24, "cache": tmp_path}
    assert list(lens_attacks.attack_units("mnist_cnn", group=5, **chosen)) == [
        f"mnist_cnn-{start}-{start + 8}" for start in (0, 8, 16)
    ]
    units = lens_attacks.attack_units("squeezenet1_1", group=5, **chosen)
    assert [name.rpartition("-")[2] for name in units] == ["5", "5"]


def test_noise_does_not_depend_on_company(of, rows):
    few = Subject(of.network, of.x[:3], of.target[:3], of.images[:3], of.x, [-1] * 3)
    alone = lens_attacks.attacked(lambda: few, methods=["gradient"], attacks=["random1"], radii=[1], **ASKED)
    keys = ["image", "method", "attack", "epsilon", "metric"]
    both = alone[alone["metric"].isin(["top_k", "lens_recall_1"])].merge(rows, on=keys)
    assert len(both) == 12
    assert (both["value_x"] - both["value_y"]).abs().max() < 0.05  # one of fifty pixels may tie


def test_aware_scores_each_radius_under_one_name(of):
    asked = {**ASKED, "epsilon": 0.1}
    del asked["epsilons"]
    rows = lens_attacks.aware(lambda: of, methods=["gradient"], radii=[1, 2], **asked)
    assert not rows.duplicated([column for column in rows if column != "value"]).any()
    assert set(rows["radius"]) == {1, 2}
    assert set(rows["attack"]) == {"random1", "top_k", "lens_top_k"}
    sizes = rows[rows["metric"] == "lens_recall"].groupby(["attack", "radius"]).size()
    assert len(sizes) == 6 and (sizes == 6).all()
    assert not rows["metric"].str.contains(r"_\d").any()


def test_fewer_than_two_usable_images_are_left_out_not_an_error(of):
    pair = Subject(of.network, of.x[4:], of.target[4:], of.images[4:], of.x, [-1] * 2)  # one of them is wrong
    rows = lens_attacks.attacked(lambda: pair, methods=["gradient"], attacks=["random1"], radii=[1], **ASKED)
    assert rows[rows["metric"] == "top_k"]["value"].isna().all()


def test_answers_before_and_after_pgd(of):
    rows = lens_attacks.clean_and_pgd(lambda: of, epsilon=0.3, iterations=5)
    clean, attacked = (rows[rows["metric"] == name]["value"] for name in ("clean_right", "pgd_right"))
    assert clean.tolist() == [1, 1, 1, 1, 1, 0]
    assert attacked.sum() < clean.sum()


def test_chance_levels_become_a_line_of_their_own(rows):
    table = plots.chance_as_line(rows, ["lens_recall_1", "top_k"])
    assert set(table["metric"]) == {"lens_recall_1", "top_k"}
    assert set(table["attack"]) == {*map(plots.ATTACKS.get, lens_attacks.ATTACKS), "chance"}
    assert table["panel"].drop_duplicates().tolist()[0] == "gradient, LENS recall, w = 1"
    chance = table[(table["attack"] == "chance") & (table["metric"] == "top_k") & (table["image"] == "image-0")]
    expected = rows[(rows["metric"] == "top_k_chance") & (rows["image"] == "image-0")]
    expected = expected.groupby(["method", "epsilon"])["value"].mean()
    assert chance["value"].tolist() == pytest.approx(expected.tolist())


def test_units_of_an_image_set_cover_it_in_groups(tmp_path, monkeypatch):
    made = []

    def trained(training, data, *asked):
        made.append((training, data))
        return Network("made up", nn.Identity(), 28, 28, "bilinear", (0.0,), (1.0,), "small-cnn")

    monkeypatch.setattr(lens_attacks, "_trained", trained)
    chosen = {"root": "", "limit": 20, "cache": tmp_path}
    found = lens_attacks.set_units("mnist_5k", "pgd", group=8, **chosen)
    assert list(found) == ["mnist_5k-pgd-0-8", "mnist_5k-pgd-8-16", "mnist_5k-pgd-16-20"]
    subjects = [load() for load in found.values()]
    assert [image for of in subjects for image in of.images] == digits("test").ids[:20]
    assert made == [("pgd", "mnist_5k")] * 3
    with pytest.raises(InputError, match="group is 0"):
        lens_attacks.set_units("mnist_5k", "pgd", group=0, **chosen)


def test_standardised_images_have_mean_0_and_deviation_1():
    x = torch.rand(3, 3, 8, 8)
    x[2] = 0.5
    found = Standardize()(x)
    torch.testing.assert_close(found[:2].mean((1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:2].std((1, 2, 3), correction=0), torch.ones(2))
    assert (found[2].abs() < 1e-3).all()  # a flat image stays finite


@pytest.mark.parametrize(("units", "size", "classes"), [(1, 128, 17), (2, 32, 43)])
def test_the_residual_network_and_its_scale_invariance(units, size, classes):
    model = rar_network(classes=classes, blocks=units).double()
    torch.manual_seed(0)
    x = torch.rand(2, 3, size, size, dtype=torch.float64)
    logits = model(x)
    assert logits.shape == (2, classes)
    torch.testing.assert_close(model(0.1 * x), logits)
    assert sum(isinstance(layer, nn.Conv2d) for layer in model.modules()) == 1 + 6 * units
    y = logits.argmax(1)
    names = Method("integrated_gradients", 7), Method("input_x_gradient")
    ig, ixg = (normalised(raw_maps(model, x, y, method)) for method in names)
    torch.testing.assert_close(ig, ixg)  # what makes IG's points redundant
    assert spearman(ig, ixg).min() > 0.9999
    torch.testing.assert_close(
        raw_maps(model, x, y, names[1]).sum((1, 2, 3)), torch.zeros(2).double(), atol=1e-9, rtol=0
    )


def test_the_strided_convolution_pads_below_and_to_the_right():
    from lib.models.rar_resnet import Block

    unit = Block(1, 2, 2, shared=False)
    nn.init.zeros_(unit.second.weight)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    out = unit(x)
    assert out.shape == (1, 2, 2, 2)
    torch.testing.assert_close(out[0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]]))  # the pooled shortcut
    assert (out[0, 1] == 0).all()  # its padded channel
    nn.init.ones_(unit.first.weight)
    inner = unit.first(unit.pad(x))[0, 0]
    assert inner[0, 0] == x[0, 0, :3, :3].sum() and inner[1, 1] == x[0, 0, 2:, 2:].sum()
