"""A PGD-trained ResNet-50 from a checkpoint of the `robustness` package (MadryLab)."""

import re
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from lib import InputError
from lib.models.fold import prepare
from lib.models.layers import IMAGENET, Normalize
from lib.models.zoo import Network, best_device

NAMES = ("resnet50_pgd.pt", "imagenet_linf_4.pt", "imagenet_linf_8.pt", "resnet50_linf_eps4.0.ckpt")
WRAPPED = re.compile(r"^(module\.)?(model\.)?")


def robust_resnet50(weights: str) -> Network:
    """The network in a checkpoint file, or in a folder that holds it under one of NAMES, prepared for attribution.

    A checkpoint is a mapping whose entry "model" holds the network twice, as `module.model.*` and `module.attacker.*`,
    and the statistics of its normalisation, `module.normalizer.*`. Only the first is read; the normalisation is this
    project's own, and must agree with the stored one. Batch norms are folded.
    Raises InputError where there is no such file, where it cannot be read without running code that it contains, or
    holds another network.
    """
    file = _file(weights)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises half a dozen unrelated types
        raise InputError(
            f"{file} cannot be read safely ({type(error).__name__}): load it once where you trust it, and save "
            "{'model': its state dict} with torch.save."
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{file} has no state dict under 'model': give a checkpoint of the robustness package.")
    _check_normalisation(state, file)
    own = {WRAPPED.sub("", key): state[key] for key in state if "attacker." not in key and "normalizer." not in key}
    bare = torchvision.models.resnet50(weights=None)
    try:
        bare.load_state_dict(own)
    except RuntimeError as error:
        reason = error.args[0].splitlines()[1].strip()
        raise InputError(f"{file} is not a ResNet-50 ({reason}): give the right file.") from error
    model = prepare(nn.Sequential(Normalize(*IMAGENET), bare).eval()).to(best_device())
    return Network("resnet50_pgd", model, 224, 256, "bilinear", *IMAGENET, "residual")


def _file(weights: str) -> Path:
    given = Path(weights).expanduser()
    for candidate in (given, *(given / name for name in NAMES)):
        if weights and candidate.is_file():
            return candidate
    raise InputError(
        f"{weights or 'WEIGHTS, which is empty,'} holds no PGD-trained ResNet-50: give WEIGHTS=<folder>, which "
        f"holds one of {', '.join(NAMES)}, or leave resnet50_pgd out."
    )


def _check_normalisation(state: dict, file: Path) -> None:
    for end, expected in zip(("new_mean", "new_std"), IMAGENET, strict=True):
        for key in (key for key in state if key.endswith(f"normalizer.{end}")):
            if not torch.allclose(state[key].flatten().double(), torch.tensor(expected).double(), atol=1e-3):
                raise InputError(f"{file} normalises by {state[key].flatten().tolist()}, not by ImageNet's {expected}.")
