"""DiffID: what the highest scores hold of the network's answer, minus what the lowest hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from lib import InputError, nearest
from lib.attribution.gate import gate
from lib.metrics.insertion import answers
from lib.metrics.ranking import map_batch, pixel_order

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
REMOVED = ("elements", "pixels")


@dataclass(frozen=True)
class DiffID:
    """The network's answers after the share rho of an image is removed, for each of B images and M maps.

    ratios (K,): rho. *_logit (B, M, K): f_y(perturbed) / f_y(x) of the raw logits: 1 where nothing is lost,
    unbounded where f_y(x) is near 0, NaN where it is 0. *_accuracy (B, M, K): 1 where y is the predicted
    class, else 0. float64, on the CPU.

    >>> kept, lost, right = (torch.full((1, 1, 9), value) for value in (0.75, 0.5, 1.0))
    >>> area(DiffID(torch.tensor(RATIOS), kept, lost, right, right).diffid_logit)
    tensor([[0.2250]])
    """

    ratios: Tensor
    insertion_logit: Tensor
    deletion_logit: Tensor
    insertion_accuracy: Tensor
    deletion_accuracy: Tensor

    @property
    def diffid_logit(self) -> Tensor:
        """Insertion minus deletion of the logit ratio; (B, M, K), about 0 for a random map."""
        return self.insertion_logit - self.deletion_logit

    @property
    def diffid_accuracy(self) -> Tensor:
        """Insertion minus deletion of the accuracy; (B, M, K) of -1, 0 and 1."""
        return self.insertion_accuracy - self.deletion_accuracy


def area(curve: Tensor) -> Tensor:
    """Area under values at the ratios .1, .2, …, .9: 0.1 Σ_k D(rho_k); (..., 9) -> (...).

    The rule by which the curves of the supplement of Yang et al. (AAAI 2023, Fig. 3b) give the areas of its
    legend. It is the trapezoid rule on [0, 1] with D(0) = D(1) = 0, which holds for DiffID; for insertion or
    deletion alone it leaves out the two ends. Raises InputError for another number of ratios.

    >>> area(torch.full((2, 9), 0.5))
    tensor([0.4500, 0.4500])
    """
    if curve.shape[-1] != len(RATIOS):
        raise InputError(
            f"the curve has {curve.shape[-1]} values; the area is defined for the nine ratios {RATIOS}, "
            "so leave `ratios` at its default"
        )
    return curve.sum(-1) / 10


@torch.no_grad()
def diffid(
    model,
    x: Tensor,
    ranking: Tensor,
    target: Tensor,
    *,
    remove: str = "elements",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    ratios: Sequence[float] = RATIOS,
    batch: int | None = None,
) -> DiffID:
    """Remove the share rho of lowest scores (insertion) and of highest scores (deletion) (Yang et al., AAAI 2023).

    DiffID(rho) = f_y(x without the lowest) / f_y(x) - f_y(x without the highest) / f_y(x), and likewise with
    [argmax f = y]. The deletion half is the pixel perturbation of Samek et al. (2017).

    x (B, C, H, W) in [0, 1]; ranking (B, M, H, W): M maps of each image, used as they are (the released code
    takes Σ_c |A|, AR:evaluator.py:17-31; its min-max rescaling is monotone and left out); target (B,);
    mean, std: the network's statistics per channel (None: 0 and 1, that is pixel space); ratios in (0, 1);
    at most `batch` images per forward pass (None: as many as the device likes). 2 K M + 1 images per image.

    What is removed takes one value per image: with z = (x - mean) / std, the mean of z over all elements that
    are kept, of all channels. In pixel space it differs between channels and may leave [0, 1].
    remove "elements", as released (AR:evaluator.py:93-111): every channel of a pixel has its score and
    floor(rho C H W) elements go, so that the last pixel may lose only some of its channels. remove "pixels":
    floor(rho H W) whole pixels go, by rank. The earlier code of the papers removed pixels beyond a quantile
    of the scores instead: all pixels tied with it go together, whatever their share; it also left kept
    values of exactly 0 out of the mean.

    Of equal scores the smaller row-major index counts as higher in both games; a pixel's channels are
    adjacent, the first highest. The floor is exact: int(0.7 * 90) is 62, here 63 go, as in the released code,
    whose ratio is 7 * 0.1 > 0.7.
    Raises InputError as `lib.attribution.gate.gate` and `map_batch`, for an unknown `remove`, ratios outside (0, 1),
    statistics that do not fit the channels, and logits that are not finite.
    Differs from the released code: equal scores are ordered by position instead of arbitrarily.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).eval()
    >>> game = diffid(network, torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4), [0, 2], remove="pixels")
    >>> area(game.diffid_accuracy).shape
    torch.Size([2, 5])
    """
    if remove not in REMOVED:
        raise InputError(f"remove is {remove!r}; {nearest(remove, REMOVED)}")
    ratios = shares(ratios, "ratios")
    model, x, target = gate(model, x, target, objective="probability")  # of one class, each answer would be a hit
    order = pixel_order(map_batch(ranking, "ranking", of=x))
    mean, std = channel_statistics(mean, std, x)

    removed = _removed(ratios, x[0].numel(), x.shape[1] if remove == "pixels" else 1).to(x.device)  # (K,)
    fills = torch.stack([_kept_means(z, places, removed) for z, places in zip((x - mean) / std, order, strict=True)])
    shape = fills.shape  # (B, M, 2, K)
    fills = (fills[..., None] * std.flatten() + mean.flatten()).to(x)  # of each channel, in pixel space
    # An element's place is C times its pixel's plus its channel. It goes where its pixel's place is from `border` on in
    # insertion (game 0), and where it is below in deletion (game 1): -place < 1 - border, place < border.
    split = torch.stack([x[0].numel() - removed, removed])[..., None]
    border = (split - torch.arange(x.shape[1], device=x.device)).add(x.shape[1] - 1) // x.shape[1]  # (2, K, C)
    # As floats, which hold every place of up to 2^24 pixels: in place a comparison then stays a float, and `lerp` is
    # exact at weights 0 and 1. Both are several times faster than truth values and `where`.
    border, places = torch.stack([1 - border[0], border[1]]).to(x), torch.stack([-order, order], 2).to(x)
    # Beyond the ratios nothing goes: the image itself.
    border, fills = nn.functional.pad(border, (0, 0, 0, 1), value=-torch.inf), nn.functional.pad(fills, (0, 0, 0, 1))

    def perturbed(part: Tensor) -> Tensor:
        image, index, game, ratio = part.unbind(1)
        shown = x[image]
        gone = torch.empty_like(shown).copy_(places[image, index, game, None]).lt_(border[game, ratio, :, None, None])
        fill = fills[image, index, game, ratio, :, None, None].expand_as(shown)
        return logit_and_hit(model(shown.lerp_(fill, gone)), target[image])

    work = torch.cartesian_prod(*map(torch.arange, shape))
    whole = torch.tensor([(image, 0, 0, len(ratios)) for image in range(len(x))])
    found = answers(perturbed, model, x, torch.cat([whole, work]).to(x.device), batch=batch)
    logit, accuracy = found[len(x) :].view(*shape, 2).unbind(-1)
    original = found[: len(x), 0].view(-1, 1, 1, 1)
    logit = (logit / original).where(original != 0, torch.nan)
    return DiffID(torch.tensor(ratios, dtype=torch.float64), *logit.unbind(2), *accuracy.unbind(2))


def logit_and_hit(logits: Tensor, target: Tensor) -> Tensor:
    """The target's logit, and 1 where it is the predicted class: (N, K), (N,) -> (N, 2); NaN where a logit is not
    finite.

    >>> logit_and_hit(torch.tensor([[1.5, 0.5]]), torch.tensor([1]))
    tensor([[0.5000, 0.0000]])
    """
    hit = logits.argmax(1) == target
    found = torch.stack([logits.gather(1, target[:, None])[:, 0], hit.to(logits)], 1)
    return found.where(logits.isfinite().all(1, keepdim=True), torch.nan)


def channel_statistics(mean: Sequence[float] | None, std: Sequence[float] | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of x (B, C, H, W) as float64 (C, 1, 1); 0 and 1 for None, None.

    Raises InputError unless there is one of each per channel, all finite and the deviations above 0.

    >>> [each.flatten().tolist() for each in channel_statistics((0.5, 0.25), (0.5, 0.5), torch.zeros(1, 2, 4, 4))]
    [[0.5, 0.25], [0.5, 0.5]]
    """
    channels = x.shape[1]
    given = (mean, std) if mean is not None or std is not None else ((0.0,) * channels, (1.0,) * channels)
    try:
        means, stds = (torch.as_tensor(each, dtype=torch.float64, device=x.device).view(-1, 1, 1) for each in given)
        fits = len(means) == len(stds) == channels and bool((means.isfinite() & stds.isfinite() & (stds > 0)).all())
    except (TypeError, ValueError, RuntimeError):  # of None among others
        fits = False
    if not fits:
        raise InputError(
            f"mean is {mean} and std is {std}; give {channels} numbers each, one per channel (network.mean, "
            "network.std; deviations above 0), or neither"
        )
    return means, stds


