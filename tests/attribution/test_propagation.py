"""DeepLIFT and LRP: worked by hand, their sums, the networks they are defined for, what Captum gives alone."""

import operator

import pytest
import torch
import torchvision
from captum.attr import LRP, DeepLift
from torch import Tensor, nn

from lib import InputError
from lib.attribution.gradients import input_x_gradient
from lib.attribution.propagation import deeplift, deeplift_residual, lrp
from lib.models.canonize import Clipped, modular
from lib.models.fold import prepare
from lib.models.layers import Normalize


class Residual(nn.Module):
    """A block as residual networks have them: one rectifier twice, an addition, something in place."""

    def __init__(self, rectifier=nn.ReLU):
        super().__init__()
        self.normalise = Normalize((0.4,) * 3, (0.03,) * 3)  # some reach 6
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.act, self.out = rectifier(inplace=True), nn.Linear(4, 5)
        self.pool, self.drop = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(self.normalise(x)))
        x = self.act(self.conv(x) + x)
        return self.out(self.drop(torch.flatten(self.pool(x), 1)))


@pytest.fixture(params=[nn.ReLU, nn.ReLU6], ids=["relu", "relu6"])
def network(request):
    torch.manual_seed(0)
    return Residual(request.param).double().eval().requires_grad_(False)


@pytest.fixture
def images():
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    return x, torch.tensor([0, 3, 4])


def linear(*weights: list[list[float]]) -> nn.Sequential:
    layers = [nn.Flatten()]
    for weight in weights:
        layer = nn.Linear(len(weight[0]), len(weight), bias=False).double()
        layer.weight.data = torch.tensor(weight, dtype=torch.float64)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval().requires_grad_(False)


def test_deeplift_by_hand():
    """f = relu(x1 - .5) + x2 at (1, .25): the rectifier lets half of the change through, the gradient all of it."""
    model = linear([[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0]])
    model[1].bias = nn.Parameter(torch.tensor([-0.5, 0.0]).double(), requires_grad=False)
    x = torch.tensor([1.0, 0.25]).double().view(1, 1, 1, 2)
    target = torch.tensor([0])
    assert deeplift(model, x, target).flatten().tolist() == pytest.approx([0.5, 0.25])
    assert input_x_gradient(model, x, target).flatten().tolist() == pytest.approx([1, 0.25])


def test_lrp_by_hand():
    """z = (2, -1) at (1, 1): the second unit is off; the first one's 3 * 2 are shared 1.5 : 0.5."""
    model = linear([[1.5, 0.5], [-2.0, 1.0]], [[3.0, 7.0]])
    x = torch.ones(1, 1, 1, 2).double()
    assert lrp(model, x, torch.tensor([0])).flatten().tolist() == pytest.approx([4.5, 1.5])


def test_lrp_of_rectifiers_is_input_times_gradient_and_of_clipped_ones_is_not(network, images):
    x, target = images
    ours, gradient = lrp(network, x, target), input_x_gradient(network, x, target)
    assert torch.allclose(ours, gradient, atol=1e-6) == (type(network.act) is nn.ReLU)


def test_deeplift_sums_to_the_change_of_the_logit(network, images):
    x, target = images
    change = (network(x) - network(torch.zeros_like(x))).gather(1, target[:, None]).flatten()
    maps = deeplift(network, x, target)
    assert torch.allclose(maps.sum((1, 2, 3)), change)
    assert deeplift_residual(network, x, target, maps).abs().max() < 1e-9
    assert torch.allclose(deeplift_residual(network, x, target, 0 * maps), -change)


def test_written_out_the_network_is_the_same_function_and_stays_itself(network, images):
    before = [type(layer) for layer in network.modules()]
    written = modular(network, images[0])
    assert torch.allclose(written(images[0]), network(images[0]), atol=1e-12)
    assert [type(layer) for layer in network.modules()] == before and network.act.inplace
    assert not set(network.modules()) & set(written.modules())
    rectifiers = [layer for layer in written.modules() if isinstance(layer, nn.ReLU)]
    assert len(rectifiers) == 2 * (2 if type(network.act) is nn.ReLU6 else 1)
    assert not any(layer.inplace for layer in rectifiers)


