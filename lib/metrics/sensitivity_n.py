"""Sensitivity-n: whether a map's scores add up to the change of the logit when their pixels are masked."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.forward import default_budget
from lib.metrics.diffid import RATIOS, channel_statistics, logit_and_hit
from lib.metrics.insertion import pixel_order
from lib.seeds import image_generator

FILLS = ("zero", "random", "mean")


@torch.no_grad()
def sensitivity_n(
    model,
    x: Tensor,
    ranking: Tensor,
    target: Tensor,
    *,
    images: list[str],
    draws: int | Sequence[int] = 100,
    fractions: tuple = RATIOS,
    fill: str = "zero",
    mean: tuple | None = None,
    std: tuple | None = None,
    seed: int = 0,
    batch: int | None = None,
) -> Tensor:
    """Correlate summed scores with the change of the logit over random masks (Ancona et al., ICLR 2018).

    r(q) = corr_d(Σ_i m_di A_i, f_y(x) - f_y(x masked by m_d)), Pearson's, m_di ~ Bernoulli(q) for pixel i.

    x (B, C, H, W) in [0, 1]; ranking (B, M, H, W): M maps A of each image, of which the values count and not
    only the order; target (B,); images: the id of each image, from which its masks are drawn; draws: how many at each
    fraction, one number or one for each map; fractions q in (0, 1); mean, std: the network's statistics per
    channel (None: 0 and 1). Returns (B, M, K) in [-1, 1], float64, on the CPU; NaN where a map's sums or the changes
    are the same in every draw. All maps of an image share its masks: max(draws) K + 1 images per image, at most
    `batch` in a forward pass. The first masks of many draws are those of few, and all fills have the same.

    All channels of a masked pixel take the fill, in z = (x - mean) / std: "zero": 0, the mean colour (black
    without statistics); "random": a number in [0, 1) for each channel; "mean": the mean of z over the pixels
    that are left, of all channels (0 if none is left).
    Raises InputError for fewer than 3 draws (of 2, any correlation is 1 or -1), an unknown fill, fractions
    outside (0, 1), a wrong number of ids, statistics that do not fit the channels, logits that are not finite,
    and as `pixel_order` does.
    Differs from the released code: it takes 10 draws (AR:evaluator.py:236), which leave r a standard error of
    1/3 where it is 0, against 1/10 for the 100 here; its "mean" divides the image by the number of masked
    pixels of the whole batch (AR:evaluator.py:247).
    """
    pixel_order(x, ranking, target)  # for what it refuses
    counts = torch.tensor([draws] * ranking.shape[1] if isinstance(draws, int) else draws)  # (M,)
    _refuse(ranking, images, counts, fractions, fill)
    most = int(counts.max())
    mean, std = channel_statistics(mean, std, x)
    batch, target = batch or default_budget(x), target.to(x.device)
    work = torch.arange(len(fractions)).repeat_interleave(most)
    result = []
    for image, maps, y, name in zip(x, ranking, target[:, None], images, strict=True):
        z, scores = (image - mean) / std, maps.to(x.device).double().flatten(1)
        hidden, noise = (
            [image_generator(seed, name, f"sensitivity/{q}{use}") for q in fractions] for use in ("", "/fill")
        )
        sums, logits = [], []
        for part in work.split(batch):
            # One draw at a time: a draw must not depend on how many are made together.
            masks = [torch.rand(z.shape[1:], generator=hidden[k]) < fractions[k] for k in part.tolist()]
            masked = torch.stack(masks).to(x.device)  # (N, H, W)
            filling = _filling(fill, z, masked, [noise[k] for k in part.tolist()]) * std + mean
            answers = logit_and_hit(model, torch.where(masked[:, None], filling.to(x), image), y.expand(len(part)))
            logits.append(answers[:, 0])
            sums.append((masked.flatten(1).double() @ scores.T).cpu())
        change = logit_and_hit(model, image[None], y)[:, 0] - torch.cat(logits)
        total, change = torch.cat(sums).view(-1, most, len(maps)), change.view(-1, most, 1)
        r = total.new_empty(len(maps), len(fractions))
        for count in counts.unique():
            r[counts == count] = _pearson(total[:, :count, counts == count], change[:, :count]).T
        result.append(r)
    return torch.stack(result)


def _refuse(ranking: Tensor, images: list[str], counts: Tensor, fractions: tuple, fill: str) -> None:
    if len(images) != len(ranking):
        raise InputError(f"images names {len(images)} ids; give one for each of the {len(ranking)} images")
    if len(counts) != ranking.shape[1]:
        raise InputError(f"draws has {len(counts)} numbers; give one, or one for each of {ranking.shape[1]} maps")
    if counts.min() < 3:
        raise InputError(f"draws is {int(counts.min())}; give 3 or more (100 here, 10 in the released code)")
    if not fractions or not all(0 < q < 1 for q in fractions):
        raise InputError(f"fractions are {tuple(fractions)}; give one or more between 0 and 1, such as {RATIOS}")
    if fill not in FILLS:
        raise InputError(f"fill {fill!r} is unknown; choose one of {', '.join(FILLS)}")


def _filling(fill: str, z: Tensor, masked: Tensor, noise: list[torch.Generator]) -> Tensor:
    """What masked pixels become, in normalised space: z (C, H, W), masked (N, H, W) -> a shape like (N, C, H, W)."""
    if fill == "random":
        return torch.stack([torch.rand(z.shape, generator=generator) for generator in noise]).to(z)
    if fill == "zero":
        return z.new_zeros(1, 1, 1, 1)
    left = (~masked).flatten(1).double()
    return (left @ z.mean(0).flatten() / left.sum(1).clamp(min=1)).view(-1, 1, 1, 1)


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation along dim 1 of a (K, D, M) and b (K, D, 1) -> (K, M), NaN where either is constant."""
    varies = (a.amax(1) > a.amin(1)) & (b.amax(1) > b.amin(1))
    p, q = (values - values.mean(1, keepdim=True) for values in (a, b))
    r = (p * q).sum(1) / (p.norm(dim=1) * q.norm(dim=1))
    return r.clamp(-1, 1).where(varies, torch.nan)
