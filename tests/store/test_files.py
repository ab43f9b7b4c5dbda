"""Files: any encoding, any content, written whole or not at all, one run at a time."""

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib import ROOT, InputError
from lib.store import files
from lib.store.files import content_digest, locked, read_text, read_yaml, remembered_contents, write_atomically


def test_a_file_is_replaced_whole_and_readable_by_others(tmp_path):
    path = tmp_path / "new" / "table.csv"
    write_atomically(path, "old")
    write_atomically(path, b"new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["table.csv"]


@pytest.mark.parametrize(
    ("failure", "raised", "said"),
    [
        (OSError(errno.ENOSPC, "No space"), InputError, "The disk is full: table.csv was not written"),
        (OSError(errno.EACCES, "Forbidden"), InputError, r"cannot be written \(Forbidden\); give a folder"),
        (KeyboardInterrupt("now"), KeyboardInterrupt, "now"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, moment, failure, raised, said):
    path = tmp_path / "table.csv"
    write_atomically(path, "old")

    def fail(*_):
        raise failure

    monkeypatch.setattr(os, moment, fail)
    with pytest.raises(raised, match=said):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


# -- text --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_text_is_utf8_with_or_without_a_mark(tmp_path, encoding):
    (tmp_path / "a.yaml").write_text("Größe: 1\n", encoding=encoding)
    assert read_text(tmp_path / "a.yaml") == "Größe: 1\n"
    assert read_yaml(tmp_path / "a.yaml") == {"Größe": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a\nGröße".encode("latin-1"), r"a\.csv is not UTF-8 \(line 2\); save the file as UTF-8\.$"),
        ("Größe".encode("utf-16"), r"a\.csv is UTF-16 \(line 1\); save"),
        ("Größe".encode("utf-32"), r"save the file as UTF-8"),
        (b"\x89PNG\r\n", r"is not UTF-8"),
    ],
)
def test_another_encoding_is_one_sentence(tmp_path, content, said):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_text(tmp_path / "a.csv")


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputError, match=r"cannot be read \(.*\); give a file"):
            read_text(path)


# Nine lines of references, each to nine of the line before.
MANY = "a0: &a0 {{x: 1}}\n" + "".join(
    f"a{n}{{0}} &a{n} {{1}}{', '.join([f'*a{n - 1}'] * 9)}{{2}}\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", r"p\.yaml is not valid YAML \(line 3\): 'a' is given 2 times; correct it\.$"),
        ("a: {b: 1, c: 2, b: 3}", "'b' is given 2 times"),
        ("a:\n\t- 1", r"indent with blanks instead of tabs\.$"),
        ("a: [1", r"not valid YAML \(line 1\)"),
        ("<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> b\n", r"not valid YAML \(line \d\)"),
        ("a: !!python/object/apply:os.getcwd []", "python/object/apply:os.getcwd is a type; give values alone"),
        ("a: \x07", "special characters are not allowed"),
        ("a: 2026-13-45", r"\(line 1\): '2026-13-45' has no value \(month must be in 1\.\.12\)"),
        ("a: " + "1" * 5000, "'1111.*' has no value"),
        *((f"a: 1\nb: !!{kind}", r"\(line 2\): .*is a type") for kind in ("float x", "map 3", "set [a]", "bool x")),
        ("a: &b [1]\nc: &d {<<: *d}", r"\(line 2\): more than 100,000 values, references included"),
        ("a: &b [*b]", "more than 100,000 values, references included"),
        (MANY.format(":", "[", "]"), r"\(line 6\): more than 100,000 values, references included"),
        (MANY.format(":", "{<<: [", "]}"), r"\(line \d\): more than 100,000 values, references included"),
        ("a: " + "[" * 5000, "brackets in brackets"),
    ],
)
def test_broken_yaml_is_one_sentence(tmp_path, text, said):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        read_yaml(tmp_path / "p.yaml")


# -- contents ----------------------------------------------------------------------------------------------------------


