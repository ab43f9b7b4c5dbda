"""The retraining study: what is left for a network that never saw the pixels a map scores highest, or lowest.

A map comes in two stages of units: `ranked` explains a few images by some methods and keeps the places of their pixels,
`retrained` trains one network without a share of them. Maps are of the labels, as in the papers, which say so of test
images, too.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from lib.attribution import Riemann, attribute
from lib.attribution.gradients import input_gradient, random_maps
from lib.data.digits import Digits
from lib.data.imagesets import image_set
from lib.experiments import lpi
from lib.experiments.recalibration import BY_POINT, integral_maps
from lib.experiments.subjects import Subject
from lib.metrics.ranking import pixel_order
from lib.store.digest import digest
from lib.training.fit import Diverged
from lib.training.retraining import ENDS, SHARES, STARTS, filled, removed_pixels, retrained_network, rightness
from lib.training.robust import trained_network

RULES = ("riemann", "riemann_abs", BY_POINT)  # signed, absolute, re-calibrated
INTEGRAL = ("straight", "uniform", "noise", "noise_squared", "dataset", "adversarial")
MAPS = {  # every map of the study: {what is walked once: (path, rule) of the maps made of it}
    **{path: [(path, rule) for rule in RULES] for path in INTEGRAL if not path.startswith("noise")},
    "noise": [(path, rule) for path in ("noise", "noise_squared") for rule in RULES],
    "local": [("local", "density")],
    "none": [("none", rule) for rule in ("gradient", "gradient_signed", "gradient_relu", "sobel", "random")],
}
MASK = "mask alone"  # a network that is shown which pixels are removed, and nothing else


def map_units(
    data: str, part: str, *, limit: int, group: int, root: str = "", cache: Path
) -> dict[str, Callable[[], Subject]]:
    """{unit name: what loads its subject}: the first `limit` images of a part of an image set, `group` at a time.

    limit: 0 for all
    """
    size = len(_whole(data, part, root, digest(root)).ids)
    size, kept = min(limit or size, size), {"root": root, "cache": cache}
    return {
        f"{data}-{part}-{start}": partial(explained_part, data, part, start, min(start + group, size), **kept)
        for start in range(0, size, group)
    }


def explained_part(data: str, part: str, start: int, stop: int, *, root: str, cache: Path) -> Subject:
    """Images start … stop - 1 of a part, with the set's natural network; references come from the training images."""
    chosen, pool = _whole(data, part, root, digest(root)), _whole(data, "train", root, digest(root))
    chosen, places = chosen.take(slice(start, stop)), {image: row for row, image in enumerate(pool.ids)}
    network = _natural(data, root, digest(root), cache)
    device = next(network.model.parameters()).device
    own = [places.get(image, -1) for image in chosen.ids]
    return Subject(network, chosen.x.to(device), chosen.y.to(device), chosen.ids, pool.x.to(device), own)


@lru_cache(maxsize=2)
def _whole(data: str, part: str, root: str, content: str) -> Digits:
    return image_set(data, part, root=root)


@lru_cache(maxsize=1)
def _natural(data: str, root: str, content: str, cache: Path):
    return trained_network("natural", data, root=root, cache=cache)


def ranked(
    load: Callable[[], Subject], walk: str, *, points: int, references: int, clusters: int, cache: Path, seed: int = 0
) -> pd.DataFrame:
    """Image, label, and for each map of a walk of MAPS a column "path rule": the places of its pixels (H W,).

    LPI has a point on each of its twenty references; all others have `points` on each of `references`.
    """
    of = load()
    if walk == "none":
        maps = _controls(of, seed)
    elif walk == "local":
        near = lpi.sets(of, clusters=clusters, cache=cache, seed=seed)["local", "density"]
        way = lpi.walk_of(of, "local", 1, references=near, seed=seed)
        asked = {"rules": {"density": Riemann("mean")}, "objective": "logit"}
        found = attribute(of.model, of.x, of.target, path=way, **asked)["density"]
        maps = {("local", "density"): found.abs().sum(1)}
    else:
        asked = {"points": points, "references": references, "rules": RULES, "seed": seed}
        paths = list(dict.fromkeys(path for path, _ in MAPS[walk]))
        found = integral_maps(of, "corrected", paths=paths, **asked)
        maps = {key[:2]: each for key, each in found.items()}
    rows = pd.DataFrame({"image": of.images, "label": of.target.tolist()})
    kind = torch.int16 if of.x[0, 0].numel() < 2**15 else torch.int32
    places = {_column(*key): pixel_order(maps[key]).flatten(1).to(kind).cpu() for key in MAPS[walk]}
    return rows.assign(**{name: list(each.numpy()) for name, each in places.items()})


