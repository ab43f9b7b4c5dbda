"""What holds exactly on networks without additive constants, tried on small ones in double precision."""

from collections.abc import Callable, Iterator
from copy import deepcopy

import pandas as pd
import torch
from torch import Tensor, nn

from lib.attribution import Lines, Riemann, Straight, attribute
from lib.attribution.forward import values
from lib.attribution.gate import Gated
from lib.attribution.gradients import x_gradient
from lib.attribution.references import Single
from lib.experiments.subjects import relative_difference
from lib.models.homogeneity import homogeneity_of, origin, remove_biases

IMAGES, CHANNELS, SIDE, CLASSES = 6, 2, 8, 3
SCALES = (0.1, 0.5, 2.0, 10.0)
NEAR = (0.6, 1.5)  # not powers of two, by which floating-point numbers are multiplied exactly
STEPS = (1, 2, 3, 10, 50, 300)


class Combined(nn.Module):
    """The sum or the product of networks' outputs: torch.add or torch.mul of two after the other."""

    def __init__(self, operation: Callable[[Tensor, Tensor], Tensor], *networks: nn.Module):
        super().__init__()
        self.operation, self.networks = operation, nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = [network(x) for network in self.networks]
        for other in others:
            first = self.operation(first, other)
        return first


def conv_net(*between: nn.Module, pool: nn.Module | None = None, bias: bool = False, seed: int = 0) -> nn.Sequential:
    """Convolution, the layers `between`, convolution, ReLU, pooling, linear layer, in double precision and eval
    mode.
    """
    torch.manual_seed(seed)
    return (
        nn.Sequential(
            nn.Conv2d(CHANNELS, 6, 3, bias=bias),
            *between,
            nn.Conv2d(6, 6, 3, bias=bias),
            nn.ReLU(),
            pool or nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(24, CLASSES, bias=bias),
        )
        .double()
        .eval()
    )


def networks() -> dict[tuple[str, str], nn.Module]:
    """{(name, twin): network} with random weights: the layers of the paper's list, and what breaks them."""
    relu, pixels = nn.ReLU(), CHANNELS * SIDE * SIDE
    found = {("cnn", "regular"): conv_net(relu, bias=True)}
    torch.manual_seed(1)
    mlp = nn.Sequential(
        nn.Flatten(), nn.Linear(pixels, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, CLASSES)
    )
    found["mlp", "regular"] = mlp.double().eval()
    found |= {(name, "x"): remove_biases(found[name, "regular"]) for name in ("cnn", "mlp")}
    keep = {"leaky ReLU": nn.LeakyReLU(0.2), "PReLU": nn.PReLU(6, init=0.3)}
    found |= {(name, "x"): conv_net(layer) for name, layer in keep.items()}
    found["average pooling", "x"] = conv_net(relu, pool=nn.AvgPool2d(2))
    norm = _norm()
    mended = nn.Sequential(*conv_net(norm, relu))
    found["batch norm, its constants removed", "x"] = remove_biases(mended)
    found["product of 2", "x"] = Combined(torch.mul, conv_net(relu), conv_net(relu, seed=2)).eval()
    found["product of 3", "x"] = Combined(
        torch.mul, conv_net(relu), conv_net(relu, seed=2), conv_net(relu, seed=3)
    ).eval()
    last = conv_net(relu)
    torch.manual_seed(4)
    last[-1].bias = nn.Parameter(torch.randn(CLASSES).double())
    found["bias at the output", "regular"] = last
    layers = {"tanh": nn.Tanh(), "GELU": nn.GELU(), "SiLU": nn.SiLU(), "softplus": nn.Softplus(), "ReLU6": nn.ReLU6()}
    found |= {(name, "regular"): conv_net(layer) for name, layer in layers.items()}
    found["fresh batch norm", "regular"] = conv_net(nn.BatchNorm2d(6), relu)
    found["batch norm", "regular"] = mended
    found["group norm", "regular"] = conv_net(nn.GroupNorm(2, 6), relu)
    found["layer norm", "regular"] = conv_net(nn.LayerNorm([6, SIDE - 2, SIDE - 2]), relu)
    found["degree 0", "regular"] = conv_net(nn.GroupNorm(2, 6, eps=0, affine=False), relu)
    return {key: network.double().eval().requires_grad_(False) for key, network in found.items()}