def aged(path: Path, content: str, seconds: float = 100) -> Path:
    """A file that was written a while ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_contents_count_wherever_they_lie_and_hidden_files_do_not(tmp_path):
    def folder(place: str, **texts: str) -> str:
        for name, text in texts.items():
            aged(tmp_path / place / "set" / "n01440764" / name, text)
        return content_digest(tmp_path / place / "set")

    one = folder("one", a="12", b="345")
    assert folder("same", b="345", a="12") == one
    assert folder("content", a="12", b="346") != one  # of the same size
    assert folder("name", a="12", c="345") != one
    assert folder("more", a="12", b="345", c="") != one
    aged(tmp_path / "one" / "set" / ".DS_Store", "x")
    assert content_digest(tmp_path / "one" / "set") == one
    assert content_digest(tmp_path / "one" / "set" / "n01440764" / "a") != one


def test_a_file_replaced_by_another_of_its_size_is_seen_at_once(tmp_path):
    seen = set()
    for content in "abcdef":  # within one tick of the clock that stamps files
        (tmp_path / "weights.pth").write_text(content)
        seen.add(content_digest(tmp_path / "weights.pth"))
    assert len(seen) == 6
    aged(tmp_path / "weights.pth", "g")
    before = content_digest(tmp_path / "weights.pth")
    stamp = (tmp_path / "weights.pth").stat()
    time.sleep(0.02)
    (tmp_path / "weights.pth").write_text("h")
    os.utime(tmp_path / "weights.pth", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as `cp -p` leaves it
    assert content_digest(tmp_path / "weights.pth") != before


def test_no_file_is_read_twice_unless_it_changed_not_even_by_another_process(tmp_path, monkeypatch):
    for name in "abc":
        aged(tmp_path / "set" / name, name)
    read = []
    really = files.hashlib.file_digest
    monkeypatch.setattr(files.hashlib, "file_digest", lambda file, kind: read.append(file.name) or really(file, kind))
    with remembered_contents(tmp_path / "memory.json"):
        first = content_digest(tmp_path / "set")
        assert content_digest(tmp_path / "set") == first
    assert sorted(Path(name).name for name in read) == ["a", "b", "c"]
    monkeypatch.setattr(files, "_known", {})  # another process
    aged(tmp_path / "set" / "b", "B", seconds=50)
    with remembered_contents(tmp_path / "memory.json"):
        assert content_digest(tmp_path / "set") != first
    assert [Path(name).name for name in read[3:]] == ["b"]
    (tmp_path / "memory.json").write_text("{half a fi")
    with remembered_contents(tmp_path / "memory.json"):
        content_digest(tmp_path / "set")


def test_missing_data_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"^There is no '.*nowhere'; give an existing folder or file"):
        content_digest(tmp_path / "nowhere")


# -- locks -------------------------------------------------------------------------------------------------------------

HOLD = "import sys, time; from pathlib import Path; from lib.store.files import locked\n"
HOLD += "with locked(Path(sys.argv[1]) / 'lock'):\n    print('held', flush=True)\n    time.sleep(60)"


def test_a_folder_is_held_by_one_process_and_a_dead_one_holds_nothing(tmp_path):
    with locked(tmp_path / ".cache" / "lock"):
        pass
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".cache")]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        sentence = f"^Another run is at work in {tmp_path}; wait until it has ended, or give another OUTPUT= folder.$"
        with pytest.raises(InputError, match=sentence), locked(tmp_path / ".cache" / "lock"):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with locked(tmp_path / ".cache" / "lock"):
        pass


def test_references_are_what_they_refer_to(tmp_path):
    (tmp_path / "p.yaml").write_text("a: &a {b: 1, c: 2}\nd: *a\ne: &e {<<: *a, c: 3}\nf: {<<: *e}\n")
    merged = {"b": 1, "c": 3}
    assert read_yaml(tmp_path / "p.yaml") == {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 2}, "e": merged, "f": merged}
