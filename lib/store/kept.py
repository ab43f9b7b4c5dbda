"""What is made once on the spot and kept: trained weights, clusters of outputs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lib import InputError
from lib.store.files import locked, write_atomically
from lib.store.workers import one_thread

Made = TypeVar("Made")


def kept(file: Path, make: Callable[[], Made], *, read: Callable[[Path], Made], write: Callable[[Made], bytes]) -> Made:
    """read(file) where it is there, else make(), by one thread, whose content write(made) is kept in `file`.

    Where several processes ask at once, one makes it and the others wait. A file that `read` refuses with an InputError
    is made again, which a line on standard error says.

    >>> import tempfile
    >>> file, asked = Path(tempfile.mkdtemp()) / "text", {"read": Path.read_text, "write": str.encode}
    >>> kept(file, lambda: "made", **asked), kept(file, lambda: "made again", **asked)
    ('made', 'made')
    """
    file = Path(file)
    with locked(file.parent / "locks" / file.name, wait=True):
        if file.exists():
            try:
                return read(file)
            except InputError as error:
                print(f"{file.name} is made again: {error}", file=sys.stderr)
        with one_thread():
            made = make()
        write_atomically(file, write(made))
    return made
