"""Labelled ImageNet photographs: twenty that come with a package, or any folder of yours."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from lib import InputError
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
    above them. Class folders without images are skipped, as are files named otherwise. `limit` takes images
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
    """The photograph in RGB, as `read_image` reads it."""
    return read_image(photo.path)


def read_image(path: Path) -> Image.Image:
    """The image in a file, of 8 bits in RGB: see `rgb`.

    The pixels are those that are stored: an EXIF orientation is not applied, as in torchvision's ImageFolder, with
    which the networks were trained and their accuracies published (some of ImageNet's own photographs have one). Turn
    your own photographs first: PIL.ImageOps.exif_transpose. Of a camera's file of several pictures (MPO) the first is
    read.
    Raises InputError, naming the file, unless every pixel can be decoded, and for an animation.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # if switched on elsewhere, cut files would end in grey
    try:
        with Image.open(path) as image:
            return rgb(image)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # Pillow raises a dozen unrelated types for damaged files
        raise InputError(
            f"{path} is not a readable image ({error}): replace the file or take it out of the folder."
        ) from error


def rgb(image: Image.Image) -> Image.Image:
    """The image as 8 bits in RGB.

    Grey levels of 16 bits are scaled to 0..255 (of 16 bits a channel Pillow keeps the upper eight). What is transparent
    is laid on white, as on a page. Grey, palette, one-bit, CMYK and YCbCr images are converted by Pillow's own rules.
    Raises InputError for an animation, and for levels without a known range: 32-bit integers or floating point numbers.

    >>> rgb(Image.new("I;16", (1, 1), 65535)).getpixel((0, 0))
    (255, 255, 255)
    >>> rgb(Image.new("LA", (1, 1), (100, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise InputError(f"the image is an animation of {image.n_frames} frames: save the one you mean as a file")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        levels = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise InputError(
            f"the image has levels of 32 bits (mode {image.mode}), whose range is unknown: save it as 8 bits"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


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
    files = sorted(folder.iterdir())
    images = [file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
    return [file for file in images if not file.is_dir()]


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
