"""The networks of `lib.models.recipes`, with their weights: pixels in [0, 1] go in, 1000 logits come out."""

import re
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from lib import InputError, MissingData, nearest
from lib.data.image_files import rgb
from lib.models.checkpoints import fill, read_weights
from lib.models.fold import prepare
from lib.models.keras_weights import squeezenet_weights
from lib.models.layers import Normalize
from lib.models.recipes import IMAGENET, NETWORKS, TIMM
from lib.store.files import package_folder

ROBUST_FILES = ("resnet50_pgd.pt", "imagenet_linf_4.pt", "imagenet_linf_8.pt", "resnet50_linf_eps4.0.ckpt")


@dataclass(frozen=True)
class Network:
    """A classifier and its image preparation; `model` maps (B, 3, S, S) in [0, 1] to logits (B, 1000)."""

    name: str
    model: nn.Module
    size: int
    resize: int
    interpolation: str
    mean: tuple
    std: tuple
    family: str

    def tensor(self, image: Image.Image) -> Tensor:
        """What the network sees of an image: short side to `resize`, centre crop; (3, S, S) in [0, 1].

        The tensor is resized, not the image, as in TMLR code utils.py:66. Differs from the released code:
        antialiasing is pinned on (its default depends on the torchvision version), and the result is clamped
        to [0, 1], because the bicubic kernel of the EfficientNet-Lite networks overshoots.
        """
        x = transforms.pil_to_tensor(rgb(image)).float() / 255
        mode = transforms.InterpolationMode(self.interpolation)
        x = transforms.resize(x, [self.resize], interpolation=mode, antialias=True)
        return transforms.center_crop(x, [self.size]).clamp(0, 1)


def best_device() -> torch.device:
    """The GPU if CUDA finds one, otherwise the CPU.

    Every network of the study goes there, and what it computes must not depend on what was loaded before it: from here
    on TF32 and cuDNN's autotuning are off in this process, so that a GPU rounds as single precision does and repeats
    its maps exactly.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_network(
    name: str, *, weights: str | None = None, device: torch.device | None = None, prepared: bool = True
) -> Network:
    """The network `name` of NETWORKS with its ImageNet weights, on `device` (default: the best).

    `weights` is a weight file, or a folder that holds it under its published name or as `<name>.pth`.
    Otherwise the weights of EfficientNet-Lite and SqueezeNet come from their packages and all others by download.
    `prepared=False` leaves out `prepare`: eval mode, but trainable and with every layer as published.
    Raises InputError for an unknown name and for weights that are unreadable or of another network; MissingData for
    weights that are neither there nor can be downloaded.
    """
    if name not in NETWORKS:
        raise InputError(f"There is no network {name!r}; {nearest(name, NETWORKS)}")
    best = best_device()
    recipe = NETWORKS[name]
    mean, std = recipe.statistics
    model = nn.Sequential(Normalize(mean, std), trained_model(name, weights)).eval()
    if prepared:
        model = prepare(model, shape=(3, recipe.size, recipe.size))
    model = model.to(device or best)
    return Network(name, model, recipe.size, recipe.resize, recipe.interpolation, mean, std, recipe.family)


def untrained_model(name: str) -> nn.Module:
    """The bare network with its initial weights: normalised images (B, 3, S, S) -> logits (B, 1000)."""
    recipe = NETWORKS[name]
    if recipe.family in TIMM:
        return timm.create_model(recipe.builder)
    # Inception's weights expect pixels in [-1, 1]: `transform_input` takes the usual normalisation back.
    options = {"transform_input": True, "init_weights": False} if recipe.family == "inception" else {}
    return torchvision.models.get_model(recipe.builder, weights=None, **options)


def trained_model(name: str, weights: str | None) -> nn.Module:
    """The bare network with its weights, every tensor accounted for; see `load_network`."""
    family, file, model = NETWORKS[name].family, _weight_file(name, weights), untrained_model(name)
    state = squeezenet_weights(file) if family == "squeezenet" else read_weights(file)
    if family == "efficientnet-lite":
        state = _in_order(state, model.state_dict(), file)
    if family == "densenet":  # the published files say norm.1 where the module is named norm1
        state = {re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", key): state[key] for key in state}
    fill(model, state, file)
    if family == "inception":
        model.aux_logits, model.AuxLogits = False, None  # used in training only
    return model


def _in_order(state: dict[str, Tensor], own: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The tensors of `state` under the names of `own`, one by one; kind and shape of each must agree."""
    if len(state) != len(own):
        raise InputError(f"{file} holds {len(state)} tensors, the network {len(own)}: give the right file.")
    for theirs, ours in zip(state, own, strict=True):
        given, expected = tuple(state[theirs].shape), tuple(own[ours].shape)
        if given != expected or theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise InputError(
                f"{file} holds {theirs} {given} where the network has {ours} {expected}: give the right file."
            )
    return dict(zip(own, state.values(), strict=True))


