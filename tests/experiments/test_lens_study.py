"""What the LENS study computes for a few images: tidy rows, chance levels beside scores, the released selection."""

from functools import partial

import pandas as pd
import pytest
import torch
import torchvision
from torch import nn

from lib import InputError
from lib.attribution.gradients import input_x_gradient
from lib.attribution.propagation import deeplift, deeplift_residual, lrp
from lib.experiments import lens
from lib.experiments.subjects import Subject
from lib.models.recipes import IMAGENET
from lib.models.zoo import Network, robust_resnet50

KEYS = ["image", "method", "mode", "metric"]
CHOICE = {"epsilon": 0.05, "k": 12, "radii": [1, 2], "steps": 4, "samples": 2}


def subject(count: int = 4, act: type = nn.ReLU, name: str = "small") -> Subject:
    """Images of 16 x 16 under a small random network of five classes; one is misclassified."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), act(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 5)]
    model = nn.Sequential(*layers).eval().requires_grad_(False)
    network = Network(name, model, 16, 16, "bilinear", (0.5,) * 3, (0.25,) * 3, "none")
    pool = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    x = pool[:count]
    with torch.no_grad():
        target = model(x).argmax(1)
    target[-1] = (target[-1] + 1) % 5
    return Subject(network, x, target, [f"image {i}" for i in range(count)], pool, list(range(count)))


@pytest.fixture(scope="module")
def rows():
    return lens.noise(subject, **CHOICE)


def values(rows, metric: str, mode: str = "corrected"):
    return rows[(rows["metric"] == metric) & (rows["mode"] == mode)].set_index(["method", "image"])["value"]


def test_rows_are_tidy_and_have_all_methods_and_chance_levels(rows):
    assert not rows.duplicated(KEYS).any()
    assert set(rows["method"]) == {*lens.METHODS, "none"}
    names = set(rows["metric"])
    for name in ("top_k", "lens_recall_1", "lens_precision_div_2", "spearman", "lens_spearman_2"):
        assert {name, f"{name}_chance", f"{name}_adjusted"} <= names
    assert "centre_shift" in names and "centre_shift_adjusted" not in names
    assert set(rows["mode"]) == {"corrected", "released"}
    assert (rows["model"] == "small").all() and (rows["epsilon"] == 0.05).all()


def test_misclassified_images_are_excluded(rows):
    assert set(rows.loc[rows["value"].isna() & rows["metric"].eq("top_k"), "image"]) == {"image 3"}
    assert rows.loc[rows["metric"].eq("flipped"), "value"].isna().sum() == 1


def test_lens_is_at_least_top_k_and_lrp_is_input_times_gradient(rows):
    assert values(rows, "least_lens_gain").min() >= 0
    gain = (values(rows, "lens_recall_1") + values(rows, "lens_precision_1")) / 2 - values(rows, "top_k")
    assert (values(rows, "lens_gain_1") - gain).abs().max() < 1e-12
    assert values(rows, "apart_from_input_x_gradient").max() < 0.01


def test_without_noise_everything_stays():
    still = lens.noise(subject, **CHOICE | {"epsilon": 0.0})
    assert (values(still, "top_k").dropna() == 1).all()
    assert (values(still, "flipped").dropna() == 0).all()
    recall = values(still, "lens_recall_div_1", "released").dropna()
    assert len(recall) and (recall == 1).all()


def test_released_scores_are_those_of_the_released_selection():
    before, after = (torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    found = lens.lens_scored(before, after, k=12, radii=[1])
    own, other = (lens.diverse_top_k(each, 12, 1, released=True)[0] for each in (before, after))
    recall = (lens.dilate(own, 1) & other).sum((1, 2)) / 12
    assert torch.allclose(found["released", "lens_recall_div_1"], recall.double())
    moved = found["released", "lens_recall_div_1"] - found["corrected", "lens_recall_div_1"]
    assert torch.equal(found["released", "lens_recall_div_1_moved"], moved)
    one_two = (lens.dilate(own, 1)[0] & other[1:]).sum((1, 2)) / 12
    assert found["released", "lens_recall_div_1_chance"][0].item() == pytest.approx(one_two.double().mean().item())


def test_a_network_without_rules_loses_two_methods_with_a_sentence(capsys):
    found = lens.noise(partial(subject, act=nn.SiLU), **CHOICE)
    assert set(found["method"]) == {*lens.METHODS, "none"} - {"deeplift", "lrp"}
    assert "small: no lrp. The network has a SiLU" in capsys.readouterr().err


class Joined(nn.Module):
    """Two rectified convolutions side by side, as in a fire module of SqueezeNet."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.rectify = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x):
        return torch.cat([self.rectify(self.left(x)), self.rectify(self.right(x))], 1)


