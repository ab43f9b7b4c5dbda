"""Sensitivity-n: whether a map's scores add up to the change of the logit when their pixels are masked."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lib import InputError, nearest
from lib.attribution.arguments import image_ids, whole_number
from lib.attribution.forward import scalar
from lib.attribution.gate import gate
from lib.metrics.diffid import RATIOS, channel_statistics, shares
from lib.metrics.insertion import answers
from lib.metrics.ranking import map_batch
from lib.seeds import image_generator

FILLS = ("zero", "random", "mean")


@torch.no_grad()
def sensitivity_n(
    model,
    x: Tensor,
    ranking: Tensor,
    target: Tensor,
    *,
    images: Sequence[str],
    draws: int | Sequence[int] = 100,
    fractions: Sequence[float] = RATIOS,
    fill: str = "zero",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
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
    Raises InputError as `lib.attribution.gate.gate` and `map_batch`, for fewer than 3 draws (of 2, any correlation is 1
    or -1), an unknown fill, fractions outside (0, 1), a wrong number of ids, statistics that do not fit the channels,
    and logits that are not finite.
    Differs from the released code: it takes 10 draws (AR:evaluator.py:236), which leave r a standard error of
    1/3 where it is 0, against 1/10 for the 100 here; its "mean" divides the image by the number of masked
    pixels of the whole batch (AR:evaluator.py:247).

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).eval()
    >>> x, maps = torch.rand(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    >>> sensitivity_n(network, x, maps, [0, 2], images=["a", "b"], draws=10).shape
    torch.Size([2, 5, 9])
    """
    if fill not in FILLS:
        raise InputError(f"fill {fill!r} is unknown; {nearest(fill, FILLS)}")
    fractions = shares(fractions, "fractions")
    model, x, target = gate(model, x, target)
    ranking, images = map_batch(ranking, "ranking", of=x), image_ids(images, x)
    counts = _draws(draws, ranking.shape[1])
    most = int(counts.max())
    mean, std = channel_statistics(mean, std, x)
    work = torch.arange(len(fractions) * most)

    def of_image(image: Tensor, maps: Tensor, y: Tensor, name: str) -> Tensor:
        z, scores = (image - mean) / std, maps.double().flatten(1)
        hidden, noise = (
            [Uniform(image_generator(seed, name, f"sensitivity/{q}{use}"), shape) for q in fractions]
            for use, shape in (("", z.shape[1:]), ("/fill", z.shape))
        )

        def answer(points: Tensor) -> Tensor:
            return scalar(model(points), y.expand(len(points)), "logit")[:, None]

        def masked(part: Tensor) -> Tensor:
            numbers = [divmod(number, most) for number in part.tolist()]
            hide = torch.stack([hidden[k][draw] < fractions[k] for k, draw in numbers]).to(x.device)  # (N, H, W)
            noisy = torch.stack([noise[k][draw] for k, draw in numbers]).to(z) if fill == "random" else None
            filling = _filling(noisy, z, hide, fill) * std + mean
            points = torch.where(hide[:, None], filling.to(x), image)
            return torch.cat([answer(points).double(), hide.flatten(1).double() @ scores.T], 1)

        found = answers(masked, model, x, work, batch=batch).view(len(fractions), most, -1)
        change, total = answers(answer, model, x, image[None], batch=batch) - found[..., :1], found[..., 1:]
        r = total.new_empty(len(maps), len(fractions))
        for count in counts.unique():
            r[counts == count] = _pearson(total[:, :count, counts == count], change[:, :count]).T
        return r

    return torch.stack([of_image(*each) for each in zip(x, ranking, target[:, None], images, strict=True)])


class Uniform:
    """A generator's draws of numbers in [0, 1), each again whenever it is asked for, the first time in order.

    What a row is masked by must not depend on how many rows are masked together, nor on a part of them that did not fit
    into memory and is run again; the generator's state before each draw says both.

    >>> draws = Uniform(torch.Generator().manual_seed(0), (2,))
    >>> first, second = draws[0], draws[1]
    >>> torch.equal(draws[0], first), torch.equal(draws[1], second), torch.equal(first, second)
    (True, True, False)
    """

    def __init__(self, generator: torch.Generator, shape: Sequence[int]):
        self.generator, self.shape, self.states = generator, shape, [generator.get_state()]

    def __getitem__(self, number: int) -> Tensor:
        self.generator.set_state(self.states[number])
        drawn = torch.rand(self.shape, generator=self.generator)
        if number + 1 == len(self.states):
            self.states.append(self.generator.get_state())
        return drawn


def _draws(given: int | Sequence[int], maps: int) -> Tensor:
    """How many draws each map gets, (M,)."""
    each = np.asarray(given).tolist()
    counts = [whole_number(count, "draws", 3) for count in (each if isinstance(each, list) else [each] * maps)]
    if len(counts) != maps:
        raise InputError(f"draws has {len(counts)} numbers; give one, or one for each of {maps} maps")
    return torch.tensor(counts)


def _filling(noise: Tensor | None, z: Tensor, masked: Tensor, fill: str) -> Tensor:
    """What masked pixels become, in normalised space: z (C, H, W), masked (N, H, W) -> a shape like (N, C, H, W)."""
    if noise is not None:
        return noise
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
