"""Images with an attribute that goes with their class in training: digits on photographs, Waterbirds, CelebA."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from lib import InputError, MissingData, nearest
from lib.data.blockmnist import PARTS
from lib.data.digits import digits
from lib.data.image_files import read_image
from lib.seeds import image_generator

CLASSES = ATTRIBUTES = 2
AGREEMENT = 0.95  # share of the training images whose attribute is that of their class, as in Waterbirds
SIDE = 64  # pixels, of the sets that are not packaged
FOLDERS = {"waterbirds": "waterbird_complete95_forest2water2", "celeba_hair": "celeba"}  # below the one that is given
PHOTOGRAPHS = ("china.jpg", "flower.jpg")  # of scikit-learn
BANDS = {"train": (0, 0.6), "valid": (0.6, 0.8), "test": (0.8, 1)}  # of a photograph, from its left to its right


@dataclass(frozen=True)
class Grouped:
    """N images: x (N, C, H, W) float32 in [0, 1]; y (N,) and attribute (N,), 0 or 1 each; ids (N,)."""

    x: Tensor
    y: Tensor
    attribute: Tensor
    ids: list[str]

    @property
    def groups(self) -> Tensor:
        """The group of each image, class + 2 * attribute: (N,), 0 to 3."""
        return self.y + CLASSES * self.attribute

    @property
    def counts(self) -> list[int]:
        """Images of each of the four groups."""
        return self.groups.bincount(minlength=CLASSES * ATTRIBUTES).tolist()


def spurious_set(name: str, part: str, *, root: str | Path = "", limit: int = 0) -> Grouped:
    """Images of a set with a spurious attribute; part: train, valid or test.

    digits_on_photographs  packaged: 28 x 28 grey, class: is the digit 5 or more, attribute: on which of two photographs
                           it lies. They agree in 95 % of the training images; in half of the others.
    waterbirds             <root>/waterbird_complete95_forest2water2/metadata.csv (Sagawa et al., 2020), class: is it a
                           waterbird, attribute: is the background water
    celeba_hair            <root>/celeba in torchvision's layout, or with Kaggle's tables (.csv), class: blond hair,
                           attribute: male
    Sets other than the packaged one are resized to 64 x 64 without keeping the aspect. limit: only so many, of the
    packaged set the first, of the others evenly spaced; 0 for all.
    Raises MissingData where a set's files are not there; InputError for another name or part, a limit below 0, tables
    without the columns that are needed, and an image that cannot be read, which is named.
    """
    for what, given, allowed in (("set", name, SETS), ("part", part, PARTS)):
        if given not in allowed:
            raise InputError(f"there is no {what} {given!r}; {nearest(given, allowed)}")
    if limit < 0:
        raise InputError(f"limit={limit} selects no image; give a number from 1 up, or 0 for all images")
    if SETS[name] is None:
        return _digits_on_photographs(part, limit)
    if not root:
        raise MissingData(f"This needs {name}, which is not packaged: give DATASETS=<the folder that has it>.")
    table = SETS[name](Path(root))
    table = table[table["split"] == [*PARTS].index(part)]
    if table.empty:
        raise InputError(f"{name} below {root} has no images for part {part!r}; give its tables unchanged.")
    if 0 < limit < len(table):
        table = table.iloc[[row * len(table) // limit for row in range(limit)]]
    if not table[["y", "attribute"]].isin([0, 1]).all(axis=None):
        raise InputError(f"{name} below {root} has labels other than 0 and 1 (CelebA: -1 and 1); give them unchanged.")
    y, attribute = (torch.tensor(table[column].to_numpy(), dtype=torch.long) for column in ("y", "attribute"))
    return Grouped(torch.stack([_pixels(path) for path in table["path"]]), y, attribute, list(table["id"]))


def _digits_on_photographs(part: str, limit: int) -> Grouped:
    """White digits over patches of 28 x 28 pixels, which no two parts share, at 80 % of their brightness.

    Which photograph and which place in it depends on the digit's id alone.
    """
    whole, rows = PARTS[part]
    of = digits(whole).take(rows).take(slice(limit or None))
    y = (of.y >= 5).long()
    draws = [image_generator(0, each, f"photograph/{part}") for each in of.ids]
    share = AGREEMENT if part == "train" else 0.5
    agree = torch.tensor([torch.rand((), generator=each).item() < share for each in draws])
    attribute = torch.where(agree, y, 1 - y)
    patches = torch.stack([_patch(name, part, each) for name, each in zip(attribute.tolist(), draws, strict=True)])
    x = of.x + (1 - of.x) * 0.8 * patches[:, None]
    return Grouped(x, y, attribute, [f"on-photograph-{each}" for each in of.ids])


def _patch(name: int, part: str, draw: torch.Generator) -> Tensor:
    picture = _photograph(PHOTOGRAPHS[name])
    height, width = picture.shape
    first, last = (round(each * width) for each in BANDS[part])
    row = int(torch.randint(height - 27, (), generator=draw))
    column = first + int(torch.randint(last - first - 27, (), generator=draw))
    return picture[row : row + 28, column : column + 28]


@cache
def _photograph(name: str) -> Tensor:
    """A photograph of scikit-learn in grey at half its size, (214, 320), brightness in [0, 1]."""
    from sklearn.datasets import load_sample_image

    picture = Image.fromarray(load_sample_image(name)).convert("L").reduce(2)
    return torch.from_numpy(np.array(picture)).float() / 255


def _pixels(path: Path) -> Tensor:
    image = read_image(path).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def _waterbirds(root: Path) -> pd.DataFrame:
    folder = root / FOLDERS["waterbirds"]
    table = _table("waterbirds", folder / "metadata.csv", {"img_filename", "y", "place", "split"}, sep=",")
    paths = [folder / name for name in table["img_filename"]]
    names = [f"waterbirds-{Path(name).stem}" for name in table["img_filename"]]
    return table.rename(columns={"place": "attribute"})[["y", "attribute", "split"]].assign(path=paths, id=names)


def _celeba(root: Path) -> pd.DataFrame:
    folder = root / FOLDERS["celeba_hair"]
    if (folder / "list_attr_celeba.csv").is_file():
        table = _table("celeba_hair", folder / "list_attr_celeba.csv", {"Blond_Hair", "Male"}, sep=",", index_col=0)
        parts = _table("celeba_hair", folder / "list_eval_partition.csv", {"partition"}, sep=",", index_col=0)
        splits = parts["partition"]
    else:
        how = {"sep": r"\s+"}
        table = _table("celeba_hair", folder / "list_attr_celeba.txt", {"Blond_Hair", "Male"}, skiprows=1, **how)
        splits = _table("celeba_hair", folder / "list_eval_partition.txt", {1}, header=None, index_col=0, **how)[1]
    values = ((table[["Blond_Hair", "Male"]] + 1) / 2).rename(columns={"Blond_Hair": "y", "Male": "attribute"})
    inner = folder / "img_align_celeba" / "img_align_celeba"  # as Kaggle's archive is unpacked
    images = inner if inner.is_dir() else folder / "img_align_celeba"
    names = list(table.index)
    return values.assign(split=splits, path=[images / name for name in names], id=[f"celeba-{n}" for n in names])


def _table(name: str, path: Path, columns: set, **how) -> pd.DataFrame:
    if not path.is_file():
        raise MissingData(f"This needs {name}, of which {path} is not there: give DATASETS=<the folder that has it>.")
    try:
        table = pd.read_csv(path, **how)
    except (ValueError, OSError) as error:  # a damaged file, another encoding
        raise InputError(f"{path} cannot be read as a table ({error}); give it unchanged.") from error
    if missing := columns - set(table.columns):
        raise InputError(f"{path} lacks the columns {sorted(map(str, missing))}; give it unchanged.")
    return table


SETS: dict[str, Callable[[Path], pd.DataFrame] | None] = {
    "digits_on_photographs": None,
    "waterbirds": _waterbirds,
    "celeba_hair": _celeba,
}
