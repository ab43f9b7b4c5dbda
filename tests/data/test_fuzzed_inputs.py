"""Whatever files hold, and wherever they lie: a valid result or an InputError, never another error, never a wait."""

import io
import os
import tempfile
from collections.abc import Callable
from copy import deepcopy
from datetime import timedelta
from pathlib import Path

import numpy as np
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lib import ROOT, InputError
from lib.data.image_files import ASPECT, PIXELS, decode
from lib.data.imagenet import Photograph, photographs
from lib.data.readability import readable
from lib.reporting.claims import Claim, load_registry
from lib.run.parameters import Parameter, read_overrides, resolve

fuzzed = settings(
    derandomize=True,
    database=None,
    max_examples=int(os.environ.get("FUZZ", 150)),
    deadline=timedelta(seconds=60),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def or_refused(function: Callable, *arguments, **options):
    """The function's result, None where it raises an InputError of one line."""
    try:
        return function(*arguments, **options)
    except InputError as error:
        assert str(error).strip()
        return None


@st.composite
def mutated(draw, contents: list[bytes]) -> bytes:
    """One of the contents with a few bytes replaced, put in, repeated or cut off."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(content)))
        stop = min(start + draw(st.sampled_from([0, 1, 2, 4, 40])), len(content))
        put = draw(st.binary(max_size=6) | st.sampled_from([b"\x00" * 4, b"\xff" * 4, bytes(content[start:stop]) * 3]))
        content[start:stop] = put
    return bytes(content[: draw(st.none() | st.integers(0, len(content)))])


def written(folder: str, name: str, content: bytes) -> Path:
    path = Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# -- photographs -------------------------------------------------------------------------------------------------------


def pictures() -> list[bytes]:
    """A small picture in every format, as it is commonly saved."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    deep = Image.fromarray(np.arange(480, dtype=np.uint16).reshape(20, 24) * 130)
    icon, exif = noise.quantize(8), Image.Exif()
    exif[0x010E] = "a picture"
    ways = [
        (noise, "JPEG", {"exif": exif}),
        (noise.convert("CMYK"), "JPEG", {"progressive": True}),
        (noise, "PNG", {}),
        (deep, "PNG", {}),
        (icon, "PNG", {"transparency": 3}),
        (noise.convert("LA"), "PNG", {}),
        (icon, "GIF", {"save_all": True, "append_images": [icon.rotate(90)]}),
        (icon, "GIF", {}),
        (noise, "WEBP", {"lossless": True}),
        (noise.convert("1"), "BMP", {}),
    ]
    found = []
    for image, kind, options in ways:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        found.append(stream.getvalue())
    return found


@fuzzed
@given(mutated(pictures()) | st.binary(max_size=60))
def test_the_bytes_of_an_image(content):
    image = or_refused(decode, content)
    if image:
        assert image.mode == "RGB" and image.width * image.height <= PIXELS
        assert max(image.size) <= ASPECT * min(image.size)


WNIDS = ["n01440764", "n01443537", "n99999999", "n0144076", "N01440764"]
IMAGES = [f"ILSVRC2012_val_0000000{number}.JPEG" for number in (1, 2)]
WORDS = [*IMAGES, *(name[:-5] for name in IMAGES), *WNIDS, "ImageId", "\t", ",", " ", "\n", "\r", "\n\n", "\x85"]
LABELS = st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=14).map("".join)
ANNOTATIONS = b"ILSVRC2012_val_00000001.JPEG\tn01440764\t0\t0\nILSVRC2012_val_00000002.JPEG\tn01443537\n"
SOLUTION = b"ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 \nILSVRC2012_val_00000002,n01443537 1 "
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "latin-1"]


def encoded(text: str, encoding: str) -> bytes:
    return text.encode(encoding, "ignore")


def valid(found: list[Photograph]) -> bool:
    ids = {photo.id for photo in found}
    return len(ids) == len(found) > 0 and all(0 <= photo.label < 1000 for photo in found)


@fuzzed
@given(
    st.sampled_from(["val_annotations.txt", "LOC_val_solution.csv"]),
    st.builds(encoded, LABELS, st.sampled_from(ENCODINGS)) | mutated([ANNOTATIONS, SOLUTION]),
)
def test_files_of_labels(name, content):
    with tempfile.TemporaryDirectory() as folder:
        for image in IMAGES:
            written(folder, f"val/{image}", b"")
        written(folder, name, content)
        found = or_refused(photographs, folder)
        assert found is None or (valid(found) and len(found) == 2)


NAMES = [*WNIDS, *IMAGES, "val", "images", "n01440764_1.jpg", "n01443537_1.jpg", "a.png", "a.JPEG", ".a.jpg", "é.jpg"]
MAKE = {
    "file": lambda path: path.write_bytes(PICTURE),
    "damaged file": lambda path: path.write_bytes(PICTURE[:50]),
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "link to itself": lambda path: path.symlink_to(path.name),
    "link upwards": lambda path: path.symlink_to(".."),
}
PICTURE = pictures()[2]
PLACES = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3)


