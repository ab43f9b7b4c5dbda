"""A rehearsal of the study: stand-ins for its networks, photographs, trainings, and for what computes its units."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from lib.attribution.gradients import input_x_gradient
from lib.attribution.local import LocalReferences
from lib.data import imagenet, readability
from lib.data.imagenet import Photograph, photographs
from lib.experiments import idgi, lens, lpi, subjects
from lib.models import twins, zoo
from lib.models.layers import Normalize
from lib.models.recipes import IMAGENET
from lib.models.zoo import Network
from lib.reporting import tables
from lib.run.counting import Tally, counted
from lib.store import units
from lib.training import fit as training

POOL, DECODED = 64, 8  # photographs of a batch at most, and those that are decoded: the others are copies
CONFIDENT = 2  # every second photograph takes part in AIC and SIC, where the network decides which do
QUICK = 0.5  # seconds of a training's first batch after which no other is timed


@contextlib.contextmanager
def rehearsed(tally: Tally, doors: Mapping[str, Callable], *, photos: int = 0) -> Iterator[None]:
    """A block in which the study's functions find stand-ins:

    evaluate, finished           of `doors`
    networks for photographs     `Counting`, without weights
    photographs                  `photos` readable copies of the packaged ones, unless 0
    what a network recognises    every photograph, and every second one with confidence; passes count
    trainings                    one batch or four, whose seconds are multiplied into `tally`
    LPI's clusters of logits     any images
    DeepLIFT and LRP             one gradient each
    tables that are saved        none
    """
    stand_ins = {getattr(units, name): _recognising(door) for name, door in doors.items()}
    stand_ins |= _images(photos) | _networks(tally) | _trainings(tally)
    stand_ins |= {lens.refused: lambda *_, **__: {}, lens.deeplift: input_x_gradient, lens.lrp: input_x_gradient}
    savers = [value for name, value in vars(tables).items() if name.startswith("save_") and callable(value)]
    stand_ins |= dict.fromkeys(savers, lambda *_, **__: None)
    _forget()
    try:
        with replaced(stand_ins):
            yield
    finally:
        _forget()


def _images(found: int) -> dict[Callable, Callable]:
    given = photographs("packaged")

    def listed(source: str = "packaged", limit: int | None = None) -> list[Photograph]:
        if not found:
            return photographs(source, limit)
        count = min(limit or found, found)
        return [replace(given[each % len(given)], id=f"stand-in-{each:05}") for each in range(count)]

    real_batch = subjects.batch

    def batch(network: Network, photos: list[Photograph]) -> tuple[Tensor, Tensor]:
        x, target = real_batch(network, photos[:DECODED])
        places = torch.arange(min(len(photos), POOL)) % len(x)
        return x[places], target[places]

    readable = {readability.unreadable: lambda photos, **_: {}} if found else {}  # `readable` asks it, too
    return {imagenet.photographs: listed, subjects.batch: batch, **readable}


def _recognising(door: Callable) -> Callable:
    """`door`, behind which the networks recognise the photographs of all units, every second one with confidence."""

    def asked(units: Mapping, compute: Callable, **how) -> object:  # as the doors name them
        found = door(units, compute, **how)
        if getattr(compute, "func", compute) is not idgi.predicted:
            return found
        rows = [
            (photo.id, photo.label, name, photo.label, 0.9, "insertion" if place % CONFIDENT else idgi.ALL_METRICS)
            for name, group in units.values()
            for place, photo in enumerate(group)
        ]
        return pd.DataFrame(rows, columns=found.columns)

    return asked


def _networks(tally: Tally) -> dict[Callable, Callable]:
    def bare(name: str, weights: str | None = None) -> nn.Module:
        return counted(name, tally)

    def published(name: str, weights: str) -> Network:
        model = nn.Sequential(Normalize(*IMAGENET), bare(name)).eval().requires_grad_(False)
        return Network(name, model.to(zoo.best_device()), 224, 256, "bilinear", *IMAGENET, "x-dnn")

    def robust(weights: str) -> Network:
        return replace(published("resnet50", weights), name="resnet50_pgd")

    def clustered(logits: Callable[[], Tensor], *, references: int, **_) -> LocalReferences:
        found = logits()
        members = torch.arange(references)[None] % len(found)
        return LocalReferences(found[:1].cpu(), members, torch.full(members.shape, 1 / references).double())

    found = {zoo.trained_model: bare, zoo.robust_resnet50: robust, lpi.cached_local_references: clustered}
    return found | {twins.bare_network: bare, twins.published_network: published}


def _trainings(tally: Tally) -> dict[Callable, Callable]:
    made: dict[str, dict] = {}
    real_fit = training.fit

    def fit(model: nn.Module, x: Tensor, y: Tensor, *, epochs: int, batch: int = 64, **how) -> nn.Module:
        seconds = []
        for count in (1, 4):
            start = time.process_time()
            real_fit(model, x[: count * batch], y[: count * batch], epochs=1, batch=batch, **how | {"until": None})
            seconds.append(time.process_time() - start)
            if seconds[-1] > QUICK:
                break
        tally.cut += seconds[-1] / count * epochs * max(1.0, len(x) / batch) - sum(seconds)
        return model.eval()

    def kept(model: nn.Module, train: Callable[[], nn.Module], *, cache: Path, key: str) -> nn.Module:
        if key not in made:
            start, before = time.process_time(), tally.cut
            made[key] = train().cpu().state_dict()
            spent = time.process_time() - start
            tally.once += spent + tally.cut - before
            tally.cut = before - spent
        model.load_state_dict(made[key])
        return model.eval()

    return {training.fit: fit, training.kept_network: kept}


@contextlib.contextmanager
def replaced(stand_ins: Mapping[Callable, Callable]) -> Iterator[None]:
    """While this is entered, modules of the project have {function: stand-in} in its place, under whatever name."""
    named = [module for name, module in list(sys.modules.items()) if name.startswith("lib.")]
    others = [module for module in named if not module.__name__.startswith("lib.run.")]
    of = {id(real): real for real in stand_ins}
    places = [(m, name, of[id(value)]) for m in others for name, value in list(vars(m).items()) if id(value) in of]
    for module, name, real in places:
        setattr(module, name, stand_ins[real])
    try:
        yield
    finally:
        for module, name, real in places:
            setattr(module, name, real)


def _forget() -> None:
    """Empty what modules of the project keep of networks and images from one unit to the next."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("lib.experiments", "lib.models.twins")):
            for value in list(vars(module).values()):
                getattr(value, "cache_clear", lambda: None)()
