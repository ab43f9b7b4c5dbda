from collections import OrderedDict
from itertools import pairwise

import numpy
import pytest
import timm
import torch
import torchvision
from scipy.stats import pearsonr, spearmanr
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import nn

from lib import InputError
from lib.data.imagenet import load_image, photographs
from lib.metrics.sanity import randomised, similarities, stages
from lib.models.fold import prepare
from lib.models.layers import Normalize
from lib.models.zoo import load_network


def noise(seed, shape=(4, 28, 28)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ramp(size=32):
    return torch.arange(size).double().expand(1, size, size)


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        Normalize((0.5,), (0.25,)),
        nn.Conv2d(1, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 8 * 8, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    for tensor in (model[2].weight.data, model[2].bias.data, model[2].running_mean):
        tensor.normal_()
    model[2].running_var.uniform_(0.5, 2)
    return model.eval()


def changed(model, other):
    """Names of the tensors, buffers included, that are not bit-identical."""
    theirs = other.state_dict()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, theirs[name])}


# Similarity


def test_a_map_is_like_itself_at_any_scale():
    a = noise(0)
    for other, sign in ((a, 1), (3 * a, 1), (-a, -1)):
        result = similarities(a, other)
        assert list(result) == ["spearman", "spearman_abs", "ssim", "hog"]
        assert result["spearman"].tolist() == pytest.approx([sign] * 4)
        for name in ("spearman_abs", "ssim", "hog"):
            assert result[name].dtype == torch.float64
            assert result[name].tolist() == pytest.approx([1] * 4)


def test_unrelated_maps_are_unlike():
    result = similarities(noise(0), noise(1))
    for name, limit in (("spearman", 0.15), ("spearman_abs", 0.15), ("ssim", 0.15), ("hog", 0.5)):
        assert result[name].abs().max() < limit


def test_ssim_of_a_single_window_by_hand():
    a, b = noise(2, (1, 7, 7)), noise(3, (1, 7, 7))
    p, q = ((m.abs() - m.abs().min()) / (m.abs().max() - m.abs().min()) for m in (a, b))
    covariance = torch.cov(torch.stack([p.flatten(), q.flatten()]))
    luminance = (2 * p.mean() * q.mean() + 1e-4) / (p.mean() ** 2 + q.mean() ** 2 + 1e-4)
    structure = (2 * covariance[0, 1] + 9e-4) / (covariance[0, 0] + covariance[1, 1] + 9e-4)
    assert similarities(a, b)["ssim"].item() == pytest.approx((luminance * structure).item())


def test_ramps_by_hand():
    falling, turned = ramp().flip(2), ramp().mT
    # A falling ramp reverses every rank, but its edges have the orientation of the rising one
    result = similarities(ramp(), falling)
    assert result["spearman"].item() == pytest.approx(-1)
    assert result["hog"].item() == pytest.approx(1)
    # Turned, all weight is in another of nine orientations: r = -(1/9)^2 / (1/9 - (1/9)^2) = -1/8 in flat histograms
    result = similarities(ramp(), turned)
    assert result["spearman"].item() == pytest.approx(0, abs=1e-12)
    assert result["hog"].item() == pytest.approx(-1 / 8, abs=0.01)


@pytest.mark.parametrize(("size", "cell"), [((28, 28), 7), ((72, 64), 16), ((70, 60), 15)])
def test_similarities_equal_their_sources(size, cell):
    a, b = noise(4, (2, *size)), noise(5, (2, *size)) * 0.5 + noise(4, (2, *size))
    result = similarities(a.float(), b.float())
    for row in range(2):
        p, q = a[row].float().double().numpy(), b[row].float().double().numpy()
        assert result["spearman"][row].item() == pytest.approx(spearmanr(p.ravel(), q.ravel()).statistic)
        p, q = numpy.abs(p), numpy.abs(q)
        assert result["spearman_abs"][row].item() == pytest.approx(spearmanr(p.ravel(), q.ravel()).statistic)
        p, q = ((m - m.min()) / numpy.ptp(m) for m in (p, q))
        assert result["ssim"][row].item() == pytest.approx(structural_similarity(p, q, data_range=1))
        p, q = (hog(m, orientations=9, pixels_per_cell=(cell, cell), cells_per_block=(3, 3)) for m in (p, q))
        assert result["hog"][row].item() == pytest.approx(pearsonr(p, q).statistic)


def test_constant_maps_have_no_similarity():
    a, b = noise(0), noise(1)
    a[1] = 0
    b[3] = b[3].sign()  # constant in absolute value only
    missing = {name: values.isnan().tolist() for name, values in similarities(a, b).items()}
    assert missing.pop("spearman") == [False, True, False, False]
    assert all(row == [False, True, False, True] for row in missing.values())


