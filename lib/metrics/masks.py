"""Keep and remove masks: what the network says of an image that is blurred but for some pixels (Hesse et al., Table
2).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib import InputError, nearest
from lib.attribution.blur import gaussian_matrix
from lib.attribution.gate import gate, image_batch
from lib.metrics.diffid import logit_and_hit, shares
from lib.metrics.insertion import answers
from lib.metrics.ranking import map_batch, pixel_order

ORDERS = ("positive", "negative", "absolute")  # pixels by score, by minus their score, by its size
GAMES = tuple(f"{game}_{order}" for order in ORDERS for game in ("keep", "remove"))  # KPM RPM KNM RNM KAM RAM
FRACTIONS = tuple(torch.logspace(-2, 0, 16, dtype=torch.float64).tolist())
SIDE, RADIUS, SIGMA = 224, 25, 41  # the paper's image and kernel, in pixels


@dataclass(frozen=True)
class Masks:
    """Of each of B images and M maps, what is left of the target's score in the six GAMES at F fractions.

    fractions (F,); logit (B, M, 6, F), accuracy (B, M, 6, F): 1 where the largest logit is the target's, else 0;
    float64, on the CPU. passes: how many images the network saw.

    >>> ones = torch.ones(1, 1, 6, 2)
    >>> Masks(torch.tensor([0.5, 1.0]), ones, ones, 12).area("keep_absolute")
    tensor([[0.5000]])
    """

    fractions: Tensor
    logit: Tensor
    accuracy: Tensor
    passes: int

    def area(self, game: str) -> Tensor:
        """(B, M): trapezoid area over the fractions as they are, not their logarithms, from .01 to 1 (width .99).

        Of the accuracy for the absolute order, of the raw logit for the others, as in the paper's table.
        """
        if game not in GAMES:
            raise InputError(f"game {game!r} is unknown; {nearest(game, GAMES)}")
        curves = self.accuracy if game.endswith("absolute") else self.logit
        return torch.trapezoid(curves[:, :, GAMES.index(game)], self.fractions)


@torch.no_grad()
def masks(
    model,
    x: Tensor,
    ranking: Tensor,
    target: Tensor,
    *,
    fractions: Sequence[float] = FRACTIONS,
    kernel: str = "stated",
    batch: int | None = None,
) -> Masks:
    """Play the six games with each map: keep or remove the pixels of highest, lowest or largest score.

    Of the pixels whose score in an order is positive, P of them, k = min(floor(f H W), P) stay as they are: "keep" the
    k highest, "remove" the k lowest. All others, those without a positive score always among them, are replaced by
    the blurred image (`backdrop`). Once k = P both games show the same image, so that at most about half of the pixels
    are ever seen in the positive and negative orders. Equal images are shown to the network once.

    x (B, C, H, W) in [0, 1]; ranking (B, M, H, W): signed maps, averaged over channels; target (B,); fractions: shares
    of all pixels, rising; kernel: see `backdrop`; at most `batch` images a pass. Equal scores: the smaller row-major
    index first.
    Raises InputError as `lib.attribution.gate.gate` and `map_batch`, for fractions outside (0, 1] or that do not rise,
    and for logits that are not finite.
    Differs from the released code: no gradients are recorded, and every image counts, whatever the batch.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).eval()
    >>> masks(network, torch.rand(2, 3, 4, 4), torch.randn(2, 5, 4, 4), [0, 2]).area("keep_positive").shape
    torch.Size([2, 5])
    """
    fractions = shares(fractions, "fractions", whole=True)
    if list(fractions) != sorted(fractions):
        raise InputError(f"fractions are {fractions}; give rising ones, up to 1")
    model, x, target = gate(model, x, target, objective="probability")  # of one class, each answer would be a hit
    ranking = map_batch(ranking, "ranking", of=x)
    maps, pixels = ranking.shape[1], x.shape[-2:].numel()
    wanted = torch.tensor([int(f * pixels + 1e-9) for f in fractions], device=x.device)

    def play(image: Tensor, blurred: Tensor, scores: Tensor, y: Tensor) -> tuple[Tensor, int]:
        ordered = torch.stack([scores, -scores, scores.abs()], 1)  # (M, 3, H, W)
        place = pixel_order(ordered).flatten(0, 1)  # (3M, H, W)
        positive = (ordered > 0).sum((-2, -1))  # (M, 3)
        kept = torch.minimum(wanted, positive[..., None])  # (M, 3, F)
        first = torch.stack([torch.zeros_like(kept), positive[..., None] - kept], 2)  # (M, 3, 2, F): keep, remove
        ranges = torch.stack([first, first + kept[:, :, None]], -1)  # which places stay visible
        order = torch.arange(maps * 3, device=x.device).view(maps, 3, 1, 1, 1).expand(*ranges.shape[:-1], 1)
        asked, back = torch.cat([order, ranges], -1).view(-1, 3).unique(dim=0, return_inverse=True)

        def masked(rows: Tensor) -> Tensor:
            at, bounds = place[rows[:, 0]], rows[:, 1:, None, None].to(place.dtype)
            seen = (at >= bounds[:, 0]) & (at < bounds[:, 1])  # (N, H, W)
            return logit_and_hit(model(torch.where(seen[:, None], image, blurred)), y.expand(len(rows)))

        answered = answers(masked, model, x, asked, batch=batch)
        return answered[back.cpu()].view(maps, len(GAMES), len(fractions), 2), len(asked)

    played = [play(*each) for each in zip(x, backdrop(x, kernel=kernel), ranking, target, strict=True)]
    found, passes = zip(*played, strict=True)
    logit, accuracy = torch.stack(found).unbind(-1)
    return Masks(torch.tensor(fractions, dtype=torch.float64), logit, accuracy, sum(passes))


def backdrop(x: Tensor, *, kernel: str = "stated") -> Tensor:
    """The image blurred, (B, C, H, W): what masked pixels are replaced by.

    A truncated Gaussian of 51 x 51 pixels for images of 224, with mirrored edges, its size and width in proportion for
    others. kernel "stated": sigma 41. "released": the released code's exponent is -(d / 2 sigma)^2
    (attribution_metrics.py:137), a sigma of 41 sqrt(2) = 58, nearly a box. Both commute with the normalisation.
    Raises InputError for another kernel, and for x as `lib.attribution.gate.image_batch`.

    >>> backdrop(torch.full((1, 1, 4, 4), 0.5)).unique()
    tensor([0.5000])
    """
    x = image_batch(x)
    sigmas = {"stated": SIGMA, "released": SIGMA * math.sqrt(2)}
    if kernel not in sigmas:
        raise InputError(f"kernel {kernel!r} is unknown; {nearest(kernel, sigmas)}")
    rows, columns = (
        gaussian_matrix(side, sigmas[kernel] * side / SIDE, radius=max(1, round(RADIUS * side / SIDE)), like=x)
        for side in x.shape[2:]
    )
    return rows @ x @ columns.T
