"""What the studies explain: photographs with an ImageNet network, or digits with a small one trained on the spot."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib import InputError
from lib.attribution.references import FromPool, drawn_from
from lib.data.digits import digits
from lib.data.imagenet import Photograph, explained_and_pool, load_image
from lib.data.readability import readable, unreadable
from lib.models.zoo import Network, best_device, load_network
from lib.store.digest import digest
from lib.store.files import write_atomically
from lib.training.fit import digit_network

DIGITS = "mnist_cnn"
DIGITS_WITHOUT_BIASES = "mnist_xcnn"


class Item(NamedTuple):
    """What a row of scores says of its image."""

    id: str
    label: int


@dataclass(frozen=True)
class Subject:
    """A network and a few images to explain with it, on the best device.

    x (B, C, H, W) in [0, 1], target (B,) their labels, images: their ids; pool (P, C, H, W): the images that Expected
    Gradients draws its references from; own: each image's place in the pool, -1 where it is not in it
    """

    network: Network
    x: Tensor
    target: Tensor
    images: list[str]
    pool: Tensor
    own: list[int]

    @property
    def model(self):
        return self.network.model

    @property
    def items(self) -> list[Item]:
        return [Item(*item) for item in zip(self.images, self.target.tolist(), strict=True)]

    def drawn(self, count: int, *, seed: int = 0) -> FromPool:
        """`count` images of the pool as each image's references, itself excepted."""
        index = drawn_from(len(self.pool), count, images=self.images, seed=seed, own=self.own)
        return FromPool(self.pool, index.to(self.pool.device))

    def answers(self) -> tuple[Tensor, Tensor]:
        """The network's logits (B, K) and whether it is right (B,)."""
        with torch.no_grad():
            logits = self.model(self.x)
        return logits, logits.argmax(1) == self.target


def subject_units(
    name: str,
    *,
    images: str,
    limit: int,
    digits_limit: int,
    group: int,
    pool: int,
    weights: str = "",
    cache: Path,
    load: Callable[[str, str], Network] | None = None,
    fewest: int = 1,
) -> dict[str, Callable[[], Subject]]:
    """{unit name: what loads its subject}, `group` images each, see `grouped`.

    name: `mnist_cnn` for test digits, trained where `cache` lacks it, or `mnist_xcnn`, its twin without biases; any
    other network for photographs, from load(name, weights), by default `network_named`. limit,
    digits_limit: how many images, 0 for all. pool: how many photographs references are drawn from, see
    `explained_and_pool`, the first one explained where none of them can be read; digits draw from all training digits.
    Raises InputError for a group or pool below 1.
    """
    if group < 1 or pool < 1:
        raise InputError(f"group is {group} and pool {pool}; give the number of images, at least 1")
    if name in (DIGITS, DIGITS_WITHOUT_BIASES):
        count = len(digits("test").take(slice(digits_limit or None)).ids)
        size = 8 * group  # twenty-eight pixels a side
        starts = range(0, count, size)
        parts = [(s, min(s + size, count)) for s in starts]
        return {f"{name}-{s}-{end}": partial(_digits, name == DIGITS, s, end, cache) for s, end in parts}
    explained, drawn = explained_and_pool(images, limit=limit, pool=pool)
    parts = grouped(explained, group, cache=cache, fewest=fewest)
    faults = unreadable(drawn, cache=cache)
    shared = _listed([photo for photo in drawn if photo not in faults] or parts[0][:1], cache)
    load = partial(load or network_named, name, weights)
    return {f"{name}-{part[0].id}-{len(part)}": partial(_photographed, load, part, shared, cache) for part in parts}


def grouped(photos: list[Photograph], size: int, *, cache: Path | None, fewest: int = 1) -> list[list[Photograph]]:
    """The photographs, `size` each, without those that cannot be read, see `readable`; without a cache all of them.

    An unreadable one leaves its place empty, so that all other groups are as they would be with it. What is left of a
    group with fewer than `fewest` joins the group beside it.
    """
    kept = set(readable(photos, cache=cache) if cache else photos)
    parts: list[list[Photograph]] = []
    for start in range(0, len(photos), size):
        part = [photo for photo in photos[start : start + size] if photo in kept]
        if parts and (len(part) < fewest or len(parts[-1]) < fewest):
            parts[-1] += part
        elif part:
            parts.append(part)
    return parts


