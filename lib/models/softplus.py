"""The same network with smooth activations: ReLU maps are piecewise constant, so their gradient shows no way."""

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from lib import InputError

LARGE = 30  # from here on, log(1 + e^x) is x in single precision


def softplus_twin(model: nn.Module) -> nn.Module:
    """A copy of `model` with softplus for every ReLU, on the same weight tensors; `model` is not touched.

    softplus(x) = log(1 + e^x) (beta = 1) for relu(x); 0.1 x + 0.9 softplus(x) for a leaky ReLU of slope 0.1, and so
    for other slopes; softplus(x) - softplus(x - 6) for ReLU6 = relu(x) - relu(x - 6). Max-pooling stays. Used for the
    direction of an attack only (Ghorbani et al., 2019; Chen et al., 2019). The ReLU6 twin is ours: no released code
    attacks such a network.
    Raises InputError where no module is a ReLU, LeakyReLU or ReLU6: activations that a forward method calls as
    functions cannot be replaced from outside.

    >>> softplus_twin(nn.Sequential(nn.ReLU()))(torch.zeros(1))  # log 2
    tensor([0.6931])
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"the network is a {type(model).__name__} without modules to smooth; give a smooth surrogate=")
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = deepcopy(model, shared)
    found = False
    for path, layer in list(twin.named_modules(remove_duplicate=False)):
        if type(layer) in (nn.ReLU, nn.ReLU6, nn.LeakyReLU):
            slope = layer.negative_slope if type(layer) is nn.LeakyReLU else 0.0
            soft = _Soft(6.0 if type(layer) is nn.ReLU6 else math.inf, slope).train(layer.training)
            twin.set_submodule(path, soft)
            found = True
    if not found:
        raise InputError(
            "the network has no ReLU, LeakyReLU or ReLU6 module to smooth; give a network whose activations are "
            "modules, or surrogate=model if it is smooth already"
        )
    return twin


class _Soft(nn.Module):
    def __init__(self, cap: float, slope: float):
        super().__init__()
        self.cap, self.slope = cap, slope

    def forward(self, x: Tensor) -> Tensor:
        soft = _SoftReLU.apply(x, self.cap)
        return self.slope * x + (1 - self.slope) * soft if self.slope else soft


class _SoftReLU(torch.autograd.Function):
    """softplus(x) - softplus(x - cap) from one exponential, in place of autograd's dozen passes over memory."""

    @staticmethod
    def forward(ctx, x: Tensor, cap: float) -> Tensor:
        ctx.cap = cap
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        e = _exp(x)
        if math.isinf(cap):  # torch's softplus takes five times as long where x is far below 0, among tiny numbers
            return e.add_(1).log_().add_((x - LARGE).clamp_(min=0))
        return ((1 + e) / (1 + e * math.exp(-cap))).log_()

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        return _Slope.apply(x, grad, ctx.cap), None

    @staticmethod
    def jvp(ctx, tangent: Tensor, _):
        (x,) = ctx.saved_tensors
        return _Slope.apply(x, tangent, ctx.cap)


class _Slope(torch.autograd.Function):
    """The slope at x times t: s - r with s, r the sigmoids of x and x - cap; its own slope is (s - r)(1 - s - r)."""

    @staticmethod
    def forward(ctx, x: Tensor, t: Tensor, cap: float) -> Tensor:
        e = _exp(x)
        s = e / (1 + e)
        if math.isinf(cap):
            ctx.save_for_backward(t, s, 1 - s)
            return s * t
        r = e.mul_(math.exp(-cap)).div_(1 + e)
        ctx.save_for_backward(t, s - r, 1 - s - r)
        return (s - r) * t

    @staticmethod
    def backward(ctx, grad: Tensor):
        t, slope, bend = ctx.saved_tensors
        along = grad * slope
        return along * t * bend, along, None


def _exp(x: Tensor) -> Tensor:
    return x.clamp(-60, LARGE).exp_()  # beyond, softplus and its slope no longer change in single precision
