"""Every path, rule and map of gradients on networks of every kind, and on a second device."""

from dataclasses import replace

import pytest
import timm
import torch
from tagged import MixedDevices, is_tagged, tagged_device
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer
from walks import GRADIENT_MAPS, IDS, paths, rules

from lib import InputError
from lib.attribution import Straight, attribute
from lib.attribution.forward import values
from lib.attribution.gradients import completeness_error, x_gradient
from lib.attribution.layerwise import full_gradients, gradcam
from lib.attribution.local import logits_of
from lib.attribution.references import Single, UniformNoise

SIDE = 16


class Answer:
    """As the answers of transformers."""

    def __init__(self, logits):
        self.logits = logits


class Answering(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model.eval()

    def forward(self, x):
        return Answer(self.model(x))


def cnn(out: int = 5):
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, out))


def vit():
    sizes = {"img_size": SIDE, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=5, **sizes)


def torchvision_vit():
    model = VisionTransformer(SIDE, 8, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=48, num_classes=5)
    nn.init.normal_(model.heads[0].weight)  # starts at 0
    return model


def swin():
    sizes = {"img_size": SIDE, "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (2, 1), "num_heads": (1, 2)}
    return timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, num_classes=5, **sizes)


def torchvision_swin():
    return SwinTransformer([2, 2], 8, [2, 1], [1, 2], [4, 4], num_classes=5)


def binary():
    model = cnn(1).eval()
    return lambda x: torch.cat([torch.zeros_like(z := model(x).reshape(-1, 1)), z], 1)


def wrapped():
    model = Answering(vit()).eval()
    return lambda x: model(x).logits


KINDS = {
    "cnn": cnn,
    "timm ViT": vit,
    "torchvision ViT": torchvision_vit,
    "timm Swin": swin,
    "torchvision Swin": torchvision_swin,
    "function": lambda: lambda x: torch.stack([(x - c / 9).square().sum((1, 2, 3)) / 99 for c in range(5)], 1),
    "binary": binary,
    "answers of transformers": wrapped,
}
TOKENS = ("timm ViT", "torchvision ViT", "timm Swin", "torchvision Swin")


def made(kind: str):
    torch.manual_seed(0)
    model = KINDS[kind]()
    return model.eval() if isinstance(model, nn.Module) else model


def batch():
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_path_and_rule_on_every_kind_of_network(kind):
    model, (x, target) = made(kind), batch()
    for name, path in paths(x, classes=3 if kind == "binary" else 5).items():
        if kind == "binary" and name in ("adversarial", "restarted"):
            path = replace(path, targets=[[1], [0]])
        found = attribute(model, x, target, path=path, rules=rules(path))
        for rule in rules(path):
            assert found[rule].shape == x.shape and found[rule].isfinite().all(), (name, rule)
        assert any(found[rule].abs().max() > 0 for rule in rules(path)), name
        if "idgi" in found.sums and name not in ("blur_released", "released"):
            error, rise = found.completeness_error("idgi"), found.value - found.reference_value
            assert (error + found.sums["idgi"]["lost"]).abs().max() < 1e-5 + 1e-3 * rise.abs().max(), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_map_of_gradients_on_every_kind_of_network(kind):
    model, (x, target) = made(kind), batch()
    for name, call in GRADIENT_MAPS.items():
        if name in ("gradcam", "fullgrad") and kind in TOKENS:
            with pytest.raises(InputError, match="works on tokens or positions"):
                call(model, x, target)
        elif name in ("gradcam", "fullgrad", "x_gradient") and not isinstance(model, nn.Module):
            continue
        else:
            found = call(model, x, target)
            assert found.shape[-2:] == x.shape[-2:] and found.isfinite().all() and found.abs().max() > 0, name


def test_answers_of_transformers_name_the_wrapper():
    x, target = batch()
    with pytest.raises(InputError, match=r"answers with a Answer, .*wrap it: lambda x: model\(x\)\.logits$"):
        attribute(Answering(vit()).eval(), x, target, path=Straight(2), rules={})


