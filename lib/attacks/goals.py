"""What an attack wants of a map: a number for each image, to be raised."""

from collections.abc import Callable

import torch
from torch import Tensor

from lib import InputError, nearest
from lib.attacks.methods import mean_one
from lib.attribution.arguments import as_tensor, whole_number
from lib.metrics.ranking import map_batch
from lib.metrics.selection import dilate, top_k

GOALS = ("top_k", "lens_top_k", "mass_centre", "target")


def goal(
    aim: str,
    clean: Tensor,
    *,
    k: int,
    radius: int = 1,
    region: Tensor | None = None,
    released: bool = False,
) -> Callable[[Tensor], Tensor]:
    """J(raw maps (N, C, H, W)) -> (N,) from the images' own normalised maps `clean` (N, H, W).

    With a = `normalised(raw)`:

    top_k        -sum of a over the top k pixels of `clean` (Ghorbani et al., 2019)
    lens_top_k   -sum of a over all pixels within `radius` of them (Kamath et al., 2024)
    mass_centre  the squared distance between the centres of mass of a and `clean`
    target       sum of a over `region`, a mask (H, W)

    Differs from the released code: released=True truncates the reference centre to whole pixels, which biases every
    attack towards the lower right (GAZ:utils.py, RAR:ig_attack), and takes neighbours by flat index, so that those
    beyond a row's end lie on the next row and those before the first pixel at the image's end
    (LENS:ig_attack_with_lens.py:96).
    Raises InputError for an unknown aim, for maps `clean` of another shape or not finite, unless 1 <= k <= H W, for a
    radius below 0, and for "target" without a region of the maps' size.

    >>> from lib.attacks import normalised
    >>> clean = normalised(torch.tensor([[[[1.0, -3.0]]]]))
    >>> goal("top_k", clean, k=1)(torch.tensor([[[[1.0, 1.0]]]]))
    tensor([-1.])
    """
    clean = map_batch(clean, "clean")
    radius = whole_number(radius, "radius", 0)
    if aim not in GOALS:
        raise InputError(f"there is no aim {aim!r}; {nearest(aim, GOALS)}")
    if aim == "mass_centre":
        centre = mass_centre(clean)
        reference = centre.trunc() if released else centre
        return lambda raw: (_centre(mean_one(raw)) - reference).square().sum(1)
    if aim == "target":
        mask = _mask(region, clean).expand_as(clean)
        return lambda raw: (mean_one(raw) * mask).sum((1, 2))
    chosen = top_k(clean, k)[0]
    if aim == "lens_top_k":
        chosen = _dilate_flat(chosen, radius) if released else dilate(chosen, radius)
    mask = chosen.to(clean)
    return lambda raw: -(mean_one(raw) * mask).sum((1, 2))


def mass_centre(a: Tensor) -> Tensor:
    """Row and column of the centre of mass of maps a (N, H, W) >= 0: (N, 2), in pixels; 0 of a map of zeros.

    Raises InputError for another shape, and for negative, NaN or infinite values.

    >>> mass_centre(torch.tensor([[[0.0, 0.0], [1.0, 3.0]]]))
    tensor([[1.0000, 0.7500]])
    """
    a = map_batch(a, "a")
    if (a < 0).any():
        raise InputError("a holds negative values, which have no centre of mass; give a.abs()")
    return _centre(a)


def _centre(a: Tensor) -> Tensor:
    total = a.sum((1, 2))
    places = [torch.arange(size, dtype=a.dtype, device=a.device) for size in a.shape[1:]]
    along = [(a.sum(2) * places[0]).sum(1), (a.sum(1) * places[1]).sum(1)]
    return torch.stack(along, 1) / total.where(total > 0, 1)[:, None]


def _mask(region, clean: Tensor) -> Tensor:
    """A region (H, W), as the maps are; InputError for another."""
    wanted = f"a mask {tuple(clean.shape[1:])} of where mass should go"
    mask = as_tensor(region, "region", wanted).to(clean)
    if mask.shape != clean.shape[1:]:
        raise InputError(f"region is {tuple(mask.shape)}; give {wanted}")
    if not mask.isfinite().all() or not mask.any():
        raise InputError("region holds no pixel, or NaN; give a mask that is 1 where mass should go and 0 elsewhere")
    return mask


def _dilate_flat(mask: Tensor, radius: int) -> Tensor:
    """Neighbours as the released code finds them, by row-major index alone."""
    rows, width = mask.flatten(1), mask.shape[2]
    offsets = torch.tensor([i * width + j for i in range(-radius, radius + 1) for j in range(-radius, radius + 1)])
    found = torch.zeros_like(rows)
    for row, place in rows.nonzero().tolist():
        near = place + offsets
        found[row, near[near < rows.shape[1]]] = True  # negative ones count from the end
    return found.view_as(mask)
