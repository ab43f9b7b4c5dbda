"""DeepLIFT and LRP: worked by hand, their sums, the networks they are defined for, what Captum gives alone."""

import pytest
import torch
import torchvision
from captum.attr import LRP, DeepLift
from torch import Tensor, nn

from lib import InputError
from lib.attribution.gradients import input_x_gradient
from lib.attribution.propagation import deeplift, lrp
from lib.models.canonize import Clipped, modular
from lib.models.fold import prepare
from lib.models.layers import Normalize


class Residual(nn.Module):
    """A block as residual networks have them: one rectifier twice, an addition, something in place."""

    def __init__(self, rectifier=nn.ReLU):
        super().__init__()
        self.normalise = Normalize((0.4,) * 3, (0.3,) * 3)
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
    x = 9 * torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()  # some reach 6
    return x, torch.tensor([0, 3, 4])


def linear(*weights: list[list[float]]) -> nn.Sequential:
    layers = [nn.Flatten()]
    for weight in weights:
        layer = nn.Linear(len(weight[0]), len(weight), bias=False).double()
        layer.weight.data = torch.tensor(weight, dtype=torch.float64)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval().requires_grad_(False)


def test_deeplift_by_hand():
    """f = relu(x1 - 2) + x2 at (3, 1): the rectifier lets 1 of the change of 3 through, the gradient says all of it."""
    model = linear([[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0]])
    model[1].bias = nn.Parameter(torch.tensor([-2.0, 0.0]).double(), requires_grad=False)
    x = torch.tensor([3.0, 1.0]).double().view(1, 1, 1, 2)
    target = torch.tensor([0])
    assert deeplift(model, x, target).flatten().tolist() == pytest.approx([1, 1])
    assert input_x_gradient(model, x, target).flatten().tolist() == pytest.approx([3, 1])


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
    assert torch.allclose(deeplift(network, x, target).sum((1, 2, 3)), change)


def test_written_out_the_network_is_the_same_function_and_stays_itself(network, images):
    before = [type(layer) for layer in network.modules()]
    written = modular(network)
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
def test_other_networks_are_refused(layer, match):
    model = layer if hasattr(layer, "classifier") else nn.Sequential(nn.Conv2d(3, 2, 3), layer, nn.Flatten())
    for method in (deeplift, lrp):
        with pytest.raises(InputError, match=match):
            method(model.eval(), torch.rand(1, 3, 8, 8), torch.tensor([0]))
