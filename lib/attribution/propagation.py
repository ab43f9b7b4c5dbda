"""DeepLIFT and LRP, which change how a network's layers pass back what they are given."""

import warnings
from copy import deepcopy
from functools import partial

import torch
from captum.attr import DeepLift
from torch import Tensor, fx, nn

from lib import InputError
from lib.attribution.forward import values
from lib.attribution.gate import Gated, gate
from lib.attribution.parts import in_parts
from lib.models.canonize import VIEWS, Clipped, modular

COST = 2  # two passes' memory a row: hooks keep copies of what they see


@torch.inference_mode(False)
def deeplift(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """DeepLIFT with the rescale rule, of the logit against a black image; signed, (B, C, H, W).

    Shrikumar et al. (2017): through each rectifier a difference is passed on by the ratio (output - its reference's) /
    (input - its reference's) in place of the gradient. One forward and backward pass of 2 B images, by Captum.
    The map sums to the difference of the logits if no max-pooling has overlapping windows, and none stands directly
    beside a rectifier or another max-pooling. Otherwise the sum can be off, because Captum keeps one of the shares that
    a pixel gets from overlapping windows, and gives the earlier of two such layers the plain gradient of the later one;
    `deeplift_residual` says by how much.
    Raises InputError for a network with an operation it is not defined for (see `modular`), and as
    `lib.attribution.gate.gate`.

    f = relu(x1 - 0.5) + x2 at (1, 0.25): the rectifier lets half of the change of x1 through.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1, bias=False)).eval()
    >>> for layer, weight in ((network[1], torch.eye(2)), (network[3], torch.ones(1, 2))):
    ...     layer.weight.data = weight
    >>> network[1].bias.data = torch.tensor([-0.5, 0.0])
    >>> deeplift(network, torch.tensor([[[[1.0, 0.25]]]]), 0)
    tensor([[[[0.5000, 0.2500]]]])
    """
    model, x, target = gate(model, x, target)
    method = DeepLift(_written_out(model, x))

    def attribute(part: Tensor, classes: Tensor) -> Tensor:
        return method.attribute(part.clone().requires_grad_(), torch.zeros_like(part), target=classes).detach()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that hooks are set
        return in_parts(attribute, model, x, x, target, cost=COST)


def deeplift_residual(model: nn.Module, x: Tensor, target: Tensor, maps: Tensor) -> Tensor:
    """What the sum of each DeepLIFT map has too much: sum(map) - (f_y(x) - f_y(0)), (B,) in float64.

    maps (B, C, H, W): those of `deeplift`. Raises InputError as `lib.attribution.gate.gate`.

    >>> network, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval(), torch.rand(3, 1, 2, 2)
    >>> deeplift_residual(network, x, 0, deeplift(network, x, 0)).abs().max() < 1e-6
    tensor(True)
    """
    model, x, target = gate(model, x, target)
    at, black = (values(model, points, target, objective="logit").double() for points in (x, torch.zeros_like(x)))
    return maps.flatten(1).sum(1, dtype=torch.float64) - (at - black)


@torch.inference_mode(False)
def lrp(model: nn.Module, x: Tensor, target: Tensor, *, epsilon: float = 1e-9) -> Tensor:
    """Layer-wise relevance propagation of the logit, the epsilon rule in every layer; (B, C, H, W), signed.

    Bach et al. (2015): a layer with outputs z, linear in its inputs a, passes relevance R back as
    a * J^T (R / (z + epsilon sign z)), J its Jacobian; rectifiers pass it unchanged; what biases get is lost. The
    normalisation is a layer too, so relevance is that of pixels.
    For a network of ReLUs, and epsilon towards 0, this is input times gradient; not so with ReLU6, whose gradient is 0
    beyond 6, where relevance still passes.
    Raises InputError for a network with an operation it is not defined for (see `modular`), an epsilon of 0 or
    less, and as `lib.attribution.gate.gate`.

    f = 3 x1 + x2 at (0.5, 1):

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False), nn.ReLU()).eval()
    >>> network[1].weight.data = torch.tensor([[3.0, 1.0]])
    >>> lrp(network, torch.tensor([[[[0.5, 1.0]]]]), 0)
    tensor([[[[1.5000, 1.0000]]]])
    """
    if not epsilon > 0:
        raise InputError(f"epsilon={epsilon} lets relevance be divided by 0; give a number above 0, such as 1e-9")
    model, x, target = gate(model, x, target)
    network = _Relevance(_written_out(model, x), epsilon)

    def attribute(part: Tensor, classes: Tensor) -> Tensor:
        with torch.enable_grad():
            points = part.clone().requires_grad_()
            chosen = network.run(points).gather(1, classes[:, None]).sum()
        return part * torch.autograd.grad(chosen, points)[0]

    return in_parts(attribute, model, x, x, target, cost=COST)


class _Relevance(fx.Interpreter):
    """Runs a `modular` network so that the gradient g at every value v is its relevance over v: R = v g.

    A linear layer then passes back J^T (g z / (z + epsilon sign z)), and a rectifier a = r z, which hands R on as it
    is, is a multiplication with the ratio r.
    """

    def __init__(self, network: fx.GraphModule, epsilon: float):
        super().__init__(network)
        self.epsilon = epsilon

    def run_node(self, node: fx.Node) -> Tensor:
        layer = self.fetch_attr(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.ReLU | Clipped):
            (z,) = self.fetch_args_kwargs_from_env(node)[0]
            top = 6 if isinstance(layer, Clipped) else None
            return z * (z.clamp(0, top) / z.where(z != 0, 1)).detach()
        z = super().run_node(node)
        if node.op not in ("call_module", "call_function", "call_method") or not z.requires_grad:
            return z
        if node.target not in VIEWS:
            z.register_hook(partial(_share, z.detach(), self.epsilon))
        return z


def _share(z: Tensor, epsilon: float, gradient: Tensor) -> Tensor:
    return gradient * z / torch.where(z < 0, z - epsilon, z + epsilon)


def _written_out(model: Gated, x: Tensor) -> fx.GraphModule:
    """The network as it is now, in the precision of x: it may have been trained since the last call."""
    model(x[:1])  # the gate looks at its answer
    module = deepcopy(model.module).to(x.dtype) if model.precision else model.module
    return modular(module, x[:1])
