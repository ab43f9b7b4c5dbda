"""Maps on their way in, and the order and ranks of their pixels, which most metrics of maps begin with."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lib import InputError
from lib.attribution.arguments import as_tensor

_AXES = {"B": "image", "N": "map", "M": "map", "C": "channel"}


def map_batch(maps, name: str = "maps", axes: str = "N, H, W", *, of: Tensor | None = None) -> Tensor:
    """Maps with these axes, every score finite, detached: a tensor or an array of any float type, or a list of numbers.

    of: images (B, C, H, W); `maps` must then be (B, M, H, W), M maps of each image, and are moved to their device.
    Half precision becomes single, which holds the same numbers. Raises InputError otherwise, naming image and map.

    >>> map_batch(np.zeros((2, 5, 5))).shape, map_batch(torch.rand(1, 2, 5, 5), of=torch.rand(1, 3, 5, 5)).shape
    (torch.Size([2, 5, 5]), torch.Size([1, 2, 5, 5]))
    """
    axes = axes if of is None else "B, M, H, W"
    maps = as_tensor(maps, name, f"maps ({axes})").detach()
    if of is not None and (maps.ndim != 4 or len(maps) != len(of) or maps.shape[2:] != of.shape[2:]):
        raise InputError(
            f"{name} has shape {tuple(maps.shape)}; images of shape {tuple(of.shape)} need "
            f"({len(of)}, maps, {of.shape[2]}, {of.shape[3]}): sum an attribution over its channels first"
        )
    if maps.ndim != len(axes.split(", ")) or not maps.numel():
        cure = ", see lib.metrics.selection.pixel_map" if axes == "N, H, W" and maps.ndim == 4 else ""
        raise InputError(f"{name} has shape {tuple(maps.shape)}; give ({axes}), none of them 0{cure}")
    if not maps.is_floating_point():
        raise InputError(f"{name} holds {maps.dtype}; give scores as floats: .float() makes them so")
    bad = (~maps.isfinite()).sum((-2, -1))
    if bad.any():
        first = bad.nonzero()[0].tolist()
        where = ", ".join(f"{_AXES[axis]} {place}" for axis, place in zip(axes.split(", "), first, strict=False))
        raise InputError(
            f"{name}: {where} is NaN or infinite at {bad[tuple(first)]} of {maps.shape[-2:].numel()} pixels; "
            "give finite scores"
        )
    maps = maps.float() if maps.dtype.itemsize < 4 else maps
    return maps if of is None else maps.to(of.device)


def map_pair(a, b, names: tuple[str, str] = ("first", "second")) -> tuple[Tensor, Tensor]:
    """Two equal stacks of maps (N, H, W), each as `map_batch` has them, on the CPU.

    Raises InputError as `map_batch`, and where the shapes differ.

    >>> map_pair(torch.rand(2, 4, 4), np.zeros((2, 4, 4)))[1].dtype
    torch.float64
    """
    a, b = (map_batch(maps, f"the {name} stack of maps") for maps, name in zip((a, b), names, strict=True))
    if a.shape != b.shape:
        raise InputError(f"the maps have shapes {tuple(a.shape)} and {tuple(b.shape)}; give two equal shapes (N, H, W)")
    return a.cpu(), b.cpu()


def pixel_count(k, maps: Tensor) -> int:
    """A number k of pixels of maps (..., H, W), as Python's own int; InputError unless 1 <= k <= H W.

    >>> pixel_count(np.int64(3), torch.zeros(1, 2, 2))
    3
    """
    pixels = maps.shape[-2:].numel()
    if isinstance(k, bool | np.bool_) or not isinstance(k, int | np.integer) or not 1 <= k <= pixels:
        raise InputError(f"k is {k!r}; give a number of pixels from 1 to {pixels}")
    return int(k)


def descending(rows: Tensor) -> Tensor:
    """Places by descending value, the smaller place first among equals: rows (N, P) without NaN -> (N, P), int64.

    >>> descending(torch.tensor([[0.1, 0.3, 0.3]]))
    tensor([[1, 2, 0]])
    """
    if rows.dtype != torch.float32 or rows.device.type != "cpu":
        return rows.argsort(dim=1, descending=True, stable=True)
    # The bits of a float, some of them turned round if it is negative, are a whole number of the same order. With its
    # place as lower digits NumPy sorts them in a quarter of the time that sorting floats by place takes.
    bits = (0.0 - rows.detach()).numpy().view(np.int32)  # 0 - x has no negative zero
    keys = (bits ^ (bits >> 31 & 0x7FFFFFFF)).astype(np.int64) << 32 | np.arange(bits.shape[1])
    keys.sort(axis=1)
    return torch.from_numpy(keys & 0xFFFFFFFF)


def pixel_order(maps: Tensor) -> Tensor:
    """Each pixel's place when scores are sorted from high to low: finite maps (..., H, W) -> int32, 0 is first.

    Equal scores are ordered by row-major index.

    >>> pixel_order(torch.tensor([[[0.1, 0.3], [0.3, 0.2]]]))
    tensor([[[3, 0],
             [1, 2]]], dtype=torch.int32)
    """
    by_score = descending(maps.flatten(-2).flatten(0, -2))
    place = torch.arange(by_score.shape[1], dtype=torch.int32, device=maps.device).expand_as(by_score)
    return torch.empty_like(by_score, dtype=torch.int32).scatter_(1, by_score, place).view(maps.shape)


def ranks(rows: Tensor, order: Tensor | None = None) -> Tensor:
    """Each row's ranks, ties given their average, centred and of length 1: (N, P) -> (N, P), float64.

    order: `descending(rows)`, where it is known already. NaN where a row is constant.

    >>> ranks(torch.tensor([[5.0, 1.0, 1.0]]))
    tensor([[ 0.8165, -0.4082, -0.4082]], dtype=torch.float64)
    """
    order = descending(rows) if order is None else order
    ordered = rows.gather(1, order)
    centred = (rows.shape[1] - 1) / 2 - torch.arange(rows.shape[1], dtype=torch.float64, device=rows.device)
    placed = centred.repeat(len(rows), 1)
    same = ordered[:, 1:] == ordered[:, :-1]
    follows = functional.pad(same, (1, 0))  # the one before is equal
    tied = follows | functional.pad(same, (0, 1))
    group = (~follows[tied]).cumsum(0) - 1  # of equal values, numbered over all rows
    mean = torch.bincount(group, placed[tied]).double() / torch.bincount(group)
    placed[tied] = mean[group]
    found = torch.empty_like(placed).scatter_(1, order, placed)
    return found.div_(found.norm(dim=1, keepdim=True))


def rank_correlation(p: Tensor, q: Tensor) -> Tensor:
    """Spearman's correlation of rows whose `ranks` are p and q, (N, P): (N,) in [-1, 1], NaN for a constant row.

    >>> rank_correlation(*(ranks(torch.tensor([row])) for row in ([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]))).round(decimals=9)
    tensor([0.5000], dtype=torch.float64)
    """
    return (p * q).sum(1)
