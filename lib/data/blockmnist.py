"""BlockMNIST (Shah et al., 2021): a digit above or below a block that says nothing, from the packaged digits."""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256

import torch
from torch import Tensor

from lib import InputError, nearest
from lib.data.digits import digits

SHAPE = (1, 56, 28)
VALIDATION = 1000  # of the 4,000 digits for training: set aside to choose settings by
PARTS = {
    "train": ("train", slice(VALIDATION, None)),
    "valid": ("train", slice(VALIDATION)),
    "test": ("test", slice(None)),
}


@dataclass(frozen=True)
class Blocks:
    """N images: x (N, 1, 56, 28) float32 in [0, 1]; y (N,) 0..9; ids (N,); null (N, 56, 28): True on the null block."""

    x: Tensor
    y: Tensor
    ids: list[str]
    null: Tensor


def block_mnist(part: str, *, limit: int = 0) -> Blocks:
    """The 3,000 images of part "train", the 1,000 of "valid" or the 1,000 of "test", or the first `limit` of them.

    A digit of 28 x 28 pixels and the `null_block`, one above the other. Which one is above depends on the digit's id
    alone, by a bit of its SHA-256: half of the digits of every class, about. The label is the digit's.
    Differs from the original: 5,000 digits in place of 70,000. That data set was not released; the block is drawn as
    its authors describe it, a square with a cross.
    Raises InputError for another part, and a limit below 0.

    >>> found = block_mnist("test", limit=10)
    >>> found.x.shape, found.null.flatten(1).sum(1).unique()
    (torch.Size([10, 1, 56, 28]), tensor([784]))
    """
    if part not in PARTS:
        raise InputError(f"there is no part {part!r} of BlockMNIST; {nearest(part, PARTS)}")
    if limit < 0:
        raise InputError(f"limit={limit} selects no image; give a number from 1 up, or 0 for all images")
    whole, rows = PARTS[part]
    of = digits(whole).take(rows).take(slice(limit or None))
    above = torch.tensor([sha256(f"{each}/null".encode()).digest()[0] % 2 == 0 for each in of.ids])
    null = torch.zeros(len(of.ids), 2, 28, 28, dtype=torch.bool)
    null[torch.arange(len(above)), (~above).long()] = True
    blocks = of.x.expand(-1, 2, -1, -1).where(~null, null_block())
    return Blocks(blocks.reshape(-1, *SHAPE), of.y, [f"block-{each}" for each in of.ids], null.reshape(-1, *SHAPE[1:]))


@cache
def null_block() -> Tensor:
    """The block that every image has: a square of 20 x 20 pixels, two wide, with a cross, three; (28, 28), 0 or 1.

    >>> int(null_block().sum())
    232
    """
    row, column = torch.arange(28)[:, None], torch.arange(28)
    edge = torch.maximum((2 * row - 27).abs(), (2 * column - 27).abs())  # twice the distance from the middle
    cross = ((row - column).abs() <= 1) | ((row + column - 27).abs() <= 1)
    return ((edge < 20) & (cross | (edge > 15))).float()
