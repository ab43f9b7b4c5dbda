"""The networks of the X-DNN study (Hesse et al., NeurIPS 2021), each with its twin without additive constants."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from torch import nn
from torchvision import models

from lib import InputError, MissingData, nearest
from lib.models.checkpoints import load_weights
from lib.models.fixup import FixupResNet50
from lib.models.fold import prepare
from lib.models.homogeneity import remove_biases
from lib.models.layers import Normalize
from lib.models.recipes import IMAGENET, TWINS
from lib.models.zoo import Network, best_device, load_network
from lib.store.digest import digest

PUBLISHED = "https://download.visinf.tu-darmstadt.de/data/2021-neurips-fast-axiomatic-attribution/models"


def bare_network(name: str) -> nn.Module:
    """The network with its initial weights: normalised images (B, 3, 224, 224) -> logits (B, 1000).

    name: one of TWINS, or its twin. Raises InputError for any other.
    """
    builders: dict[str, Callable[[], nn.Module]] = {
        "alexnet": lambda: models.alexnet(weights=None),
        "vgg16": lambda: models.vgg16(weights=None),
        "fixup_resnet50": FixupResNet50,
    }
    if name in builders:
        return builders[name]().eval()
    regular = {twin: name for name, twin in TWINS.items()}.get(name)
    if regular is None:
        raise InputError(f"There is no network {name!r} in this study; {nearest(name, [*TWINS, *TWINS.values()])}")
    if regular == "fixup_resnet50":
        return FixupResNet50(scalars=False).eval()
    return remove_biases(builders[regular]())


def published_network(name: str, weights: str) -> Network:
    """A network with the authors' weights, prepared for attribution, on the best device; pixels in [0, 1] go in.

    weights: the folder with <name>_model_best.pth.tar, or that file. Short side to 256, centre crop to 224.
    Raises MissingData where the file is missing, InputError where it is damaged and, naming the first such key, where
    its keys or shapes differ.
    """
    given = Path(weights).expanduser()
    file = given if given.is_file() else given / f"{name}_model_best.pth.tar"
    if not weights or not file.is_file():
        raise MissingData(
            f"This needs the weights of '{name}', which are not there: put {name}_model_best.pth.tar from {PUBLISHED} "
            "into a folder and give it as WEIGHTS=<folder>."
        )
    model = load_weights(bare_network(name), file)
    model = prepare(nn.Sequential(Normalize(*IMAGENET), model)).to(best_device())
    return Network(name, model, 224, 256, "bilinear", *IMAGENET, "x-dnn")


def network(name: str, weights: str) -> Network:
    """`published_network` for the networks of this study, `load_network` for all others.

    Kept for the next unit as long as its weight files are the same.
    """
    return _network(name, weights, digest(weights))


@lru_cache(maxsize=1)
def _network(name: str, weights: str, content: str) -> Network:
    studied = name in TWINS or name in TWINS.values()
    return published_network(name, weights) if studied else load_network(name, weights=weights or None)
