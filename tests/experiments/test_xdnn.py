"""The networks of the X-DNN study, their checkpoints, and what is computed for one unit of images."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from lib import InputError
from lib.data.digits import Digits
from lib.experiments import subjects, xdnn, xdnn_masks
from lib.metrics.masks import GAMES
from lib.models.checkpoints import load_weights
from lib.models.degrees import broken
from lib.models.homogeneity import homogeneity_of
from lib.models.recipes import TWINS
from lib.models.twins import bare_network, published_network
from lib.models.zoo import Network, best_device
from lib.training.fit import digit_cnn

SIZES = {  # numbers and tensors, from the authors' definitions
    "alexnet": (61_100_840, 16),
    "xalexnet": (61_090_496, 8),
    "vgg16": (138_357_544, 32),
    "xvgg16": (138_344_128, 16),
    "fixup_resnet50": (25_504_026, 169),
    "xfixup_resnet50": (25_502_912, 54),
}


@pytest.fixture(scope="module")
def fixups():
    torch.manual_seed(0)
    return {name: bare_network(name) for name in ("fixup_resnet50", "xfixup_resnet50")}


@pytest.mark.parametrize("name", [*TWINS, *TWINS.values()])
def test_numbers_of_parameters(name):
    with torch.device("meta"):
        network = bare_network(name) if "fixup" not in name else None
    network = network or bare_network(name)
    state = network.state_dict()
    assert (sum(tensor.numel() for tensor in state.values()), len(state)) == SIZES[name]


def test_names_of_parameters(fixups):
    keys = set(fixups["fixup_resnet50"].state_dict())
    assert {"conv1.weight", "bias1", "bias2", "fc.weight", "fc.bias", "layer1.0.downsample.weight"} <= keys
    assert {f"layer4.2.{part}" for part in ("bias1a", "bias3b", "scale", "conv3.weight")} <= keys
    twin = set(fixups["xfixup_resnet50"].state_dict())
    assert twin == {key for key in keys if key.endswith("weight")}


def test_the_twin_is_homogeneous_and_the_regular_one_is_not(fixups):
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    twin = fixups["xfixup_resnet50"]
    nn.init.normal_(twin.fc.weight, std=0.1)  # Fixup starts at zero
    assert homogeneity_of(twin, x).holds(1e-4)
    assert any("bias1 is added" in reason for reason in broken(fixups["fixup_resnet50"]))


def test_fixup_starts_at_zero_and_keeps_the_scale(fixups):
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(fixups["fixup_resnet50"](x), torch.zeros(2, 1000))
        stem = fixups["fixup_resnet50"].maxpool(fixups["fixup_resnet50"].conv1(x).relu())
        after = fixups["fixup_resnet50"].layer1[1](fixups["fixup_resnet50"].layer1[0](stem))
        assert torch.equal(after, fixups["fixup_resnet50"].layer1[0](stem))  # a block adds nothing yet


@pytest.mark.parametrize("wrapped", ["module.{}", "{}"])
def test_checkpoints_load_whatever_was_wrapped(tmp_path, wrapped):
    first, second = digit_cnn(seed=0), digit_cnn(seed=1)
    state = {wrapped.format(key): value for key, value in second.state_dict().items()}
    state |= {key.replace("1.", "1.module.", 1): state.pop(key) for key in list(state) if key.startswith("1.")}
    content = {"epoch": 3, "arch": "x", "state_dict": state, "best_acc1": torch.tensor([97.0]), "optimizer": {}}
    torch.save(content, tmp_path / "a.tar")
    load_weights(first, tmp_path / "a.tar")
    assert torch.equal(first[1].weight, second[1].weight)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda state: state.pop("4.bias"), "nothing for 4.bias"),
        (lambda state: state.update(extra=torch.zeros(2)), r"\(2,\) for extra where the network has nothing"),
        (lambda state: state.update({"1.bias": torch.zeros(3)}), r"\(3,\) for 1.bias where the network has \(16,\)"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_key(tmp_path, change, said):
    state = dict(digit_cnn().state_dict())
    change(state)
    torch.save({"state_dict": state}, tmp_path / "a.tar")
    with pytest.raises(InputError, match=said):
        load_weights(digit_cnn(), tmp_path / "a.tar")


def test_damaged_and_missing_checkpoints(tmp_path):
    (tmp_path / "alexnet_model_best.pth.tar").write_bytes(b"no")
    with pytest.raises(InputError, match=r"not a file of torch\.save"):
        published_network("alexnet", str(tmp_path))
    with pytest.raises(InputError, match=r"xvgg16_model_best\.pth\.tar from https"):
        published_network("xvgg16", str(tmp_path))
    with pytest.raises(InputError, match="did you mean 'xalexnet'"):
        bare_network("xalexnett")


@pytest.fixture
def pair(monkeypatch, tmp_path):
    """Units of 8 noisy digits with untrained twins."""
    generator = torch.Generator().manual_seed(0)
    few = Digits(torch.rand(8, 1, 28, 28, generator=generator), torch.arange(8), [f"d{i}" for i in range(8)])
    monkeypatch.setattr(subjects, "digits", lambda part: few)
    made = {bias: digit_cnn(bias=bias).eval().requires_grad_(False).to(best_device()) for bias in (True, False)}

    def untrained(cache, bias):
        return Network("digits", made[bias], 28, 28, "bilinear", (0.1307,), (0.3081,), "small-cnn")

    monkeypatch.setattr(subjects, "_digit_network", untrained)
    chosen = {"images": "packaged", "limit": 0, "digits_limit": 0, "group": 1, "pool": 1, "cache": tmp_path}
    return {twin: next(iter(found.values())) for twin, found in xdnn.twin_units("mnist", **chosen).items()}


def test_the_twin_agrees_with_integrated_gradients_and_the_regular_one_does_not(pair):
    precisions = ["float32", "float64", "float64, dithered", "tf32"]
    asked = {"steps": 4, "sweep": [1, 2], "finest": 8, "precisions": precisions}
    found = {twin: xdnn.equivalence_rows(load, **asked) for twin, load in pair.items()}
    assert not any(frame.drop(columns="value").duplicated().any() for frame in found.values())
    for twin, frame in found.items():
        frame = frame[frame["mode"] == "corrected"].set_index(["metric", "rule", "precision"])["value"].sort_index()
        apart = frame.loc["ig_difference", "x_gradient"]
        assert (apart["float64"] < 1e-10).all() if twin == "x" else (apart["float64"] > 1e-3).all()
        if twin == "x":
            assert (apart["float32"] < 1e-4).all() and apart["tf32"].mean() > apart["float32"].mean()
        assert (frame.loc["evaluations", "riemann", "float32"] == 4).all()
    with pytest.raises(InputError, match="float16"):
        xdnn.equivalence_rows(pair["x"], steps=1, precisions=["float16"])


def test_the_released_difference_is_of_the_batch(pair):
    frame = xdnn.equivalence_rows(pair["regular"], steps=4, precisions=["float32"])
    released = frame[(frame["mode"] == "released") & (frame["metric"] == "ig_difference")]["value"]
    assert released.nunique() == 1  # eight images, one batch of sixteen


def test_mask_scores_have_a_row_for_each_game_and_the_gap_vanishes_without_biases(pair):
    frame = xdnn_masks.xdnn_benchmark(pair["x"], steps=3, modes=["corrected", "released"])
    assert not frame.drop(columns="value").duplicated().any()
    counts = frame.groupby("metric").size()
    assert (counts[list(GAMES)] == 2 * 5 * 8).all()
    assert frame[frame["metric"] == "gap_keep_positive"]["value"].max() < 1e-3
    eg = frame[(frame["path"] == "dataset") & (frame["metric"] == "keep_positive")].groupby("mode")["value"].mean()
    assert eg["corrected"] != eg["released"]


def test_released_expected_gradients_share_reference_and_point_in_a_batch_of_two(pair):
    of = pair["x"]()
    alone = replace(of, x=of.x[1:2], target=of.target[1:2], images=of.images[1:2], own=of.own[1:2])
    for mode, same in (("corrected", True), ("released", False)):
        both, one = (
            xdnn_masks.gradient_maps(each, [mode], steps=1)["dataset", "riemann", 1, mode] for each in (of, alone)
        )
        assert torch.allclose(both[1], one[0], atol=1e-6) is same


def test_contrast_changes_nothing_without_biases(pair):
    found = {twin: xdnn.contrast(load, contrasts=[1.0, 0.3, 0.01]) for twin, load in pair.items()}
    for twin, frame in found.items():
        changed = frame[frame["metric"] == "changed"].groupby("contrast")["value"].mean()
        assert changed[1.0] == 0
        assert (changed[0.01] == 0) == (twin == "x")


def test_loading_may_train_a_network(pair):
    def load():
        assert torch.is_grad_enabled()
        return pair["x"]()

    asked = {"steps": 1, "precisions": ["float32"]}
    xdnn.equivalence_rows(load, **asked)
    xdnn_masks.xdnn_benchmark(load, steps=1, modes=["corrected"])
    xdnn.contrast(load, contrasts=[1.0])
    xdnn.accuracy_rows(load)
    xdnn_masks.game_curves(load, "keep_positive", steps=1)


def test_the_cost_is_paired_by_image(pair):
    scores = pd.concat([xdnn.accuracy_rows(load).assign(twin=twin, model="mnist") for twin, load in pair.items()])
    cost = xdnn.accuracy_cost(scores)
    wide = scores.pivot(index="image", columns="twin", values="value")
    assert cost.set_index("image")["value"].to_dict() == (wide["regular"] - wide["x"]).to_dict()
    assert xdnn.accuracy_cost(scores[scores["twin"] == "regular"]).empty
