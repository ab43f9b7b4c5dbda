"""References: where paths begin. One image for all, or sets of several for each image."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.arguments import as_tensor, image_ids, whole_fields, whole_number
from lib.attribution.blur import gaussian_blur
from lib.attribution.gate import image_batch, require_range
from lib.seeds import image_generator

CONSTANTS = {"black": 0.0, "white": 1.0}


def reference_image(reference, x: Tensor) -> Tensor:
    """The reference x' for images x (B, C, H, W), in pixel space, of the same shape, precision and device.

    reference: "black" | "white" | "blurred" (Gaussian, sigma = a tenth of the height) | a number | a colour of C
    numbers | an image (C, H, W) or one for each of x (B, C, H, W), where H and W may be 1 and B may be 1; in [0, 1], as
    a tensor, an array or a list. It is constant: no gradient goes through a given tensor.
    Raises InputError for anything else, bytes and NaN included.

    >>> x = torch.zeros(2, 3, 4, 4)
    >>> reference_image("white", x).shape, reference_image([0.5, 0.4, 0.3], x)[1, :, 0, 0]
    (torch.Size([2, 3, 4, 4]), tensor([0.5000, 0.4000, 0.3000]))
    """
    wanted = f"'black', 'white', 'blurred', a number, {x.shape[1]} numbers (a colour) or {tuple(x.shape)}, in [0, 1]"
    if isinstance(reference, str):
        if reference == "blurred":
            return gaussian_blur(x, x.shape[-2] / 10)
        if reference not in CONSTANTS:
            raise InputError(f"reference {reference!r} is unknown; give {wanted}")
        return torch.full_like(x, CONSTANTS[reference])
    given = as_tensor(reference, "the reference", wanted)
    if given.dtype in (torch.uint8, torch.bool) or given.is_complex():
        raise InputError(f"the reference is {given.dtype}; give {wanted}: .float() / 255 brings bytes into the range")
    if not _fits(given.shape, x.shape):
        raise InputError(f"the reference has shape {tuple(given.shape)}; give {wanted}")
    given = given.detach().to(x)
    require_range(given, "the reference")
    return (given.view(-1, 1, 1) if given.ndim == 1 else given).expand_as(x)


def _fits(given: torch.Size, images: torch.Size) -> bool:
    count, channels, *size = images
    if len(given) < 2:
        return given in ((), (channels,))
    return (
        len(given) in (3, 4)
        and given[-3] == channels
        and list(given[-2:]) in (size, [1, 1])
        and given[:-3] in ((), (1,), (count,))
    )


class References(ABC):
    """A set of references for each image, of which paths begin: called with a reference's number and the images.

    count    how many there are for each image
    weights  (B, count), rows sum to 1, or None for equal ones
    Random ones depend on seed, image id and number alone; none is kept in memory.
    Raises InputError, when called, for images that are none and for a set that was made for others.

    >>> class Grey(References):
    ...     count = 2
    ...     def draw(self, number, x):
    ...         return torch.full_like(x, number / 2)
    >>> Grey()(1, torch.zeros(1, 1, 1, 2))
    tensor([[[[0.5000, 0.5000]]]])
    """

    count: int
    weights: Tensor | None = None

    def __call__(self, number: int, x: Tensor) -> Tensor:
        x = image_batch(x)
        self.check(x)
        return self.draw(number, x)

    @abstractmethod
    def draw(self, number: int, x: Tensor) -> Tensor:
        """Reference `number` of each of the images (B, C, H, W), behind the gate."""

    def check(self, x: Tensor) -> None:  # noqa: B027  (most sets fit all images)
        """Raise InputError where the set was made for other images than x; once a walk."""


@dataclass(frozen=True, eq=False)
class Single(References):
    """One `reference_image`, as a set.

    >>> Single("white")(0, torch.zeros(1, 1, 1, 2))
    tensor([[[[1., 1.]]]])
    """

    reference: object = "black"
    count = 1

    def draw(self, number: int, x: Tensor) -> Tensor:
        return reference_image(self.reference, x)


@dataclass(frozen=True, eq=False)
class UniformNoise(References):
    """`count` images of independent U[0, 1) pixels for each image (IG-Uniform).

    >>> UniformNoise(["cat"], 2)(0, torch.zeros(1, 3, 4, 4)).shape
    torch.Size([1, 3, 4, 4])
    """

    images: Sequence[str]
    count: int = 10
    seed: int = 0

    def __post_init__(self):
        whole_fields(self, "count")

    def check(self, x: Tensor) -> None:
        image_ids(self.images, x)

    def draw(self, number: int, x: Tensor) -> Tensor:
        what = f"uniform/{number}"
        drawn = [torch.rand(x.shape[1:], generator=image_generator(self.seed, image, what)) for image in self.images]
        return torch.stack(drawn).to(x)


@dataclass(frozen=True, eq=False)
class NoisyCopies(References):
    """`count` copies of each image with Gaussian noise, clamped to [0, 1] (IG-SG, IG-SQ).

    The noise's standard deviation is `sigma` times the image's own range of pixel values. `cross_images=True` does as
    the released code (AR:IG_SG.py:131-139): the range is that of the whole batch, and reference r of image b is a copy
    of image (b count + r) mod B, so that a map depends on the batch it is computed in.
    Raises InputError for a sigma below 0.

    >>> NoisyCopies(["cat"], sigma=0.0)(0, torch.full((1, 1, 1, 2), 0.5))
    tensor([[[[0.5000, 0.5000]]]])
    """

    images: Sequence[str]
    count: int = 10
    seed: int = 0
    sigma: float = 0.15
    cross_images: bool = False

    def __post_init__(self):
        whole_fields(self, "count")
        if not 0 <= self.sigma < float("inf"):
            raise InputError(f"sigma is {self.sigma!r}; give a share of the image's range, 0 or more")

    def check(self, x: Tensor) -> None:
        image_ids(self.images, x)

    def draw(self, number: int, x: Tensor) -> Tensor:
        if self.cross_images:
            slots = [divmod(b * self.count + number, len(x)) for b in range(len(x))]  # (draw, image) of each
            images = [self.images[image] for _, image in slots]
            copied = x[[image for _, image in slots]]
            noise = [_noise(x, image, draw, self.seed) for image, (draw, _) in zip(images, slots, strict=True)]
            return (copied + self.sigma * (x.max() - x.min()) * torch.stack(noise).to(x)).clamp(0, 1)
        flat = x.flatten(1)
        spread = (flat.amax(1) - flat.amin(1)).view(-1, 1, 1, 1)
        noise = torch.stack([_noise(x, image, number, self.seed) for image in self.images]).to(x)
        return (x + self.sigma * spread * noise).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class FromPool(References):
    """Images out of a pool (P, C, H, W), each decoded once: index (B, R), weights (B, R) or None.

    Expected Gradients with `drawn_from`, LPI with the members and densities of `lib.attribution.local`.
    Raises InputError for a pool that is no batch of images, an index beyond it, and weights that are negative or whose
    rows do not sum to 1; when used, for other images than it has rows for or is of the shape of.

    >>> FromPool(torch.rand(5, 1, 2, 2), [[0, 4]], [[0.25, 0.75]]).count
    2
    """

    pool: Tensor
    index: Tensor
    weights: Tensor | None = None

    def __post_init__(self):
        pool = image_batch(self.pool, "pool")
        index = as_tensor(self.index, "index", "rows of the pool (images, references)")
        if index.is_floating_point() or index.dtype == torch.bool or index.ndim != 2 or not index.numel():
            raise InputError(f"index is {tuple(index.shape)} {index.dtype}; give whole numbers (images, references)")
        index = index.to(pool.device, torch.int64)
        low, high = torch.stack(index.aminmax()).tolist()
        if not 0 <= low <= high < len(pool):
            raise InputError(f"index spans {low} to {high}; the pool has {len(pool)} images, 0 to {len(pool) - 1}")
        object.__setattr__(self, "pool", pool)
        object.__setattr__(self, "index", index)
        if self.weights is not None:
            object.__setattr__(self, "weights", _checked_weights(self.weights, index))

    @property
    def count(self) -> int:
        return self.index.shape[1]

    def check(self, x: Tensor) -> None:
        if len(self.index) != len(x) or self.pool.shape[1:] != x.shape[1:]:
            raise InputError(
                f"the references are {len(self.index)} rows of a pool of {tuple(self.pool.shape[1:])}; these images "
                f"are {len(x)} of {tuple(x.shape[1:])}: give a row for each, and a pool of their shape"
            )

    def draw(self, number: int, x: Tensor) -> Tensor:
        return self.pool[self.index[:, number]].to(x)


def _checked_weights(weights, index: Tensor) -> Tensor:
    weights = as_tensor(weights, "weights", "numbers (images, references)").detach()
    if weights.shape != index.shape or not weights.is_floating_point():
        raise InputError(f"weights is {tuple(weights.shape)} {weights.dtype}; give {tuple(index.shape)}, as the index")
    if not ((weights >= 0) & ((weights.sum(1, keepdim=True) - 1).abs() <= 1e-4)).all():
        raise InputError("weights are negative or have rows that do not sum to 1; divide each row by its sum")
    return weights


def drawn_from(size: int, count: int, *, images: Sequence[str], own: Sequence[int], seed: int = 0) -> Tensor:
    """Which of `size` pool images are each image's references: (B, count), without repetition.

    own: each image's place in the pool, which is not drawn; -1 where it is not in it.
    Raises InputError where the pool holds fewer than `count` others, and for places that do not match.

    >>> drawn_from(3, 2, images=["cat"], own=[1]).sort().values
    tensor([[0, 2]])
    """
    images, size, count = image_ids(images), whole_number(size, "size"), whole_number(count, "count")
    own = as_tensor(own, "own", "the images' places in the pool").tolist()
    if not isinstance(own, list) or len(own) != len(images) or not all(place in range(-1, size) for place in own):
        raise InputError(f"own is {own!r}; give the {len(images)} images' places in the pool, 0 to {size - 1}, or -1")
    rows = []
    for place, image in zip(own, images, strict=True):
        order = torch.randperm(size, generator=image_generator(seed, image, "pool"))
        order = order[order != place]
        if len(order) < count:
            have = f"the pool has {len(order)} other images"
            raise InputError(f"{count} references are asked for, but {have} to draw from: ask for fewer or give more")
        rows.append(order[:count])
    return torch.stack(rows)


def _noise(x: Tensor, image: str, number: int, seed: int) -> Tensor:
    return torch.randn(x.shape[1:], generator=image_generator(seed, image, f"copy/{number}"))
