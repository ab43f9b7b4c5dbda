"""Which photographs can be read: found out once for each file's content; the others are named, counted and left out."""

import json
import sys
from pathlib import Path

from tqdm import tqdm

from lib import InputError
from lib.data.image_files import decode, reason, require_plain_file
from lib.data.imagenet import Photograph
from lib.store.digest import digest
from lib.store.files import content_digest, write_atomically
from lib.store.provenance import exclude, versions
from lib.store.workers import computed

CHUNK = 100  # photographs that are decoded at a time


def readable(photos: list[Photograph], *, cache: Path) -> list[Photograph]:
    """The photographs without the `unreadable` ones; raises InputError where none is left."""
    faults = unreadable(photos, cache=cache)
    kept = [photo for photo in photos if photo not in faults]
    if not kept:
        raise InputError(f"None of the {len(photos):,} photographs can be read; give a folder of intact ones.")
    return kept


def unreadable(photos: list[Photograph], *, cache: Path) -> dict[Photograph, str]:
    """{photograph that cannot be decoded: why}, of which one printed line and the record (provenance.json) tell.

    cache: `trained_folder(output)`, where it is remembered which contents were decoded, so that each is once, whatever
    it is called, by this version of the code and of Pillow; on the workers of a cluster where there is one.
    Raises InputError as `lib.store.workers.computed`.
    """
    faults, contents = {}, {}
    for photo in photos:
        try:
            require_plain_file(photo.path)
            contents[photo] = content_digest(photo.path)
        except (InputError, OSError) as error:
            faults[photo] = reason(error)
    known = _known({content: photo.path for photo, content in contents.items()}, Path(cache))
    faults |= {photo: known[content] for photo, content in contents.items() if known[content]}
    exclude({photo.id: fault for photo, fault in faults.items()}, len(photos))
    return faults


def _known(paths: dict[str, Path], cache: Path) -> dict[str, str]:
    """{content: why it cannot be decoded, "" where it can} of {content: a file that holds it}."""
    file = cache / f"readable-{digest([decode, versions()['pillow']])}.json"
    try:
        known = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # none yet, or damaged: everything is decoded again
        known = {}
    new = [(content, path) for content, path in paths.items() if content not in known]
    if not new:
        return known
    if len(new) <= CHUNK:  # seconds: less than the units of another notebook, behind which they would wait
        known |= _faults(new)
        write_atomically(file, json.dumps(known))
        return known
    tasks = {str(start): (new[start : start + CHUNK],) for start in range(0, len(new), CHUNK)}
    shown = {"unit": "photograph", "leave": False, "delay": 2, "mininterval": 0.5, "file": sys.stderr}
    try:
        with tqdm(total=len(new), desc="checking", **shown) as progress:
            for _, found in computed(tasks, _faults, module=__name__, folder=cache, label="photographs"):
                known |= found
                progress.update(len(found))
    finally:  # what was decoded before an interruption
        write_atomically(file, json.dumps(known))
    return known


def _faults(files: list[tuple[str, Path]]) -> dict[str, str]:
    return {content: _fault(path) for content, path in files}


def _fault(path: Path) -> str:
    content = path.read_bytes()
    try:
        decode(content)
    except InputError as error:
        return str(error)
    return ""
