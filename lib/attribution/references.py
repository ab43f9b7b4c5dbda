"""Reference images: where a path begins."""

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.blur import gaussian_blur


def reference_image(reference, x: Tensor) -> Tensor:
    """The reference x' for images x (B, C, H, W) in [0, 1], in pixel space, of the same shape.

    reference: "black" | "white" | "blurred" (Gaussian, sigma = a tenth of the height) | a number | a tensor
    of shape (C, H, W) or (B, C, H, W).
    Raises InputError for anything else.
    """
    if isinstance(reference, Tensor):
        if reference.shape not in (x.shape, x.shape[1:]):
            raise InputError(
                f"the reference has shape {tuple(reference.shape)}; give {tuple(x.shape)} or {tuple(x.shape[1:])}"
            )
        return reference.to(x).expand_as(x)
    if isinstance(reference, int | float):
        return torch.full_like(x, reference)
    constants = {"black": 0.0, "white": 1.0}
    if reference in constants:
        return torch.full_like(x, constants[reference])
    if reference == "blurred":
        return gaussian_blur(x, x.shape[-2] / 10)
    raise InputError(f"reference {reference!r} is unknown; give 'black', 'white', 'blurred', a number or a tensor")
