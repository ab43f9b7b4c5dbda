"""The density study: small networks trained with a penalty on a log density's gradient, and the strength it is given.

A training is a set of images, a penalty, its strength and a seed. Its weights are kept, so that it is done once,
whatever is asked of it afterwards. Strengths are chosen on validation images alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lib import InputError, nearest
from lib.attribution.gradients import input_gradient
from lib.data.blockmnist import SHAPE, Blocks, block_mnist
from lib.data.digits import MEAN, STD
from lib.data.spurious import CLASSES, FOLDERS, SIDE, Grouped, spurious_set
from lib.metrics.leakage import leakage
from lib.models.fold import prepare
from lib.models.layers import Normalize
from lib.models.rar_resnet import rar_network
from lib.models.zoo import best_device
from lib.seeds import seeded
from lib.store.digest import content_key
from lib.training.density import DENSITIES, PENALTIES, density_loss, density_penalty, penalised, reweighted_loss
from lib.training.fit import Diverged, classification_loss, fit, kept_network

BLOCKS = "blockmnist"
SHAPES = {
    BLOCKS: SHAPE,
    "digits_on_photographs": (1, 28, 28),
    **dict.fromkeys(("waterbirds", "celeba_hair"), (3, SIDE, SIDE)),
}
METHODS = ("plain", "reweighted", *PENALTIES)
WITHIN = 0.01  # of the accuracy of plain training, which a strength may cost on BlockMNIST


@dataclass(frozen=True)
class Training:
    """How every network of the study is trained: Adam from `learning_rate` down to 0.

    limit: only so many training images, 0 for all; step: of the penalties that take finite steps, in pixel values
    """

    epochs: int = 8
    batch: int = 50
    learning_rate: float = 2e-3
    limit: int = 0
    step: float = 0.01


def sets_below(root: str | Path) -> list[str]:
    """The packaged set with groups, and those of the others whose folder lies below `root`."""
    there = [name for name, folder in FOLDERS.items() if root and (Path(root) / folder).is_dir()]
    return ["digits_on_photographs", *there]


def images_of(name: str, part: str, *, root: str | Path = "", limit: int = 0) -> Blocks | Grouped:
    """Part "train", "valid" or "test" of a set of SHAPES; raises InputError for another set, and as its loader."""
    if name not in SHAPES:
        raise InputError(f"there is no set {name!r}; {nearest(name, SHAPES)}")
    return block_mnist(part, limit=limit) if name == BLOCKS else spurious_set(name, part, root=root, limit=limit)


def untrained_classifier(name: str, *, seed: int = 0) -> nn.Sequential:
    """The network of a set with random weights: two strided convolutions for grey images, else the `rar_network`.

    Neither has batch norms, so that a gradient is of one image.
    """
    channels, height, width = SHAPES[name]
    if channels == 3:
        return rar_network(classes=CLASSES, blocks=2, seed=seed).requires_grad_(True).train()
    with seeded(seed):
        return nn.Sequential(
            Normalize(MEAN, STD),
            nn.Conv2d(1, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * (height // 4) * (width // 4), 64),
            nn.ReLU(),
            nn.Linear(64, 10 if name == BLOCKS else CLASSES),
        )


def density_network(
    name: str, penalty: str, strength: float, seed: int, *, how: Training, root: str | Path = "", cache: Path
) -> nn.Module:
    """A trained network, prepared for attribution, on the best device; its weights are kept in `cache`.

    penalty: one of METHODS: plain and reweighted (by group, for sets with groups) have no strength. Initial weights and
    batches depend on the seed alone.
    Raises Diverged where its loss became infinite or NaN; InputError for another set or penalty, and as `fit`.
    """
    if penalty not in METHODS:
        raise InputError(f"there is no penalty {penalty!r}; {nearest(penalty, METHODS)}")
    of = f"{name}-{penalty}-{strength:g}-seed{seed}"
    train = partial(_trained, name, penalty, strength, seed, how=how, root=root)
    model = kept_network(untrained_classifier(name), train, cache=cache, key=content_key(of, train))
    return prepare(model, shape=SHAPES[name]).to(best_device())


def _trained(name: str, penalty: str, strength: float, seed: int, *, how: Training, root: str | Path) -> nn.Module:
    of = images_of(name, "train", root=root, limit=how.limit)
    y, loss = of.y, classification_loss
    if penalty == "reweighted":
        if not isinstance(of, Grouped):
            raise InputError(f"{name} has no groups to reweight; give a set with a spurious attribute.")
        y, loss = of.groups, partial(reweighted_loss, counts=of.counts, classes=CLASSES)
    elif penalty != "plain":
        loss = partial(density_loss, **penalised(penalty, strength, how.step))
    label = f"{name}, {penalty} {strength:g}, seed {seed}"
    options = {"epochs": how.epochs, "batch": how.batch, "learning_rate": how.learning_rate, "label": label}
    return fit(untrained_classifier(name, seed=seed), of.x, y, seed=seed, loss=loss, **options)


def training_grid(
    name: str, penalties: Sequence[str], strengths: Sequence[float], seeds: Sequence[int]
) -> dict[str, tuple]:
    """{unit name: the first arguments of `validated`}: plain training, and each penalty at each strength, each seed."""
    asked = [("plain", 0.0), *((penalty, strength) for penalty in penalties for strength in strengths)]
    return {
        f"{name}-{penalty}-{strength:g}-seed{seed}": (name, penalty, float(strength), seed)
        for penalty, strength in asked
        for seed in seeds
    }


def final_grid(name: str, chosen: dict[str, float], seeds: Sequence[int]) -> dict[str, tuple]:
    """{unit name: the first arguments of `density_scores.scored`}: each penalty at its chosen strength, for each seed.

    With them, at the strength of the marginal penalty, its other implementations on BlockMNIST; and reweighting where
    there are groups.
    """
    asked = dict(chosen)
    if name != BLOCKS:
        asked["reweighted"] = 0.0
    elif "marginal" in chosen:
        asked |= {each: chosen["marginal"] for each in PENALTIES if each.startswith("marginal_")}
    return {
        f"{name}-{penalty}-{strength:g}-seed{seed}": (name, penalty, strength, seed)
        for penalty, strength in asked.items()
        for seed in seeds
    }


def validated(
    name: str,
    penalty: str,
    strength: float,
    seed: int,
    *,
    how: Training,
    limit: int,
    root: str | Path = "",
    cache: Path,
) -> pd.DataFrame:
    """What a training does on the first `limit` validation images, one row a metric:

    diverged (0 or 1; then nothing else), valid_accuracy, valid_worst_group (of sets with groups), the mean penalties
    joint, conditional and marginal, and of BlockMNIST the gradient's leakage (sum and share, of the logit).
    """
    keys = {"set": name, "penalty": penalty, "strength": strength, "seed": seed}
    try:
        model = density_network(name, penalty, strength, seed, how=how, root=root, cache=cache)
    except Diverged:
        return pd.DataFrame([keys | {"metric": "diverged", "value": 1.0}])
    of, device = images_of(name, "valid", root=root, limit=limit), best_device()
    right = answered_right(model, of)
    found = {"diverged": 0.0, "valid_accuracy": right.mean().item()}
    if isinstance(of, Grouped):
        found["valid_worst_group"] = worst_group(right, of.groups)
    x, y = of.x[:200].to(device), of.y[:200].to(device)
    for density in DENSITIES:
        found[density] = density_penalty(model, x, y, density=density)[1].mean().item()
    if isinstance(of, Blocks):
        means = [each.nanmean().item() for each in leakage(input_gradient(model, x, y), of.null[:200])]
        found |= dict(zip(("leakage_sum", "leakage_share"), means, strict=True))
    return pd.DataFrame([keys | {"metric": metric, "value": value} for metric, value in found.items()])


@torch.no_grad()
def answered_right(model: nn.Module, of: Blocks | Grouped) -> Tensor:
    """1 where the network is right about an image of the set, else 0: (N,), float64 on the CPU."""
    device = next(model.parameters()).device
    parts = [model(images.to(device)).argmax(1).cpu() for images in of.x.split(256)]
    return (torch.cat(parts) == of.y).double()


def worst_group(right: Tensor, groups: Tensor) -> float:
    """The lowest accuracy of any group: right (N,) 0 or 1, groups (N,); groups without images do not count."""
    return min(right[groups == group].mean().item() for group in groups.unique().tolist())


def density_strengths(rows: pd.DataFrame, name: str, *, within: float = WITHIN) -> dict[str, float]:
    """For each penalty the strength that the validation images of a set choose; 0 for plain and reweighted.

    Of BlockMNIST the largest whose mean validation accuracy over seeds is within `within` of plain training's: all
    penalties are compared at about equal accuracy, and as strong as that allows; where no strength is, the one of
    highest accuracy. Of sets with groups the one of highest mean accuracy in the worst group. A strength of which one
    training diverged is not chosen; a penalty of which all strengths have one is absent.
    rows: those of `validated`, of any sets
    """
    rows = rows[rows["set"] == name]
    by = "valid_accuracy" if name == BLOCKS else "valid_worst_group"
    wide = rows.pivot(index=["penalty", "strength", "seed"], columns="metric", values="value")
    wide = wide.reindex(columns=["diverged", by]).groupby(level=["penalty", "strength"])
    kept = wide[by].mean()[wide["diverged"].max() == 0]
    found = {}
    for penalty, of in kept.groupby(level="penalty", sort=False):
        of = of.droplevel("penalty")
        allowed = of[of >= kept.get(("plain", 0.0), np.inf) - within] if name == BLOCKS else of.iloc[:0]
        found[penalty] = float(allowed.index.max() if len(allowed) else of.idxmax())
    return {penalty: found[penalty] for penalty in dict.fromkeys(rows["penalty"]) if penalty in found}
