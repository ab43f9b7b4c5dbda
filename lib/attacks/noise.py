"""Random perturbations: the two things that "random sign perturbation" stands for."""

from collections.abc import Iterator, Sequence
from itertools import count
from numbers import Real

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.arguments import image_ids, whole_number
from lib.attribution.gate import image_batch
from lib.seeds import image_generator


def random_sign(x: Tensor, *, epsilon: float, images: Sequence[str], seed: int = 0) -> Tensor:
    """x + epsilon s clipped to [0, 1], s uniform in {-1, +1} for each pixel and channel: one shot (`random1`).

    x (B, C, H, W) in [0, 1]; images: its B ids. The signs depend on seed and image id alone, so that every epsilon has
    the same ones.
    Raises InputError as `lib.attribution.gate.image_batch`, for ids that do not match x and an epsilon outside [0, 1].

    >>> x = torch.full((1, 1, 2, 2), 0.5)
    >>> (random_sign(x, epsilon=0.25, images=["a"]) - x).abs().unique()
    tensor([0.2500])
    """
    x, images = image_batch(x), image_ids(images, x)
    require_radius(epsilon)
    signs = [
        2 * torch.randint(2, x.shape[1:], generator=image_generator(seed, image, "random1")) - 1 for image in images
    ]
    return (x + epsilon * torch.stack(signs).to(x)).clamp(0, 1)


def random_walk(x: Tensor, *, images: Sequence[str], restart: int = 0, seed: int = 0) -> Iterator[Tensor]:
    """The directions of the released random "attack": signs of fresh normal noise, for ever; each like x.

    x (B, C, H, W) in [0, 1]; images: its B ids, on which the noise depends, and on restart and seed.
    The released codes (RAR, GAZ method=random) take such steps of size alpha and keep the iterate that scores worst, so
    the perturbation is weaker than `random_sign` of the same epsilon, and selected.
    Raises InputError as `lib.attribution.gate.image_batch` and for ids that do not match x.

    >>> steps = random_walk(torch.rand(2, 1, 8, 8), images=["a", "b"])
    >>> next(steps).unique(), next(steps).shape
    (tensor([-1.,  1.]), torch.Size([2, 1, 8, 8]))
    """
    x, images, restart = image_batch(x), image_ids(images, x), whole_number(restart, "restart", 0)
    generators = [image_generator(seed, image, f"randomwalk/{restart}") for image in images]

    def step() -> Tensor:
        return torch.stack([torch.randn(x.shape[1:], generator=each).sign() for each in generators]).to(x)

    return (step() for _ in count())


def uniform_start(x: Tensor, *, epsilon: float, images: Sequence[str], restart: int = 0, seed: int = 0) -> Tensor:
    """x + U(-epsilon, epsilon) clipped to [0, 1], drawn for each image id, restart and seed.

    Takes and raises what `random_sign` does.

    >>> x = torch.full((1, 1, 8, 8), 0.5)
    >>> (uniform_start(x, epsilon=0.25, images=["a"]) - x).abs().max() <= 0.25
    tensor(True)
    """
    x, images, restart = image_batch(x), image_ids(images, x), whole_number(restart, "restart", 0)
    require_radius(epsilon)
    generators = [image_generator(seed, image, f"start/{restart}") for image in images]
    noise = torch.stack([torch.rand(x.shape[1:], generator=generator) for generator in generators])
    return (x + epsilon * (2 * noise - 1).to(x)).clamp(0, 1)


def require_radius(epsilon: float, step: float = 1.0) -> None:
    """Raise InputError unless epsilon is a number from 0 to 1 and step a finite one above 0: both in pixel values.

    >>> require_radius(8 / 255, step=1 / 255)
    """
    numbers = all(isinstance(each, Real) and not isinstance(each, bool) for each in (epsilon, step))
    if not (numbers and 0 <= epsilon <= 1 and 0 < step < float("inf")):
        raise InputError(
            f"epsilon is {epsilon!r} and step {step!r}; give them in pixel values, epsilon from 0 to 1 and step above 0"
            f" (8/255 is {8 / 255:.4f})"
        )