def test_rows_are_independent_and_inputs_unchanged():
    a, b = noise(0), noise(1)
    before = a.clone(), b.clone()
    together = similarities(a, b)
    for row in range(4):
        alone = similarities(a[row : row + 1], b[row : row + 1])
        assert all(together[name][row].item() == pytest.approx(alone[name].item()) for name in alone)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])


def test_unusable_maps_are_refused():
    with pytest.raises(InputError, match=r"\(4, 28, 28\) and \(3, 28, 28\)"):
        similarities(noise(0), noise(0)[:3])
    with pytest.raises(InputError, match="6 x 28 pixels; give at least 7 x 7"):
        similarities(noise(0)[:, :6], noise(1)[:, :6])
    bad = noise(0)
    bad[2, 0, 0] = torch.inf
    with pytest.raises(InputError, match="second stack of maps: map 2 is NaN or infinite at 1 of 784"):
        similarities(noise(0), bad)


# Stages


def built(name, **options):
    with torch.device("meta"):  # its modules without its numbers
        return torchvision.models.get_model(name, weights=None, **options)


def test_stages_of_inception_are_the_papers():
    mixed = [f"Mixed_{block}" for block in ("7c", "7b", "7a", "6e", "6d", "6c", "6b", "6a", "5d", "5c", "5b")]
    convolutions = [f"Conv2d_{block}" for block in ("4a_3x3", "3b_1x1", "2b_3x3", "2a_3x3", "1a_3x3")]
    model = built("inception_v3", init_weights=False)
    assert model.AuxLogits is not None
    assert stages(model) == ["fc", *mixed, *convolutions]


def test_stages_of_residual_networks_and_vgg():
    blocks = [f"layer{layer}.{block}" for layer in (4, 3, 2, 1) for block in (1, 0)]
    assert stages(built("resnet18")) == ["fc", *blocks, "conv1"]
    features = [28, 26, 24, 21, 19, 17, 14, 12, 10, 7, 5, 2, 0]
    linear = ["classifier.6", "classifier.3", "classifier.0"]
    assert stages(built("vgg16")) == [*linear, *(f"features.{layer}" for layer in features)]


def test_stages_of_efficientnet_inside_its_normalisation():
    with torch.device("meta"):
        bare = timm.create_model("tf_efficientnet_lite0")
    expected = ["classifier", "conv_head", *(f"blocks.{block}" for block in range(6, -1, -1)), "conv_stem"]
    assert stages(bare) == expected
    assert stages(nn.Sequential(Normalize((0.5,) * 3, (0.5,) * 3), bare)) == expected


def test_stages_of_small_networks():
    assert stages(network()) == ["9", "7", "4", "1"]
    assert stages(nn.Sequential(nn.Identity(), nn.Sequential(*network()[1:]))) == ["8", "6", "3", "0"]
    assert stages(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))) == ["1"]
    with pytest.raises(InputError, match="no layer with parameters"):
        stages(nn.Sequential(Normalize((0.5,), (0.5,)), nn.ReLU()))


# Randomisation


def test_randomisation_goes_down_to_its_stage_and_keeps_the_rest():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = set()
    for stage, tensors in [("9", ["9"]), ("7", ["7"]), ("4", ["4"]), ("1", ["1"])]:
        expected |= {f"{layer}.{kind}" for layer in tensors for kind in ("weight", "bias")}
        if stage == "1":
            expected |= {"2.bias"}  # the batch norm's weight and running statistics stay
        assert changed(model, randomised(model, stage, seed=0)) == expected
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_cascade_is_nested_and_seeded():
    model = network()
    shallow, deep = randomised(model, "7", seed=0), randomised(model, "1", seed=0)
    for name in ("9.weight", "9.bias", "7.weight", "7.bias"):
        assert torch.equal(shallow.state_dict()[name], deep.state_dict()[name])
    assert changed(deep, randomised(model, "1", seed=0)) == set()
    assert changed(deep, randomised(model, "1", seed=1)) == changed(model, deep)


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_moments_are_kept(scale):
    model = network()
    model[7].weight.data += 2
    old, new = model[7].weight, randomised(model, "7", seed=0, scale=scale)[7].weight
    count, std = old.numel(), scale * old.std()
    assert abs(new.mean() - old.mean()) < 4 * std / count**0.5
    assert new.std().item() == pytest.approx(std.item(), rel=4 / (2 * count) ** 0.5)
    z = (new - old.mean()) / std
    assert (z.abs() < 1).double().mean().item() == pytest.approx(0.6827, abs=0.01)  # normal, where old was uniform
    assert abs(torch.corrcoef(torch.stack([old.flatten(), new.flatten()]))[0, 1]) < 4 / count**0.5


