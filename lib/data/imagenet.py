"""Labelled ImageNet photographs: twenty that come with a package, or any folder of yours."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from lib import InputError
from lib.data.image_files import read_image
from lib.store.files import package_folder, read_text

SUFFIXES = {".jpeg", ".jpg", ".png"}
WNID = re.compile(r"(?<![a-zA-Z0-9])n\d{8}(?!\d)")
VALIDATION = re.compile(r"ILSVRC2012_val_\d{8}")
# Where the images may lie inside the folder that is named; the last is Kaggle's archive.
INSIDE = (".", "val", "images", "val/images", "ILSVRC/Data/CLS-LOC/val")
LAYOUTS = (
    "'val/<wnid>/*.JPEG', '<wnid>_<name>.JPEG', or 'ILSVRC2012_val_*.JPEG' "
    "with val_annotations.txt or LOC_val_solution.csv"
)


@dataclass(frozen=True)
class Photograph:
    """An image file, its class index in the order of sorted wnids (0..999), and an id unique in its set.

    The id is the stem of the file's name; in class folders, where files of several classes share a stem,
    `<wnid>_<stem>`, as such files would be called in a flat folder. ImageNet's own names never repeat, so the id of one
    of its photographs does not depend on which others lie beside it.
    """

    path: Path
    label: int
    id: str


def photographs(source: str = "packaged", limit: int | None = None) -> list[Photograph]:
    """The photographs of `source`, sorted by class and then by id.

    `source` is "packaged" (the 20 labelled ImageNet photographs in the foolbox package) or a folder in one
    of three layouts: folders named by wnid, files whose names hold a wnid (`n01440764_tench.JPEG`,
    `ILSVRC2012_val_00000293_n01440764.JPEG`), or validation files `ILSVRC2012_val_00000293.JPEG` whose
    labels are read from `val_annotations.txt` ("file<TAB>wnid") or Kaggle's `LOC_val_solution.csv`, beside or
    above them. Class folders without images are skipped, as are files named otherwise. Files are only listed: which of
    them can be read, `lib.data.readability.readable` says. `limit` takes images
    evenly spaced over the sorted list, so that a few still span the classes.
    Raises InputError for a folder that is missing, cannot be read or holds no such image, an unknown wnid, an
    unlabelled validation file or one with two labels, two images of one id, or a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit} selects no image: give a number from 1 up, or none for all images.")
    try:
        found = _packaged() if source == "packaged" else _in_folder(Path(source).expanduser())
    except OSError as error:
        raise InputError(
            f"{error.filename or source} cannot be read ({error.strerror}): give a folder of yours."
        ) from error
    paths = {}
    for photo in found:
        if photo.id in paths:
            raise InputError(f"{paths[photo.id]} and {photo.path} share the id '{photo.id}': rename one of them.")
        paths[photo.id] = photo.path
    found.sort(key=lambda photo: (photo.label, photo.id))
    if limit is None or limit >= len(found):
        return found
    return [found[index * len(found) // limit] for index in range(limit)]


def load_image(photo: Photograph) -> Image.Image:
    """The photograph in RGB; raises InputError as `read_image`, see `readable`."""
    return read_image(photo.path)


def class_name(label: int) -> str:
    """The first name of a class, such as "bull mastiff" for 243."""
    return _imagenet().label_name_to_description(wnid(label)).split(",")[0]


def wnid(label: int) -> str:
    """The WordNet id of a class, such as "n02108422" for 243; raises InputError outside 0..999."""
    if not 0 <= label < 1000:
        raise InputError(f"Class index {label} is not one of ImageNet's 1000: give a number from 0 to 999.")
    return _imagenet().label_names()[label]


@cache
def _imagenet():
    from timm.data import ImageNetInfo  # imports torch: seconds that listing the packaged set need not wait

    return ImageNetInfo()


@cache
def _labels() -> dict[str, int]:
    return {name: label for label, name in enumerate(_imagenet().label_names())}


def _label(name: str, where: Path) -> int:
    if name not in _labels():
        raise InputError(
            f"'{name}' ({where}) is not one of ImageNet's 1000 classes: "
            "rename it to a wnid such as n01440764, or take it out of the folder."
        )
    return _labels()[name]


def _packaged() -> list[Photograph]:
    files = (package_folder("foolbox") / "data").glob("imagenet_*_*.jpg")  # imagenet_<number>_<label>.jpg
    return [Photograph(file, int(file.stem.split("_")[2]), file.stem) for file in files]


def _in_folder(root: Path) -> list[Photograph]:
    if not root.is_dir():
        raise InputError(f"There is no folder {root}: give 'packaged' or a folder of ImageNet images.")
    for folder in (root / inside for inside in INSIDE):
        if folder.is_dir() and (found := _class_folders(folder) or _flat(folder)):
            return found
    raise InputError(f"{root} holds no ImageNet images: give 'packaged' or a folder laid out as {LAYOUTS}.")


def _images(folder: Path) -> list[Path]:
    return [
        file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    ]


def _class_folders(folder: Path) -> list[Photograph]:
    entries = [entry for entry in sorted(folder.iterdir()) if WNID.fullmatch(entry.name) and entry.is_dir()]
    classes = {entry: _images(entry) for entry in entries}
    often = Counter(stem for files in classes.values() for stem in {file.stem for file in files})
    return [
        Photograph(file, _label(entry.name, entry), file.stem if often[file.stem] == 1 else f"{entry.name}_{file.stem}")
        for entry, files in classes.items()
        for file in files
    ]


def _flat(folder: Path) -> list[Photograph]:
    found, annotations = [], None
    for file in _images(folder):
        if match := WNID.search(file.stem):
            name = match.group()
        elif VALIDATION.fullmatch(file.stem):
            if annotations is None:
                annotations = _annotations(folder)
            if file.stem not in annotations:
                raise InputError(f"{file} is missing from the validation labels: add its line or take it out.")
            name = annotations[file.stem]
        else:
            continue
        found.append(Photograph(file, _label(name, file), file.stem))
    return found


def _annotations(folder: Path) -> dict[str, str]:
    """File stem -> wnid, from the nearest label file beside or up to four folders above the images."""
    folder = folder.resolve()
    for place in (folder, *folder.parents[:4]):
        if (file := place / "val_annotations.txt").is_file():
            separator = "\t"
        elif (file := place / "LOC_val_solution.csv").is_file():  # <image>,<wnid> <box> <wnid> <box> ...
            separator = ","
        else:
            continue
        found = {}
        for row in (line.replace(separator, " ").split() for line in read_text(file).splitlines()):
            if len(row) > 1 and (other := found.setdefault(Path(row[0]).stem, row[1])) != row[1]:
                raise InputError(f"{file} gives {row[0]} two labels, {other} and {row[1]}: keep one.")
        return found
    raise InputError(
        f"The images in {folder} carry no labels: put val_annotations.txt (lines 'file<TAB>wnid') or "
        "Kaggle's LOC_val_solution.csv into that folder."
    )
