import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import interpolate

from lib import InputError
from lib.attribution.gradients import image_generator, input_gradient, input_x_gradient, smoothgrad
from lib.attribution.layerwise import full_gradients, fullgrad, gradcam
from lib.data.imagenet import load_image, photographs
from lib.models.fold import prepare
from lib.models.layers import Normalize
from lib.models.zoo import load_network

IMAGES = ["cat", "dog", "owl"]


class Squares(nn.Module):
    """Logits (sum of squares, 0), whose gradient is 2x."""

    def forward(self, x):
        total = x.square().flatten(1).sum(1)
        return torch.stack([total, torch.zeros_like(total)], 1)


def linear(weights, bias):
    layer = nn.Linear(len(weights[0]), len(weights))
    layer.weight.data, layer.bias.data = torch.tensor(weights), torch.tensor(bias)
    return layer


def convolution(weights, bias):
    """A 1 x 1 convolution of one channel."""
    layer = nn.Conv2d(1, len(weights), 1)
    layer.weight.data, layer.bias.data = torch.tensor(weights).view(-1, 1, 1, 1), torch.tensor(bias)
    return layer


def network(inplace=True):
    """Normalised colour images of 12 x 12 pixels through biases of every kind and a padded last convolution."""
    torch.manual_seed(0)
    model = nn.Sequential(
        Normalize((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)),
        nn.Conv2d(3, 6, 3),
        nn.ReLU(inplace),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace),
        nn.Conv2d(8, 5, 3, padding=1),
        nn.BatchNorm2d(5, affine=False),
        nn.ReLU(inplace),
        nn.Flatten(),
        nn.Linear(5 * 5 * 5, 7),
        nn.ReLU(inplace),
        nn.Linear(7, 4),
    )
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    nn.init.normal_(model[5].weight)
    nn.init.normal_(model[5].bias)
    return model.double().eval().requires_grad_(False)


def batch():
    x = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x * torch.tensor([1, 0.3, 0.7], dtype=torch.float64).view(3, 1, 1, 1), torch.tensor([2, 0, 3])


def smooth(model, x, target, images=IMAGES, **options):
    return smoothgrad(model, x, target, images=images, samples=5, seed=3, **options)[0]


def smooth_squared(model, x, target, images=IMAGES, **options):
    return smoothgrad(model, x, target, images=images, samples=5, seed=3, **options)[1]


# By hand


def test_linear_network_has_its_weights_for_a_gradient():
    model = nn.Sequential(nn.Flatten(), linear([[1.0, -2.0, 3.0, 0.0], [5.0, 0.0, -1.0, 1.0]], [7.0, 8.0])).eval()
    x, target = torch.tensor([0.5, 0.25, 1.0, 0.75]).view(1, 1, 2, 2).repeat(2, 1, 1, 1), torch.tensor([0, 1])
    weights = torch.tensor([[1.0, -2, 3, 0], [5, 0, -1, 1]]).view(2, 1, 2, 2)
    assert torch.equal(input_gradient(model, x, target), weights)
    assert input_x_gradient(model, x, target).flatten(1).tolist() == [[0.5, -0.5, 3, 0], [2.5, 0, -1, 0.75]]
    torch.testing.assert_close(smooth(model, x, target, ["a", "b"]), weights)
    torch.testing.assert_close(smooth_squared(model, x, target, ["a", "b"]), weights.square())


def test_quadratic_network_and_the_objectives():
    x, target = torch.tensor([[0.5, 0.25], [0.0, 1.0]]).view(1, 1, 2, 2), torch.tensor([0])
    assert torch.equal(input_gradient(Squares().eval(), x, target), 2 * x)
    total = torch.tensor(0.25 + 0.0625 + 1)
    other = torch.sigmoid(-total)  # probability of the other class
    log = input_gradient(Squares().eval(), x, target, objective="log_probability")
    torch.testing.assert_close(log, 2 * x * other)
    probability = input_x_gradient(Squares().eval(), x, target, objective="probability")
    torch.testing.assert_close(probability, 2 * x.square() * other * (1 - other))


def test_gradcam_by_hand():
    # Channels A = (x, 4x - 1), F = mean of 2 A_0 - A_1: weights (2, -1) / 4, map relu(1 - 2x) / 4
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear([[2.0, -1.0]], [9.0])]
    model = nn.Sequential(nn.AvgPool2d(2), convolution([1.0, 4.0], [0.0, -1.0]), *head).eval()
    coarse = torch.tensor([[0.25, 0.75], [0.0, 0.5]])
    x = coarse.repeat_interleave(2, 0).repeat_interleave(2, 1).view(1, 1, 4, 4)
    # The coarse map ((1/8, 0), (1/4, 0)), its corners on the corners of 4 x 4
    third = torch.arange(4) / 3
    expected = (1 + third[:, None]) * (1 - third) / 8
    torch.testing.assert_close(gradcam(model, x, torch.tensor([0])), expected[None])


