"""Sets of pixels chosen by a map: the k highest, those of them that lie apart, and what surrounds them."""

from functools import reduce

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lib import InputError, nearest
from lib.metrics.ranking import descending

REDUCTIONS = {
    "abs_sum": lambda maps: maps.abs().sum(1),
    "signed_sum": lambda maps: maps.sum(1),
    "max_abs": lambda maps: maps.abs().amax(1),
}


def pixel_map(maps: Tensor, reduce: str = "abs_sum") -> Tensor:
    """One number a pixel: (B, C, H, W) -> (B, H, W), the sum over channels of |a|, of a, or the largest |a|.

    "abs_sum" is what the code of Ghorbani et al. and Chen et al. ranks; which one the ResNet-50 table of LENS used is
    not known. Raises InputError for another name.
    """
    if reduce not in REDUCTIONS:
        raise InputError(f"There is no reduction {reduce!r}: {nearest(reduce, REDUCTIONS)}.")
    return REDUCTIONS[reduce](maps)


def top_k(maps: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest pixels: (B, H, W) -> mask (B, H, W), and how many left out equal the lowest of them, (B,).

    Of equal values the smaller row-major index counts as higher; if the second is not 0, the set is partly arbitrary.
    Raises InputError for NaN or infinite values, and unless 1 <= k <= H W.
    Differs from the released code, where an unstable sort breaks ties.
    """
    maps = checked(maps, k)
    order = descending(maps.flatten(1))
    return mask_of(order[:, :k], maps.shape), left_out_of(maps, order, k)


def dilate(mask: Tensor, radius: int) -> Tensor:
    """N_w of a set: mask (B, H, W) -> the pixels within `radius` rows and columns of it, clipped to the image."""
    return window(mask, radius, torch.logical_or)


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
    Raises InputError as `top_k`.
    """
    maps = checked(maps, k)
    picks = diverse(descending(maps.flatten(1))[:, :candidates], maps.shape, k, radius, released=released)
    return mask_of(picks, maps.shape), (picks >= 0).sum(1)


def diverse(order: Tensor, shape: torch.Size, k: int, radius: int, *, released: bool = False) -> Tensor:
    """The greedy picks (B, k) among pixels in this order (B, N), -1 where none was left; see `diverse_top_k`."""
    width = shape[2]
    stride = width if released else width + radius  # a margin between rows, so that a window ends with its row
    picks = torch.full((len(order), k), -1)
    for row, pixels in enumerate(order.numpy()):
        cells = pixels // width * stride + pixels % width
        allowed = cells[pixels > 0] if released else cells
        found = _greedy(allowed, shape[1] * stride, k + released, radius, stride)
        if released:
            del found[1:2]
        cells = torch.tensor(found, dtype=torch.long)
        picks[row, : len(found)] = cells // stride * width + cells % stride
    return picks


def _greedy(cells: np.ndarray, size: int, count: int, radius: int, stride: int) -> list[int]:
    """The first `count` cells that no window around an earlier one covers, in an image of this row stride."""
    margin, side = radius * stride + radius, 2 * radius + 1
    free = bytearray(b"\1") * (size + 2 * margin)
    covered = bytes(side)
    found = []
    for start in range(0, len(cells), 4 * count):  # often the first part is all that is looked at
        for cell in cells[start : start + 4 * count].tolist():
            if free[margin + cell]:
                found.append(cell)
                if len(found) == count:
                    return found
                for corner in range(cell, cell + side * stride, stride):
                    free[corner : corner + side] = covered
    return found


def mask_of(picks: Tensor, shape: torch.Size) -> Tensor:
    """A mask (B, H, W) of row-major indices (B, k), those of -1 left out."""
    mask = torch.zeros(shape[0], shape[1] * shape[2] + 1, dtype=torch.bool)
    mask.scatter_(1, picks.where(picks >= 0, mask.shape[1] - 1), True)
    return mask[:, :-1].reshape(shape)


def left_out_of(maps: Tensor, order: Tensor, k: int) -> Tensor:
    """How many pixels of maps (B, H, W) equal the k-th in this order (B, HW) and come after it; (B,)."""
    rows = maps.flatten(1)
    lowest = rows.gather(1, order[:, k - 1 : k])
    return (rows == lowest).sum(1) - (rows.gather(1, order[:, :k]) == lowest).sum(1)


def window(images: Tensor, radius: int, combine) -> Tensor:
    """Each pixel combined with those within `radius` rows and columns of it; zeros lie outside (B, H, W)."""
    for _ in range(2):  # over one side of the window, then over the other
        images = images.transpose(1, 2)
        padded = functional.pad(images, (0, 0, radius, radius))
        images = reduce(combine, (padded[:, s : s + images.shape[1]] for s in range(2 * radius + 1)))
    return images


def checked(maps: Tensor, k: int) -> Tensor:
    """The maps (B, H, W) on the CPU, or InputError unless they are finite and have k pixels."""
    if maps.ndim != 3 or not len(maps):
        raise InputError(f"the maps have shape {tuple(maps.shape)}; give (B, H, W), see pixel_map")
    if not 1 <= k <= maps.shape[1:].numel():
        raise InputError(f"k is {k}; give a number of pixels from 1 to {maps.shape[1:].numel()}")
    bad = (~maps.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        raise InputError(f"the maps are NaN or infinite in rows {bad[:8]}; give finite ones")
    return maps.detach().cpu()
