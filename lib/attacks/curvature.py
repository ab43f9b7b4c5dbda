"""Second derivatives of a network, as products with a vector."""

from collections.abc import Callable

import torch
import torch.autograd.forward_ad as forward
from torch import Tensor

from lib import InputError
from lib.attribution.forward import derivatives, scalar

# What PyTorch says of operations that have no derivative in forward mode, or whose own it cannot differentiate.
_REVERSE_ONLY = ("forward AD", "forward mode AD", "inplace operation")


def hessian_product(model: Callable[[Tensor], Tensor], points: Tensor, target: Tensor, v: Tensor) -> Tensor:
    """H v for the Hessian H of the logit of class target (N,) at each of the points and v, both (N, C, H, W).

    It is the gradient of the derivative along v, which forward mode gives without a graph of the gradient. Softmax, for
    one, has its second derivatives in reverse mode only, which takes more memory.
    Raises InputError for a network of operations that have no second derivative.

    >>> def network(x):  # f_0 = sum x^2 / 2
    ...     return torch.stack([x.square().flatten(1).sum(1) / 2, x.flatten(1).sum(1)], 1)
    >>> x = torch.rand(1, 1, 1, 2)
    >>> torch.equal(hessian_product(network, x, torch.tensor([0]), 3 * x), 3 * x)
    True
    """
    points = points.detach().requires_grad_()
    with derivatives(2):
        try:
            found = _gradient(_slope_by_forward_mode(model, points, target, v), points)
            return torch.zeros_like(points) if found is None else found
        except RuntimeError as error:
            if not any(words in str(error) for words in _REVERSE_ONLY):
                raise
        gradient = _gradient(scalar(model(points), target, "logit"), points, create_graph=True)
        found = _gradient((gradient * v).sum((1, 2, 3)), points)
        if found is None:
            raise InputError("the network's gradient has no derivative by way of autograd; give a network that has")
        return found


def _slope_by_forward_mode(model, points: Tensor, target: Tensor, v: Tensor) -> Tensor | None:
    """The derivative of the logit along v, (N,); None where the network does not depend on its input."""
    with forward.dual_level():
        value = scalar(model(forward.make_dual(points, v)), target, "logit")
        return forward.unpack_dual(value).tangent


def _gradient(value: Tensor | None, points: Tensor, *, create_graph: bool = False) -> Tensor | None:
    """The gradient of the sum; None where it depends on no point, as the slope of a linear network."""
    if value is None or not value.requires_grad:
        return None
    return torch.autograd.grad(value.sum(), points, allow_unused=True, create_graph=create_graph)[0]
