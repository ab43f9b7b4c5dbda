"""X-Gradient under masks: the maps of the X-DNN paper's Table 2, and what keeping or removing their pixels leaves."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from lib.attribution import Lines, Riemann, attribute
from lib.attribution.gradients import input_gradient, random_maps
from lib.experiments.subjects import Key, Subject, score_rows
from lib.experiments.xdnn import BATCH, integrated
from lib.metrics.masks import GAMES, Masks, masks
from lib.models.homogeneity import origin


def gradient_maps(of: Subject, modes: Iterable[str], *, steps: int, seed: int = 0) -> dict[Key, Tensor]:
    """The signed maps (B, H, W), means over channels, that the paper's Table 2 compares, for each mode.

    Integrated gradients of `steps` Gauss points from the origin, Expected Gradients with one reference and one point,
    the gradient, X-Gradient (input times gradient where there are biases), and random numbers. Modes differ in Expected
    Gradients only: in "released" two images of a batch share reference and point (attribution_metrics.py:243).
    """
    asked = (of.model, of.x, of.target)
    gradient = input_gradient(*asked)
    shared = {
        ("straight", "riemann", steps): integrated(*asked, steps)[0],
        ("none", "gradient", 1): gradient,
        ("none", "x_gradient", 1): (of.x - origin(of.model)) * gradient,
        ("none", "random", 0): random_maps(of.images, of.x.shape[2:], seed=seed).to(of.x)[:, None] - 0.5,
    }
    maps = {}
    for mode in modes:
        each = shared | {("dataset", "riemann", 1): _expected(of, mode, seed)}
        maps |= {(*key, mode): scores.mean(1) for key, scores in each.items()}
    return maps


def _expected(of: Subject, mode: str, seed: int) -> Tensor:
    size = BATCH["expected_gradients"] if mode == "released" else 1
    leaders = [b - b % size for b in range(len(of.x))]
    named = replace(of, images=[of.images[b] for b in leaders], own=[of.own[b] for b in leaders])
    path = Lines(named.drawn(1, seed=seed), 1, "uniform", images=named.images, seed=seed)
    rules = {"eg": Riemann("mean")}
    return attribute(of.model, of.x, of.target, path=path, rules=rules, objective="logit")["eg"]


def xdnn_benchmark(load: Callable[[], Subject], *, steps: int, modes: list[str], seed: int = 0) -> pd.DataFrame:
    """The areas of the six mask games for each map, and the gaps that the claims are about, image by image.

    mode "released": the kernel of the released code, and its Expected Gradients.
    """
    of, rows = load(), []
    found = gradient_maps(of, modes, steps=steps, seed=seed)
    for mode in modes:
        maps = {key: each for key, each in found.items() if key[3] == mode}
        kernel = "stated" if mode == "corrected" else "released"
        games = masks(of.model, of.x, torch.stack(list(maps.values()), 1), of.target, kernel=kernel)
        for game in GAMES:
            rows += score_rows(of.items, maps, game, games.area(game))
        rows += _gaps(of, list(maps), games)
    return pd.DataFrame(rows).drop(columns="curve")


def _gaps(of: Subject, keys: list[Key], games: Masks) -> list[dict]:
    place = {key[:2]: m for m, key in enumerate(keys)}
    ours, theirs, noise = (place[key] for key in (("none", "x_gradient"), ("straight", "riemann"), ("none", "random")))
    rows = []
    for game in GAMES:
        gap = (games.area(game)[:, ours] - games.area(game)[:, theirs]).abs()
        rows += score_rows(of.items, [keys[ours]], f"gap_{game}", gap[:, None])
    for name, a, b in (("signed", "keep_positive", "keep_negative"), ("absolute", "keep_absolute", "remove_absolute")):
        gap = (games.area(a) - games.area(b))[:, noise]
        rows += score_rows(of.items, [keys[noise]], f"random_gap_{name}", gap[:, None])
    return rows


def game_curves(
    load: Callable[[], Subject], game: str, *, mode: str = "corrected", steps: int = 128
) -> dict[str, Tensor]:
    """The curve of one game for each map of one unit: {rule and path: (B, F)}, with "fractions" (F,)."""
    of = load()
    maps = gradient_maps(of, [mode], steps=steps)
    games = masks(of.model, of.x, torch.stack(list(maps.values()), 1), of.target)
    each = games.accuracy if game.endswith("absolute") else games.logit
    found = {f"{path} {rule}": each[:, m, GAMES.index(game)] for m, (path, rule, _, _) in enumerate(maps)}
    return found | {"fractions": games.fractions}