def test_maps_do_not_depend_on_the_batch_and_leave_no_hooks(network, images):
    x, target = images
    for method in (deeplift, lrp):
        together = method(network, x, target)
        assert torch.allclose(method(network, x[1:2], target[1:2]), together[1:2])
        assert torch.equal(method(network, x, target), together)


def test_clipped_is_relu6():
    x = torch.linspace(-3, 9, 241).double()
    assert torch.allclose(Clipped()(x), nn.functional.relu6(x), atol=1e-14)


def test_captum_alone_differs_where_layers_are_shared_or_added_as_functions(images):
    """Why networks are written out: DeepLIFT refuses, LRP's relevance is counted twice at a functional addition."""
    torch.manual_seed(0)
    model, (x, target) = Residual().double().eval(), images
    for layer in model.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    with pytest.raises(RuntimeError, match="used more than once"):
        DeepLift(model).attribute(x.requires_grad_(), baselines=torch.zeros_like(x), target=target)
    model.normalise, model.drop = nn.AvgPool2d(1), nn.Dropout(0.0)
    theirs = LRP(model).attribute(x, target=target).detach()
    assert not torch.allclose(theirs, lrp(model.eval(), x.detach(), target), rtol=0.05)


def test_lrp_of_a_residual_network_is_input_times_gradient(images):
    torch.manual_seed(0)
    bare = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=5)
    model = prepare(nn.Sequential(Normalize((0.4,) * 3, (0.3,) * 3), bare), shape=(3, 32, 32)).double()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    target = torch.tensor([0, 1])
    gradient = input_x_gradient(model, x, target)
    assert (lrp(model, x, target) - gradient).norm() < 1e-3 * gradient.norm()


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (nn.SiLU(), "The network has a SiLU"),
        (torchvision.models.mobilenet_v2(), "calls adaptive_avg_pool2d"),
    ],
    ids=["silu", "functional pooling"],
)
def test_other_layers_are_refused(layer, match):
    model = layer if hasattr(layer, "classifier") else nn.Sequential(nn.Conv2d(3, 2, 3), layer, nn.Flatten())
    for method in (deeplift, lrp):
        with pytest.raises(InputError, match=match):
            method(model.eval(), torch.rand(1, 3, 8, 8), torch.tensor([0]))


class Line(nn.Module):
    """A network whose middle is one line; u and v are (B, 4, 8, 8)."""

    def __init__(self, line):
        super().__init__()
        torch.manual_seed(0)
        self.line, self.shift = line, nn.Parameter(torch.rand(4, 1, 1))
        self.a, self.b, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(256, 5)
        self.first, self.last = nn.ReLU(), nn.ReLU()
        self.double().eval()

    def forward(self, x):
        u = self.first(self.a(x))
        return self.fc(torch.flatten(self.last(self.line(self, u, self.b(u))), 1))


def changed_behind_its_back(m, u, v):
    w = v
    w += u
    return v


