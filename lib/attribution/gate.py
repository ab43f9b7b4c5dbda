"""The gate: what comes from outside (a network, images, labels, ids) is looked at once, on its way in.

Behind it code trusts what it is given. A network that has passed is a `Gated`; passing it again changes nothing, so
that a function behind the gate may call another public one for free.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lib import InputError, nearest
from lib.models.layers import require_eval

OBJECTIVES = ("probability", "logit", "log_probability", "contrast")
PRECISIONS = (torch.float32, torch.float64)
_BINARY = "lambda x: torch.cat([torch.zeros_like(z := model(x).reshape(-1, 1)), z], 1)"  # softmax is then the sigmoid


class Gated(nn.Module):
    """A network behind the gate: gives it a copy of the images, and looks at its first answer.

    classes: K, how many there are; None before the first answer. module: the network as it was given.
    """

    def __init__(self, model: Callable[[Tensor], Tensor], objective: str):
        super().__init__()
        self.eval()
        self.module, self.objective = model, objective
        self.classes: int | None = None
        self.highest = 0  # of the labels that were asked about

    def forward(self, x: Tensor) -> Tensor:
        logits = self.module(x.clone())  # it may work in place
        if self.classes is None:
            self.classes = _classes(logits, x, self.objective)
            self._refuse_beyond()
        return logits

    def asked_about(self, labels: Tensor) -> None:
        """Note the labels that answers will be read at; raises InputError for one that is not a class."""
        self.highest = max(self.highest, int(labels.max()))
        if self.classes is not None:
            self._refuse_beyond()

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
    Raises InputError where the network is in training mode, does not answer with such a tensor (seen at its first
    answer) or has no such class, and as `image_batch` and `class_labels`.

    >>> import torch
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
    x = image_batch(x, differentiable=differentiable)
    gated, target = Gated(model, objective), class_labels(target, x)
    gated.asked_about(target)
    return gated, x, target


def image_batch(x: Tensor, name: str = "x", *, like: Tensor | None = None, differentiable: bool = False) -> Tensor:
    """Images (B, C, H, W), at least one, float32 or float64, every value in [0, 1]: a tensor or an array.

    like: images whose shape they must have; they are then moved to its device and precision.
    Raises InputError otherwise, NaN included.

    >>> image_batch(np.zeros((1, 3, 2, 2))).dtype
    torch.float64
    """
    if not isinstance(x, Tensor | np.ndarray):
        raise InputError(f"{name} is a {type(x).__name__}; give a tensor (B, C, H, W) with values in [0, 1]")
    x = torch.as_tensor(x)
    if x.ndim != 4 or not len(x) or x.dtype not in PRECISIONS:
        cure = ".unsqueeze(0) makes a batch of one image" if x.ndim == 3 else "give at least one image"
        if not x.is_floating_point():
            cure = ".float() / 255 brings bytes into the range"
        elif x.dtype not in PRECISIONS:
            cure = "half precision loses the squares of gradients: use .float()"
        raise InputError(f"{name} is {tuple(x.shape)} {x.dtype}; give (B, C, H, W), float32 or float64: {cure}")
    if like is not None and x.shape != like.shape:
        raise InputError(f"{name} has shape {tuple(x.shape)}; give the shape of the images, {tuple(like.shape)}")
    low, high = torch.stack(x.detach().aminmax()).tolist()
    if not (low >= 0 and high <= 1):
        raise InputError(f"{name} spans [{low:.3g}, {high:.3g}]; give images in [0, 1] (the network normalises)")
    x = x if differentiable else x.detach()
    return x if like is None else x.to(like)


def class_labels(target, x: Tensor) -> Tensor:
    """One class index an image: (B,) int64 on the device of x.

    target: whole numbers >= 0, as a tensor of any integer type, an array or a list of B, or one number for all images.
    Raises InputError for anything else, such as one-hot rows, truth values or -1.

    >>> class_labels(7, torch.zeros(2, 3, 4, 4))
    tensor([7, 7])
    """
    given = f"target is {target!r}" if not isinstance(target, Tensor) else f"target is {tuple(target.shape)}"
    try:
        labels = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{given}; give one class index an image, ({len(x)},)") from error
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not whole or labels.shape not in ((), (len(x),)):
        cure = ": .argmax(1) of one-hot rows gives it" if labels.ndim == 2 else ""
        raise InputError(f"{given} {labels.dtype}; give one whole class index an image, ({len(x)},){cure}")
    labels = labels.to(x.device, torch.int64).expand(len(x))
    if (lowest := int(labels.min())) < 0:
        raise InputError(f"target holds {lowest}; give class indices from 0 up")
    return labels


def image_ids(images: Sequence[str], x: Tensor) -> list[str]:
    """The ids of a batch, by which random numbers are drawn: one for each image.

    Raises InputError for another number of them, or a single text.

    >>> image_ids(["a", "b"], torch.zeros(2, 3, 4, 4))
    ['a', 'b']
    """
    if isinstance(images, str) or len(images) != len(x):
        given = repr(images) if isinstance(images, str) else f"{len(images)} ids"
        raise InputError(f"images is {given} for {len(x)} images; give a list with one id an image, to draw by")
    return list(images)


def whole_number(given, name: str, least: int = 1) -> int:
    """A whole number of at least `least`, as Python's own int; NumPy's are accepted, truth values are not.

    Raises InputError otherwise.

    >>> whole_number(np.int64(8), "steps")
    8
    """
    if isinstance(given, bool | np.bool_) or not isinstance(given, int | np.integer) or given < least:
        raise InputError(f"{name} is {given!r}; give a whole number of at least {least}")
    return int(given)


def _classes(answer, x: Tensor, objective: str) -> int:
    """K of a first answer (B, K); InputError with the wrapper that cures another kind of answer."""
    if not isinstance(answer, Tensor):
        inside = "[0]" if isinstance(answer, tuple | list) and not hasattr(answer, "logits") else ".logits"
        inside = '["logits"]' if type(answer) is dict else inside
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
    if answer.dtype not in PRECISIONS:
        raise InputError(f"the network answers in {answer.dtype}; call model.float() and leave autocast out")
    return answer.shape[1]
