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
from lib.store.provenance import exclude

CLASSES = 1000
NEARLY = 0.95  # of the photographs that are wanted of a collection of one a class, so many are there
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
    above them. Class folders without images are skipped; images named otherwise are left out, which is printed and
    recorded. Files are only listed: which of them can be read, `lib.data.readability.readable` says. `limit`: only so
    many, see `explained_and_pool`.
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
    return found if limit is None or limit >= len(found) else _chosen(found, limit, 0)[0]


def explained_and_pool(source: str, *, limit: int, pool: int) -> tuple[list[Photograph], list[Photograph]]:
    """The photographs of `source` that are explained, and those that references are drawn from.

    limit: how many are explained, evenly spaced over the sorted list, so that a few still span the classes; 0 for all.
    pool: so many of the others, evenly spaced, without those that would be explained if pool // 2 were: an experiment
    that explains fewer has the same pool. Of all photographs where so many others are not there.
    Of a collection with one photograph a class, evenly spaced *classes* are taken, whichever other classes are there;
    those of which there is no photograph are printed and recorded. With limit=200 and pool=400 these are the classes 0,
    5, 10, ... and 1, 3, 6, 8, 11, ...
    Raises InputError as `photographs`, and for a negative limit.

    >>> explained, pool = explained_and_pool("packaged", limit=4, pool=10)
    >>> len(explained), len(pool), set(explained) & set(pool)
    (4, 10, set())
    """
    if limit < 0:
        raise InputError(f"limit={limit} selects no image: give a number from 1 up, or 0 for all images.")
    return _chosen(photographs(source), limit, pool)


def _chosen(photos: list[Photograph], limit: int, pool: int) -> tuple[list[Photograph], list[Photograph]]:
    of: dict[int, list[Photograph]] = {}
    for photo in photos:
        of.setdefault(photo.label, []).append(photo)
    parts = _places(CLASSES, limit, pool)
    wanted = [label for part in parts for label in part]
    if limit and sum(len(of.get(label, ())) == 1 for label in wanted) >= NEARLY * len(wanted):
        absent = [wnid(label) for label in wanted if label not in of]
        exclude(dict.fromkeys(absent, "there is no photograph of this class"), len(wanted))
        second = [photo for label in wanted for photo in of.get(label, ())[1:]]
        exclude({photo.id: "another photograph of its class is taken" for photo in second}, len(photos))
        explained, others = ([of[label][0] for label in part if label in of] for part in parts)
    else:
        explained, others = ([photos[place] for place in part] for part in _places(len(photos), limit, pool))
    return explained, others


def _places(count: int, limit: int, pool: int) -> tuple[list[int], list[int]]:
    """Which of `count` places are explained, and which are the pool."""
    places = list(range(count))
    explained = _even(places, limit or count)
    kept = {*explained, *_even(places, pool // 2)}
    others = [place for place in places if place not in kept]
    return explained, _even(others if len(others) >= pool else places, pool)


def _even(places: list[int], count: int) -> list[int]:
    """`count` of the places, evenly spaced; all where there are no more."""
    if count >= len(places):
        return places
    return [places[index * len(places) // count] for index in range(count)]


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
    if often:
        exclude({file.name: "it lies beside the folders of the classes" for file in _images(folder)}, often.total())
    return [
        Photograph(file, _label(entry.name, entry), file.stem if often[file.stem] == 1 else f"{entry.name}_{file.stem}")
        for entry, files in classes.items()
        for file in files
    ]


def _flat(folder: Path) -> list[Photograph]:
    found, others, annotations = [], {}, None
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
            others[file.name] = "its name holds no wnid"
            continue
        found.append(Photograph(file, _label(name, file), file.stem))
    if found:
        exclude(others, len(found) + len(others))
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