def shares(given: Sequence[float], name: str, *, whole: bool = False) -> tuple[float, ...]:
    """One or more shares of an image, above 0 and below 1, or up to 1 with `whole`, as Python's own floats.

    Raises InputError otherwise.

    >>> shares([0.5, 1], "fractions", whole=True)
    (0.5, 1.0)
    """
    try:
        found = tuple(float(each) for each in given)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(0 < each < 1 or (whole and each == 1) for each in found):
        raise InputError(f"{name} are {given!r}; give one or more between 0 and 1, such as {RATIOS}")
    return found


def _removed(ratios: tuple[float, ...], elements: int, step: int) -> Tensor:
    """Number of elements to remove at each ratio: the largest multiple of `step` up to rho * elements; (K,)."""
    # The decimal number that was typed, not its binary neighbour.
    return torch.tensor([int(Fraction(str(ratio)) * (elements // step)) * step for ratio in ratios])


def _kept_means(z: Tensor, places: Tensor, removed: Tensor) -> Tensor:
    """Mean of the kept elements of z (C, H, W) in both games: places (M, H, W), removed (K,) -> (M, 2, K)."""
    by_pixel = z.flatten(1).T.contiguous()  # (HW, C)
    kept = z.numel() - removed
    total = z.new_zeros(z.numel() + 1)  # of the first 0, 1, … elements
    means = []
    for place in places.flatten(1).long():
        ordered = by_pixel[torch.empty_like(place).scatter_(0, place, torch.arange(len(place), device=z.device))]
        torch.cumsum(ordered.flatten(), 0, out=total[1:])
        means.append(torch.stack([total[kept], total[-1] - total[removed]]) / kept)
    return torch.stack(means)
