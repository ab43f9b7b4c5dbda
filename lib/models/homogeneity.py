"""Networks without additive constants, whose attributions are exact after one pass (Hesse et al., NeurIPS 2021).

F is homogeneous of degree k about an origin z if F(z + c (x - z)) = c^k F(x) for every c > 0. Then integrated gradients
from z have a closed form, IG_i(x) = (x_i - z_i) dF/dx_i / k (Prop. 3.2): the X-Gradient. In a network that normalises
its pixels, z is the pixel that becomes zero, the mean colour; it is where the paper's zero baseline lies as well.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib import InputError
from lib.models.degrees import broken, degree
from lib.models.layers import BATCH_NORMS, Normalize, require_eval, tensor_answer

SCALES = (1e-2, 0.1, 0.5, 2.0, 10.0, 1e3)
NORMS = {nn.BatchNorm1d: 0, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}  # and their dimensions behind the channels


def origin(model: nn.Module) -> Tensor | float:
    """The pixel (C, 1, 1) that the network's Normalize maps to zero; 0 for a network without one."""
    return next((layer.mean for layer in model.modules() if isinstance(layer, Normalize)), 0.0)


@dataclass(frozen=True)
class Homogeneity:
    """What is known of a network.

    order      the degree k that its layers prove, None where they do not
    reasons    the layers that break it, and how
    deviation  worst of |F(z + c (x - z)) - c^k F(x)| / (c^k max |F(x)|) over scales, images and logits (k = 1 where
               order is None)
    """

    order: int | None
    reasons: list[str]
    deviation: float

    def holds(self, tolerance: float) -> bool:
        """Proved by the layers, and not contradicted by the numbers."""
        return self.order is not None and self.deviation <= tolerance


@torch.no_grad()
def homogeneity_of(model: nn.Module, x: Tensor, *, scales: Sequence[float] = SCALES) -> Homogeneity:
    """Is the network homogeneous? By its layers *and* by its values at several distances from the origin.

    x (B, C, H, W): where it is tried. Neither half is enough: the values of a ReLU6 that is never reached, or of a
    batch norm that has not been trained, are those of a homogeneous network; and a forward method may add a constant
    in a way its layers do not show. The model must be in eval mode.
    Raises InputError for a model with a layer in training mode; see `require_eval`.
    """
    require_eval(model)
    reasons = broken(model)
    order = None if reasons else degree(model)
    k, zero, plain = order or 1, origin(model), tensor_answer(model, x)
    worst = max(float((model(zero + c * (x - zero)) / c**k - plain).abs().max()) for c in scales)
    return Homogeneity(order, reasons, worst / float(plain.abs().max().clamp(min=torch.finfo(x.dtype).tiny)))


def require_homogeneity(model: nn.Module, x: Tensor, *, tolerance: float = 1e-4) -> Homogeneity:
    """`homogeneity_of`, for code that relies on it.

    Raises InputError naming the layer, or the deviation, that speaks against.
    """
    found = homogeneity_of(model, x)
    if found.reasons:
        raise InputError(
            f"the network is not homogeneous: {'; '.join(found.reasons[:3])}. Take the constants out with "
            "remove_biases, which must come before training, or use integrated gradients."
        )
    if not found.holds(tolerance):
        raise InputError(
            f"the network's layers are homogeneous but its values deviate by {found.deviation:.1e} (at most "
            f"{tolerance:g}): its forward method adds a constant."
        )
    return found


class Scale(nn.Module):
    """What is left of a batch norm without its constants: channel c times gamma_c / sqrt(var_c + eps)."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        gamma = norm.weight if norm.affine else torch.ones_like(norm.running_var)
        factor = (gamma / (norm.running_var + norm.eps).sqrt()).detach()
        self.factor = nn.Parameter(factor.view(-1, *(1,) * NORMS[type(norm)]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def remove_biases(model: nn.Module) -> nn.Module:
    """A copy of the network without additive constants, homogeneous of degree 1; to be trained from scratch.

    Biases of convolutions and linear layers go; a batch norm becomes a `Scale` by what it multiplies with (its mean
    and beta go); layers that are homogeneous stay. The weights are kept, but a trained network is not the same network
    without its biases, and the method means one that never had them.
    Raises InputError naming the first layer that cannot be mended so: ReLU6, GELU, a layer norm, a softmax, ...
    """
    model = deepcopy(model)
    for path, layer in list(model.named_modules()):
        if isinstance(layer, BATCH_NORMS):
            if type(layer) not in NORMS:
                raise InputError(f"{path} is a {type(layer).__name__}, which holds its activation; take the two apart")
            if layer.running_var is None:
                raise InputError(f"{path} keeps no running variance: what it multiplies with depends on the batch")
            model.set_submodule(path, Scale(layer))
        elif isinstance(getattr(layer, "weight", None), Tensor) and getattr(layer, "bias", None) is not None:
            layer.bias = None
    if reasons := broken(model.eval()):
        raise InputError(f"biases are not all that stands in the way: {'; '.join(reasons[:3])}")
    return model
