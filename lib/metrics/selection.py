"""Sets of pixels chosen by a map: the k highest, those of them that lie apart, and what surrounds them."""

import numpy as np
import torch
from torch import Tensor

from lib import InputError, nearest
from lib.attribution.arguments import whole_number
from lib.metrics.ranking import descending, map_batch, pixel_count

REDUCTIONS = {
    "abs_sum": lambda maps: maps.abs().sum(1),
    "signed_sum": lambda maps: maps.sum(1),
    "max_abs": lambda maps: maps.abs().amax(1),
}


def pixel_map(maps: Tensor, reduce: str = "abs_sum") -> Tensor:
    """One number a pixel: (B, C, H, W) -> (B, H, W), the sum over channels of |a|, of a, or the largest |a|.

    "abs_sum" is what the code of Ghorbani et al. and Chen et al. ranks; which one the ResNet-50 table of LENS used is
    not known. Raises InputError for another name, and as `map_batch`.

    >>> pixel_map(torch.tensor([[[[1.0]], [[-3.0]]]]), "signed_sum")
    tensor([[[-2.]]])
    """
    if reduce not in REDUCTIONS:
        raise InputError(f"there is no reduction {reduce!r}; {nearest(reduce, REDUCTIONS)}")
    return REDUCTIONS[reduce](map_batch(maps, axes="B, C, H, W"))