def _digits(bias: bool, start: int, stop: int, cache: Path) -> Subject:
    chosen = digits("test").take(slice(start, stop))
    device = best_device()
    x, target = chosen.x.to(device), chosen.y.to(device)
    network = _digit_network(cache, bias)
    return Subject(network, x, target, chosen.ids, digits("train").x.to(device), [-1] * len(x))


def _listed(shared: list[Photograph], cache: Path) -> str:
    """The digest of a pool, under which `cache` keeps the list of its photographs, so that units need not carry it."""
    content = digest(shared)
    rows = [(os.path.abspath(photo.path), photo.label, photo.id) for photo in shared]
    write_atomically(_list_file(cache, content), json.dumps(rows))
    return content


def _list_file(cache: Path, content: str) -> Path:
    return Path(cache) / f"pool-{content}.json"


def _photographed(load: Callable[[], Network], photos: list[Photograph], shared: str, cache: Path) -> Subject:
    network = load()
    x, target = batch(network, photos)
    ids = [photo.id for photo in photos]
    places, pool = _pool(network, shared, cache)
    return Subject(network, x, target, ids, pool, [places.get(each, -1) for each in ids])


def network_named(name: str, weights: str) -> Network:
    """The prepared network on the best device, kept for the next unit as long as its weight files are the same."""
    return _loaded(name, weights, digest(weights))


@lru_cache(maxsize=1)
def _loaded(name: str, weights: str, content: str) -> Network:
    return load_network(name, weights=weights or None)


@lru_cache(maxsize=1)
def _digit_network(cache: Path, bias: bool) -> Network:
    return digit_network(cache=cache, bias=bias)


@lru_cache(maxsize=1)
def _pool(network: Network, content: str, cache: Path) -> tuple[dict[str, int], Tensor]:
    """{id: place} and the images of a pool, see `_listed`."""
    rows = json.loads(_list_file(cache, content).read_text(encoding="utf-8"))
    shared = [Photograph(Path(path), label, name) for path, label, name in rows]
    return {photo.id: place for place, photo in enumerate(shared)}, batch(network, shared)[0]


def content_of(network: Network, pool: Tensor) -> str:
    """The digest of a network's weights and of a pool; gigabytes, read once as long as nothing is written to them."""
    tensors = (*network.model.state_dict().values(), pool)
    return _content(network.model, pool, tuple(each._version for each in tensors))


@lru_cache(maxsize=1)
def _content(model: nn.Module, pool: Tensor, versions: tuple[int, ...]) -> str:
    return digest([model.state_dict(), pool])


def batch(network: Network, photos: list[Photograph]) -> tuple[Tensor, Tensor]:
    """The photographs as the network sees them (B, 3, S, S) and their classes (B,), on the best device."""
    x = torch.stack([network.tensor(load_image(photo)) for photo in photos])
    return x.to(best_device()), torch.tensor([photo.label for photo in photos], device=best_device())


Key = tuple[str, str, int, str]  # path, rule, steps, mode of a map


def score_rows(images, keys: Iterable[Key], metric: str, values: Tensor, curves: Tensor | None = None) -> list[dict]:
    """Rows from values (B, M) of B images (with id and label) and M map keys, with their curves (B, M, P) if given."""
    rows = []
    for b, image in enumerate(images):
        for m, (path, rule, steps, mode) in enumerate(keys):
            row = {"image": image.id, "label": image.label, "path": path, "rule": rule, "steps": steps, "mode": mode}
            row |= {"metric": metric, "value": float(values[b, m])}
            rows.append(row | {"curve": None if curves is None else curves[b, m].float().tolist()})
    return rows


def relative_difference(a: Tensor, b: Tensor) -> Tensor:
    """mean |a - b| / mean |b| of each image: (B, ...) twice -> (B,)."""
    return (a - b).abs().flatten(1).sum(1) / b.abs().flatten(1).sum(1)
