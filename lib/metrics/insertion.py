"""Removal games: the network's answer as an image's pixels appear in the order of a map's scores."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.arguments import whole_number
from lib.attribution.gate import gate
from lib.attribution.parts import in_parts
from lib.attribution.references import reference_image
from lib.metrics.ranking import map_batch, pixel_order


@dataclass(frozen=True)
class Insertion:
    """The target's probability after each insertion step, and the two areas under it.

    fractions (S+1,): nominal share m/S of the pixels shown, m = 0..S; probabilities (B, M, S+1): for each
    of B images and M maps. float64, on the CPU.

    >>> Insertion(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([[[0.1, 0.3, 0.5]]])).ratio
    tensor([[0.6000]])
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
    a reference image in [0, 1] (0 is black), see `reference_image`; at most `batch` images per forward pass
    (None: as many as the device likes). A pixel's
    channels appear together; of equal scores the smaller row-major index comes first. The two end points are
    evaluated once per image: (S-1) M + 2 images in all.
    Raises InputError as `lib.attribution.gate.gate`, `map_batch` and `reference_image`, for less than one step, and for
    probabilities that are not finite.
    Differs from the released code: ties are broken by position instead of arbitrarily.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).eval()
    >>> insertion(network, torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4), [0, 2], steps=4).probability.shape
    torch.Size([2, 5])
    """
    steps = whole_number(steps, "steps")
    model, x, target = gate(model, x, target, objective="probability")
    order = pixel_order(map_batch(ranking, "ranking", of=x))
    curves = reveal(
        lambda images, rows: probability_and_hit(model(images), target[rows]),
        model,
        x,
        reference_image(start, x),
        order,
        reveal_counts(x.shape[-2:].numel(), steps),
        batch=batch,
    )
    fractions = torch.arange(steps + 1, dtype=torch.float64) / steps
    return Insertion(fractions, curves[..., 0])


def reveal_counts(pixels: int, steps: int) -> Tensor:
    """Number of pixels shown after each step: floor(m pixels / steps), m = 0..steps, in exact integers.

    >>> reveal_counts(16, 3)
    tensor([ 0,  5, 10, 16])
    """
    return torch.arange(steps + 1) * pixels // steps


def reveal(
    measure: Callable[[Tensor, Tensor], Tensor],
    model,
    x: Tensor,
    start: Tensor,
    order: Tensor,
    counts: Tensor,
    *,
    batch: int | None,
) -> Tensor:
    """What is measured of each partly revealed image: x where order < k, `start` elsewhere, for each k in `counts`.

    x, start (B, C, H, W); order (B, M, H, W) from `pixel_order`; counts (K,). `measure(images, rows)` runs `model` on
    at most `batch` images (N, C, H, W), gets the row of x each belongs to (N,), and returns Q numbers for each, (N, Q).
    Result (B, M, K, Q), float64 on the CPU. The images with no or all pixels shown are the same for
    every map and evaluated once. No more than a part of the images exists at a time; see `in_parts`.

    >>> x, brightness = torch.ones(1, 1, 2, 2), lambda images, rows: images.mean((1, 2, 3))[:, None]
    >>> reveal(brightness, brightness, x, 0 * x, pixel_order(x), torch.tensor([0, 1, 4]), batch=None).flatten()
    tensor([0.0000, 0.2500, 1.0000], dtype=torch.float64)
    """
    rows, maps, steps = (torch.arange(size) for size in (*order.shape[:2], len(counts)))
    shared = (counts == 0) | (counts == order.shape[2:].numel())
    work = torch.cartesian_prod(rows, maps, steps)
    work = work[(work[:, 1] == 0) | ~shared[work[:, 2]]]
    visible = counts.to(x.device)

    def run(part: Tensor) -> Tensor:
        b, m, k = part.unbind(1)
        shown = order[b, m] < visible[k, None, None]  # (N, H, W)
        return measure(torch.where(shown[:, None], x[b], start[b]), b)

    values = answers(run, model, x, work.to(x.device), batch=batch)
    table = values.new_empty(*order.shape[:2], len(counts), values.shape[1])
    table[work.unbind(1)] = values
    table[:, :, shared] = table[:, :1, shared]
    return table


def answers(run: Callable[..., Tensor], model, x: Tensor, *rows: Tensor, batch: int | None) -> Tensor:
    """`in_parts` of a run that returns Q numbers a row, (N, Q): all of them finite, float64, on the CPU.

    Raises InputError as `in_parts`, for a batch below 1, and where a number is not finite.

    >>> double = lambda part: 2 * part
    >>> answers(double, double, torch.zeros(1, 1, 2, 2), torch.ones(3, 1), batch=2).flatten()
    tensor([2., 2., 2.], dtype=torch.float64)
    """
    batch = batch if batch is None else whole_number(batch, "batch")
    found = in_parts(run, model, x, *rows, budget=batch).cpu().double()
    if not found.isfinite().all():
        raise InputError("the network's answer to some image is not finite; check its weights for NaN")
    return found


def probability_and_hit(logits: Tensor, target: Tensor) -> Tensor:
    """Softmax probability of the target class, and 1 where it is the predicted class: (N, K), (N,) -> (N, 2).

    >>> probability_and_hit(torch.tensor([[0.0, 0.0, -torch.inf]]), torch.tensor([1]))
    tensor([[0.5000, 0.0000]])
    """
    probability = logits.softmax(1).gather(1, target[:, None])
    correct = logits.argmax(1, keepdim=True) == target[:, None]
    return torch.cat([probability, correct.to(probability)], 1)
