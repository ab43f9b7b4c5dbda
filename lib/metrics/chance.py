"""What a score of locality is worth: its chance level, and the score adjusted for it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lib import InputError
from lib.metrics.lens import Described, agreement, compared, described


def chance(
    original: Tensor, perturbed: Tensor, *, k: int, radii: Sequence[int] = (1, 2, 3), kendall: bool = False
) -> dict[str, Tensor]:
    """The level each score of `locality` has between unrelated images, one for each image: {name: (B,)}, float64.

    The mean over the other images of the batch of the score between the original map and the other's perturbed map: of
    the same network, method, k and w, so that it needs no model of what maps are like. Kendall's is of one other image,
    because each pair costs a sort. Sets and ranks are computed once a map, so that a pair costs far less than one in
    `locality`. An image's chance level depends on which others are in the batch, unlike its score.
    For sets drawn at random, |A ∩ B| / k is k / HW on average and LENS recall 1 - (1 - k / HW)^((2w+1)^2), away from
    the border.
    NaN: an image whose own map cannot be scored, or with no other that can. Not in the papers.
    Raises InputError as `locality`, and for fewer than two images.

    >>> maps = torch.eye(4).view(2, 2, 4)  # the highest pixels of two images, in different places
    >>> chance(maps, maps, k=1, radii=[1])["top_k"]
    tensor([0., 0.], dtype=torch.float64)
    """
    return _levels(*described(original, perturbed, k=k, radii=radii), kendall)


def adjusted(score: Tensor, level: Tensor) -> Tensor:
    """(s - c) / (1 - c): 1 for identical maps, 0 at the chance level; NaN where chance alone scores 1.

    >>> adjusted(torch.tensor([1.0, 0.5, 1.0]), torch.tensor([0.5, 0.5, 1.0]))
    tensor([1., 0., nan])
    """
    return ((score - level) / (1 - level)).where(level < 1, torch.nan)


def with_chance(
    original: Tensor, perturbed: Tensor, *, k: int, radii: Sequence[int] = (1, 2, 3), kendall: bool = False
) -> dict[str, Tensor]:
    """`locality`, and after each score its `chance` ("<name>_chance") and, but for the shift, "<name>_adjusted".

    At the cost of either. Raises InputError as `chance`.

    >>> found = with_chance(torch.rand(2, 5, 5), torch.rand(2, 5, 5), k=3, radii=[1])
    >>> [name for name in found if name.startswith("top_k")][:3]
    ['top_k', 'top_k_chance', 'top_k_adjusted']
    """
    one, other = described(original, perturbed, k=k, radii=radii)
    levels = _levels(one, other, kendall)
    found = {}
    for name, value in agreement(one, other, kendall=kendall).items():
        found[name] = value
        if name in levels:
            found[f"{name}_chance"] = levels[name]
        if name in levels and name != "centre_shift":
            found[f"{name}_adjusted"] = adjusted(value, levels[name])
    return found


def _levels(one: Described, other: Described, kendall: bool) -> dict[str, Tensor]:
    count = len(one.top)
    if count < 2:
        raise InputError("the chance level pairs each image with others; give at least two images, not one")
    pairings = [
        compared(one, other, (torch.arange(count) + shift) % count, kendall=kendall and shift == 1)
        for shift in range(1, count)
    ]
    return {name: torch.stack([found[name] for found in pairings if name in found]).nanmean(0) for name in pairings[0]}
