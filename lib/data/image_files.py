"""Image files: which are read, and how their pixels become 8 bits in RGB."""

import io
import re
import stat
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from lib import InputError

# Whatever a file is called, Pillow looks at what it holds, and for some formats (EPS) would start another program.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
BYTES = 2**26  # of a file
PIXELS = 89_478_485  # of an image: 256 MiB in RGB, beyond which Pillow suspects a decompression bomb
ASPECT = 100  # longer by shorter side: networks see an image whose shorter side was resized to some hundred pixels
SCANS = 100  # of a JPEG: the usual progressive ones have about ten, and each costs a walk over all pixels
MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # of a part of a JPEG: two bytes that its pixels never hold
KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}  # of what is no file; else a device


def read_image(path: Path) -> Image.Image:
    """The image in a file, of 8 bits in RGB: see `decode`.

    Raises InputError, naming the file, for what `require_plain_file` and `decode` refuse.
    """
    try:
        require_plain_file(path)
        return decode(Path(path).read_bytes())
    except (InputError, OSError) as error:
        raise InputError(
            f"{path} cannot be used: {reason(error)}; replace the file or take it out of the folder."
        ) from error


def reason(error: InputError | OSError) -> str:
    """What an error says, without the file that the operating system repeats."""
    return getattr(error, "strerror", None) or str(error)


def require_plain_file(path: Path) -> None:
    """Raise InputError for what cannot be read to its end (a folder, a pipe, a device), and but for 1 to BYTES bytes.

    Nothing is opened, because to open a pipe is to wait. Raises OSError where there is no such file.

    >>> require_plain_file(Path("."))
    Traceback (most recent call last):
    lib.InputError: it is a folder, not a file
    """
    found = Path(path).stat()
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"it is a {KINDS.get(stat.S_IFMT(found.st_mode), 'device')}, not a file")
    if not 1 <= found.st_size <= BYTES:
        raise InputError(f"it has {found.st_size:,} bytes, and 1 to {BYTES:,} are allowed")


def decode(content: bytes) -> Image.Image:
    """The image that a file's content says, of 8 bits in RGB: see `rgb`.

    The pixels are those that are stored: an EXIF orientation is not applied, as in torchvision's ImageFolder, with
    which the networks were trained and their accuracies published (some of ImageNet's own photographs have one). Turn
    your own photographs first: PIL.ImageOps.exif_transpose. Of a camera's file of several pictures (MPO) the first is
    read.
    Raises InputError, with the reason alone, unless it is an image of FORMATS and every pixel can be decoded; for more
    than PIXELS pixels, a side more than ASPECT times the other, more than SCANS scans, and for an animation.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # if switched on elsewhere, cut files would end in grey
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _require_bounds(image, content)
            return rgb(image)
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"it is not an image in any of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow raises a dozen unrelated types for damaged files
        raise InputError(f"it cannot be decoded ({error or type(error).__name__})") from error


def _require_bounds(image: Image.Image, content: bytes) -> None:
    """Raise InputError, before a pixel is decoded, for an image that takes too much memory or time."""
    short, long = sorted(image.size)
    size = f"it is {image.width:,} x {image.height:,} pixels"
    if short * long > PIXELS:
        raise InputError(f"{size}, and {PIXELS:,} in all are allowed")
    if long > ASPECT * short:
        raise InputError(f"{size}, and no side may be longer than {ASPECT} times the other")
    if image.format in ("JPEG", "MPO") and _scans(content) > SCANS:
        raise InputError(f"it is a JPEG of more than {SCANS} scans, and each takes as long as a picture")


def _scans(content: bytes) -> int:
    """The scans of a JPEG's first picture; no more than SCANS + 1 are counted."""
    scans, found = 0, MARKER.search(content, 2)
    while found and found[1] != b"\xd9" and scans <= SCANS:
        scans += found[1] == b"\xda"
        found = MARKER.search(content, found.end() + int.from_bytes(content[found.end() : found.end() + 2]))
    return scans


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
        raise InputError("the image is an animation: save the picture you mean as a file")
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
