"""Numerical stability: how far a map moves when its image is re-encoded."""

import io

import torch
from PIL import Image
from scipy.stats import rankdata
from torch import Tensor

from lib import InputError
from lib.metrics.ranking import descending


def jpeg(image: Image.Image, *, quality: int = 75) -> Image.Image:
    """The image after JPEG compression at this quality (1-100), chroma subsampled 4:2:0; same size.

    Quality 75 is the perturbation of Singhi & Kumari, TMLR 2024. Raises InputError for a quality outside the
    range, where Pillow silently takes another.
    """
    if quality not in range(1, 101):
        raise InputError(f"JPEG quality is {quality}; give a whole number from 1 to 100 (75 in the paper)")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return Image.open(buffer).convert(image.mode)


def mse_signed(a: Tensor, b: Tensor) -> Tensor:
    """Mean over pixels of (a / sum a - b / sum b)^2, each map over its own signed sum; (N, H, W) -> (N,).

    The released measure (TMLR code script_lossy.py:68-74). Unbounded: a map whose positive and negative parts
    nearly cancel is divided by nearly nothing. NaN where a sum is exactly 0.
    """
    a, b = comparable(a, b)
    return _mse(a, b, a.sum(1), b.sum(1))


def mse_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean over pixels of (a / sum |a| - b / sum |b|)^2; (N, H, W) -> (N,), at most 4 / HW.

    NaN for a map of zeros.
    """
    a, b = comparable(a, b)
    return _mse(a, b, a.abs().sum(1), b.abs().sum(1))


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Rank correlation over pixels, ties given their average rank; (N, H, W) -> (N,) in [-1, 1].

    NaN where a map is constant.
    """
    return rank_correlation(*map(centred_ranks, comparable(a, b)))


def centred_ranks(rows: Tensor) -> Tensor:
    """Each row's ranks, ties given their average, minus the row's mean rank: (N, P) on the CPU -> (N, P), float64."""
    ranks = torch.from_numpy(rankdata(rows.numpy(), axis=1))
    return ranks - ranks.mean(1, keepdim=True)


def rank_correlation(p: Tensor, q: Tensor) -> Tensor:
    """Correlation of `centred_ranks` (N, P) with others: (N,), NaN for ranks that are all equal."""
    return (p * q).sum(1) / (p.square().sum(1) * q.square().sum(1)).sqrt()


def topk_overlap(a: Tensor, b: Tensor, *, k: int) -> Tensor:
    """Share of the k highest pixels of a that are among the k highest of b; (N, H, W) -> (N,) in [0, 1].

    Of equal scores the smaller row-major index counts as higher. Two unrelated maps share k / HW on average.
    Raises InputError unless 1 <= k <= HW.
    """
    a, b = comparable(a, b)
    if not 1 <= k <= a.shape[1]:
        raise InputError(f"k is {k}; give a number of pixels from 1 to {a.shape[1]}")
    tops = [descending(rows)[:, :k] for rows in (a, b)]
    in_a, in_b = (torch.zeros_like(a, dtype=torch.bool).scatter_(1, top, True) for top in tops)
    return (in_a & in_b).sum(1).double() / k


def _mse(a: Tensor, b: Tensor, size_a: Tensor, size_b: Tensor) -> Tensor:
    difference = a / size_a[:, None] - b / size_b[:, None]
    return difference.square().mean(1).where((size_a != 0) & (size_b != 0), torch.nan)


def comparable(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two equal stacks of maps (N, H, W) as rows (N, HW), float64 on the CPU; InputError where they are not finite."""
    if a.ndim != 3 or a.shape != b.shape:
        raise InputError(f"the maps have shapes {tuple(a.shape)} and {tuple(b.shape)}; give two equal shapes (N, H, W)")
    for name, maps in (("first", a), ("second", b)):
        bad = (~maps.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        if bad:
            raise InputError(f"the {name} map is NaN or infinite in rows {bad[:8]}; give finite scores")
    # float64: the squares of normalised maps are about 1e-10.
    return tuple(maps.detach().cpu().double().flatten(1) for maps in (a, b))
