"""What is done to networks before they are explained leaves transformers as they are, or says why it cannot be done."""

from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from torch import nn

from lib import InputError
from lib.attribution import IDGI, Riemann, Straight, attribute
from lib.attribution.propagation import lrp
from lib.data.imagenet import load_image, photographs
from lib.models.fold import prepare
from lib.models.homogeneity import homogeneity_of, remove_biases
from lib.models.recipes import NETWORKS
from lib.models.softplus import softplus_twin
from lib.models.zoo import load_network

SWIN = {"img_size": 56, "depths": (1, 1), "num_heads": (2, 2), "embed_dim": 16}
BUILT = {
    "ViT of timm": lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=5),
    "Swin of timm": lambda: timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **SWIN),
    "ConvNeXt of timm": lambda: timm.create_model("convnext_atto", num_classes=5, depths=(1, 1, 1, 1)),
    "ViT of torchvision": lambda: torchvision.models.VisionTransformer(32, 16, 1, 2, 16, 32, num_classes=5),
    "Swin of torchvision": lambda: torchvision.models.SwinTransformer(
        [4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=5
    ),
}


@pytest.fixture(params=BUILT)
def network(request):
    torch.manual_seed(0)
    model = BUILT[request.param]()
    for weight in model.parameters():  # class tokens and heads that start at zero say nothing
        nn.init.normal_(weight, std=0.1)
    return model.eval(), torch.rand(2, 3, *[56 if request.param == "Swin of timm" else 32] * 2)


def test_prepared_it_is_the_same_function(network):
    model, x = network
    torch.testing.assert_close(prepare(model, shape=x.shape[1:])(x), model(x).detach())
    assert model(x).std() > 0


def test_what_cannot_be_done_is_said(network):
    model, x = network
    found = homogeneity_of(model, x)
    assert found.order is None and any("bias" in reason or "constant" in reason for reason in found.reasons)
    for change, said in ((remove_biases, "biases are not all"), (softplus_twin, "no ReLU, LeakyReLU or ReLU6 module")):
        with pytest.raises(InputError, match=said):
            change(model)
    with pytest.raises(InputError, match="DeepLIFT and LRP are defined here for"):
        lrp(model, x, 0)


SMALL = {  # of the published sizes are image, patch and window alone
    "vit_b_16": lambda: torchvision.models.VisionTransformer(224, 16, 1, 2, 16, 32),
    "swin_b": lambda: torchvision.models.SwinTransformer([4, 4], 16, [1, 1, 1, 1], [1, 1, 2, 2], [7, 7]),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_zoos_transformers_are_read_from_their_published_files_and_explained(name, tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(torchvision.models, "get_model", lambda builder, **_: SMALL[builder]())
    model = SMALL[name]()
    for weight in model.parameters():  # the ViT's head starts at zero
        nn.init.normal_(weight, std=0.1)
    torch.save(model.state_dict(), tmp_path / NETWORKS[name].weights.rpartition("/")[2])
    asked = {"weights": str(tmp_path), "device": torch.device("cpu")}
    network, plain = load_network(name, **asked), load_network(name, **asked, prepared=False)
    assert network.family == "transformer"
    x = network.tensor(load_image(photographs(limit=1)[0]))[None]
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (network.mean, network.std))
    torch.testing.assert_close(plain.model(x), model.eval()((x - mean) / std))
    torch.testing.assert_close(network.model(x), plain.model(x).detach())
    target = network.model(x).argmax(1)
    rules = {"ig": Riemann("trapezoid"), "idgi": IDGI()}
    found = attribute(network.model, x, target, path=Straight(8), rules=rules)
    assert all(found[rule].isfinite().all() and found[rule].abs().max() > 0 for rule in rules)
    assert found.completeness_error("idgi").abs().max() < 1e-5


@pytest.mark.parametrize("name", SMALL)
def test_the_zoos_transformers_are_the_published_ones(name):
    """Their weights' own number of parameters, by a network without memory."""
    with torch.device("meta"):
        model = torchvision.models.get_model(NETWORKS[name].builder)
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    assert sum(each.numel() for each in model.parameters()) == weights.meta["num_params"]
    assert weights.url == NETWORKS[name].weights


class Answer(nn.Module):
    """A network that answers as those of Hugging Face do."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.net = nn.Sequential(*layers, nn.Linear(4, 3))
        self.eval()

    def forward(self, x):
        return SimpleNamespace(logits=self.net(x))


class Logits(Answer):
    def forward(self, x):
        return super().forward(x).logits


@pytest.mark.parametrize(
    "use",
    [lambda m, x: prepare(m, shape=(3, 8, 8)), homogeneity_of, lambda m, x: lrp(m, x, 0)],
    ids=["prepare", "homogeneity", "lrp"],
)
def test_an_answer_that_is_no_tensor_is_refused_and_its_wrapper_is_not(use):
    x = torch.rand(1, 3, 8, 8)
    with pytest.raises(InputError, match=r"answers with a SimpleNamespace.*model\(x\)\.logits"):
        use(Answer(), x)
    use(Logits(), x)


def test_networks_prepared_inside_inference_mode_can_be_differentiated():
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    outside = Logits()
    with torch.inference_mode():
        inside, prepared = Logits(), prepare(outside, shape=(3, 8, 8))
    (gradient,) = torch.autograd.grad(prepared(x).sum(), x)
    assert gradient.abs().sum() > 0
    with pytest.raises(InputError, match=r"was made inside torch\.inference_mode"):
        prepare(inside, shape=(3, 8, 8))