@fuzzed
@given(st.lists(st.tuples(PLACES, st.sampled_from(sorted(MAKE))), max_size=8), st.none() | st.integers(-1, 4))
def test_layouts_of_folders(entries, limit):
    with tempfile.TemporaryDirectory() as folder:
        written(folder, "val_annotations.txt", f"{IMAGES[0]}\tn01440764\n".encode())
        for parts, kind in entries:
            path = Path(folder, *parts)
            free = not os.path.lexists(path)
            if free and all(parent.is_dir() or not os.path.lexists(parent) for parent in path.parents):
                path.parent.mkdir(parents=True, exist_ok=True)
                MAKE[kind](path)
        found = or_refused(photographs, folder, limit)
        assert found is None or (valid(found) and (limit is None or len(found) <= limit))
        kept = found and or_refused(readable, found, cache=Path(folder))
        assert not kept or all(decode(photo.path.read_bytes()).mode == "RGB" for photo in kept)


# -- what is written by hand -------------------------------------------------------------------------------------------

KNOWN = {
    "steps": Parameter(list[int], [8, 16]),
    "paths": Parameter(tuple[str, ...], ("straight",)),
    "seed": Parameter(int, 0),
    "scale": Parameter(float, 1.0),
    "weights": Parameter(str | None, None),
    "chosen": Parameter(dict[str, int], {}),
    "quick": Parameter(bool, False),
}
SCALARS = ["8", "1e-3", "1.0e-3", ".inf", ".nan", "0x1_f", "0b2", "1:30", "2026-11-26", "yes", "~", "null", "''", '"']
SCALARS += ["'", "é", "#", "[8, 16]", "[", "{", "{a: 1}", "{<<: 1}", "<<: *a", "&a", "*a", "? [a]", "|", ">", "---"]
SCALARS += ["...", "%YAML 9", "\t", "!!python/object:os.system", "2026-13-45", "1" * 5000, "[" * 900]
SCALARS += [
    f"!!{kind} x" for kind in ("int", "float", "bool", "binary", "timestamp", "map", "seq", "set", "omap", "null")
]
LINES = st.lists(
    st.builds(
        lambda indent, name, value: f"{'  ' * indent}{name}: {value}",
        st.integers(0, 2),
        st.sampled_from([*KNOWN, "stesp", "1", "[a]", "&a b", "<<", "- x", "?"]),
        st.sampled_from(SCALARS) | st.text(max_size=4),
    ),
    max_size=5,
).map("\n".join)
PARAMETERS = (
    b"steps: [8, 16]\npaths: [straight, blur]\nseed: 3\nscale: 1.0e-3\nweights: null\nchosen: {a: 1}\nquick: true\n"
)


@fuzzed
@given(st.builds(encoded, LINES, st.sampled_from(ENCODINGS)) | mutated([PARAMETERS]))
def test_files_of_parameters(content):
    with tempfile.TemporaryDirectory() as folder:
        given_values = or_refused(read_overrides, written(folder, "a.yaml", content))
        found = given_values is not None and or_refused(resolve, KNOWN, given_values, where="a.yaml")
        assert not found or (set(found) == set(KNOWN) and type(found["seed"]) is int and type(found["steps"]) is list)


REGISTRY = yaml.safe_load((ROOT / "params" / "claims.yaml").read_text(encoding="utf-8"))
AGREE = next(name for name, entry in REGISTRY.items() if entry["test"]["kind"] == "agree")
FEW = {name: REGISTRY[name] for name in (AGREE, *REGISTRY[AGREE]["test"]["claims"][:1])}
FEW[AGREE]["test"]["claims"] = [*FEW][1:]
KEYS = sorted({key for entry in REGISTRY.values() for key in (*entry, *entry["test"])})
PLAIN = [None, True, False, -1, 0.5, float("nan"), float("inf"), "", "a", *KEYS, *FEW, "order", "less", "idgi"]
VALUES = st.recursive(
    st.sampled_from(PLAIN),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, 1]), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def registries(draw) -> bytes:
    """Two claims of the study, with a key of one, or of its test, or a whole claim replaced, added or taken out."""
    claims = deepcopy(FEW)
    for _ in range(draw(st.integers(1, 2))):
        entry = claims.get(draw(st.sampled_from([*FEW])))
        entry = entry if isinstance(entry, dict) else {}
        place = draw(st.sampled_from([each for each in (claims, entry, entry.get("test")) if isinstance(each, dict)]))
        key = draw(st.sampled_from([*place, *KEYS]) | st.integers(0, 2))
        if key in place and draw(st.booleans()):
            del place[key]
        else:
            place[key] = deepcopy(draw(VALUES))
    return yaml.safe_dump(claims, allow_unicode=True).encode()


@fuzzed
@given(registries() | mutated([yaml.safe_dump(FEW, sort_keys=False).encode()]) | st.builds(str.encode, LINES))
def test_the_registry_of_claims(content):
    with tempfile.TemporaryDirectory() as folder:
        found = or_refused(load_registry, written(folder, "claims.yaml", content))
        assert found is None or all(isinstance(claim, Claim) and isinstance(claim.id, str) for claim in found)
