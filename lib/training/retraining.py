"""Retraining without some pixels: ROAR (Hooker et al., NeurIPS 2019) and DiffROAR (Shah et al., NeurIPS 2021)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lib import InputError, nearest
from lib.training.fit import fit
from lib.training.robust import trained_network, untrained_network

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the pixels that are removed (LPI's supplement, Sup. Fig. 1 and 2)
ENDS = ("highest", "lowest")
STARTS = ("from scratch", "fine-tuned")


def removed_pixels(places: Tensor, share: float, end: str) -> Tensor:
    """Which pixels are removed, bool: the `share` of each image with the highest, or the lowest, scores.

    places (N, H, W): each pixel's place from high to low, see `lib.metrics.ranking.pixel_order`. Removed are as many
    whole pixels as the share holds: what is lowest in 30 % is what is not highest in 70 %, but for a pixel.
    Raises InputError for a share outside [0, 1] and for another end.

    >>> places = torch.tensor([[[3, 0], [1, 2]]])
    >>> removed_pixels(places, 0.5, "highest").int()
    tensor([[[0, 1],
             [1, 0]]], dtype=torch.int32)
    """
    if not 0 <= share <= 1:
        raise InputError(f"The share of removed pixels is {share}; give a number from 0 to 1.")
    if end not in ENDS:
        raise InputError(f"Pixels are removed from the end {end!r}; {nearest(end, ENDS)}")
    pixels = places.shape[-2:].numel()
    count = int(round(share * pixels, 6))
    return places < count if end == "highest" else places >= pixels - count


def filled(x: Tensor, removed: Tensor, fill: float) -> Tensor:
    """Images x (N, C, H, W) with `fill` in every channel of the pixels `removed` (N, H, W).

    ROAR and DiffROAR fill with the mean of the training images, one number, in training and test images alike.

    >>> filled(torch.zeros(1, 1, 1, 2), torch.tensor([[[True, False]]]), 0.5)
    tensor([[[[0.5000, 0.0000]]]])
    """
    return torch.where(removed[:, None], fill, x)


def retrained_network(
    x: Tensor,
    y: Tensor,
    *,
    data: str,
    start: str,
    seed: int,
    epochs: int,
    root: str | Path = "",
    cache: Path,
    label: str = "retraining",
) -> nn.Module:
    """The network of the image set `data` trained on images x (N, C, H, W) with labels y (N,), in eval mode.

    start: "from scratch", which is what ROAR means, from initial weights of this seed; or "fine-tuned", from those
    of the natural network whose maps are judged (`trained_network`, kept in `cache`). Both by `fit`, for `epochs`.
    The papers state 10 epochs at an initial learning rate of .01, and neither the start nor the optimiser.
    Raises InputError for another start, Diverged as `fit`.
    """
    if start not in STARTS:
        raise InputError(f"A retraining starts {start!r}; {nearest(start, STARTS)}")
    model = untrained_network(data, seed=seed)
    if start == "fine-tuned":
        model.load_state_dict(trained_network("natural", data, root=root, cache=cache).model.state_dict())
    return fit(model.requires_grad_(True), x, y, epochs=epochs, seed=seed, learning_rate=2e-3, label=label)


@torch.no_grad()
def rightness(model: nn.Module, x: Tensor, y: Tensor, *, batch: int = 256) -> Tensor:
    """1 where the largest logit of x (N, C, H, W) is that of y (N,), else 0: (N,) float64 on the CPU.

    >>> rightness(nn.Sequential(nn.Flatten(), nn.Linear(1, 2)), torch.zeros(3, 1, 1, 1), torch.tensor([0, 0, 1])).shape
    torch.Size([3])
    """
    device = next(model.parameters()).device
    answers = torch.cat([model(images.to(device)).argmax(1).cpu() for images in x.split(batch)])
    return (answers == y.cpu()).double()


def removal_areas(untouched, highest, lowest, shares) -> dict[str, np.ndarray]:
    """ROAR and DiffROAR of each image, areas under the curves over the share removed: {metric: (N,)}.

    untouched (N,): 1 where the network retrained on whole images is right, else 0; highest, lowest (N, S): the same
    where the S shares with the highest or lowest scores are removed. ROAR is the curve of `highest`, which begins at
    `untouched`, in [0, 1], less is better; DiffROAR that of `lowest` - `highest`, which begins at 0, in [-1, 1], more
    is better. Trapezoids, divided by the largest share: the rule of the published areas is not stated, nor is it this.

    >>> removal_areas([1], [[0]], [[1]], [0.5])
    {'roar': array([0.5]), 'diffroar': array([0.5])}
    """
    untouched, highest, lowest = (np.asarray(each, dtype=float) for each in (untouched, highest, lowest))
    at = [0.0, *shares]
    curves = {
        "roar": np.column_stack([untouched, highest]),
        "diffroar": np.column_stack([np.zeros(len(untouched)), lowest - highest]),
    }
    return {metric: np.trapezoid(curve, at, axis=1) / max(at) for metric, curve in curves.items()}
