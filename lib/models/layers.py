"""What every network has in common: the normalisation of its pixels, and the mode it is explained in."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lib import InputError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Normalize(nn.Module):
    """(x - mean) / std per channel, inside the model so that gradients are those of pixels in [0, 1]."""

    def __init__(self, mean: tuple, std: tuple):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def require_eval(model: Callable) -> None:
    """Raise InputError, naming the first part of the network that is in training mode; and as `require_autograd`.

    Dropout and batch norms in training mode are not functions of the image alone, and the norms' running statistics
    move with every pass. Each submodule is looked at: one that was switched after `model.eval()` counts too, and so
    does a batch norm without running statistics, which goes by the batch in either mode. What has no modes passes: a
    callable that is no nn.Module, and a module of no parts and weights whose forward method does not read `training`.

    >>> require_eval(nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval())
    """
    if not isinstance(model, nn.Module):
        return
    for path, layer in model.named_modules():
        where = f"its layer {path} ({type(layer).__name__})" if path else "the network"
        if in_training(layer):
            raise InputError(f"{where} is in training mode; call model.eval() first")
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and layer.running_mean is None:
            raise InputError(f"{where} has no running statistics; give one trained with track_running_stats=True")
    require_autograd(model)


def require_autograd(model: nn.Module) -> None:
    """Raise InputError for a network whose weights were made inside torch.inference_mode, without any derivatives.

    >>> require_autograd(nn.Linear(2, 2))
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_inference():
            raise InputError(f"{name} was made inside torch.inference_mode(); build or load the network outside of it")


def tensor_answer(model: Callable, x: Tensor) -> Tensor:
    """The network's answer to x; raises InputError where that is not a tensor, such as an object with .logits.

    >>> tensor_answer(nn.Flatten(), torch.zeros(1, 2, 1)).shape
    torch.Size([1, 2])
    """
    answer = model(x)
    if not isinstance(answer, Tensor):
        raise InputError(
            f"the network answers with a {type(answer).__name__}, not a tensor of logits: give a module whose forward "
            "method returns them, such as model(x).logits"
        )
    return answer


def in_training(layer: nn.Module) -> bool:
    """Whether a module is in training mode, and is more than a function written as a module.

    >>> in_training(nn.Dropout()), in_training(nn.Linear(1, 1)), in_training(nn.ReLU())
    (True, True, False)
    """
    if not layer.training or [*layer.children(), *layer.parameters(), *layer.buffers()]:
        return layer.training
    return "training" in getattr(getattr(type(layer).forward, "__code__", None), "co_names", ("training",))
