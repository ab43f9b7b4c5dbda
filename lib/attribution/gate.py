"""The gate: what comes from outside (a network, images, labels) is looked at once, on its way in.

Behind it code trusts what it is given. A network that has passed is a `Gated`; passing it again changes nothing, so
that a function behind the gate may call another public one for free.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from lib import InputError, nearest
from lib.attribution.arguments import as_tensor
from lib.models.layers import in_training, require_eval

OBJECTIVES = ("probability", "logit", "log_probability", "contrast")
PRECISIONS = (torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)
_BINARY = "lambda x: torch.cat([torch.zeros_like(z := model(x).reshape(-1, 1)), z], 1)"  # softmax is then the sigmoid


class Gated(nn.Module):
    """A network behind the gate: gives it a copy of the images, and looks at its first answer.

    module: the network as it was given; classes: K, how many there are, None before the first answer; precision: that
    of the images it is given, where it differs from what it is explained in.

    >>> gated = Gated(lambda x: x.flatten(1), "logit")
    >>> gated(torch.tensor([[[[-7.0, 9.0]]]])), gated.classes  # used by itself, it takes what is no image
    (tensor([[-7.,  9.]]), 2)
    """

    def __init__(self, model: Callable[[Tensor], Tensor], objective: str, precision: torch.dtype | None = None):
        super().__init__()
        self.eval()
        self.module, self.objective, self.precision = model, objective, precision
        self.classes: int | None = None
        self.highest = 0  # of the labels that were asked about

    def forward(self, x: Tensor) -> Tensor:
        given = x.to(self.precision or x.dtype, copy=True)  # it may work in place
        answer = self.module(given) if self.classes else self._first_answer(given)
        return answer.to(x.dtype) if self.precision else answer

    def asked_about(self, labels: Tensor) -> None:
        """Note the labels that answers will be read at; raises InputError for one that is not a class."""
        self.highest = max(self.highest, int(labels.max()))
        if self.classes is not None:
            self._refuse_beyond()

    def _first_answer(self, given: Tensor) -> Tensor:
        watch = register_module_forward_pre_hook(_require_eval_of_part)  # a function may hide a module in training mode
        try:
            answer = self.module(given)
        except RuntimeError as error:
            if cure := _misplaced(self.module, given):
                raise InputError(cure) from error
            raise
        finally:
            watch.remove()
        self.classes = _classes(answer, given, self.objective)
        self._refuse_beyond()
        return answer

    def _refuse_beyond(self) -> None:
        if self.highest >= self.classes:
            raise InputError(
                f"label {self.highest} is beyond the network's {self.classes} classes: give whole numbers from 0 to "
                f"{self.classes - 1}"
            )


def gate(
    model: Callable[[Tensor], Tensor], x: Tensor, target, *, objective: str = "logit", differentiable: bool = False
) -> tuple[Gated, Tensor, Tensor]:
    """The network, images and labels of a call, ready to be trusted.

    model: a function or module in eval mode from images to logits (B, K), K >= 2 (1 will do for objective "logit");
    x: see `image_batch`; target: see `class_labels`. differentiable: x keeps its graph, else it is detached.
    Images in half precision reach the network as they are, and all else is computed in float32, because the squares of
    gradients underflow; gradients below 6e-8 are lost inside of a network in float16.
    Raises InputError where the network is in training mode, does not answer with such a tensor (seen at its first
    answer) or has no such class, and as `image_batch` and `class_labels`.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).eval()
    >>> gated, x, target = gate(network, torch.rand(2, 3, 2, 2), [0, 2])
    >>> gated(x).shape, target
    (torch.Size([2, 3]), tensor([0, 2]))
    """
    if isinstance(model, Gated):
        return model, x, target
    if objective not in OBJECTIVES:
        raise InputError(f"objective {objective!r} is unknown; {nearest(objective, OBJECTIVES)}")
    if not callable(model):
        raise InputError(f"the network is a {type(model).__name__}; give a function or module from images to logits")
    require_eval(model)
    precision = None
    if isinstance(x, Tensor) and x.dtype in HALVES:
        precision, x = x.dtype, x.float()
    x = image_batch(x, differentiable=differentiable)
    gated, target = Gated(model, objective, precision), class_labels(target, x)
    gated.asked_about(target)
    return gated, x, target


def image_batch(x: Tensor, name: str = "x", *, like: Tensor | None = None, differentiable: bool = False) -> Tensor:
    """Images (B, C, H, W), at least one, float32 or float64, every value in [0, 1]: a tensor or an array.

    like: images whose shape they must have; they are then moved to its device and precision.
    Raises InputError otherwise, NaN included.

    >>> import numpy as np
    >>> image_batch(np.zeros((1, 3, 2, 2))).dtype
    torch.float64
    """
    x = as_tensor(x, name, "images (B, C, H, W) with values in [0, 1]")
    if x.ndim != 4 or not x.numel() or x.dtype not in PRECISIONS:
        cure = ".unsqueeze(0) makes a batch of one image" if x.ndim == 3 else "give at least one image"
        if x.is_complex():
            cure = "the values of an image are real"
        elif not x.is_floating_point():
            cure = ".float() / 255 brings bytes into the range"
        elif x.dtype not in PRECISIONS:
            cure = "half precision loses the squares of gradients: use .float()"
        raise InputError(f"{name} is {tuple(x.shape)} {x.dtype}; give (B, C, H, W), float32 or float64: {cure}")
    if like is not None and x.shape != like.shape:
        raise InputError(f"{name} has shape {tuple(x.shape)}; give the shape of the images, {tuple(like.shape)}")
    require_range(x, name)
    x = x if differentiable else x.detach()
    x = x.clone() if x.is_inference() else x  # of torch.inference_mode, which autograd does not take
    return x if like is None else x.to(like)


def require_range(x: Tensor, name: str) -> None:
    """Raise InputError unless every value of a floating-point tensor lies in [0, 1], which NaN does not.

    >>> require_range(torch.rand(2, 3), "x")
    """
    low, high = torch.stack(x.detach().aminmax()).tolist()
    if not (low >= 0 and high <= 1):
        raise InputError(f"{name} spans [{low:.3g}, {high:.3g}]; give images in [0, 1] (the network normalises)")


def class_labels(target, x: Tensor) -> Tensor:
    """One class index an image: (B,) int64 on the device of x.

    target: whole numbers >= 0, as a tensor of any integer type, an array or a list of B, or one number for all images.
    Raises InputError for anything else, such as one-hot rows, truth values or -1.

    >>> class_labels(7, torch.zeros(2, 3, 4, 4))
    tensor([7, 7])
    """
    labels = as_tensor(target, "target", f"one class index an image, ({len(x)},)")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or not _one_each(labels, x):
        cure = ": .flatten() makes it" if labels.numel() == len(x) and labels.ndim > 1 else ""
        cure = ": .argmax(1) of one-hot rows gives it" if labels.ndim == 2 and not cure else cure
        raise InputError(
            f"target is {tuple(labels.shape)} {labels.dtype}; give one whole class index an image, ({len(x)},){cure}"
        )
    labels = labels.long()
    if (lowest := int(labels.min())) < 0:
        raise InputError(f"target holds {lowest}; give class indices from 0 up")
    return labels.to(x.device).expand(len(x))


def _one_each(labels: Tensor, x: Tensor) -> bool:
    return labels.shape in ((), (len(x),))


def _require_eval_of_part(layer: nn.Module, _) -> None:
    if in_training(layer):
        raise InputError(f"a part of the network, {type(layer).__name__}, is in training mode; call its eval() first")


def _misplaced(network, x: Tensor) -> str:
    """What to say where a network could not answer because it is elsewhere, or in another precision, than x."""
    own = list(network.parameters()) if isinstance(network, nn.Module) else []
    if own and all(each.device != x.device for each in own):
        return f"x is on {x.device}, the network on {own[0].device}: give x.to({str(own[0].device)!r})"
    if own and all(each.dtype != x.dtype for each in own):
        return f"x is {x.dtype}, the network {own[0].dtype}: give x.to({own[0].dtype})"
    return ""


def _classes(answer, x: Tensor, objective: str) -> int:
    """K of a first answer (B, K); InputError with the wrapper that cures another kind of answer."""
    if isinstance(answer, np.ndarray):
        raise InputError("the network answers with a ndarray; give one that computes with torch, by autograd")
    if not isinstance(answer, Tensor):
        inside = "[0]" if isinstance(answer, tuple | list) else ".logits"
        if isinstance(answer, dict) and (type(answer) is dict or "logits" not in answer):
            inside = f"[{'logits' if 'logits' in answer else next(iter(answer), 'logits')!r}]"
        raise InputError(
            f"the network answers with a {type(answer).__name__}, not a tensor of logits; wrap it: "
            f"lambda x: model(x){inside}"
        )
    if answer.ndim != 2 or len(answer) != len(x) or (answer.shape[1] < 2 and objective != "logit"):
        cure = f"wrap it: {_BINARY}" if answer.numel() == len(x) else "wrap it so that it does"
        raise InputError(
            f"the network answers with {tuple(answer.shape)} for {len(x)} images; give one that answers with logits "
            f"({len(x)}, classes) of two or more classes: {cure}"
        )
    if answer.dtype not in (*PRECISIONS, x.dtype):
        raise InputError(f"the network answers in {answer.dtype}; call model.float() and leave autocast out")
    return answer.shape[1]
