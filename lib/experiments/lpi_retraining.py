"""Retraining of the LPI study: digit networks that never see the pixels which a method scores highest, or lowest."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib.attribution import Riemann, attribute
from lib.attribution.gradients import random_maps
from lib.data.digits import Digits, digits
from lib.experiments import lpi
from lib.experiments.subjects import Subject
from lib.metrics.ranking import descending
from lib.models.zoo import Network
from lib.training.fit import digit_cnn, digit_network, fit

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the pixels removed before retraining


@lru_cache(maxsize=1)
def _whole_maps(path: str, clusters: int, cache: Path, train: int, test: int) -> tuple[Tensor, Tensor]:
    """One method's maps at 20 evaluations for the first training and test digits, (N, 28, 28) each."""
    network = digit_network(cache=cache)
    found = []
    for part in (digits("train").take(slice(train)), digits("test").take(slice(test))):
        if path == "random":
            found.append(random_maps(part.ids, (28, 28), seed=0))
            continue
        groups = [part.take(slice(start, start + 100)) for start in range(0, len(part.ids), 100)]
        found.append(torch.cat([_group_maps(network, group, path, clusters, cache) for group in groups]))
    return tuple(found)


def _group_maps(network: Network, group: Digits, path: str, clusters: int, cache: Path) -> Tensor:
    pool = digits("train")
    places = {image: row for row, image in enumerate(pool.ids)}
    own = [places.get(image, -1) for image in group.ids]
    device = next(network.model.buffers()).device
    of = Subject(network, group.x.to(device), group.y.to(device), group.ids, pool.x.to(device), own)
    found = lpi.sets(of, clusters=clusters, cache=cache) if path in ("dataset", "local") else {}
    references = found.get((path, "density" if path == "local" else "riemann_abs"))
    rule = Riemann("left" if path == "adversarial" else "mean")
    way = lpi.walk_of(of, path, 1, references=references)
    return attribute(of.model, of.x, of.target, path=way, rules={"a": rule}, objective="logit")["a"].abs().sum(1).cpu()


def retraining_units(paths: list[str]) -> dict[str, tuple]:
    """One training for each method, share of pixels removed, and end they are removed from."""
    base = {"nothing removed": ("none", 0.0, "highest")}
    return base | {
        f"{path} {share:g} {end}": (path, share, end)
        for path in paths
        for share in FRACTIONS
        for end in ("highest", "lowest")
    }


def retrained(
    path: str, share: float, end: str, *, clusters: int, train: int, test: int, epochs: int, cache: Path
) -> pd.DataFrame:
    """ROAR (Hooker et al. 2019): which test digits a network is right about that was trained without some pixels.

    The `share` of pixels with the highest or lowest scores is set to the training mean in training and test digits
    alike, and a new network is trained on them. One row per test digit, value 1 where it is right.
    """
    parts = [digits("train").take(slice(train)), digits("test").take(slice(test))]
    images = [part.x for part in parts]
    if share > 0:
        maps = _whole_maps(path, clusters, cache, train, test)
        fill = parts[0].x.mean()
        images = [_removed(x, each, share, end, fill) for x, each in zip(images, maps, strict=True)]
    model = fit(digit_cnn(seed=0), images[0], parts[0].y, epochs=epochs, seed=0, label=f"{path} {share:g}")
    device = next(model.parameters()).device
    with torch.no_grad():
        answers = torch.cat([model(x.to(device)).argmax(1).cpu() for x in images[1].split(256)])
    rows = {"image": parts[1].ids, "label": parts[1].y.tolist(), "value": (answers == parts[1].y).double().tolist()}
    return pd.DataFrame(rows).assign(path=path, share=share, end=end)


def _removed(x: Tensor, maps: Tensor, share: float, end: str, fill: Tensor) -> Tensor:
    order = descending(maps.flatten(1))
    count = int(share * order.shape[1])
    chosen = order[:, :count] if end == "highest" else order[:, order.shape[1] - count :]
    return x.flatten(1).scatter(1, chosen, float(fill)).view_as(x)


def games(table: pd.DataFrame) -> pd.DataFrame:
    """ROAR and DiffROAR of each test digit and share, from rows of `retrained`: image, path, share, game, value.

    ROAR: right when the highest are removed; DiffROAR: right without the lowest minus right without the highest. Both
    begin with the network from which nothing was removed.
    """
    cut, whole = table[table["share"] > 0], table[table["share"] == 0]
    cut = cut.pivot(index=["image", "path", "share"], columns="end", values="value").reset_index()
    start = pd.concat(
        [whole.assign(path=path, highest=whole["value"], lowest=whole["value"]) for path in cut["path"].unique()]
    )
    both = pd.concat([start, cut], ignore_index=True)[["image", "path", "share", "highest", "lowest"]]
    values = {"roar": both["highest"], "diffroar": both["lowest"] - both["highest"]}
    kept = both[["image", "path", "share"]]
    return pd.concat([kept.assign(game=game, value=value) for game, value in values.items()], ignore_index=True)


def roar(table: pd.DataFrame) -> pd.DataFrame:
    """The areas under `games`: one row for each test digit, method and metric, trapezoids divided by the range."""
    curves = games(table).pivot(index=["game", "path", "image"], columns="share", values="value")
    shares = [*curves.columns]
    areas = pd.Series(np.trapezoid(curves, shares, axis=1) / max(shares), curves.index, name="value").reset_index()
    labels = table.drop_duplicates("image").set_index("image")["label"]
    return areas.rename(columns={"game": "metric"}).assign(label=areas["image"].map(labels))