def top_k(maps: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest pixels: (B, H, W) -> mask (B, H, W), and how many left out equal the lowest of them, (B,).

    Of equal values the smaller row-major index counts as higher; if the second is not 0, the set is partly arbitrary.
    Both are on the CPU. Raises InputError as `map_batch`, and unless 1 <= k <= H W.
    Differs from the released code, where an unstable sort breaks ties.

    >>> top_k(torch.tensor([[[0.5, 0.1], [0.5, 0.7]]]), 2)
    (tensor([[[ True, False],
             [False,  True]]]), tensor([1]))
    """
    maps = map_batch(maps).cpu()
    k = pixel_count(k, maps)
    order = descending(maps.flatten(1))
    return mask_of(order[:, :k], maps.shape), left_out_of(maps, order, k)


def dilate(mask: Tensor, radius: int) -> Tensor:
    """N_w of a set: mask (B, H, W) of truth values -> the pixels within `radius` rows and columns of it, clipped to
    the image. Raises InputError for another mask, or a radius that is no whole number from 0 up.

    >>> dilate(torch.tensor([[[True, False, False]]]), 1)
    tensor([[[ True,  True, False]]])
    """
    radius = whole_number(radius, "radius", 0)
    if not isinstance(mask, Tensor) or mask.ndim != 3 or mask.dtype != torch.bool:
        given = f"{tuple(mask.shape)} {mask.dtype}" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        raise InputError(f"mask is {given}; give (B, H, W) of truth values, as `top_k` does")
    for axis in (1, 2):  # along rows, then along columns: quicker than max_pool2d, which looks at the whole window
        found, size = mask.clone(), mask.shape[axis]
        for step in range(1, min(radius, size - 1) + 1):
            found.narrow(axis, step, size - step).logical_or_(mask.narrow(axis, 0, size - step))
            found.narrow(axis, 0, size - step).logical_or_(mask.narrow(axis, step, size - step))
        mask = found
    return mask


def diverse_top_k(
    maps: Tensor, k: int, radius: int, *, released: bool = False, candidates: int | None = None
) -> tuple[Tensor, Tensor]:
    """The k highest pixels of which no two are within `radius`: (B, H, W) -> mask (B, H, W), pixels found (B,).

    Greedy: the highest pixel is taken and all within `radius` of it leave; repeated until k are taken or none is left,
    so that fewer than k may be found.
    released=True has the defects of the released code (LENS:imagenet_topk_div_eps.py:59-72): the second pixel that is
    found is dropped, the first pixel of the image is never taken, windows run on from the end of a row to the start of
    the next. candidates: only so many highest pixels are looked at (released: 600 for 28 x 28; 6000, 15000, 25000 for
    227 x 227 and w = 1, 2, 3); where they run out the released code raises IndexError.
    Raises InputError as `top_k`, and for a radius or number of candidates that is no whole number.

    >>> diverse_top_k(torch.tensor([[[5.0, 4.0, 3.0, 2.0]]]), 2, 1)
    (tensor([[[ True, False,  True, False]]]), tensor([2]))
    """
    maps, radius = map_batch(maps).cpu(), whole_number(radius, "radius", 0)
    k, candidates = pixel_count(k, maps), candidates if candidates is None else whole_number(candidates, "candidates")
    picks = diverse(descending(maps.flatten(1))[:, :candidates], maps.shape, k, radius, released=released)
    return mask_of(picks, maps.shape), (picks >= 0).sum(1)


def diverse(order: Tensor, shape: torch.Size, k: int, radius: int, *, released: bool = False) -> Tensor:
    """The greedy picks (B, k) among pixels in this order (B, N), -1 where none was left; see `diverse_top_k`.

    >>> diverse(torch.tensor([[0, 1, 2, 3]]), torch.Size([1, 1, 4]), 3, 1)
    tensor([[ 0,  2, -1]])
    """
    picks = torch.full((len(order), k), -1)
    for row, pixels in enumerate(order.numpy()):
        found = _greedy(pixels[pixels > 0] if released else pixels, shape[1:], k + released, radius, wrap=released)
        if released:
            del found[1:2]
        picks[row, : len(found)] = torch.tensor(found, dtype=torch.long)
    return picks


def _greedy(pixels: np.ndarray, shape: torch.Size, count: int, radius: int, *, wrap: bool) -> list[int]:
    """The first `count` pixels of an image (H, W) that no window around an earlier one covers; see `diverse`."""
    height, width = shape
    stride = width if wrap else width + radius  # a margin between rows, so that a window ends with its row
    reach, side = radius * stride, 2 * radius + 1
    margin = reach + radius
    taken = bytearray(height * stride + 2 * margin)  # 1 along the row of each one found, as far as its window
    at_once, column, part = np.frombuffer(taken, np.uint8), np.arange(-radius, radius + 1) * stride, max(count, 500)
    clean, mark = bytes(side), b"\1" * side
    found = []
    for start in range(0, len(pixels), part):
        some = pixels[start : start + part]
        cells = some // width * stride + some % width + margin
        free = ~at_once[cells[:, None] + column].any(1)  # most are not, by what was found before
        for pixel, cell in zip(some[free].tolist(), cells[free].tolist(), strict=True):
            if taken[cell - reach : cell + reach + 1 : stride] == clean:
                found.append(pixel)
                if len(found) == count:
                    return found
                taken[cell - radius : cell + radius + 1] = mark
    return found


def mask_of(picks: Tensor, shape: torch.Size) -> Tensor:
    """A mask (B, H, W) of row-major indices (B, k), those of -1 left out.

    >>> mask_of(torch.tensor([[2, -1]]), torch.Size([1, 1, 3]))
    tensor([[[False, False,  True]]])
    """
    mask = torch.zeros(shape[0], shape[1] * shape[2] + 1, dtype=torch.bool)
    mask.scatter_(1, picks.where(picks >= 0, mask.shape[1] - 1), True)
    return mask[:, :-1].reshape(shape)


def left_out_of(maps: Tensor, order: Tensor, k: int) -> Tensor:
    """How many pixels of maps (B, H, W) equal the k-th in this order (B, HW) and come after it; (B,).

    >>> left_out_of(torch.tensor([[[3.0, 3.0, 1.0]]]), torch.tensor([[0, 1, 2]]), 1)
    tensor([1])
    """
    rows = maps.flatten(1)
    lowest = rows.gather(1, order[:, k - 1 : k])
    return (rows == lowest).sum(1) - (rows.gather(1, order[:, :k]) == lowest).sum(1)
