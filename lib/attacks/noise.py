"""Random perturbations: the two things that "random sign perturbation" stands for."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lib import InputError
from lib.seeds import image_generator


def random_sign(x: Tensor, *, epsilon: float, images: Sequence[str], seed: int = 0) -> Tensor:
    """x + epsilon s clipped to [0, 1], s uniform in {-1, +1} for each pixel and channel: one shot (`random1`).

    x (B, C, H, W) in [0, 1]; the signs depend on seed and image id alone, so that every epsilon has the same ones.
    Raises InputError for an epsilon that is negative and ids that do not match x.
    """
    _check(x, epsilon, images)
    signs = [
        2 * torch.randint(2, x.shape[1:], generator=image_generator(seed, image, "random1")) - 1 for image in images
    ]
    return (x + epsilon * torch.stack(signs).to(x)).clamp(0, 1)


def random_walk(shape: Sequence[int], images: Sequence[str], *, restart: int = 0, seed: int = 0):
    """The directions of the released random "attack": signs of fresh normal noise, for ever; each (B, *shape).

    The released codes (RAR, GAZ method=random) take such steps of size alpha and keep the iterate that scores worst, so
    the perturbation is weaker than `random_sign` of the same epsilon, and selected.
    """
    generators = [image_generator(seed, image, f"randomwalk/{restart}") for image in images]
    while True:
        yield torch.stack([torch.randn(tuple(shape), generator=generator).sign() for generator in generators])


def uniform_start(x: Tensor, *, epsilon: float, images: Sequence[str], restart: int = 0, seed: int = 0) -> Tensor:
    """x + U(-epsilon, epsilon) clipped to [0, 1], drawn for each image id, restart and seed."""
    _check(x, epsilon, images)
    generators = [image_generator(seed, image, f"start/{restart}") for image in images]
    noise = torch.stack([torch.rand(x.shape[1:], generator=generator) for generator in generators])
    return (x + epsilon * (2 * noise - 1).to(x)).clamp(0, 1)


def _check(x: Tensor, epsilon: float, images: Sequence[str]) -> None:
    if not 0 <= epsilon <= 1:
        raise InputError(f"epsilon is {epsilon!r}; give it in pixel values, 0 to 1 (8/255 is {8 / 255:.4f})")
    if len(images) != len(x):
        raise InputError(f"there are {len(images)} image ids for {len(x)} images; give one id per image")
