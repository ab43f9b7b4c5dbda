"""Removal games: the network's answer as an image's pixels appear in the order of a map's scores."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.forward import default_budget
from lib.attribution.references import reference_image
from lib.metrics.ranking import descending


@dataclass(frozen=True)
class Insertion:
    """The target's probability after each insertion step, and the two areas under it.

    fractions (S+1,): nominal share m/S of the pixels shown, m = 0..S; probabilities (B, M, S+1): for each
    of B images and M maps. float64, on the CPU.
    """

    fractions: Tensor
    probabilities: Tensor

    @property
    def probability(self) -> Tensor:
        """Insertion (probability): trapezoid area under p_m over m/S, in [0, 1]; (B, M)."""
        return torch.trapezoid(self.probabilities, self.fractions)

    @property
    def ratio(self) -> Tensor:
        """Insertion (probability ratio): trapezoid area under p_m / p_S; (B, M), NaN where p_S is 0."""
        return torch.trapezoid(self.probabilities / self.probabilities[..., -1:], self.fractions)


@torch.no_grad()
def insertion(
    model, x: Tensor, ranking: Tensor, target: Tensor, *, start=0.0, steps: int = 20, batch: int | None = None
) -> Insertion:
    """Show an image's pixels from the highest score down, a share 1/S at a time (Yang et al., CVPR 2023).

    p_m = softmax_y f(x on the floor(m H W / S) highest pixels, the start image elsewhere), m = 0..S.

    x (B, C, H, W) in [0, 1]; ranking (B, M, H, W): M maps of each image; target (B,): class indices; start:
    a reference image (0 is black), see `reference_image`; at most `batch` images per forward pass
    (None: as many as the device likes). A pixel's
    channels appear together; of equal scores the smaller row-major index comes first. The two end points are
    evaluated once per image: (S-1) M + 2 images in all.
    Raises InputError for scores that are not finite, x outside [0, 1], and shapes that do not fit together.
    Differs from the released code: ties are broken by position instead of arbitrarily.
    """
    if steps < 1:
        raise InputError(f"steps is {steps}; give 1 or more (20 in the papers)")
    order = pixel_order(x, ranking, target)
    counts = reveal_counts(x.shape[-2:].numel(), steps)
    target = target.to(x.device)
    curves = reveal(
        lambda images, rows: probability_and_hit(model, images, target[rows]),
        x,
        reference_image(start, x),
        order,
        counts,
        batch=batch,
    )
    fractions = torch.arange(steps + 1, dtype=torch.float64) / steps
    return Insertion(fractions, curves[..., 0])


def reveal_counts(pixels: int, steps: int) -> Tensor:
    """Number of pixels shown after each step: floor(m pixels / steps), m = 0..steps, in exact integers."""
    return torch.arange(steps + 1) * pixels // steps


def pixel_order(x: Tensor, ranking: Tensor, target: Tensor) -> Tensor:
    """Each pixel's place when scores are sorted from high to low: ranking (B, M, H, W) -> int32, 0 is first.

    Equal scores are ordered by row-major index. Raises InputError where the three do not fit together, x
    leaves [0, 1], or a score is NaN or infinite (sorting would place it silently first).
    """
    if ranking.ndim != 4 or ranking.shape[0] != len(x) or ranking.shape[2:] != x.shape[2:]:
        raise InputError(
            f"ranking has shape {tuple(ranking.shape)}; images of shape {tuple(x.shape)} need "
            f"({len(x)}, maps, {x.shape[-2]}, {x.shape[-1]}): sum an attribution over its channels first"
        )
    if target.shape != (len(x),):
        raise InputError(f"target has shape {tuple(target.shape)}; give one class index per image, ({len(x)},)")
    refuse_outside_unit_interval("x", x)
    bad = (~ranking.isfinite()).flatten(2).sum(2)
    if bad.any():
        image, index = bad.nonzero()[0].tolist()
        raise InputError(
            f"the ranking of image {image}, map {index} is NaN or infinite at {bad[image, index]} of "
            f"{ranking.shape[2:].numel()} pixels; give finite scores"
        )
    by_score = descending(ranking.to(x.device).flatten(2).flatten(0, 1))
    place = torch.arange(by_score.shape[1], dtype=torch.int32, device=x.device).expand_as(by_score)
    return torch.empty_like(by_score, dtype=torch.int32).scatter_(1, by_score, place).view(ranking.shape)


def refuse_outside_unit_interval(name: str, images: Tensor) -> None:
    """Raise InputError unless every value lies in [0, 1] (NaN does not)."""
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):
        raise InputError(f"{name} spans [{low:.3g}, {high:.3g}]; give images in [0, 1] (the model normalises)")


def reveal(
    evaluate: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    start: Tensor,
    order: Tensor,
    counts: Tensor,
    *,
    batch: int | None,
) -> Tensor:
    """Evaluate every partly revealed image: x where order < k, `start` elsewhere, for each k in `counts`.

    x, start (B, C, H, W); order (B, M, H, W) from `pixel_order`; counts (K,). `evaluate(images, rows)` gets
    at most `batch` images (N, C, H, W) and the row of x each belongs to (N,), and returns Q numbers for each,
    (N, Q). Result (B, M, K, Q), float64 on the CPU. The images with no or all pixels shown are the same for
    every map and evaluated once. No more than `batch` images exist at a time.
    """
    pixels = order.shape[2:].numel()
    rows, maps, steps = (torch.arange(size) for size in (*order.shape[:2], len(counts)))
    shared = (counts == 0) | (counts == pixels)
    work = torch.cartesian_prod(rows, maps, steps)
    work = work[(work[:, 1] == 0) | ~shared[work[:, 2]]]
    values = []
    for part in work.split(batch or default_budget(x)):
        b, m, k = part.to(x.device).unbind(1)
        shown = order[b, m] < counts.to(x.device)[k, None, None]  # (N, H, W)
        values.append(evaluate(torch.where(shown[:, None], x[b], start[b]), b).cpu().double())
    values = torch.cat(values)
    table = values.new_empty(*order.shape[:2], len(counts), values.shape[1])
    table[work.unbind(1)] = values
    table[:, :, shared] = table[:, :1, shared]
    return table


def probability_and_hit(model, images: Tensor, target: Tensor) -> Tensor:
    """Softmax probability of the target class, and 1 where it is the predicted class: (N, C, H, W) -> (N, 2).

    Raises InputError where a probability is not finite.
    """
    logits = model(images)
    probability = logits.softmax(1).gather(1, target[:, None])
    if not probability.isfinite().all():
        raise InputError(
            "the network's probability is not finite for a partly revealed image; check its weights for NaN"
        )
    correct = logits.argmax(1, keepdim=True) == target[:, None]
    return torch.cat([probability, correct.to(probability)], 1)
