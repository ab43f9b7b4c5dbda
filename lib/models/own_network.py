"""A network of one's own, made ready like those of the zoo: any module or function, with its preprocessing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lib import InputError
from lib.data.image_files import rgb
from lib.models.fold import prepare
from lib.models.layers import Normalize, require_eval, tensor_answer
from lib.models.recipes import IMAGENET
from lib.models.zoo import Network, best_device


class Answering(nn.Module):
    """A function of images as a module."""

    def __init__(self, function: Callable[[Tensor], Any]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@dataclass(frozen=True)
class OwnNetwork(Network):
    """A `Network` that prepares its images by a function of its own, where it has one."""

    preprocess: Callable[[Image.Image], Tensor] | None = None

    def tensor(self, image: Image.Image) -> Tensor:
        if self.preprocess is None:
            return super().tensor(image)
        x = self.preprocess(rgb(image))
        if not isinstance(x, Tensor) or x.ndim != 3 or not x.is_floating_point():
            given = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise InputError(
                f"preprocess gives {given}; give a function of a PIL image that returns floats (C, H, W) in [0, 1]"
            )
        return x


def own_network(
    model: Callable[[Tensor], Tensor],
    *,
    name: str = "own",
    size: int = 224,
    resize: int | None = None,
    interpolation: str = "bilinear",
    mean: Sequence[float] = IMAGENET[0],
    std: Sequence[float] = IMAGENET[1],
    preprocess: Callable[[Image.Image], Tensor] | None = None,
) -> Network:
    """A trained network as the study takes it: frozen, its normalisation inside, so that pixels in [0, 1] go in.

    model          a module in eval mode, or a function, from normalised images (B, C, size, size) to logits (B, K); one
                   that answers with an object is wrapped: lambda x: model(x).logits for those of Hugging Face
    size, resize   sides in pixels of what it sees, and the short side before this is cut out (by default size / .875)
    interpolation  of the resizing: bilinear, bicubic, …
    mean, std      of each channel, of pixels in [0, 1]
    preprocess     in place of resizing and cutting out: a PIL image in RGB -> (C, size, size) in [0, 1], not normalised

    The module that is given stays as it is: a copy is made ready.
    Raises InputError for a network in training mode, and one whose answer is no tensor of logits.

    >>> network = own_network(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), size=8)
    >>> x = network.tensor(Image.new("RGB", (30, 20), "white"))
    >>> x.shape, network.model(x[None].to(best_device())).shape
    (torch.Size([3, 8, 8]), torch.Size([1, 3]))
    """
    require_eval(model)
    inner = model if isinstance(model, nn.Module) else Answering(model)
    whole, shape = nn.Sequential(Normalize(tuple(mean), tuple(std)), inner).eval(), (len(mean), size, size)
    place = next((each.device for each in (*inner.parameters(), *inner.buffers())), best_device())
    try:
        with torch.no_grad():
            answer = tensor_answer(whole.to(place), torch.zeros(1, *shape, device=place))
    except RuntimeError as error:
        if "device" not in str(error):
            raise
        raise InputError(f"a part of the network is not on {place}; call its .to({str(place)!r}) first") from error
    if answer.ndim != 2:
        raise InputError(f"the network answers with {tuple(answer.shape)} for one image; give logits (1, classes)")
    ready = prepare(whole, shape=shape).to(best_device())
    resize = resize or round(size / 0.875)
    return OwnNetwork(name, ready, size, resize, interpolation, tuple(mean), tuple(std), "own", preprocess)
