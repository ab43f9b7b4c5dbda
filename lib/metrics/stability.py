"""Numerical stability: how far a map moves when its image is re-encoded."""

import io

import torch
from PIL import Image
from torch import Tensor

from lib import InputError
from lib.metrics.ranking import descending, map_pair, pixel_count, rank_correlation, ranks


def require_picture(image: Image.Image) -> None:
    """Raise InputError unless a picture is RGB or grey, which is what can be blurred and written as JPEG.

    >>> require_picture(Image.new("L", (8, 8)))
    """
    mode = getattr(image, "mode", type(image).__name__)
    if mode not in ("RGB", "L"):
        raise InputError(f"the picture is {mode}; give an RGB or grey (L) one of Pillow: .convert('RGB')")


def jpeg(image: Image.Image, *, quality: int = 75) -> Image.Image:
    """The image after JPEG compression at this quality (1-100), chroma subsampled 4:2:0; same size.

    Quality 75 is the perturbation of Singhi & Kumari, TMLR 2024. Raises InputError for a quality outside the
    range, where Pillow silently takes another, and for a picture that is neither RGB nor grey.

    >>> jpeg(Image.new("L", (8, 8)), quality=10).mode
    'L'
    """
    require_picture(image)
    if quality not in range(1, 101):
        raise InputError(f"JPEG quality is {quality}; give a whole number from 1 to 100 (75 in the paper)")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return Image.open(buffer).convert(image.mode)


def mse_signed(a: Tensor, b: Tensor) -> Tensor:
    """Mean over pixels of (a / sum a - b / sum b)^2, each map over its own signed sum; (N, H, W) -> (N,).

    The released measure (TMLR code script_lossy.py:68-74). Unbounded: a map whose positive and negative parts
    nearly cancel is divided by nearly nothing. NaN where a sum is exactly 0. Raises InputError as `map_pair`.

    >>> mse_signed(torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[2.0, 0.0]]]))
    tensor([0.2500], dtype=torch.float64)
    """
    a, b = _rows(a, b)
    return _mse(a, b, a.sum(1), b.sum(1))


def mse_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean over pixels of (a / sum |a| - b / sum |b|)^2; (N, H, W) -> (N,), at most 4 / HW.

    NaN for a map of zeros. Raises InputError as `map_pair`.

    >>> mse_l1(torch.tensor([[[1.0, -1.0]]]), torch.tensor([[[2.0, 0.0]]]))
    tensor([0.2500], dtype=torch.float64)
    """
    a, b = _rows(a, b)
    return _mse(a, b, a.abs().sum(1), b.abs().sum(1))


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Rank correlation over pixels, ties given their average rank; (N, H, W) -> (N,) in [-1, 1].

    NaN where a map is constant. Raises InputError as `map_pair`.

    >>> spearman(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[9.0, 8.0, 7.0]]])).round(decimals=9)
    tensor([-1.], dtype=torch.float64)
    """
    return rank_correlation(*(ranks(maps.flatten(1)) for maps in map_pair(a, b)))


def topk_overlap(a: Tensor, b: Tensor, *, k: int) -> Tensor:
    """Share of the k highest pixels of a that are among the k highest of b; (N, H, W) -> (N,) in [0, 1].

    Of equal scores the smaller row-major index counts as higher. Two unrelated maps share k / HW on average.
    Raises InputError as `map_pair`, and unless 1 <= k <= HW.

    >>> topk_overlap(torch.tensor([[[3.0, 2.0, 1.0]]]), torch.tensor([[[3.0, 1.0, 2.0]]]), k=2)
    tensor([0.5000], dtype=torch.float64)
    """
    a, b = (maps.flatten(1) for maps in map_pair(a, b))
    k = pixel_count(k, a[:, None])
    tops = [descending(rows)[:, :k] for rows in (a, b)]
    in_a, in_b = (torch.zeros_like(a, dtype=torch.bool).scatter_(1, top, True) for top in tops)
    return (in_a & in_b).sum(1).double() / k


def _mse(a: Tensor, b: Tensor, size_a: Tensor, size_b: Tensor) -> Tensor:
    difference = a / size_a[:, None] - b / size_b[:, None]
    return difference.square().mean(1).where((size_a != 0) & (size_b != 0), torch.nan)


def _rows(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """Two stacks of maps as rows (N, HW) in float64: the squares of normalised maps are about 1e-10."""
    return tuple(maps.double().flatten(1) for maps in map_pair(a, b))
