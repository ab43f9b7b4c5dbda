"""The weights of SqueezeNet 1.1 as the package `ndf` ships them: Keras layout, in a pickle."""

import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib import InputError

FIRES = dict(zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True))  # fire2 ... fire9: place in torchvision's
PARTS = {"squeeze1x1": "squeeze", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}
LAYERS = {"conv1": "features.0", "conv10": "classifier.1"} | {
    f"fire{number}/{part}": f"features.{place}.{own}" for number, place in FIRES.items() for part, own in PARTS.items()
}
# All that a pickle of arrays needs: three functions of numpy, of which the first has moved to another module since.
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which could run code")
        return ALLOWED[module, name]


def squeezenet_weights(file: Path) -> dict[str, Tensor]:
    """The named tensors of torchvision's `squeezenet1_1` from a pickle {layer: [kernel HWIO, bias]}.

    The network was trained on channels in the order blue, green, red; the first kernel is turned round, so that red
    comes first. No code in the file is run: it may name three functions of numpy and nothing else.
    Raises InputError where the file cannot be read or holds anything else.
    """
    try:
        with open(file, "rb") as opened:
            layers = _Arrays(opened).load()
        state = {}
        for layer, (kernel, bias) in layers.items():
            state[f"{LAYERS[layer]}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
            state[f"{LAYERS[layer]}.bias"] = torch.from_numpy(bias)
        state["features.0.weight"] = state["features.0.weight"].flip(1)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): install the package `ndf` again.") from error
    except Exception as error:  # pickle and numpy raise a dozen unrelated types
        raise InputError(
            f"{file} does not hold SqueezeNet's layers as arrays ({error}): install the package `ndf` again."
        ) from error
    return state
