"""The prior study: does a smoothness prior on re-calibrated attributions make a network more robust than on plain ones?

The paper says so in its abstract; on what data, with which prior and of what strength could not be found, and no code
was released. The protocol here is that of Erion et al. (2021), whose prior it must be: digits, Expected Gradients,
total variation, accuracy under Gaussian noise. Two schedules:

    joint     one Adam on (1 - strength) * cross-entropy + strength * variation
    separate  as in their released code (attributionpriors, mnist_train.py): a step on the cross-entropy and then one on
              the variation, each loss with its weight and an Adam of its own. Theirs takes the next batch for the
              second step, one reference (the neighbour in the batch), 60 epochs, dropout, and another network.
"""

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from lib import InputError, nearest
from lib.attribution import Lines, Recalibrated, Riemann, attribute
from lib.data.digits import Digits, digits
from lib.experiments.subjects import DIGITS, Subject
from lib.models.zoo import Network
from lib.seeds import image_generator
from lib.store.digest import content_key
from lib.training.fit import Diverged, classification_loss, digit_cnn, fit, kept_network, prepared
from lib.training.priors import (
    batch_draws,
    expected_gradients,
    recalibrated_gradients,
    smooth_loss,
    total_variation,
)
from lib.training.retraining import rightness

ATTRIBUTIONS = {"plain": expected_gradients, "recalibrated": recalibrated_gradients}
PRIORS = ("unregularised", "unregularised_longer", "noisy_digits", *ATTRIBUTIONS)
SCHEDULES = ("joint", "separate")
BATCH = 50  # as released
MAP_REFERENCES = 20  # of the maps whose smoothness is measured, one point on each
GROUP = 100  # digits whose maps are computed together


def prior_units(
    *, strengths: Sequence[float], levels: Sequence[float], seeds: Sequence[int], separate: Sequence[float]
) -> dict[str, tuple]:
    """{unit name: arguments of `prior_network` and `judged`}: prior, strength, seed and schedule of every training.

    The priors at each strength, noisy digits at each level in their place, and nothing at all, with every seed; and the
    priors by the separate schedule at the strengths `separate`, with the first seed.
    """
    grids = dict.fromkeys(PRIORS[:2], (0.0,)) | {"noisy_digits": levels} | dict.fromkeys(ATTRIBUTIONS, strengths)
    wanted = [(prior, strength, seed, "joint") for prior, grid in grids.items() for strength in grid for seed in seeds]
    wanted += [(prior, strength, seeds[0], "separate") for prior in ATTRIBUTIONS for strength in separate]
    return {
        f"{prior} {strength:g}, seed {seed}, {how}": each for each in wanted for prior, strength, seed, how in [each]
    }


def prior_network(
    prior: str, strength: float, seed: int, schedule: str, *, train: int, epochs: int, references: int, cache: Path
) -> Network:
    """The `digit_cnn` trained on the first `train` digits with a prior, prepared for attribution; weights are kept.

    prior: plain or recalibrated, of `strength` lambda, on `references` random digits of the batch with one point each;
    noisy_digits, that is Gaussian noise of deviation `strength` on the digits and no prior; unregularised; or
    unregularised_longer, for as many epochs as take about as long as a prior. Of one seed all start from the same
    weights and see the same batches, and both priors the same references and points: they differ in the mask and in the
    weights of points alone, and take as many evaluations.
    Raises InputError for another prior or schedule, Diverged where the loss is not finite.
    """
    for what, given, allowed in (("prior", prior, PRIORS), ("schedule", schedule, SCHEDULES)):
        if given not in allowed:
            raise InputError(f"There is no {what} {given!r}; {nearest(given, allowed)}")
    name = f"{DIGITS}_{prior}"
    asked = {"train": train, "epochs": epochs, "references": references}
    make = partial(_trained, prior, strength, seed, schedule, **asked)
    return prepared(name, kept_network(digit_cnn(), make, cache=cache, key=content_key(name, make)), (1, 28, 28))


def _trained(
    prior: str, strength: float, seed: int, schedule: str, *, train: int, epochs: int, references: int
) -> nn.Module:
    part = digits("train").take(slice(train))
    if prior == "unregularised_longer":
        epochs *= 1 + 3 * references  # a prior's step has a second derivative at each reference
    loss = _losses(prior, strength, seed, schedule, references)
    label = f"{prior} {strength:g}, seed {seed}, {schedule}"
    return fit(digit_cnn(seed=seed), part.x, part.y, epochs=epochs, seed=seed, batch=BATCH, loss=loss, label=label)