LINES = {
    "alpha": lambda m, u, v: torch.add(u, v, alpha=0.1),
    "named": lambda m, u, v: torch.sub(input=u, other=v, alpha=0.3),
    "number": lambda m, u, v: v + 0.5,
    "number first": lambda m, u, v: 0.5 - v,
    "in place": lambda m, u, v: v.add_(u),
    "augmented": lambda m, u, v: operator.iadd(v, u),
    "scaled": lambda m, u, v: 0.5 * v * m.shift - u / (2 * m.shift),
    "shifted": lambda m, u, v: torch.add(v, m.shift),
}
OTHERS = {
    "product": (lambda m, u, v: u * v, r"calls mul \(mul\)"),
    "square": (lambda m, u, v: v * v, "calls mul"),
    "quotient": (lambda m, u, v: 1 / (v + 9), "calls truediv"),
    "rounded": (lambda m, u, v: torch.div(v, 2, rounding_mode="floor"), "calls div"),
    "branch": (lambda m, u, v: u if v.sum() > 0 else v, "forward method cannot be read"),
    "aliased": (changed_behind_its_back, "answers differently, from fc on"),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_sums_and_scaled_values_are_those_of_the_network(line, images):
    model, (x, target) = Line(line), images
    torch.testing.assert_close(modular(model)(x), model(x))
    assert deeplift_residual(model, x, target, deeplift(model, x, target)).abs().max() < 1e-9
    torch.testing.assert_close(lrp(model, x, target), input_x_gradient(model, x, target), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("line", "match"), OTHERS.values(), ids=OTHERS)
def test_what_is_not_linear_is_refused_by_name(line, match, images):
    for method in (deeplift, lrp):
        with pytest.raises(InputError, match=match):
            method(Line(line), *images)


def test_what_is_no_module_is_refused(images):
    with pytest.raises(InputError, match=r"not an nn\.Module"):
        lrp(lambda x: x.flatten(1), *images)


def test_a_hook_that_the_graph_would_lose_is_seen(network, images):
    network.act.register_forward_hook(lambda layer, args, output: 2 * output)
    with pytest.raises(InputError, match="answers differently, from conv on"):
        lrp(network, *images)


def test_maps_are_those_of_the_weights_of_now(images):
    model, other = Line(LINES["alpha"]), Line(LINES["alpha"])
    torch.manual_seed(5)
    for weight in other.parameters():
        nn.init.normal_(weight)
    before = [method(model, *images) for method in (deeplift, lrp)]
    model.load_state_dict(other.state_dict())
    after = [method(model, *images) for method in (deeplift, lrp)]
    assert not any(torch.allclose(*pair) for pair in zip(before, after, strict=True))
    assert all(torch.equal(maps, method(other, *images)) for maps, method in zip(after, (deeplift, lrp), strict=True))


class Flat(nn.Module):
    def forward(self, x):
        return x.flatten(1)


class FlatBehind(nn.Module):
    """Captum has no rule for a layer that rearranges."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return self.layers(x).flatten(1)


@pytest.mark.parametrize("epsilon", [1e-9, 0.3])
def test_lrp_is_captums(images, epsilon):
    """Captum's own LRP with its epsilon rule, of a network that it reads as it is."""
    from captum.attr._utils.lrp_rules import EpsilonRule

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AvgPool2d(2), nn.Conv2d(4, 5, 1), Flat()).double().eval()
    x, target = images
    ours = lrp(model, x, target, epsilon=epsilon)
    for layer in model:
        if not isinstance(layer, nn.ReLU | Flat):
            layer.rule = EpsilonRule(epsilon)
    model = FlatBehind(model[:-1])
    theirs = LRP(model).attribute(x, target=target).detach()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("after", "exact"),
    [
        ([nn.MaxPool2d(2), nn.Conv2d(4, 4, 1), nn.ReLU()], True),
        ([nn.MaxPool2d(2), nn.ReLU()], False),
        ([nn.ReLU(), nn.MaxPool2d(2)], False),
        ([nn.MaxPool2d(2), nn.MaxPool2d(2)], False),
        ([nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 1), nn.ReLU()], False),
    ],
    ids=["apart", "pool relu", "relu pool", "pool pool", "overlapping"],
)
def test_where_deeplifts_sum_is_exact(images, after, exact):
    torch.manual_seed(0)
    before = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)]
    model = nn.Sequential(*before, *after, nn.Flatten(), nn.LazyLinear(5)).double().eval()
    model(images[0])
    for weight in model.parameters():
        nn.init.normal_(weight)
    residual = deeplift_residual(model, *images, deeplift(model, *images))
    assert (residual.abs().max() < 1e-9) == exact


def test_an_epsilon_that_divides_by_nothing_is_refused(network, images):
    with pytest.raises(InputError, match="epsilon=0 lets"):
        lrp(network, *images, epsilon=0)


@pytest.mark.parametrize("method", [deeplift, lrp])
def test_inside_inference_mode_maps_are_the_same(network, images, method):
    expected = method(network, *images)
    with torch.inference_mode():
        assert torch.equal(method(network, images[0].clone(), images[1]), expected)
        made = Residual().double().eval()
    with pytest.raises(InputError, match=r"inside torch\.inference_mode"):
        method(made, *images)
