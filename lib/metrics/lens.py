"""Locality-sensitive comparison of two maps: which pixels lead, and how far they move (Kamath et al., AAAI 2024).

Sets of pixels are compared as LENS does: the k highest pixels A of the original map, those B of the perturbed one,
and N_w(S), all pixels within w rows and columns of a pixel of S, clipped to the image. Everything is computed on the
CPU, whatever device the maps are on: sorting is most of the work, and the sets are small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from scipy.stats import kendalltau
from torch import Tensor
from torch.nn import functional

from lib import InputError
from lib.attribution.arguments import whole_number
from lib.metrics.ranking import descending, map_pair, pixel_count, rank_correlation, ranks
from lib.metrics.selection import dilate, diverse, left_out_of, mask_of


@dataclass(frozen=True)
class Described:
    """What is needed of a map to compare it with any other; by w = 0 the top k themselves, the map as it is.

    maps {w: (B, H, W)}, averaged over windows; ranks {w: (B, HW)}, see `lib.metrics.ranking.ranks`; top (B, k), diverse
    {w: (B, k)}: row-major indices, -1 where none was found; near {w: (B, HW)}, near_diverse {(v, w): (B, HW)}: pixels
    within v of them; centre (B, 2); left_out (B,)

    >>> one, other = described(torch.rand(2, 5, 5), torch.rand(2, 5, 5), k=3, radii=[1])
    >>> one.top.shape, one.near[1].shape
    (torch.Size([2, 3]), torch.Size([2, 25]))
    """

    maps: dict[int, Tensor]
    ranks: dict[int, Tensor]
    top: Tensor
    near: dict[int, Tensor]
    diverse: dict[int, Tensor]
    near_diverse: dict[tuple[int, int], Tensor]
    centre: Tensor
    left_out: Tensor

    def picked(self, w: int) -> Tensor:
        """How many diverse pixels were found, (B,)."""
        return (self.diverse[w] >= 0).sum(1)


def locality(
    original: Tensor, perturbed: Tensor, *, k: int, radii: Sequence[int] = (1, 2, 3), kendall: bool = False
) -> dict[str, Tensor]:
    """How alike the maps of an image and of its perturbed copy are: (B, H, W) twice -> {name: (B,)}, float64.

    With A, B the top k of the two maps, D_A, D_B the diverse ones, for each w of `radii`:

    top_k                  |A ∩ B| / k
    lens_recall_w          |N_w(A) ∩ B| / k: share of the perturbed top k near an original one
    lens_precision_w       |A ∩ N_w(B)| / k: share of the original top k near a perturbed one
    top_k_div_w, lens_recall_div_w, lens_precision_div_w    the same with D_A, D_B, picked more than w apart
    spearman               rank correlation over all pixels
    lens_spearman_w        of the maps averaged over each pixel's clipped window: a reconstruction, because neither a
                           formula nor code of LENS-Spearman is public
    kendall, lens_kendall_w    tau-b instead, on request: slow
    centre_shift           distance in pixels between the centres of mass of |a|, not truncated to whole pixels

    and what says whether a score can be trusted: nonzero_share and left_out (pixels that tie with the lowest of the top
    k and are not in it), of each map (`_perturbed`); picked_w, the smaller number of diverse pixels found.
    NaN: every score where one of the maps is constant, and the diverse ones where fewer than k pixels were found.
    Raises InputError as `map_pair`, unless 1 <= k <= H W, and for radii that are no whole numbers from 0 up.
    Differs from the released code: see `top_k` and `diverse_top_k`; mass centres were truncated (GAZ:utils.py:206).

    >>> one, other = torch.tensor([[[9.0, 0.0, 1.0, 2.0]]]), torch.tensor([[[0.0, 9.0, 1.0, 2.0]]])
    >>> found = locality(one, other, k=1, radii=[1])
    >>> found["top_k"], found["lens_recall_1"]
    (tensor([0.], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    return agreement(*described(original, perturbed, k=k, radii=radii), kendall=kendall)


def agreement(one: Described, other: Described, *, kendall: bool = False) -> dict[str, Tensor]:
    """The result of `locality`, of maps that are described already.

    >>> one, other = described(torch.rand(2, 5, 5), torch.rand(2, 5, 5), k=3, radii=[1])
    >>> agreement(one, one)["lens_recall_1"]
    tensor([1., 1.], dtype=torch.float64)
    """
    found = compared(one, other, torch.arange(len(one.top)), kendall=kendall)
    for name, each in (("", one), ("_perturbed", other)):
        found[f"nonzero_share{name}"] = (each.maps[0] != 0).double().mean((1, 2))
        found[f"left_out{name}"] = each.left_out.double()
    for w in one.diverse:
        found[f"picked_{w}"] = torch.minimum(one.picked(w), other.picked(w)).double()
    return found


def described(original: Tensor, perturbed: Tensor, *, k: int, radii: Sequence[int]) -> tuple[Described, Described]:
    """Both batches of maps (B, H, W), ready to be compared; the work that does not grow with the number of pairs.

    Raises InputError as `locality`.

    >>> one, other = described(torch.rand(2, 5, 5), torch.rand(2, 5, 5), k=3, radii=[1, 2])
    >>> sorted(other.maps)
    [0, 1, 2]
    """
    both = map_pair(original, perturbed, ("original", "perturbed"))
    k = pixel_count(k, both[0])
    try:
        radii = [whole_number(w, "radius", 0) for w in radii]
    except TypeError as error:
        raise InputError(f"radii is {radii!r}; give a list of whole numbers of pixels, such as [1, 2, 3]") from error
    one, other = (_described(maps, k, radii) for maps in both)
    return one, other


def compared(one: Described, other: Described, rows: Tensor, *, kendall: bool = False) -> dict[str, Tensor]:
    """The scores of `locality` between each map of `one` and the map of `other` at `rows` (B,).

    >>> one, other = described(torch.rand(2, 5, 5), torch.rand(2, 5, 5), k=3, radii=[1])
    >>> sorted(compared(one, other, torch.tensor([1, 0])))[:2]
    ['centre_shift', 'lens_precision_1']
    """
    found = {"top_k": _share(one.near[0], other.top[rows])}
    for w in one.diverse:
        found[f"lens_recall_{w}"] = _share(one.near[w], other.top[rows])
        found[f"lens_precision_{w}"] = _share(other.near[w][rows], one.top)
        feasible = (one.diverse[w] >= 0).all(1) & (other.diverse[w][rows] >= 0).all(1)
        diverse = {
            f"top_k_div_{w}": _share(one.near_diverse[0, w], other.diverse[w][rows]),
            f"lens_recall_div_{w}": _share(one.near_diverse[w, w], other.diverse[w][rows]),
            f"lens_precision_div_{w}": _share(other.near_diverse[w, w][rows], one.diverse[w]),
        }
        found |= {name: value.where(feasible, torch.nan) for name, value in diverse.items()}
    for w in one.ranks:
        name = f"lens_{{}}_{w}" if w else "{}"
        found[name.format("spearman")] = rank_correlation(one.ranks[w], other.ranks[w][rows])
        if kendall:
            both = (maps.double().flatten(1).numpy() for maps in (one.maps[w], other.maps[w][rows]))
            pairs = zip(*both, strict=True)  # in double precision: SciPy 1.18 computes in that of its arguments
            found[name.format("kendall")] = torch.tensor([kendalltau(*pair).statistic for pair in pairs]).double()
    found["centre_shift"] = (one.centre - other.centre[rows]).norm(dim=1)
    usable = ~(one.ranks[0].isnan().any(1) | other.ranks[0][rows].isnan().any(1))  # neither map is constant
    return {name: value.where(usable, torch.nan) for name, value in found.items()}


def _described(maps: Tensor, k: int, radii: Sequence[int]) -> Described:
    averages = {0: maps} | {w: _local_mean(maps, w) for w in radii}
    order = {w: descending(each.flatten(1)) for w, each in averages.items()}
    top = order[0][:, :k]
    sets = {w: diverse(order[0], maps.shape, k, w) for w in radii}
    highest, masks = mask_of(top, maps.shape), {w: mask_of(picks, maps.shape) for w, picks in sets.items()}
    near, near_diverse = {0: highest.flatten(1)}, {(0, w): mask.flatten(1) for w, mask in masks.items()}
    for w, mask in masks.items():
        near[w], near_diverse[w, w] = (each.flatten(1) for each in dilate(torch.cat([highest, mask]), w).chunk(2))
    placed = {w: ranks(each.flatten(1), order[w]) for w, each in averages.items()}
    return Described(averages, placed, top, near, sets, near_diverse, _centre(maps), left_out_of(maps, order[0], k))


def _share(inside: Tensor, picks: Tensor) -> Tensor:
    """Share of pixels `picks` (B, k) at which the mask `inside` (B, HW) holds; (B,)."""
    return inside.gather(1, picks.clamp(min=0)).double().mean(1)


def _local_mean(maps: Tensor, radius: int) -> Tensor:
    """The sums of `avg_pool2d` without padding's zeros, to the bit, a whole map at a time: quicker on a CPU."""
    padded, total = functional.pad(maps, (radius,) * 4), torch.zeros_like(maps)
    for row, column in product(range(2 * radius + 1), repeat=2):
        total += padded[:, row : row + maps.shape[1], column : column + maps.shape[2]]
    rows, columns = (_within(size, radius) for size in maps.shape[1:])
    return total / (rows[:, None] * columns)


def _within(size: int, radius: int) -> Tensor:
    """How many of `size` places in a row lie within `radius` of each."""
    place = torch.arange(size)
    return (place + radius + 1).clamp(max=size) - (place - radius).clamp(min=0)


def _centre(maps: Tensor) -> Tensor:
    """Row and column (B, 2) of the centre of mass of |a|."""
    mass = maps.double().abs()
    along = [(mass.sum(3 - axis) * torch.arange(maps.shape[axis])).sum(1) for axis in (1, 2)]
    return torch.stack(along, 1) / mass.sum((1, 2))[:, None]
