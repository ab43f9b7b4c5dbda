"""Files: whole or not at all, and what the operating system says about them in one sentence."""

import codecs
import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from lib import InputError


@contextlib.contextmanager
def plain_file_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says while writing `path` into an InputError of one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"The disk is full: {path.name} was not written, nothing finished was lost; free some space "
                "or give another OUTPUT= folder, and type the same command again."
            ) from error
        raise InputError(
            f"{path} cannot be written ({error.strerror}); give a folder you may write to with OUTPUT=."
        ) from error


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `path` so that it is, at every moment, either the complete old file or the complete new one.

    Raises InputError when the disk is full or the folder cannot be written.
    """
    with plain_file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark.

    Raises InputError for a file that is missing, not readable or in another encoding.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a file that exists and is yours.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = "UTF-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "not UTF-8"
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"The text of {path} is {found} (line {line}); save the file as UTF-8.") from error


def package_folder(package: str) -> Path:
    """The folder of a package, found without importing it; raises InputError if it is not installed."""
    spec = find_spec(package)
    if spec is None:
        name = package.replace("_", "-")
        raise InputError(f"The package '{name}' is not installed: type `pip install {name}`.")
    return Path(spec.submodule_search_locations[0])