def _losses(prior: str, strength: float, seed: int, schedule: str, references: int) -> Callable | list[Callable]:
    if prior not in ATTRIBUTIONS:
        return partial(_noisy_loss, strength) if prior == "noisy_digits" else classification_loss
    generators = [torch.Generator().manual_seed(seed)]

    def drawn(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        draws = batch_draws(x, y, references, generators)
        return smooth_loss(model, x, y, attribution=ATTRIBUTIONS[prior], strength=strength, draws=draws)

    if schedule == "joint":
        return lambda model, x, y: drawn(model, x, y)[0]
    return [
        lambda model, x, y: (1 - strength) * classification_loss(model, x, y),
        lambda model, x, y: strength * drawn(model, x, y)[1],
    ]


def _noisy_loss(level: float, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return classification_loss(model, x + level * torch.randn(x.shape).to(x), y)


def judged(
    prior: str,
    strength: float,
    seed: int,
    schedule: str,
    *,
    levels: Sequence[float],
    valid: int,
    test: int,
    maps: int,
    train: int,
    cache: Path,
    **training,
) -> pd.DataFrame:
    """A row for each digit, level of noise and metric of one trained network; NaN where its training diverged.

    accuracy, accuracy_under_noise  1 where it is right, with Gaussian noise of deviation `level` on pixels in [0, 1],
        not clipped; of the part valid, the `valid` training digits after the first `train`, and of `test` digits
    variation_plain, variation_recalibrated  `total_variation` of the EG maps of the first `maps` test digits and of
        their re-calibrated ones, whichever the prior was
    """
    parts = {"valid": digits("train").take(slice(train, train + valid)), "test": digits("test").take(slice(test))}
    try:
        network = prior_network(prior, strength, seed, schedule, train=train, cache=cache, **training)
    except Diverged as error:
        print(error, file=sys.stderr)
        network = None
    frames = []
    for part, of in parts.items():
        for level in (0.0, *levels):
            metric = "accuracy_under_noise" if level else "accuracy"
            right = rightness(network.model, noisy(of, level), of.y) if network else torch.full(of.y.shape, torch.nan)
            frames.append(_rows(of, right).assign(part=part, level=level, metric=metric))
    chosen = parts["test"].take(slice(maps))
    for kind, variations in smoothness(network, chosen).items():
        frames.append(_rows(chosen, variations).assign(part="test", level=0.0, metric=f"variation_{kind}"))
    return pd.concat(frames).assign(prior=prior, strength=strength, seed=seed, schedule=schedule)


def _rows(of: Digits, values: Tensor) -> pd.DataFrame:
    return pd.DataFrame({"image": of.ids, "label": of.y.tolist(), "value": values.tolist()})


def smoothness(network: Network | None, of: Digits) -> dict[str, Tensor]:
    """{plain, recalibrated: total variation (N,) of each digit's map}, both from one walk; NaN without a network."""
    if network is None:
        return {kind: torch.full(of.y.shape, torch.nan) for kind in ATTRIBUTIONS}
    parts = [maps_of(network, of.take(slice(start, start + GROUP))) for start in range(0, len(of.ids), GROUP)]
    found = {kind: torch.cat([part[kind] for part in parts]) for kind in ATTRIBUTIONS}
    none = torch.zeros(1, dtype=torch.long)
    return {kind: torch.stack([total_variation(each[None], none) for each in maps]) for kind, maps in found.items()}


def maps_of(network: Network, of: Digits, *, seed: int = 0) -> dict[str, Tensor]:
    """{plain, recalibrated: maps (N, 1, 28, 28)} of digits by Expected Gradients, from training digits, on the CPU."""
    pool, device = digits("train"), next(network.model.buffers()).device
    subject = Subject(network, of.x.to(device), of.y.to(device), of.ids, pool.x.to(device), [-1] * len(of.ids))
    way = Lines(subject.drawn(MAP_REFERENCES, seed=seed), 1, "uniform", images=of.ids, seed=seed)
    rules = {"plain": Riemann("mean"), "recalibrated": Recalibrated()}
    found = attribute(network.model, subject.x, subject.target, path=way, rules=rules, objective="logit")
    return {kind: found[kind].cpu() for kind in rules}


def noisy(of: Digits, level: float) -> Tensor:
    """Digits (N, 1, 28, 28) with Gaussian noise of deviation `level`, not clipped; of digit and level alone."""
    return of.x + level * _noise(tuple(of.ids), level) if level else of.x


@lru_cache(maxsize=32)
def _noise(ids: tuple[str, ...], level: float) -> Tensor:
    drawn = [torch.randn(1, 28, 28, generator=image_generator(0, image, f"noise/{level:g}")) for image in ids]
    return torch.stack(drawn)
