"""DeepLIFT and LRP, which change how a network's layers pass back what they are given: through Captum."""

import warnings
from collections.abc import Callable
from functools import lru_cache

import torch
from captum.attr import LRP, DeepLift
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import Tensor, nn

from lib.attribution.forward import default_budget
from lib.models.canonize import LINEAR, modular


def deeplift(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """DeepLIFT with the rescale rule, of the logit against a black image; signed, (B, C, H, W).

    Shrikumar et al. (2017): through each rectifier a difference is passed on by the ratio (output - its reference's) /
    (input - its reference's) in place of the gradient. One forward and backward pass of 2 B images. The map sums to the
    difference of the logits, except behind max-pooling with overlapping windows, which Captum passes back only in part.
    Raises InputError for a network with an operation it is not defined for; see `modular`.
    """
    method = DeepLift(_written_out(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that hooks are set
        return _in_parts(lambda part, classes: method.attribute(part, 0 * part.detach(), target=classes), x, target)


def lrp(model: nn.Module, x: Tensor, target: Tensor, *, epsilon: float = 1e-9) -> Tensor:
    """Layer-wise relevance propagation of the logit, the epsilon rule in every layer; (B, C, H, W), signed.

    Bach et al. (2015): relevance is shared among a layer's inputs in proportion to their part in its output; rectifiers
    pass it unchanged; what biases get is lost. epsilon: added to the outputs it is divided by; 1e-9 is Captum's. The
    normalisation is a layer too, so relevance is that of pixels.
    For a network of ReLUs, and epsilon towards 0, this is input times gradient; not so with ReLU6, whose gradient is 0
    beyond 6, where relevance still passes.
    Raises InputError for a network with an operation it is not defined for; see `modular`.
    """
    network = _written_out(model)

    def attribute(part: Tensor, classes: Tensor) -> Tensor:
        for layer in network.modules():
            if isinstance(layer, (*LINEAR, nn.MaxPool2d)):
                layer.rule = EpsilonRule(epsilon)  # Captum takes it away afterwards
        return LRP(network).attribute(part, target=classes)

    return _in_parts(attribute, x, target)


def _in_parts(attribute: Callable[[Tensor, Tensor], Tensor], x: Tensor, target: Tensor) -> Tensor:
    """Few images at a time, because hooks keep copies of what they see."""
    size = max(1, default_budget(x) // 2)
    parts = zip(x.detach().split(size), target.split(size), strict=True)
    return torch.cat([attribute(part.clone().requires_grad_(), classes).detach() for part, classes in parts])


@lru_cache(maxsize=2)
def _written_out(model: nn.Module) -> nn.Module:
    return modular(model)