def test_tensors_of_one_shape_are_drawn_apart():
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    model[1].load_state_dict(model[0].state_dict())
    drawn = randomised(model, "0", seed=0)
    assert (drawn[0].weight - drawn[1].weight).abs().mean() > 0.1 * model[0].weight.std()


def test_a_tensor_of_one_number_and_constant_ones_stay():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 1))
    nn.init.zeros_(model[0].bias)
    drawn = randomised(model, "0", seed=0)
    assert changed(model, drawn) == {"0.weight", "2.weight"}
    assert all(tensor.isfinite().all() for tensor in drawn.state_dict().values())


def test_the_auxiliary_classifier_is_not_matched():
    side = nn.Sequential(OrderedDict(fc=nn.Linear(4, 4)))
    model = nn.Sequential(OrderedDict(first=nn.Linear(4, 4), AuxLogits=side, fc=nn.Linear(4, 4)))
    assert changed(model, randomised(model, "fc", seed=0)) == {"fc.weight", "fc.bias"}
    assert not any("Aux" in name for name in changed(model, randomised(model, "first", seed=0)))


def test_unknown_stages_are_refused():
    with pytest.raises(InputError, match="no stage '11': did you mean '1'"):
        randomised(network(), "11", seed=0)
    with pytest.raises(InputError, match="no stage 'head': it must be one of 1, 4, 7, 9"):
        randomised(network(), "head", seed=0)


def test_a_trained_network_forgets_its_classes():
    lite = load_network("efficientnet_lite0", device="cpu", prepared=False)
    photo = photographs()[-1]
    x = lite.tensor(load_image(photo))[None]

    def probability(model):
        with torch.no_grad():
            return prepare(model)(x).softmax(1)[0, photo.label].item()

    assert probability(lite.model) > 0.5
    for stage in ("classifier", "conv_stem"):
        assert probability(randomised(lite.model, stage, seed=0)) < 0.1
    assert all(parameter.requires_grad for parameter in lite.model.parameters())


# Transformers, whose tokens and positions belong to no layer

SMALL = {"img_size": 32, "num_classes": 5, "num_heads": 2, "embed_dim": 16, "depth": 2, "patch_size": 8}
BUILT = {
    "torchvision vit": lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5),
    "torchvision swin": lambda: torchvision.models.SwinTransformer([4, 4], 12, [1, 2], [1, 2], [2, 2], num_classes=5),
    "timm vit": lambda: timm.create_model("vit_tiny_patch16_224", **SMALL),
    "timm vit with registers": lambda: timm.create_model("vit_tiny_patch16_224", reg_tokens=2, **SMALL),
    "timm deit, distilled": lambda: timm.create_model("deit_tiny_distilled_patch16_224", **SMALL),
    "timm swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=12, depths=(1, 2), num_heads=(1, 2)
    ),
    "timm resnet": lambda: timm.create_model("resnet10t", num_classes=5),
    "a parameter beside an only child": lambda: Shifted(nn.Linear(4, 3)),
    "behind a normalisation": lambda: nn.Sequential(
        Normalize((0.5,) * 3, (0.5,) * 3), timm.create_model("vit_tiny_patch16_224", **SMALL)
    ),
}


class Shifted(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.shift = layer, nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return self.layer(x + self.shift)


@pytest.fixture(params=BUILT.values(), ids=BUILT)
def uneven(request):
    """A network of which no parameter is constant."""
    torch.manual_seed(0)
    model = request.param().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model


def test_the_whole_cascade_draws_every_parameter(uneven):
    batch_norms = {
        f"{path}.weight" for path, layer in uneven.named_modules() if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d)
    }
    expected = {name for name, each in uneven.named_parameters() if each.numel() > 1} - batch_norms
    assert expected
    assert changed(uneven, randomised(uneven, stages(uneven)[-1], seed=0)) == expected


def test_each_stage_adds_its_own_and_tokens_come_last(uneven):
    found = [changed(uneven, randomised(uneven, stage, seed=0)) for stage in stages(uneven)]
    assert all(fewer < more for fewer, more in pairwise(found))
    loose = {name for name, _ in uneven.named_parameters() if name.rsplit(".")[-1] in ("cls_token", "class_token")}
    assert not any(loose & early for early in found[:-1])
    assert loose <= found[-1]


@pytest.mark.parametrize("call", [stages, lambda model: randomised(model, "fc", seed=0)])
def test_a_function_has_no_stages(call):
    with pytest.raises(InputError, match=r"the network is a function; give an nn\.Module"):
        call(lambda x: x)
