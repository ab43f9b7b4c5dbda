"""References: where paths begin. One image for all, or sets of several for each image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.blur import gaussian_blur
from lib.seeds import image_generator


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


# A set of references has `count`, `weights` ((B, count) summing to 1, or None for equal ones), and is called with a
# reference's number and the images. Random ones depend on seed, image id and number alone; none is kept in memory.


@dataclass(frozen=True, eq=False)
class Single:
    """One `reference_image`, as a set."""

    reference: object = "black"

    count = 1
    weights = None

    def __call__(self, number: int, x: Tensor) -> Tensor:
        return reference_image(self.reference, x)


@dataclass(frozen=True, eq=False)
class UniformNoise:
    """`count` images of independent U[0, 1) pixels for each image (IG-Uniform)."""

    images: Sequence[str]
    count: int = 10
    seed: int = 0

    weights = None

    def __call__(self, number: int, x: Tensor) -> Tensor:
        what = f"uniform/{number}"
        drawn = [
            torch.rand(x.shape[1:], generator=image_generator(self.seed, i, what)) for i in _one_each(self.images, x)
        ]
        return torch.stack(drawn).to(x)


@dataclass(frozen=True, eq=False)
class NoisyCopies:
    """`count` copies of each image with Gaussian noise, clamped to [0, 1] (IG-SG, IG-SQ).

    The noise's standard deviation is `sigma` times the image's own range of pixel values. `cross_images=True` does as
    the released code (AR:IG_SG.py:131-139): the range is that of the whole batch, and reference r of image b is a copy
    of image (b count + r) mod B, so that a map depends on the batch it is computed in.
    """

    images: Sequence[str]
    count: int = 10
    seed: int = 0
    sigma: float = 0.15
    cross_images: bool = False

    weights = None

    def __call__(self, number: int, x: Tensor) -> Tensor:
        if self.cross_images:
            slots = [divmod(b * self.count + number, len(x)) for b in range(len(x))]  # (draw, image) of each
            images = [self.images[image] for _, image in slots]
            copied = x[[image for _, image in slots]]
            noise = [_noise(x, image, draw, self.seed) for image, (draw, _) in zip(images, slots, strict=True)]
            return (copied + self.sigma * (x.max() - x.min()) * torch.stack(noise).to(x)).clamp(0, 1)
        flat = x.flatten(1)
        spread = (flat.amax(1) - flat.amin(1)).view(-1, 1, 1, 1)
        noise = torch.stack([_noise(x, image, number, self.seed) for image in _one_each(self.images, x)]).to(x)
        return (x + self.sigma * spread * noise).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class FromPool:
    """Images out of a pool (P, C, H, W), each decoded once: index (B, R), weights (B, R) or None.

    Expected Gradients with `drawn_from`, LPI with the members and densities of `lib.attribution.local`.
    """

    pool: Tensor
    index: Tensor
    weights: Tensor | None = None

    @property
    def count(self) -> int:
        return self.index.shape[1]

    def __call__(self, number: int, x: Tensor) -> Tensor:
        return self.pool[self.index[:, number]].to(x)


def drawn_from(size: int, count: int, *, images: Sequence[str], own: Sequence[int], seed: int = 0) -> Tensor:
    """Which of `size` pool images are each image's references: (B, count), without repetition.

    own: each image's place in the pool, which is not drawn; -1 where it is not in it.
    Raises InputError where the pool holds fewer than `count` others.
    """
    rows = []
    for place, image in zip(own, images, strict=True):
        order = torch.randperm(size, generator=image_generator(seed, image, "pool"))
        order = order[order != place]
        if len(order) < count:
            raise InputError(
                f"{count} references are asked for, but the pool has {len(order)} other images to draw from: ask for "
                "fewer or give a larger set"
            )
        rows.append(order[:count])
    return torch.stack(rows)


def _noise(x: Tensor, image: str, number: int, seed: int) -> Tensor:
    return torch.randn(x.shape[1:], generator=image_generator(seed, image, f"copy/{number}"))


def _one_each(images: Sequence[str], x: Tensor) -> Sequence[str]:
    if len(images) != len(x):
        raise InputError(f"{len(images)} image ids are given for {len(x)} images: give one each, to draw by")
    return images
