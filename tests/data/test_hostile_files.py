"""Image files that are damaged, endless or far too large: refused in a sentence, and no reason to lose the others."""

import errno
import io
import os
import re
import signal
import socket
import struct
import zlib
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from lib import InputError
from lib.data import image_files, readability
from lib.data.image_files import BYTES, read_image
from lib.data.imagenet import photographs
from lib.data.readability import readable, unreadable
from lib.experiments import idgi, lens, subjects, xdnn
from lib.store import provenance
from lib.store.digest import digest
from lib.store.files import content_digest

TENCH, GOLDFISH = "n01440764", "n01443537"
SECONDS = 20  # in which anything is refused, on a machine that does something else at the same time


@pytest.fixture(autouse=True)
def in_time():
    """Whatever waits for a pipe or never ends fails."""

    def stop(*_):
        raise TimeoutError(f"not done in {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def png(width: int, height: int, *, rows: int = 0) -> bytes:
    """A one-bit PNG of a size, of whose black rows only some are there."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    pixels = zlib.compress(bytes(1 + (width + 7) // 8) * rows, 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def saved(kind: str, size: tuple[int, int] = (40, 30), **options) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(stream, kind, **options)
    return stream.getvalue()


def animated(kind: str) -> bytes:
    frames, stream = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (0, 100, 200)], io.BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    return stream.getvalue()


def of_many_scans(count: int) -> bytes:
    """A progressive JPEG that repeats its last scan."""
    content = saved("JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * count + b"\xff\xd9"


def loop(path: Path) -> None:
    path.with_name("other").symlink_to(path)
    path.symlink_to("other")


def listening(path: Path) -> None:
    place = os.open(path.parent, os.O_RDONLY)  # a socket's name is short
    try:
        socket.socket(socket.AF_UNIX).bind(f"/proc/self/fd/{place}/{path.name}")
    finally:
        os.close(place)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


FLAT = png(60_000, 60_000, rows=3)
CONTENTS = {  # what a file holds: what is said of it
    "nothing": (b"", "it has 0 bytes, and 1 to 67,108,864 are allowed"),
    "one byte": (b"\xff", "it is not an image in any of JPEG, PNG"),
    "a page": (b"<html>404</html>", "it is not an image in any of JPEG, PNG"),
    "a program for a printer": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "it is not an image in any of JPEG, PNG",
    ),
    "half a JPEG": (saved("JPEG", (400, 300))[:2000], "it cannot be decoded .*truncated"),
    "half a PNG": (saved("PNG")[:-40], "it cannot be decoded"),
    "a PNG with a wrong checksum": (saved("PNG")[:-20] + b"oops" + saved("PNG")[-16:], "it cannot be decoded"),
    "a PNG without a header": (saved("PNG").replace(b"IHDR", b"iHDR"), "it is not an image in any of JPEG, PNG"),
    "a bomb": (FLAT, r"it cannot be decoded .*3600000000 pixels.*bomb"),
    "a smaller bomb": (png(12_000, 12_000), "it is 12,000 x 12,000 pixels, and 89,478,485 in all are allowed"),
    "a strip": (png(60_000, 1, rows=1), "it is 60,000 x 1 pixels, and no side may be longer than 100 times the other"),
    "a pole": (png(3, 301, rows=301), "it is 3 x 301 pixels, and no side may be longer than 100 times the other"),
    "an animated GIF": (animated("GIF"), "the image is an animation"),
    "an animated PNG": (animated("PNG"), "the image is an animation"),
    "an animated WEBP": (animated("WEBP"), "the image is an animation"),
    "a thousand scans": (of_many_scans(1000), "it is a JPEG of more than 100 scans"),
}
PLACES = {  # what is in a file's place: what is said of it
    "a folder": (Path.mkdir, "it is a folder, not a file"),
    "a pipe": (os.mkfifo, "it is a pipe, not a file"),
    "a socket": (listening, "it is a socket, not a file"),
    "an endless device": (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a file"),
    "a loop of links": (loop, os.strerror(errno.ELOOP)),
    "a link to nothing": (lambda path: path.symlink_to("gone"), "No such file"),
    "a terabyte": (sparse, f"it has 1,099,511,627,776 bytes, and 1 to {BYTES:,} are allowed"),
}
HOSTILE = {**{name: (lambda path, c=c: path.write_bytes(c), said) for name, (c, said) in CONTENTS.items()}, **PLACES}


@pytest.fixture
def folder(tmp_path):
    """Eight photographs of two classes, each of its own colour."""
    for label, wnid in enumerate((TENCH, GOLDFISH)):
        (tmp_path / "set" / wnid).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (label, number, 0)).save(tmp_path / "set" / wnid / f"{wnid}_{number}.JPEG", "PNG")
    provenance._say.cache_clear()
    return tmp_path / "set"


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_in_a_sentence_that_names_it(tmp_path, kind):
    make, said = HOSTILE[kind]
    make(tmp_path / "a.JPEG")
    with pytest.raises(InputError, match=rf"a\.JPEG cannot be used: .*({said}).*; replace the file or take it out"):
        read_image(tmp_path / "a.JPEG")


def test_the_bomb_is_small():
    assert len(FLAT) < 5000


def test_what_cannot_be_opened_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.JPEG").write_bytes(saved("JPEG"))

    def refuse(self):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # the superuser may read everything
    with pytest.raises(InputError, match=r"a\.JPEG cannot be used: Permission denied; replace"):
        read_image(tmp_path / "a.JPEG")


@pytest.mark.parametrize(
    "content",
    [
        png(300, 3, rows=3),
        of_many_scans(50),
        saved("JPEG", progressive=True) + bytes(range(256)) * 5 + b"\xff\xda" * 1000,  # as of a phone, a film behind it
        saved("JPEG", comment=b"\xff\xda" * 1000),
        saved("GIF"),
        saved("BMP"),
        saved("WEBP"),
    ],
    ids=["long", "many scans", "more behind it", "a long comment", "GIF", "BMP", "WEBP"],
)
def test_what_is_only_unusual_is_read(tmp_path, content):
    (tmp_path / "a.JPEG").write_bytes(content)
    assert read_image(tmp_path / "a.JPEG").mode == "RGB"


def test_too_little_memory_is_no_fault_of_the_file(tmp_path, monkeypatch):
    (tmp_path / "a.JPEG").write_bytes(saved("JPEG"))

    def full(image):
        raise MemoryError

    monkeypatch.setattr(image_files, "rgb", full)
    with pytest.raises(MemoryError):
        read_image(tmp_path / "a.JPEG")


# -- among others ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_among_others_is_named_excluded_and_counted(folder, tmp_path, kind, capsys):
    make, said = HOSTILE[kind]
    path = folder / TENCH / f"{TENCH}_2.JPEG"
    path.unlink()
    make(path)
    found = photographs(str(folder))
    kept = readable(found, cache=tmp_path)
    assert [photo.id for photo in found if photo not in kept] == [f"{TENCH}_2"] and len(kept) == 7
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and printed.startswith(f"1 of 8 photographs were excluded: {TENCH}_2 (")
    assert re.search(said, printed)


def test_intact_photographs_are_all_kept_and_nothing_is_said(folder, tmp_path, capsys):
    found = photographs(str(folder))
    assert readable(found, cache=tmp_path) == found and capsys.readouterr().out == ""


def test_the_record_names_what_was_excluded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "excluded", {})
    found = photographs(str(folder))
    readable(found, cache=tmp_path)
    assert "excluded" not in provenance.footprint()
    found[1].path.write_bytes(b"")
    readable(found, cache=tmp_path)
    assert provenance.footprint()["excluded"] == {found[1].id: "it has 0 bytes, and 1 to 67,108,864 are allowed"}


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind not in ("a folder", "a terabyte")])
def test_a_run_can_tell_folders_apart_that_hold_a_hostile_file(folder, kind):
    before = content_digest(folder)
    HOSTILE[kind][0](folder / TENCH / "a.JPEG")
    assert content_digest(folder) == content_digest(folder) != before


def test_many_are_counted_and_a_few_named_once(folder, tmp_path, capsys):
    found = photographs(str(folder))
    for photo in found[:7]:
        photo.path.write_bytes(b"")
    assert len(unreadable(found, cache=tmp_path)) == len(unreadable(found, cache=tmp_path)) == 7
    assert capsys.readouterr().out.count("(it has 0 bytes") == 5
    found[7].path.unlink()
    with pytest.raises(InputError, match="None of the 8 photographs can be read"):
        readable(found, cache=tmp_path)
    assert "8 of 8 photographs were excluded" in (out := capsys.readouterr().out) and "; and 3 more." in out


@pytest.fixture
def decoded(monkeypatch):
    """The contents that were decoded so far."""
    seen, real = [], image_files.decode
    monkeypatch.setattr(readability, "decode", lambda content: seen.append(content) or real(content))
    monkeypatch.setattr(readability, "digest", lambda _: "the same code and Pillow")
    return seen


def test_each_content_is_decoded_once(folder, tmp_path, decoded, monkeypatch):
    found = photographs(str(folder))
    found[1].path.write_bytes(b"damaged")
    assert len(readable(found[::3], cache=tmp_path)) == len(decoded) == 3
    assert len(readable(found, cache=tmp_path)) == 7 and len(decoded) == 8
    for photo in found:
        photo.path.rename(photo.path.with_name(f"moved_{photo.path.name}"))
    moved = photographs(str(folder))
    assert len(readable(moved, cache=tmp_path)) == 7 and len(decoded) == 8
    moved[1].path.write_bytes(saved("PNG"))
    assert len(readable(moved, cache=tmp_path)) == len(moved) and decoded[8:] == [saved("PNG")]
    monkeypatch.setattr(readability, "digest", lambda _: "another version of Pillow")
    readable(moved, cache=tmp_path)
    assert len(decoded) == 17


def test_an_interruption_keeps_what_was_decoded(folder, tmp_path, decoded, monkeypatch):
    found = photographs(str(folder))
    monkeypatch.setattr(readability, "CHUNK", 2)
    real = readability.decode

    def interrupted(content):
        if len(decoded) == 5:
            raise KeyboardInterrupt
        return real(content)

    with monkeypatch.context() as once:
        once.setattr(readability, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            readable(found, cache=tmp_path)
    assert readable(found, cache=tmp_path) == found and len(decoded) == 5 + 4


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]"])
def test_a_damaged_memory_is_written_anew(folder, tmp_path, decoded, content):
    found = photographs(str(folder))
    readable(found, cache=tmp_path)
    (file,) = tmp_path.glob("readable-*.json")
    file.write_bytes(content)
    assert readable(found, cache=tmp_path) == readable(found, cache=tmp_path) == found and len(decoded) == 16


# -- the units of a study ----------------------------------------------------------------------------------------------


def keys(units: dict) -> dict[str, str]:
    return {name: digest(unit) for name, unit in units.items()}


def chosen(folder: Path, **changes) -> dict:
    asked = {"images": str(folder), "limit": 0, "digits_limit": 0, "group": 3, "pool": 1, "weights": ""}
    return asked | {"cache": folder.parent / "trained"} | changes


UNITS = {
    "subjects": lambda **asked: subjects.subject_units("efficientnet_lite0", **asked),
    "lens": lambda **asked: lens.lens_units("resnet50_pgd", **asked),
    "xdnn": lambda **asked: xdnn.twin_units("vgg16", **asked)["x"],
    "untrained": lambda images, limit, group, cache, **_: xdnn.untrained_units(
        "alexnet", images=images, limit=limit, group=group, cache=cache
    )["x"],
}


@pytest.mark.parametrize("study", UNITS)
def test_the_units_of_the_other_photographs_stay_as_they_are(study, folder):
    before = keys(UNITS[study](**chosen(folder)))
    assert len(before) == 3
    (folder / GOLDFISH / f"{GOLDFISH}_0.JPEG").write_bytes(b"damaged")
    after = keys(UNITS[study](**chosen(folder)))
    assert len(after) == 3 and len(set(after.items()) & set(before.items())) == 2


def test_a_unit_holds_the_readable_ones_and_an_empty_one_is_left_out(folder):
    found = photographs(str(folder))
    for index in (1, 3, 4, 5):
        found[index].path.write_bytes(b"damaged")
    groups = subjects.grouped(found, 3, cache=folder.parent)
    assert groups == [[found[0], found[2]], found[6:]]
    assert subjects.grouped(found, 1, cache=folder.parent) == [[found[index]] for index in (0, 2, 6, 7)]


@pytest.mark.parametrize(
    ("damaged", "groups"), [((0,), [[1, 2, 3], [4, 5], [6, 7]]), ((3,), [[0, 1, 2], [4, 5], [6, 7]])]
)
def test_a_photograph_left_alone_joins_its_neighbours_where_two_are_needed(folder, damaged, groups):
    found = photographs(str(folder))
    for index in damaged:
        found[index].path.write_bytes(b"damaged")
    assert subjects.grouped(found, 2, cache=folder.parent, fewest=2) == [[found[i] for i in group] for group in groups]
    units = lens.lens_units("resnet50_pgd", **chosen(folder, group=2))
    assert [unit.args[0].args[1] for unit in units.values()] == [[found[i] for i in group] for group in groups]


def test_references_are_drawn_from_readable_photographs(folder):
    found = photographs(str(folder))
    found[0].path.write_bytes(b"damaged")
    assert {unit.args[2] for unit in UNITS["subjects"](**chosen(folder, pool=2)).values()} == {digest([found[4]])}
    assert {unit.args[2] for unit in UNITS["subjects"](**chosen(folder)).values()} == {digest([found[1]])}


def test_units_of_idgi_keep_the_place_of_what_cannot_be_read(folder):
    listed = photographs(str(folder))

    def units(photos) -> dict[str, str]:
        used = ["no" if photo is listed[6] else "insertion" for photo in photos]
        seen = pd.DataFrame({"image": [photo.id for photo in photos], "model": "net", "used": used})
        return keys(idgi.idgi_units(listed, seen, "net", 3))

    before, after = units(listed), units([photo for photo in listed if photo is not listed[1]])
    assert len(before) == len(after) == 3 and len(set(before.items()) & set(after.items())) == 2
    with pytest.raises(InputError, match="net recognises none of the 8 photographs"):
        units([])