def test_gradcam_takes_the_last_convolution_before_the_first_linear_layer():
    conv = convolution([1.0], [0.0])
    late = nn.Sequential(nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 1, 1), nn.Flatten())
    model = nn.Sequential(
        convolution([3.0], [1.0]), conv, nn.Flatten(), linear([[1.0] * 4] * 4, [0.0] * 4), late
    ).eval()
    x, seen = torch.rand(1, 1, 2, 2), []
    conv.register_forward_hook(lambda layer, args, output: seen.append(output.detach()))
    cam = gradcam(model, x, torch.tensor([0]))
    weight = late[1].weight.sum()
    torch.testing.assert_close(cam, (weight * seen[0][:, 0]).relu().detach())


def test_fullgrad_by_hand():
    # Both channels are positive: F = sum_i v_i (2 x_i + 1) + u_i (x_i + 2) + 10
    v, u = [1.0, 2.0, -1.0, 4.0], [0.0, 1.0, 0.0, 1.0]
    model = nn.Sequential(convolution([2.0, 1.0], [1.0, 2.0]), nn.ReLU(), nn.Flatten(), linear([v + u], [10.0])).eval()
    x, target = torch.tensor([0.0, 0.5, 1.0, 0.25]).view(1, 1, 2, 2), torch.tensor([0])
    first, (conv, last) = full_gradients(model, x, target)
    assert first.flatten().tolist() == [0, 2.5, -2, 2.25]  # x (2v + u)
    assert conv.flatten(2).tolist() == [[v, [0, 2, 0, 2]]]
    assert last.tolist() == [[10]]
    # Over channels and pixels together the input term spans 0..2.5, the convolution's 0..4; the linear bias is out
    full = fullgrad(model, x, target).flatten().tolist()
    assert full == pytest.approx([0 + 0.25, 1 + 1, 0.8 + 0.25, 0.9 + 1.5])
    plain = fullgrad(model, x, target, normalised=False).flatten().tolist()
    assert plain == pytest.approx([0 + 1, 2.5 + 4, 2 + 1, 2.25 + 6])


def test_fullgrad_of_a_constant_term_is_zero():
    model = nn.Sequential(convolution([1.0], [1.0]), nn.Flatten(), linear([[1.0] * 4], [0.0])).eval()
    x = torch.tensor([0.0, 0.5, 1.0, 0.25]).view(1, 1, 2, 2)
    torch.testing.assert_close(fullgrad(model, x, torch.tensor([0])), x[:, 0])


# Oracles


def test_gradients_equal_captums():
    captum = pytest.importorskip("captum.attr")
    model, (x, target) = network(inplace=False), batch()
    theirs = captum.Saliency(model).attribute(x.clone().requires_grad_(), target, abs=False)
    torch.testing.assert_close(input_gradient(model, x, target), theirs)
    theirs = captum.InputXGradient(model).attribute(x.clone().requires_grad_(), target)
    torch.testing.assert_close(input_x_gradient(model, x, target), theirs.detach())


def test_gradcam_equals_captums():
    captum = pytest.importorskip("captum.attr")
    model, (x, target) = network(inplace=False), batch()
    coarse = captum.LayerGradCam(model, model[7]).attribute(x, target, relu_attributions=True).detach()
    assert coarse.shape == (3, 1, 5, 5) and (coarse > 0).any() and (coarse == 0).any()
    theirs = interpolate(coarse, size=(12, 12), mode="bilinear", align_corners=True)[:, 0]
    torch.testing.assert_close(gradcam(model, x, target), theirs)


@pytest.mark.parametrize(("method", "power"), [(smooth, 1), (smooth_squared, 2)])
def test_smoothgrad_is_the_mean_over_noisy_images(method, power):
    model, (x, target) = network(), batch()
    expected = torch.zeros_like(x)
    for row, image in enumerate(IMAGES):
        sigma = 0.15 * (x[row].max() - x[row].min())
        for draw in range(5):
            generator = image_generator(3, image, f"smoothgrad/{draw}")
            noisy = x[row] + sigma * torch.randn(3, 12, 12, generator=generator)
            noisy = noisy[None].requires_grad_()
            (gradient,) = torch.autograd.grad(model(noisy)[0, target[row]], noisy)
            expected[row] += gradient[0] ** power / 5
    torch.testing.assert_close(method(model, x, target), expected)


def test_smoothgrad_without_noise_is_the_gradient_and_seeds_differ():
    model, (x, target) = network(), batch()
    torch.testing.assert_close(smooth(model, x, target, sigma=0.0), input_gradient(model, x, target))
    other = smoothgrad(model, x, target, images=IMAGES, samples=5, seed=4)[0]
    assert (smooth(model, x, target) - other).abs().max() > 1e-3


# The full-gradient decomposition


