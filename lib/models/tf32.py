"""A network in TF32, the ten-bit arithmetic that GPUs use for convolutions and matrix products, on any device."""

from copy import deepcopy

import torch
from torch import Tensor, nn

DROPPED = 13  # of float32's 23 bits of mantissa TF32 keeps 10


def tf32(x: Tensor) -> Tensor:
    """float32 numbers rounded to the nearest that TF32 has, ties to even; infinities and NaN stay."""
    bits = x.view(torch.int32)
    half = (1 << (DROPPED - 1)) - 1 + ((bits >> DROPPED) & 1)
    rounded = ((bits + half) & ~((1 << DROPPED) - 1)).view(torch.float32)
    return torch.where(x.isfinite(), rounded, x)


class _Operand(torch.autograd.Function):
    """Rounded on the way forward; the gradient goes back as it is, because the product before has its own rounding."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return tf32(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


class _Product(torch.autograd.Function):
    """As it is on the way forward; on the way back the gradient is an operand, and is rounded."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()  # the next layer may work in place

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return tf32(grad)


def in_tf32(model: nn.Module) -> nn.Module:
    """A copy of a frozen float32 network whose convolutions and linear layers see operands rounded to TF32.

    Forward: images and weights are rounded, sums are kept in float32. Backward: so are the gradients that arrive at
    each layer. What a GPU computes can differ in the order of its sums.
    """
    model = deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight = nn.Parameter(tf32(layer.weight.detach()), requires_grad=False)
            layer.register_forward_pre_hook(lambda layer, args: (_Operand.apply(args[0]),))
            layer.register_forward_hook(lambda layer, args, output: _Product.apply(output))
    return model
