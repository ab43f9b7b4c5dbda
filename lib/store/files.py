"""Files: read as UTF-8, told apart by what they hold, written whole or not at all, by one process at a time."""

import codecs
import contextlib
import errno
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from stat import S_ISREG

import yaml
from filelock import FileLock, Timeout

from lib import InputError

MOST = 100_000  # values in a YAML file
FRESH = 2 * 10**9  # nanoseconds in which a file may be written again without a new time stamp

_known: dict[str, list] = {}  # {path: [size, time of modification, time of change, digest of its content]}


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
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
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


@contextlib.contextmanager
def _plain_reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a file that exists and is yours.") from error


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark.

    Raises InputError for a file that is missing, not readable or in another encoding.
    """
    with _plain_reading(path):
        content = Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = "UTF-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "not UTF-8"
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"The text of {path} is {found} (line {line}); save the file as UTF-8.") from error


class _OnceEach(yaml.SafeLoader):
    """Plain values only, no more than MOST, and no key twice in one mapping, where YAML would keep the last."""

    def __init__(self, stream):
        super().__init__(stream)
        self.count, self.sizes = 0, {}  # values so far, and {id of a node: how many it stands for}

    def compose_node(self, parent, index):
        """A node; one that is referred to counts as often, because references to references multiply."""
        event, before = self.peek_event(), self.count
        if getattr(event, "tag", None):
            raise yaml.composer.ComposerError(None, None, f"{event.tag} is a type; give values alone", event.start_mark)
        node = super().compose_node(parent, index)
        again = isinstance(event, yaml.AliasEvent)
        self.count += self.sizes.get(id(node), MOST) if again else 1  # one that refers to itself has no size yet
        self.sizes.setdefault(id(node), self.count - before)
        if self.count > MOST:
            problem = f"more than {MOST:,} values, references included"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return node

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # of a date without such a month, a number of thousands of digits
            problem = f"{node.value[:40]!r} has no value ({error})"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [key for key, _ in node.value if names.count(key.value) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice[-1].value!r} is given {names.count(twice[-1].value)} times", twice[-1].start_mark
            )
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> object:
    """What a YAML file holds.

    Raises InputError as `read_text`, for broken YAML, a key that is given twice, and more than MOST values.
    """
    try:
        return yaml.load(read_text(path), Loader=_OnceEach)
    except RecursionError as error:
        raise InputError(f"{path} has brackets in brackets hundreds of times; correct it.") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f" (line {mark.line + 1})" if mark else ""
        advice = "indent with blanks instead of tabs" if "\\t" in str(problem) else "correct it"
        raise InputError(f"{path} is not valid YAML{place}: {problem or error}; {advice}.") from error


def content_digest(path: Path) -> str:
    """Hash that tells files and folders apart by what they hold, wherever they lie; hidden files do not count.

    A file is read again only when its size or its time stamps have changed. What cannot be read counts in a folder as
    just that. Raises InputError for a path that does not exist or cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"There is no {str(path)!r}; give an existing folder or file, or leave it out.")
    with _plain_reading(path):
        if path.is_file():
            return _file_digest(path)
        names = sorted(
            os.path.relpath(os.path.join(folder, name), path).replace(os.sep, "/")
            for folder, _, names in os.walk(path, onerror=_raised)
            for name in names
        )
        listing = [(name, _entry_digest(path / name)) for name in names if not name.rpartition("/")[2].startswith(".")]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]


def _raised(error: OSError) -> None:
    raise error


def _entry_digest(path: Path) -> str:
    """That of a file in a folder; what else is there is not opened, because a pipe would be waited for."""
    try:
        return _file_digest(path) if S_ISREG(path.stat().st_mode) else "no file"
    except OSError as error:  # a link that leads nowhere, a damaged sector
        return f"error {error.errno}"


def _file_digest(path: Path) -> str:
    stat = path.stat()
    stamps = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    name = os.path.abspath(path)
    if _known.get(name, [])[:3] == stamps:
        return _known[name][3]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    if time.time_ns() - stat.st_mtime_ns > FRESH:
        _known[name] = [*stamps, found]
    return found


@contextlib.contextmanager
def remembered_contents(file: Path) -> Iterator[None]:
    """Let `content_digest` remember in `file`, from one process to the next, which files it has read."""
    with contextlib.suppress(OSError, ValueError):
        _known.update(json.loads(file.read_text(encoding="utf-8")))
    before = dict(_known)
    try:
        yield
    finally:
        if _known != before:
            with contextlib.suppress(InputError):  # a folder that cannot be written costs a reading, not the run
                write_atomically(file, json.dumps(_known))


@contextlib.contextmanager
def locked(file: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock `file` for this process alone; the lock of a process that died is free.

    Raises InputError while another process holds it, unless it is to `wait`, and where it cannot be written.
    """
    lock = FileLock(file)
    with plain_file_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout as error:
            raise InputError(
                f"Another run is at work in {file.parent.parent}; wait until it has ended, or give another OUTPUT= "
                "folder."
            ) from error
        except NotImplementedError:
            if not wait:
                print(f"{file.parent} is on a disk without locks: start one run at a time in it.", file=sys.stderr)
    try:
        yield
    finally:
        lock.release()


def package_folder(package: str) -> Path:
    """The folder of a package, found without importing it; raises InputError if it is not installed."""
    spec = find_spec(package)
    if spec is None:
        name = package.replace("_", "-")
        raise InputError(f"The package '{name}' is not installed: type `pip install {name}`.")
    return Path(spec.submodule_search_locations[0])
