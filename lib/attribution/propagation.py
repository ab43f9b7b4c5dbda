"""DeepLIFT and LRP, which change how a network's layers pass back what they are given: through Captum."""

import warnings
from functools import lru_cache

import torch
from captum.attr import LRP, DeepLift
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import Tensor, nn

from lib.models import Normalize
from lib.modular import modular


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
        maps = method.attribute(_leaf(x), baselines=torch.zeros_like(x), target=target)
    return maps.detach()


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
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear, Normalize, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d)):
            layer.rule = EpsilonRule(epsilon)
    return LRP(network).attribute(_leaf(x), target=target).detach()


def _leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


@lru_cache(maxsize=2)
def _written_out(model: nn.Module) -> nn.Module:
    return modular(model)