def _controls(of: Subject, seed: int) -> dict[tuple[str, str], Tensor]:
    gradient = input_gradient(of.model, of.x, of.target)
    maps = {
        "gradient": gradient.abs().sum(1),
        "gradient_signed": gradient.sum(1),
        "gradient_relu": gradient.clamp(min=0).sum(1),
        "sobel": edges(of.x),
        "random": random_maps(of.images, of.x.shape[2:], seed=seed),
    }
    return {("none", rule): each for rule, each in maps.items()}


def edges(x: Tensor) -> Tensor:
    """Sobel's edges, which know the image and no network: images (B, C, H, W) -> magnitudes (B, H, W), 0 or more.

    Of the mean over channels; beyond its border an image goes on as at it.

    >>> edges(torch.tensor([[[[0.0, 0.0, 1.0, 1.0]]]]))
    tensor([[[0.0000, 0.5000, 0.5000, 0.0000]]])
    """
    kernel = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]], dtype=x.dtype, device=x.device) / 8
    grey = functional.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(grey, torch.stack([kernel, kernel.T])[:, None]).square().sum(1).sqrt()


def retraining_units(
    files: Mapping[str, tuple[Sequence[Path], Sequence[Path]]], *, seeds: Sequence[int], trainings: Sequence[str]
) -> dict[str, tuple]:
    """{unit name: arguments of `retrained`}: one training for each map, share, end, way of training and seed.

    files: {walk of MAPS: what `ranked` left of the training images, and of the test images}
    A network shown masks alone is trained for the highest scores only: which pixels are lowest in 30 % says the same as
    which are highest in 70 %. Networks of whole images, share 0, use the files of the walk "none".
    """
    wanted = [
        (*key, share, end, files[walk]) for walk in files for key in MAPS[walk] for share in SHARES for end in ENDS
    ]
    found = {}
    for training in trainings:
        whole = [("none", "random", 0.0, ENDS[0], files["none"])] if training in STARTS else []
        for seed in seeds:
            for path, rule, share, end, both in [*whole, *wanted]:
                if training in STARTS or end == ENDS[0]:
                    name = f"{training}, {path} {rule} {share:g} {end}, seed {seed}"
                    found[name] = (path, rule, share, end, training, seed, *map(tuple, both))
    return found


def retrained(
    path: str,
    rule: str,
    share: float,
    end: str,
    training: str,
    seed: int,
    train: tuple[Path, ...],
    test: tuple[Path, ...],
    *,
    data: str,
    epochs: int,
    root: str = "",
    cache: Path,
) -> pd.DataFrame:
    """Which test images a network is right about that was trained without some pixels: a row each, value 0 or 1, or NaN
    where the training diverged.

    The pixels are set to the mean of the training images, in training and test images alike; to a network shown the
    mask alone they are 1 and all others 0.
    """
    parts = [_part(files, _column(path, rule), data, root, digest(root)) for files in (train, test)]
    fill, inputs = float(parts[0][0].x.mean()), []
    for images, places in parts:
        removed = removed_pixels(places, share, end)
        mask = removed[:, None].expand_as(images.x).to(images.x)
        inputs.append(mask if training == MASK else filled(images.x, removed, fill))
    asked = {"data": data, "start": STARTS[0] if training == MASK else training, "seed": seed, "epochs": epochs}
    label = f"{path} {rule} {share:g}"
    images = parts[1][0]
    try:
        model = retrained_network(inputs[0], parts[0][0].y, root=root, cache=cache, label=label, **asked)
        right = rightness(model, inputs[1], images.y)
    except Diverged as error:
        print(error, file=sys.stderr)
        right = torch.full(images.y.shape, torch.nan)
    rows = {"image": images.ids, "label": images.y.tolist(), "value": right.tolist()}
    return pd.DataFrame(rows).assign(path=path, rule=rule, training=training, seed=seed, share=share, end=end)


@lru_cache(maxsize=2)
def _part(files: tuple[Path, ...], column: str, data: str, root: str, content: str) -> tuple[Digits, Tensor]:
    """The images that `ranked` explained, and the places of their pixels by one map (N, H, W)."""
    rows = pd.concat([pd.read_parquet(file, columns=["image", column]) for file in files], ignore_index=True)
    for part in ("train", "test"):
        whole = _whole(data, part, root, content)
        at = {image: row for row, image in enumerate(whole.ids)}
        if rows["image"].iloc[0] in at:
            images = whole.take([at[image] for image in rows["image"]])
    return images, torch.from_numpy(np.stack(rows[column])).view(-1, *images.x.shape[2:])


def _column(path: str, rule: str) -> str:
    return f"{path} {rule}"
