"""Sensitivity-n and the sanity checks of the re-calibration study, for one unit of images."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from lib.experiments.recalibration import BY_POINT, BY_REFERENCE, integral_maps
from lib.experiments.subjects import DIGITS, Key, Subject, score_rows
from lib.metrics.diffid import RATIOS
from lib.metrics.sanity import Appearance, appearance, likeness, randomised, stages
from lib.metrics.sensitivity_n import sensitivity_n
from lib.models.fold import prepare
from lib.models.zoo import best_device, load_network
from lib.training.fit import digit_network

NO_STAGE = "-"  # of rows that belong to no stage; a table's empty text would be read back as missing
COMPARED = ("riemann", "riemann_abs", BY_POINT, BY_REFERENCE)
SCORED = (*COMPARED, "point_abs", "relu")


def sensitivity(
    load: Callable[[], Subject],
    *,
    points: int,
    references: int,
    paths: list[str],
    draws: dict[str, int],
    fills: list[str],
    seed: int = 0,
) -> pd.DataFrame:
    """Correlation of summed scores with the change of the logit, for every map, fill and share of masked pixels.

    draws: {mode: masks at each share}, 10 as released; a mode's maps are judged by its own number.
    """
    of = load()
    choice = {"points": points, "references": references, "seed": seed, "paths": paths, "rules": SCORED}
    maps = {key: each for mode in draws for key, each in integral_maps(of, mode, **choice).items()}
    ranking = torch.stack(list(maps.values()), 1)
    asked = {"images": of.images, "draws": [draws[mode] for *_, mode in maps], "seed": seed}
    asked |= {"mean": of.network.mean, "std": of.network.std}
    rows = []
    for fill in fills:
        found = sensitivity_n(of.model, of.x, ranking, of.target, fill=fill, **asked)
        for place, fraction in enumerate(RATIOS):
            for row in score_rows(of.items, maps, f"sensitivity_{fill}", found[..., place]):
                rows.append(row | {"fraction": fraction})
    return pd.DataFrame(rows).drop(columns="curve").assign(model=of.network.name)


def sanity(
    load: Callable[[], Subject],
    *,
    points: int,
    references: int,
    paths: list[str],
    weights: str = "",
    cache: Path,
    permuted_epochs: int = 60,
    seed: int = 0,
) -> pd.DataFrame:
    """How alike the maps of a network and of its randomised relatives are, image by image.

    comparison "cascade": weights re-drawn from the output down to `stage`; its first and last stage and its mean over
    stages again as "randomised, first", "randomised, all", "randomised, mean". For digits also "permuted labels" (a
    network that memorised them) and "other initial weights" (a network like the first, trained from another start):
    what similarity means when nothing but chance differs. permuted_epochs: at most so many to memorise.
    """
    of = load()
    choice = {"points": points, "references": references, "paths": paths, "seed": seed}
    original = {key: appearance(each) for key, each in _maps(of, of.model, choice).items()}
    cascade, rows = [], []
    for stage, model in _cascade(of, weights, seed):
        found = _compared(of, original, model, choice)
        cascade.append(found)
        rows += [row | {"comparison": "cascade", "stage": stage} for row in _rows(of, original, found)]
    ends = {"first": cascade[0], "all": cascade[-1]}
    ends["mean"] = {metric: torch.stack([found[metric] for found in cascade]).mean(0) for metric in cascade[0]}
    for name, found in ends.items():
        rows += [row | {"comparison": f"randomised, {name}", "stage": NO_STAGE} for row in _rows(of, original, found)]
    if of.network.name == DIGITS:
        relatives = {"permuted labels": digit_network(cache=cache, permuted=True, epochs=permuted_epochs)}
        relatives["other initial weights"] = digit_network(cache=cache, seed=1)
        for name, network in relatives.items():
            found = _compared(of, original, network.model, choice)
            rows += [row | {"comparison": name, "stage": NO_STAGE} for row in _rows(of, original, found)]
    return pd.DataFrame(rows).drop(columns="curve").assign(model=of.network.name)


def cascade_maps(
    of: Subject, *, points: int, references: int, path: str, weights: str = "", seed: int = 0
) -> dict[str, dict[str, Tensor]]:
    """The maps (B, H, W) behind the cascade of `sanity`, of one path: {rule: {"original" or stage: maps}}."""
    choice = {"points": points, "references": references, "paths": [path], "seed": seed}
    found = {stage: _maps(of, model, choice) for stage, model in [("original", of.model), *_cascade(of, weights, seed)]}
    return {key[1]: {stage: maps[key] for stage, maps in found.items()} for key in found["original"]}


def _cascade(of: Subject, weights: str, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """(stage, network with everything from the output down to it re-drawn), ready for attribution."""
    name, shape = of.network.name, tuple(of.x.shape[1:])
    # Re-drawn before batch norms are folded into the convolutions, as released.
    bare = of.model if name == DIGITS else load_network(name, weights=weights or None, prepared=False).model
    for stage in stages(bare):
        named = f"{type(bare[int(stage)]).__name__} {stage}" if stage.isdigit() else stage
        yield named, prepare(randomised(bare, stage, seed=seed), shape=shape).to(best_device())


def _maps(of: Subject, model: nn.Module, choice: dict) -> dict[Key, Tensor]:
    """The maps that are compared, of a network that need not be the subject's own, for the same images and classes."""
    other = replace(of, network=replace(of.network, model=model))
    return integral_maps(other, "corrected", rules=COMPARED, **choice)


def _compared(of: Subject, original: dict[Key, Appearance], model: nn.Module, choice: dict) -> dict[str, Tensor]:
    """{metric: similarity (B, M)} of the original's maps and those of another network for the same classes."""
    maps = _maps(of, model, choice)
    both = [likeness(each, appearance(maps[key])) for key, each in original.items()]
    return {metric: torch.stack([found[metric] for found in both], 1) for metric in both[0]}


def _rows(of: Subject, maps: Iterable[Key], found: dict[str, Tensor]) -> list[dict]:
    return [row for metric, values in found.items() for row in score_rows(of.items, maps, metric, values)]
