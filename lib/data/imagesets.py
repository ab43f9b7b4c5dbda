"""The image sets of the LENS study: packaged digits, and others where the user has them; nothing is downloaded."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision import datasets

from lib import InputError, MissingData, nearest
from lib.data.digits import Digits, digits
from lib.data.image_files import read_image


@dataclass(frozen=True)
class ImageSet:
    """kind: torchvision's class; shape (C, H, W); and what LENS does to it: epsilon of noise and attacks on maps, k."""

    kind: str | None
    shape: tuple[int, int, int]
    classes: int
    epsilon: float
    k: int


SETS = {
    "mnist_5k": ImageSet(None, (1, 28, 28), 10, 0.3, 100),  # the packaged digits
    "mnist": ImageSet("MNIST", (1, 28, 28), 10, 0.3, 100),
    "fashion_mnist": ImageSet("FashionMNIST", (1, 28, 28), 10, 0.1, 100),
    "gtsrb": ImageSet("GTSRB", (3, 32, 32), 43, 8 / 255, 100),
    "flowers102": ImageSet("Flowers102", (3, 128, 128), 102, 8 / 255, 1000),
    "flowers17": ImageSet(None, (3, 128, 128), 17, 8 / 255, 1000),
}
PARTS = ("train", "test")
FLOWERS17_SEED, FLOWERS17_TRAIN = 4557077, 72  # of Chen et al.: 72 of the 80 images of each class are for training


def image_set(name: str, part: str, *, root: str | Path = "", limit: int = 0) -> Digits:
    """Images of a set below the folder `root`: x (N, C, H, W) float32 in [0, 1], y (N,), ids "gtsrb-test-00042".

    name: mnist_5k (`digits`, without a folder), mnist, fashion_mnist (1 x 28 x 28), gtsrb (3 x 32 x 32, each channel's
    histogram equalised), flowers102, flowers17 (3 x 128 x 128, resized without keeping the aspect), in torchvision's
    layout; flowers17 is <root>/17flowers/jpg/image_0001.jpg ... image_1360.jpg, 80 of each class in turn. part: train
    or test. limit: only so many, evenly spaced, of mnist_5k the first; 0 for all.
    The preparation is that of Chen et al. (2019), without their augmentation of GTSRB and Flower.
    Raises MissingData where files of the set are not there; InputError for an unknown name or part, a limit below 0,
    and, naming it, for a file that cannot be read: training and test sets are whole or not used.
    """
    for what, given, allowed in (("image set", name, SETS), ("part", part, PARTS)):
        if given not in allowed:
            raise InputError(f"there is no {what} {given!r}; {nearest(given, allowed)}")
    if limit < 0:
        raise InputError(f"limit={limit} selects no image; give a number from 1 up, or 0 for all images")
    if name == "mnist_5k":
        return digits(part).take(slice(limit or None))
    if not root:
        raise MissingData(f"This needs {name}, which is not packaged: give DATASETS=<the folder that has it>.")
    items = _flowers17(Path(root), part) if name == "flowers17" else _torchvision(name, part, root)
    rows = [index * len(items) // limit for index in range(limit)] if 0 < limit < len(items) else range(len(items))
    x, labels = [], []
    for row in rows:
        try:
            image, label = items[row]
            x.append(_tensor(name, image if isinstance(image, Image.Image) else read_image(image)))
        except InputError:  # of an image that is named already
            raise
        except Exception as error:  # Pillow raises a dozen unrelated types for damaged files
            file = items._samples[row][0]  # of GTSRB, whose files alone torchvision opens
            raise InputError(f"{file} cannot be used: {error}; unpack the archive of {name} again.") from error
        labels.append(label)
    return Digits(torch.stack(x), torch.tensor(labels), [f"{name}-{part}-{row:05d}" for row in rows])


def _torchvision(name: str, part: str, root: str | Path):
    kind = getattr(datasets, SETS[name].kind)
    options = {"train": part == "train"} if "mnist" in name else {"split": part}
    options |= {"loader": read_image} if name == "flowers102" else {}
    fetch = f"from torchvision.datasets import {kind.__name__} as s; s('{root}', download=True)"
    advice = f'type `python -c "{fetch}"`, or give DATASETS=<the folder that has it>.'
    try:
        return kind(root, **options, download=False)
    except Exception as error:  # of torchvision, NumPy, SciPy: a dozen unrelated types for damaged files
        if isinstance(error, FileNotFoundError) or "not found" in str(error):
            raise MissingData(f"This needs {name}, which is not below {root} ({error}): {advice}") from error
        raise InputError(f"{name} ({part}) below {root} is damaged ({error!r}); delete it, and {advice}") from error


def _flowers17(root: Path, part: str) -> list[tuple[Path, int]]:
    files = sorted((root / "17flowers" / "jpg").glob("image_*.jpg"))
    if len(files) != 1360:
        raise MissingData(
            f"This needs flowers17, of whose 1360 images {root}/17flowers/jpg holds {len(files)}: unpack 17flowers.tgz "
            "in 17flowers, or give DATASETS=<the folder that has it>."
        )
    order = np.random.RandomState(FLOWERS17_SEED).permutation(1360)
    by_class = [[row for row in order.tolist() if row // 80 == label] for label in range(17)]
    chosen = slice(FLOWERS17_TRAIN) if part == "train" else slice(FLOWERS17_TRAIN, None)
    return [(files[row], label) for label, rows in enumerate(by_class) for row in rows[chosen]]


def _tensor(name: str, image: Image.Image) -> torch.Tensor:
    side = SETS[name].shape[1]
    image = image if "mnist" in name else image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    if name == "gtsrb":
        image = ImageOps.equalize(image)
    pixels = torch.from_numpy(np.array(image)).float() / 255
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()
