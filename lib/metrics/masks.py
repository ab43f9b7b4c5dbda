"""Keep and remove masks: what the network says of an image that is blurred but for some pixels (Hesse et al., Table
2).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.blur import gaussian_matrix
from lib.attribution.forward import default_budget
from lib.metrics.diffid import logit_and_hit
from lib.metrics.ranking import descending

ORDERS = ("positive", "negative", "absolute")  # pixels by score, by minus their score, by its size
GAMES = tuple(f"{game}_{order}" for order in ORDERS for game in ("keep", "remove"))  # KPM RPM KNM RNM KAM RAM
FRACTIONS = tuple(torch.logspace(-2, 0, 16, dtype=torch.float64).tolist())
SIDE, RADIUS, SIGMA = 224, 25, 41  # the paper's image and kernel, in pixels


@dataclass(frozen=True)
class Masks:
    """Of each of B images and M maps, what is left of the target's score in the six GAMES at F fractions.

    fractions (F,); logit (B, M, 6, F), accuracy (B, M, 6, F): 1 where the largest logit is the target's, else 0;
    float64, on the CPU. passes: how many images the network saw.
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
            raise InputError(f"game {game!r} is unknown; choose one of {', '.join(GAMES)}")
        curves = self.accuracy if game.endswith("absolute") else self.logit
        return torch.trapezoid(curves[:, :, GAMES.index(game)], self.fractions)


@torch.no_grad()
def masks(
    model,
    x: Tensor,
    ranking: Tensor,
    target: Tensor,
    *,
    fractions: tuple[float, ...] = FRACTIONS,
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
    index first. Raises InputError for shapes that do not fit, scores that are not finite, and fractions outside (0, 1].
    Differs from the released code: no gradients are recorded, and every image counts, whatever the batch.
    """
    _refuse(x, ranking, target, fractions)
    count, maps, pixels = len(x), ranking.shape[1], x.shape[-2:].numel()
    blurred = backdrop(x, kernel=kernel)
    wanted = torch.tensor([int(f * pixels + 1e-9) for f in fractions], device=x.device)
    found = torch.empty(count, maps, len(GAMES), len(fractions), 2, dtype=torch.float64)
    passes = 0
    for image in range(count):
        scores = ranking[image].to(x.device).flatten(1)  # (M, HW)
        ordered = torch.stack([scores, -scores, scores.abs()], 1)  # (M, 3, HW)
        place = descending(ordered.flatten(0, 1)).argsort(dim=1).view(ordered.shape)
        positive = (ordered > 0).sum(-1)  # (M, 3)
        kept = torch.minimum(wanted, positive[..., None])  # (M, 3, F)
        first = torch.stack([torch.zeros_like(kept), positive[..., None] - kept], 2)  # (M, 3, 2, F): keep, remove
        ranges = torch.stack([first, first + kept[:, :, None]], -1)  # which places stay visible
        order = torch.arange(maps * 3, device=x.device).view(maps, 3, 1, 1, 1).expand(*ranges.shape[:-1], 1)
        asked, back = torch.cat([order, ranges], -1).view(-1, 3).unique(dim=0, return_inverse=True)
        answers = []
        for rows in asked.split(batch or default_budget(x)):
            at = place.view(maps * 3, -1)[rows[:, 0]]
            seen = (at >= rows[:, 1:2]) & (at < rows[:, 2:3])
            images = torch.where(seen.view(-1, 1, *x.shape[2:]), x[image], blurred[image])
            answers.append(logit_and_hit(model, images, target[image].expand(len(images))))
        found[image] = torch.cat(answers).cpu().double()[back.cpu()].view(maps, len(GAMES), len(fractions), 2)
        passes += len(asked)
    return Masks(torch.tensor(fractions, dtype=torch.float64), found[..., 0], found[..., 1], passes)


def backdrop(x: Tensor, *, kernel: str = "stated") -> Tensor:
    """The image blurred, (B, C, H, W): what masked pixels are replaced by.

    A truncated Gaussian of 51 x 51 pixels for images of 224, with mirrored edges, its size and width in proportion for
    others. kernel "stated": sigma 41. "released": the released code's exponent is -(d / 2 sigma)^2
    (attribution_metrics.py:137), a sigma of 41 sqrt(2) = 58, nearly a box. Both commute with the normalisation.
    Raises InputError for another kernel.
    """
    sigmas = {"stated": SIGMA, "released": SIGMA * math.sqrt(2)}
    if kernel not in sigmas:
        raise InputError(f"kernel {kernel!r} is unknown; choose stated or released")
    rows, columns = (
        gaussian_matrix(side, sigmas[kernel] * side / SIDE, radius=max(1, round(RADIUS * side / SIDE)), like=x)
        for side in x.shape[2:]
    )
    return rows @ x @ columns.T


def _refuse(x: Tensor, ranking: Tensor, target: Tensor, fractions: tuple[float, ...]) -> None:
    if ranking.ndim != 4 or ranking.shape[0] != len(x) or ranking.shape[2:] != x.shape[2:] or len(target) != len(x):
        raise InputError(
            f"maps are {tuple(ranking.shape)} and targets {tuple(target.shape)} for images {tuple(x.shape)}; give "
            f"({len(x)}, M, {x.shape[2]}, {x.shape[3]}) and ({len(x)},)"
        )
    if not ranking.isfinite().all():
        raise InputError("some scores are NaN or infinite and cannot be ranked; leave those maps out")
    if not fractions or min(fractions) <= 0 or max(fractions) > 1 or list(fractions) != sorted(fractions):
        raise InputError(f"fractions {fractions}; give rising shares of the pixels, above 0 and at most 1")