def _norm() -> nn.BatchNorm2d:
    torch.manual_seed(5)
    norm = nn.BatchNorm2d(6)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.bias)
    return norm


def images(seed: int = 0) -> Tensor:
    """(6, 2, 8, 8) standard normal numbers in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(IMAGES, CHANNELS, SIDE, SIDE, generator=generator, dtype=torch.float64)


def layer_table() -> pd.DataFrame:
    """One row a network: what its layers say, what its values say near and far, and how far IG is from input x
    gradient.
    """
    x, rows = images(), []
    for (name, twin), network in networks().items():
        near, found = homogeneity_of(network, x, scales=NEAR), homogeneity_of(network, x)
        target = network(x).argmax(1)
        exact = _ig(network, x, target, 300)
        order = found.order or 1
        far = relative_difference(exact, _x_gradient(network, x, target, order=order)).max()
        rows.append(
            (name, twin, found.order, near.deviation, found.deviation, float(far), "; ".join(found.reasons[:1]))
        )
    columns = ["network", "twin", "degree by its layers", "deviation, .6 and 1.5", "deviation, .01 to 1000"]
    return pd.DataFrame(rows, columns=[*columns, "IG against x × gradient", "what its layers have"])


def exact_rows() -> pd.DataFrame:
    """Every exact claim of the paper on every network it is about, image by image; see params/claims.yaml, XD1 to
    XD23.
    """
    x = images()
    found = []
    for (name, twin), network in networks().items():
        for metric, steps, value in _checks(network, name, x):
            found += [(f"made-up-{i}", name, twin, steps, metric, float(each)) for i, each in enumerate(value)]
    table = pd.DataFrame(found, columns=["image", "network", "twin", "steps", "metric", "value"])
    return table.assign(experiment="exact", precision="float64", mode="corrected")


def _checks(network: nn.Module, name: str, x: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    target = network(x).argmax(1)
    order = {"product of 2": 2, "product of 3": 3}.get(name, 1)
    plain, maps = _logit(network, x, target), _x_gradient(network, x, target, order=order)
    size = maps.abs().flatten(1).sum(1)
    deviations = [(_logit(network, c * x, target) - c**order * plain).abs() / plain.abs() for c in SCALES]
    yield "homogeneity", 1, torch.stack(deviations).amax(0)
    moved = [
        (_x_gradient(network, c * x, target, order=order) - c**order * maps).abs().flatten(1).sum(1) for c in SCALES
    ]
    yield (
        "equivariance",
        1,
        torch.stack([each / c**order for each, c in zip(moved, SCALES, strict=True)]).amax(0) / size,
    )
    start = _logit(network, torch.zeros_like(x), target)
    yield "completeness", 1, (maps.flatten(1).sum(1) - (plain - start)).abs() / (plain - start).abs()
    yield "relative_sum", 1, maps.flatten(1).sum(1).abs() / size
    for steps in STEPS:
        yield "ig_difference", steps, relative_difference(_ig(network, x, target, steps), maps)
    if name in ("cnn", "mlp"):  # whose layers can be rewritten
        yield from _axioms(network, x, target, maps)


def _axioms(network: nn.Sequential, x: Tensor, target: Tensor, maps: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    size = maps.abs().flatten(1).mean(1)
    ids = [f"made-up-{i}" for i in range(len(x))]
    for draws in (1, 2, 5):
        path = Lines(Single(0.0), draws, "uniform", images=ids)
        drawn = attribute(_open(network), x, target, path=path, rules={"eg": Riemann("mean")}, objective="logit")["eg"]
        yield "eg_difference", draws, relative_difference(drawn, maps)
    other = _rewritten(network, swapped=False)
    both = _x_gradient(Combined(torch.add, network, other).eval(), x, target)
    yield "linearity", 1, _largest(both - maps - _x_gradient(other, x, target)) / size
    yield "implementation", 1, relative_difference(_x_gradient(_rewritten(network), x, target), maps)
    blind = _first_weights(network, lambda weight: torch.stack([weight[:, 0], torch.zeros_like(weight[:, 1])], 1))
    yield "dummy", 1, _largest(_x_gradient(blind, x, target)[:, 1]) / size
    alike = _first_weights(network, lambda weight: weight[:, :1].expand_as(weight))
    pair = _x_gradient(alike, x[:, :1].expand_as(x), target)
    yield "symmetry", 1, _largest(pair[:, 0] - pair[:, 1]) / size
    yield "double_backward", 1, _finite_difference_error(network, x, target)


def _first_weights(network: nn.Sequential, change: Callable[[Tensor], Tensor]) -> nn.Sequential:
    """The network with changed weights of its first layer, given to `change` as (units, 2 channels, others)."""
    network = deepcopy(network)
    first = next(layer for layer in network if isinstance(layer, nn.Conv2d | nn.Linear))
    first.weight.copy_(change(first.weight.reshape(len(first.weight), CHANNELS, -1)).reshape(first.weight.shape))
    return network


def _rewritten(network: nn.Sequential, *, swapped: bool = True) -> nn.Sequential:
    """The same function in other weights: the first layer's units swapped, doubled, and halved where they are read.

    swapped=False: a different function, with the units doubled only.
    """
    network = deepcopy(network)
    first, second = [layer for layer in network if isinstance(layer, nn.Conv2d | nn.Linear)][:2]
    order = torch.arange(len(first.weight)).flip(0)
    for name, tensor in first.named_parameters():
        getattr(first, name).copy_(2 * (tensor[order] if swapped else tensor))
    if swapped:
        second.weight.copy_(second.weight[:, order] / 2)
    return network


def _finite_difference_error(network: nn.Sequential, x: Tensor, target: Tensor, step: float = 1e-6) -> Tensor:
    """Relative error of the derivative of each image's prior, Σ X-Gradient², along a random direction of all
    weights.
    """
    network = deepcopy(network)
    weights = list(network.requires_grad_().parameters())
    generator = torch.Generator().manual_seed(6)
    direction = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]

    def prior(offset: float, **graph) -> Tensor:
        for weight, d in zip(weights, direction, strict=True):
            weight.data += offset * d
        value = _x_gradient(network, x, target, **graph).square().flatten(1).sum(1)
        for weight, d in zip(weights, direction, strict=True):
            weight.data -= offset * d
        return value

    exact = []
    for value in prior(0.0, create_graph=True):
        grads = torch.autograd.grad(
            value, weights, retain_graph=True, allow_unused=True
        )  # a last bias has no part in it
        exact.append(sum((g * d).sum() for g, d in zip(grads, direction, strict=True) if g is not None))
    measured = (prior(step) - prior(-step)) / (2 * step)
    return (torch.stack(exact).detach() - measured).abs() / measured.abs()


def _open(network: nn.Module) -> Gated:
    """The network without its gate: made-up inputs are numbers of either sign, not pixels in [0, 1]."""
    return Gated(network, "logit")


def _x_gradient(network: nn.Module, x: Tensor, target: Tensor, **how) -> Tensor:
    return x_gradient(_open(network), x, target, **how)


def _logit(network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return values(_open(network), x, target, objective="logit")


def _ig(network: nn.Module, x: Tensor, target: Tensor, steps: int) -> Tensor:
    path = Straight(steps, reference=origin(network), grid="gauss")
    return attribute(_open(network), x, target, path=path, rules={"ig": Riemann("gauss")}, objective="logit")["ig"]


def _largest(x: Tensor) -> Tensor:
    return x.abs().flatten(1).amax(1)