def _weight_file(name: str, weights: str | None) -> Path:
    """Where the weights lie: as given, in their package, or downloaded."""
    published = NETWORKS[name].weights
    file = published.rpartition("/")[2]
    if weights:
        given = Path(weights).expanduser()
        if not given.exists():
            raise InputError(f"There is no weight file or folder {given}: give an existing one, WEIGHTS=<path>.")
        for candidate in (given, given / file, given / f"{name}.pth"):
            if candidate.is_file():
                return candidate
    if not published.startswith("https:"):
        package, _, inside = published.partition("/")
        return package_folder(package) / inside
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not cached.is_file():
        digest = re.search(r"-([0-9a-f]{8})\.pth", file)  # torchvision's names hold the start of the SHA-256
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(published, str(cached), hash_prefix=digest and digest.group(1))
        except (OSError, RuntimeError) as error:
            raise MissingData(
                f"This needs the weights of '{name}', which cannot be downloaded ({error}): "
                f"put {file} from {published} into a folder and give it as WEIGHTS=<folder>."
            ) from error
    return cached


def robust_resnet50(weights: str) -> Network:
    """The PGD-trained ResNet-50 of a checkpoint of the `robustness` package (MadryLab), prepared for attribution.

    weights: the file, or a folder that holds it under one of ROBUST_FILES. The checkpoint holds the network twice, as
    `module.model.*` and `module.attacker.*`, and the statistics of its normalisation, `module.normalizer.*`. Only the
    first is read; the normalisation is this project's own, and must agree with the stored one.
    Raises MissingData where there is no such file, InputError where it cannot be read or holds another network.
    """
    given = Path(weights).expanduser()
    candidates = (given, *(given / name for name in ROBUST_FILES)) if weights else ()
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        raise MissingData(
            f"This needs a PGD-trained ResNet-50, and {weights or 'WEIGHTS, which is empty,'} holds none: give "
            f"WEIGHTS=<folder>, which holds one of {', '.join(ROBUST_FILES)}, or leave resnet50_pgd out."
        )
    state = read_weights(file)
    for end, expected in zip(("new_mean", "new_std"), IMAGENET, strict=True):
        stored = state.get(f"normalizer.{end}")
        if stored is not None and (stored.flatten().cpu() - torch.tensor(expected)).abs().max() > 1e-3:
            raise InputError(f"{file} normalises by {stored.flatten().tolist()}, not by ImageNet's {expected}.")
    own = {
        name.removeprefix("model."): state[name] for name in state if not name.startswith(("attacker", "normalizer"))
    }
    bare = fill(torchvision.models.resnet50(weights=None), own, file)
    model = prepare(nn.Sequential(Normalize(*IMAGENET), bare).eval()).to(best_device())
    return Network("resnet50_pgd", model, 224, 256, "bilinear", *IMAGENET, "residual")
