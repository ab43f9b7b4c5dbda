"""How the cross matrix scores maps: one function for each family of metrics, all with the same limits on cost."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.attacks.noise import random_sign
from lib.data.imagenet import load_image
from lib.experiments.subjects import Key, Subject
from lib.metrics.chance import adjusted
from lib.metrics.diffid import diffid
from lib.metrics.information import blurred, information_curves
from lib.metrics.insertion import insertion
from lib.metrics.pic import pic
from lib.metrics.selection import dilate, top_k
from lib.metrics.sensitivity_n import sensitivity_n
from lib.metrics.stability import jpeg, spearman

MODE = "corrected"  # of all rows: nothing of a released code is repeated
FAMILIES = {  # metrics of a family look at maps in the same way; a family counts once where metrics are averaged
    "removal": ("diffid_logit", "deletion_logit"),
    "insertion": ("insertion", "insertion_ratio"),
    "information": ("aic_png", "sic_png"),
    "sensitivity": ("sensitivity_zero",),
    "stability": ("jpeg_spearman", "lens_above_turned"),
    "sanity": ("sanity_last", "sanity_all"),
}
SMALLER_IS_BETTER = ("deletion_logit", "sanity_last", "sanity_all")
Maps = Mapping[Key, Tensor]  # (B, H, W) each


@dataclass(frozen=True)
class Protocol:
    """How thoroughly the metrics look.

    ratios             shares of the pixels that are removed, evenly spaced: 9 are the papers' .1, .2, … .9
    insertion_steps    of insertion, 20 in the paper;  information_points: of AIC and SIC, 25 in the paper
    fractions, draws   masked shares and masks of each, of Sensitivity-n
    quality            of the JPEG files;  epsilon: of the random signs;  k, radius: of LENS recall
    """

    ratios: int = 9
    insertion_steps: int = 20
    information_points: int = 25
    fractions: tuple[float, ...] = (0.25, 0.5, 0.75)
    draws: int = 100
    quality: int = 75
    epsilon: float = 8 / 255
    k: int = 1000
    radius: int = 3


def removal(of: Subject, maps: Maps, how: Protocol) -> dict[str, Tensor]:
    """DiffID and pixel perturbation, by the logit: areas (B, M) by `lib.metrics.diffid.area`'s rule for any number of
    evenly spaced ratios."""
    ratios = [place / (how.ratios + 1) for place in range(1, how.ratios + 1)]
    statistics = {"mean": of.network.mean, "std": of.network.std}
    game = diffid(of.model, of.x, _stacked(maps), of.target, ratios=ratios, **statistics)
    curves = {"diffid_logit": game.diffid_logit, "deletion_logit": game.deletion_logit}
    return {metric: curve.sum(-1) / (how.ratios + 1) for metric, curve in curves.items()}


def inserted(of: Subject, maps: Maps, how: Protocol) -> dict[str, Tensor]:
    """Insertion on black, as probability and as its ratio to that of the whole image, (B, M) each."""
    game = insertion(of.model, of.x, _stacked(maps), of.target, steps=how.insertion_steps)
    return {"insertion": game.probability, "insertion_ratio": game.ratio}


def informed(of: Subject, maps: Maps, how: Protocol) -> dict[str, Tensor]:
    """AIC and SIC against the size of a PNG file, (B, M) each; NaN where their rules leave an image out."""
    veiled = torch.stack([of.network.tensor(blurred(load_image(photo))) for photo in of.photos]).to(of.x)
    asked = {"points": how.information_points, "measures": ("png",)}
    evidence = information_curves(of.model, of.x, veiled, _stacked(maps), of.target, **asked)
    return {f"{curve}_png": pic(evidence, curve, "png").auc for curve in ("aic", "sic")}


def sensitive(of: Subject, maps: Maps, how: Protocol, seed: int) -> dict[str, Tensor]:
    """Sensitivity-n by the mean colour, the mean over fractions, (B, M); all maps of an image share its masks."""
    asked = {"mean": of.network.mean, "std": of.network.std, "images": of.images, "seed": seed}
    asked |= {"draws": how.draws, "fractions": how.fractions}
    return {"sensitivity_zero": sensitivity_n(of.model, of.x, _stacked(maps), of.target, **asked).mean(-1)}


def re_encoded(of: Subject, how: Protocol) -> Tensor:
    """The photographs after a JPEG file in their own resolution, like x."""
    files = [jpeg(load_image(photo), quality=how.quality) for photo in of.photos]
    return torch.stack([of.network.tensor(file) for file in files]).to(of.x)


def under_noise(of: Subject, how: Protocol, seed: int) -> Tensor:
    """The images under one shot of random signs, like x."""
    return random_sign(of.x, epsilon=how.epsilon, images=of.images, seed=seed)


def stable(maps: Maps, lossy: Maps, noised: Maps, how: Protocol) -> dict[str, Tensor]:
    """Rank correlation with the maps of the JPEG files; LENS recall of the maps under noise, above its own level.

    That level is the recall of the noisy map turned by half a turn: as smooth, and as far from the image's middle, but
    of another place. Unlike the level by other images, it does not tie an image's score to those beside it.
    """
    recalls = []
    for key, before in maps.items():
        near, found = dilate(top_k(before, how.k)[0], how.radius), top_k(noised[key], how.k)[0]
        share, level = ((near & each).flatten(1).sum(1).double() / how.k for each in (found, found.flip(1, 2)))
        recalls.append(adjusted(share, level))
    return {
        "jpeg_spearman": torch.stack([spearman(each, lossy[key]) for key, each in maps.items()], 1),
        "lens_above_turned": torch.stack(recalls, 1),
    }


def alike(maps: Maps, others: Maps) -> Tensor:
    """Rank correlation of |map| with |other|, (B, M)."""
    return torch.stack([spearman(each.abs(), others[key].abs()) for key, each in maps.items()], 1)


def _stacked(maps: Maps) -> Tensor:
    return torch.stack(list(maps.values()), 1)


@contextmanager
def passes_of(*networks: nn.Module) -> Iterator[Counter]:
    """A block in which the images that networks are given are counted, with a gradient and without one.

    >>> network = nn.Flatten()
    >>> with passes_of(network) as spent, torch.no_grad():
    ...     found = network(torch.zeros(3, 1, 2, 2))
    >>> dict(spent)
    {'forward_passes': 3, 'gradient_passes': 0}
    """
    spent = Counter(forward_passes=0, gradient_passes=0)

    def note(_, given: tuple[Tensor, ...]) -> None:
        spent["gradient_passes" if torch.is_grad_enabled() else "forward_passes"] += len(given[0])

    handles = [network.register_forward_pre_hook(note) for network in networks]
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()
