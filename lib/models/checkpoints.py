"""Weight files: the named tensors in a file, whatever a training script wrapped around them, and into a network."""

import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from lib import InputError

ENTRIES = (
    "state_dict",
    "model",
    "model_state_dict",
    "state_dict_ema",
)  # where training scripts put a network's tensors
WRAPPERS = {"module", "_orig_mod"}  # names that DataParallel and torch.compile put before those of a network
SHOWN = 3


def load_weights(model: nn.Module, file: Path) -> nn.Module:
    """Fill `model` with the tensors of a weight file, every name and shape accounted for; returns the model.

    Raises InputError as `read_weights` and `fill`.
    """
    return fill(model, read_weights(file), file)


def read_weights(file: Path) -> dict[str, Tensor]:
    """The named tensors in a file of torch.save, on the CPU, in the file's order.

    A checkpoint of a training script holds them below one of ENTRIES, first come, first served. Networks are saved from
    inside wrappers, as a whole ("module.conv1.weight") or in part ("features.module.0.weight"): each segment of a name
    that is one of WRAPPERS is dropped. No code in the file is run.
    Raises InputError, saying what is in the file, where that is not a state dict: a pickled module, a file of Git LFS,
    a web page, a damaged file, other data.
    """
    content = _content(file)
    found = content
    while isinstance(found, dict) and (
        entry := next((each for each in ENTRIES if isinstance(found.get(each), dict)), None)
    ):
        found = found[entry]
    if not isinstance(found, dict) or not found:
        what = "an empty mapping" if isinstance(found, dict) else f"a {type(found).__name__}"
        raise InputError(f"{file} holds {what}, not a state dict: give a file of torch.save(model.state_dict(), file).")
    others = [str(name) for name, value in found.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if others:
        raise InputError(
            f"{file} is not a state dict, because {_some(others)} in it is no tensor: save the named tensors "
            f"alone, or below one of {', '.join(ENTRIES)}."
        )
    return {".".join(part for part in name.split(".") if part not in WRAPPERS): found[name] for name in found}


def fill(model: nn.Module, state: dict[str, Tensor], file: Path) -> nn.Module:
    """Load named tensors, read from `file`, into `model`; returns it.

    Counters of batch norms (num_batches_tracked), which older files lack, may be missing.
    Raises InputError naming the first names and shapes that differ.
    """
    own = model.state_dict()
    differences = []
    for name in dict.fromkeys([*own, *state]):
        has, wants = (tuple(of[name].shape) if name in of else None for of in (state, own))
        if has != wants and not (has is None and name.endswith("num_batches_tracked")):
            has, wants = ("nothing" if shape is None else str(shape) for shape in (has, wants))
            differences.append(f"it has {has} for {name} where the network has {wants}")
    if differences:
        raise InputError(f"{file} does not fit the network: {_some(differences)}: give the right file.")
    model.load_state_dict(state)
    return model


def _content(file: Path) -> object:
    try:
        with open(file, "rb") as opened:
            start = opened.read(64)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): give a weight file that is yours.") from error
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises half a dozen unrelated types
        raise InputError(f"{file} {_instead_of_weights(file, start, error)}.") from error


def _instead_of_weights(file: Path, start: bytes, error: Exception) -> str:
    """What is wrong with a file that torch.load refuses, and what to do about it."""
    if not start:
        return "is empty: download it again"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the weights themselves: type `git lfs pull` in its folder"
    if start.lstrip().startswith(b"<"):
        return "is a web page, not weights: its download was refused; download it again"
    if start[8:9] == b"{":
        return (
            'is not a file of torch.save but one of safetensors: type `python -c "import torch, '
            "safetensors.torch as s; "
            f"torch.save(s.load_file('{file}'), 'weights.pth')\"` and give weights.pth"
        )
    archive = zipfile.ZipFile(file).namelist() if zipfile.is_zipfile(file) else []
    if not start.startswith((b"PK", b"\x80")) or (archive and not any(name.endswith("data.pkl") for name in archive)):
        return "is not a file of torch.save: give the weights as torch.save(model.state_dict(), file) writes them"
    if "TorchScript" in str(error):
        return (
            'is a TorchScript program, not weights: where you trust it, type `python -c "import torch; '
            f"torch.save(torch.jit.load('{file}').state_dict(), 'weights.pth')\"` and give weights.pth"
        )
    if held := _classes(file, error):
        return (
            f"holds Python objects beside tensors ({_some(held)}), and to read them would run code: "
            "where you trust it, type `python -c \"import torch; held = torch.load('"
            f"{file}', weights_only=False); torch.save(held.state_dict(), 'weights.pth')\"` (held['state_dict'] where "
            "it is a dictionary) and give weights.pth"
        )
    return f"is damaged, or was not written by torch.save ({type(error).__name__}): give an intact file"


def _classes(file: Path, error: Exception) -> list[str]:
    """The classes and functions that a pickle names and torch.load does not take, by their full names."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except Exception:  # of the format before PyTorch 1.6, or damaged
        return re.findall(r"GLOBAL (\S+) was not an allowed global", str(error))


def _some(items: list[str]) -> str:
    more = len(items) - SHOWN
    return "; ".join(items[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