@pytest.mark.parametrize("folded", [False, True])
def test_full_gradients_sum_to_the_logit(folded):
    model, (x, target) = network(), batch()
    if folded:  # leaves the batch norm without weights as it is
        model[8] = nn.Identity().eval()
        model = prepare(model, shape=(3, 12, 12))
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    first, biases = full_gradients(model, x, target)
    assert [term.shape[1:] for term in biases][-2:] == [(7,), (4,)]
    assert len(biases) == (5 if folded else 6)
    terms = torch.stack([term.flatten(1).sum(1) for term in [first, *biases]])
    logits = model(x).gather(1, target[:, None])[:, 0]
    assert (terms.abs().amax(1) > 1e-3).all()
    torch.testing.assert_close(terms.sum(0), logits, rtol=1e-10, atol=1e-12)


def test_a_reached_cap_of_relu6_is_no_bias_term():
    model = nn.Sequential(convolution([20.0], [0.0]), nn.ReLU6(), nn.Flatten(), linear([[1.0]], [0.0])).eval()
    first, biases = full_gradients(model, torch.ones(1, 1, 1, 1), torch.tensor([0]))
    assert model(torch.ones(1, 1, 1, 1)).item() == 6
    assert first.item() == 0 and sum(term.sum().item() for term in biases) == 0


# Properties


@pytest.mark.parametrize("method", [input_gradient, input_x_gradient, smooth, smooth_squared, gradcam, fullgrad])
def test_a_map_depends_on_its_image_only(method):
    model, (x, target) = network(), batch()
    before = x.clone()
    options = [{"images": [image]} if method in (smooth, smooth_squared) else {} for image in IMAGES]
    together = method(model, x, target)
    alone = torch.cat([method(model, x[i : i + 1], target[i : i + 1], **options[i]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-13)
    assert together.shape == ((3, 12, 12) if method in (gradcam, fullgrad) else (3, 3, 12, 12))
    assert not together.requires_grad and torch.equal(x, before) and not x.requires_grad


@pytest.mark.parametrize("method", [input_gradient, smooth])
def test_budget_and_layout_change_nothing(method):
    model, (x, target) = network(), batch()
    expected = method(model, x, target)
    for budget in (1, 4, 64):
        torch.testing.assert_close(method(model, x, target, budget=budget), expected, rtol=1e-10, atol=1e-13)
    channels_last = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(method(channels_last, x, target), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("method", [gradcam, fullgrad])
def test_activations_in_place_change_nothing(method):
    x, target = batch()
    torch.testing.assert_close(method(network(inplace=True), x, target), method(network(inplace=False), x, target))


@pytest.mark.parametrize("method", [input_gradient, input_x_gradient, gradcam, fullgrad])
def test_one_pass_and_no_hooks_left(method):
    model, (x, target) = network(), batch()
    passes = []
    counter = model.register_forward_hook(lambda *args: passes.append(len(args[1][0])))
    method(model, x, target)
    assert passes == [3]
    with pytest.raises(InputError, match="objective 'odds' is unknown"):
        method(model, x, target, objective="odds")
    counter.remove()
    assert not any(layer._forward_hooks for layer in model.modules())


def test_smoothgrad_keeps_to_its_budget():
    model, (x, target) = network(), batch()
    passes = []
    model.register_forward_hook(lambda *args: passes.append(len(args[1][0])))
    smooth(model, x, target, budget=7)
    assert passes == [6, 6, 3]


@pytest.fixture(scope="module")
def photograph():
    lite = load_network("efficientnet_lite0", device="cpu")
    photo = photographs()[-1]
    return lite.model, lite.tensor(load_image(photo))[None], torch.tensor([photo.label])


@pytest.mark.parametrize("method", [input_gradient, input_x_gradient, smooth, gradcam, fullgrad])
def test_a_photograph_gets_a_finite_map(photograph, method):
    model, x, target = photograph
    scores = method(model, x, target, **({"images": ["photo"]} if method is smooth else {}))
    assert scores.shape[-2:] == x.shape[-2:] and scores.isfinite().all() and scores.std() > 0
    assert (scores.min() >= 0) == (method in (gradcam, fullgrad))


# Refusals


def test_what_cannot_be_used_is_refused():
    model, (x, target) = network(), batch()
    with pytest.raises(InputError, match="samples is 0; give a whole number of at least 1"):
        smoothgrad(model, x, target, images=IMAGES, samples=0)
    with pytest.raises(InputError, match="2 ids for 3 images"):
        smoothgrad(model, x, target, images=IMAGES[:2])
    flat = nn.Sequential(nn.Flatten(), nn.Linear(432, 4), nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 4, 1), nn.Flatten())
    with pytest.raises(InputError, match="no Conv2d before its first Linear"):
        gradcam(flat.double().eval(), x, target)


def test_fullgrad_asks_for_folded_activations():
    model = timm.create_model("tf_efficientnet_lite0", num_classes=5).eval()
    x, target = torch.rand(1, 3, 32, 32), torch.tensor([0])
    with pytest.raises(InputError, match=r"has a BatchNormAct2d.*lib\.models\.fold\.prepare"):
        fullgrad(model, x, target)
    _, biases = full_gradients(prepare(model, shape=(3, 32, 32)), x, target)
    assert len(biases) == sum(isinstance(layer, nn.Conv2d) for layer in model.modules()) + 1
