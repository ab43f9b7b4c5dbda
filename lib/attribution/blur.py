"""Gaussian blur as two matrix products, G X G^T: exact, separable, and batched over images."""

import torch
from torch import Tensor

PADDINGS = ("reflect", "zero")


def gaussian_matrix(
    size: int, sigma: float, *, radius: int | None = None, padding: str = "reflect", like: Tensor
) -> Tensor:
    """The (size, size) matrix that blurs a vector with a Gaussian of standard deviation `sigma` pixels.

    The kernel is cut at `radius`, by default int(4 sigma + .5), and sums to one (scipy.ndimage.gaussian_filter1d).
    Outside the image lies its mirror image about the edge pixel ("reflect": scipy's "mirror", torchvision's blur) or
    zero ("zero": scipy's "constant", PAIR's Blur IG). sigma < .125 is the identity. dtype and device as `like`.

    >>> gaussian_matrix(3, 0.1, like=torch.zeros(1)).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    radius = int(4 * sigma + 0.5) if radius is None else radius
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / max(sigma, 1e-12)) ** 2)
    kernel = (kernel / kernel.sum()).expand(size, -1)
    source = torch.arange(size)[:, None] + offsets.long()
    if padding == "reflect":
        period = max(2 * (size - 1), 1)
        source = source.remainder(period)
        source = torch.minimum(source, period - source) if size > 1 else source
    else:
        kernel = kernel.where((source >= 0) & (source < size), 0)
        source = source.clamp(0, size - 1)
    matrix = torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, source, kernel)
    return matrix.to(like)


def gaussian_blur(x: Tensor, sigma: float, *, padding: str = "reflect") -> Tensor:
    """x (..., H, W) blurred with standard deviation `sigma` pixels; sigma 0 returns x unchanged.

    >>> gaussian_blur(torch.eye(3), 1.0).std() < torch.eye(3).std()
    tensor(True)
    """
    if sigma < 0.125:  # the kernel's radius is 0
        return x
    rows = gaussian_matrix(x.shape[-2], sigma, padding=padding, like=x)
    columns = rows if x.shape[-1] == x.shape[-2] else gaussian_matrix(x.shape[-1], sigma, padding=padding, like=x)
    return rows @ x @ columns.T