@pytest.mark.parametrize("kind", [("convnext_atto", {"conv_mlp": False}), ("mixer_s32_224", {})])
def test_convolutions_before_layers_of_positions_get_no_gradcam(kind):
    name, options = kind
    model = timm.create_model(name, num_classes=5, **options).eval()
    with pytest.raises(InputError, match="works on tokens or positions"):
        gradcam(model, torch.rand(1, 3, 224, 224), 0)


class Reused(nn.Module):
    """A convolution that runs `times`."""

    def __init__(self, times: int):
        super().__init__()
        self.first, self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)
        self.times = times
        self.eval()

    def forward(self, x):
        x = self.first(x)
        for _ in range(self.times):
            x = self.conv(x).relu()
        return self.head(x.mean((2, 3)))


class Aside(Reused):
    """Its last convolution runs, but the classes do not depend on it."""

    def forward(self, x):
        self.seen = self.conv(self.first(x))
        return super().forward(x)


@pytest.mark.parametrize(("model", "times"), [(Reused(0), 0), (Reused(2), 2), (Aside(0), 0)])
def test_gradcam_of_a_layer_that_runs_twice_or_never_is_refused_and_full_gradients_sum(model, times):
    x, target = batch()
    with pytest.raises(InputError, match=f"layer 'conv', .* runs {times} times"):
        gradcam(model, x, target)
    first, biases = full_gradients(model, x, target)
    terms = [term.flatten(1).sum(1) for term in (first, *biases)]
    torch.testing.assert_close(sum(terms), model(x).gather(1, target[:, None])[:, 0].detach())


# A second device


@pytest.mark.parametrize("kind", ["cnn", "timm ViT"])
def test_nothing_mixes_devices(kind):
    model, (x, target) = made(kind), batch()
    with tagged_device() as on:
        there, images = on(model), on(x)
        for label in (target, on(target)):
            torch.testing.assert_close(values(there, images, label).cpu(), values(model, x, target))
        for name, path in paths(x).items():
            found = attribute(there, images, target, path=path, rules=rules(path), objective="logit")
            expected = attribute(model, x, target, path=path, rules=rules(path), objective="logit")
            for rule in rules(path):
                assert is_tagged(found[rule]), (name, rule)
                torch.testing.assert_close(found[rule].cpu(), expected[rule], rtol=1e-3, atol=1e-6)
            if name not in ("adversarial", "restarted"):
                error = found.completeness_error("point").cpu()
                torch.testing.assert_close(error, expected.completeness_error("point"), rtol=1e-3, atol=1e-5)
        for name, call in GRADIENT_MAPS.items():
            if kind == "cnn" or name not in ("gradcam", "fullgrad"):
                found = call(there, images, target)
                assert is_tagged(found), name
                torch.testing.assert_close(found.cpu(), call(model, x, target), rtol=1e-3, atol=1e-6)
        assert is_tagged(completeness_error(there, images, target, x_gradient(there, images, target)))
        assert not is_tagged(logits_of(there, x))
        for references in (Single("white"), UniformNoise(IDS, 1)):
            assert is_tagged(references(0, images))


def test_a_network_and_images_on_two_devices_are_named():
    x, target = batch()
    with tagged_device() as on:
        with pytest.raises(InputError, match=r"x is on cpu, the network on meta: give x\.to\('meta'\)"):
            values(on(made("cnn")), x, target)
        with pytest.raises(MixedDevices):  # a function does not say where it is
            values(lambda z: z.flatten(1) + torch.zeros(768), on(x), target)


@pytest.mark.parametrize("create_graph", [False, True])
def test_maps_with_a_graph_do_not_mix_devices(create_graph):
    x, target = batch()
    with tagged_device() as on:
        there, images = on(made("timm ViT")), on(x).requires_grad_()
        path = paths(x)["uniform"]
        found = attribute(there, images, target, path=path, rules=rules(path), create_graph=create_graph)
        assert found["idgi"].requires_grad == create_graph
        if create_graph:
            (slope,) = torch.autograd.grad(found["idgi"].abs().sum(), images)
            assert is_tagged(slope)