def test_concatenations_have_their_rules():
    """LRP is input times gradient and DeepLIFT complete, as for every network of ReLUs without overlapping pooling."""
    torch.manual_seed(0)
    layers = [Joined(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 5)]
    model, x, target = nn.Sequential(*layers).eval(), torch.rand(2, 3, 9, 9), torch.tensor([1, 4])
    assert torch.allclose(lrp(model, x, target), input_x_gradient(model, x, target), atol=1e-6)
    assert deeplift_residual(model, x, target, deeplift(model, x, target)).abs().max() < 1e-6


def test_advantage_is_the_difference_of_the_two_networks():
    natural, robust = (lens.noise(partial(subject, name=name), **CHOICE) for name in ("resnet50", "resnet50_pgd"))
    robust["value"] += 0.25
    gain = lens.advantage(pd.concat([natural, robust]))
    assert set(gain["model"]) == {"resnet50_pgd"} and set(gain["training"]) == {"pgd"}
    assert (gain["value"].dropna() - 0.25).abs().max() < 1e-12
    assert gain["metric"].str.endswith("_advantage").all()


def test_an_image_alone_in_its_unit_is_refused_at_once(tmp_path):
    chosen = {"images": "packaged", "digits_limit": 17, "pool": 1, "weights": "", "cache": tmp_path}
    with pytest.raises(InputError, match="17 images in groups of 8 leave one alone"):
        lens.lens_units("mnist_cnn", limit=4, group=2, **chosen)
    with pytest.raises(InputError, match="4 images in groups of 3"):
        lens.lens_units("efficientnet_lite0", limit=4, group=3, **chosen)


def checkpoint(path, change=lambda state: state):
    torch.manual_seed(0)
    own = torchvision.models.resnet50(weights=None).state_dict()
    state = {f"module.model.{key}": value for key, value in own.items()}
    state |= {f"module.attacker.model.{key}": value for key, value in own.items()}
    for end, statistics in zip(("new_mean", "new_std"), IMAGENET, strict=True):
        stored = torch.tensor(statistics).view(3, 1, 1)
        state |= {f"module.normalizer.{end}": stored, f"module.attacker.normalize.{end}": stored}
    torch.save({"model": change(state), "epoch": 90}, path)
    return path


def test_a_checkpoint_of_the_robustness_package_gives_its_network(tmp_path):
    checkpoint(tmp_path / "imagenet_linf_4.pt")
    network = robust_resnet50(str(tmp_path))
    torch.manual_seed(0)
    bare = torchvision.models.resnet50(weights=None).eval()
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in IMAGENET)
    with torch.no_grad():
        expected = bare((x - mean) / std)
        assert torch.allclose(
            network.model(x.to(next(network.model.parameters()).device)).cpu(), expected, rtol=1e-3, atol=1e-3
        )
    assert network.name == "resnet50_pgd" and network.size == 224


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: {k: v for k, v in s.items() if "fc" not in k}, "does not fit the network"),
        (lambda s: s | {"module.normalizer.new_mean": torch.zeros(3)}, "normalises by"),
        (lambda s: [1], "not a state dict"),
    ],
    ids=["incomplete", "other normalisation", "no tensors"],
)
def test_another_checkpoint_is_refused(tmp_path, change, match):
    with pytest.raises(InputError, match=match):
        robust_resnet50(str(checkpoint(tmp_path / "resnet50_pgd.pt", change)))


def test_a_missing_or_unsafe_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="needs a PGD-trained ResNet-50"):
        robust_resnet50(str(tmp_path))
    torch.save({"model": Network}, tmp_path / "resnet50_pgd.pt")
    with pytest.raises(InputError, match="holds Python objects beside tensors"):
        robust_resnet50(str(tmp_path))
