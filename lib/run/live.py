"""What is said while notebooks run: a line about each."""

import contextlib
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator


class Line:
    """One running notebook. Its standard error is written here; the last line of that, as a rule a progress bar, is
    shown.
    """

    def __init__(self, title: str, expected: float | None = None):
        self.title, self.expected, self.note, self.began = title, expected, "", time.monotonic()

    def write(self, text: str) -> None:
        lines = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
        self.note = lines[-1] if lines else self.note

    def flush(self) -> None:
        """papermill asks for it."""

    def __str__(self) -> str:
        about = f" of about {clock(self.expected)}" if self.expected else ""
        return f"{self.title}  {clock(time.monotonic() - self.began)}{about}  {self.note}"


class Live:
    """The lines of running notebooks: repainted on a terminal, repeated every ten seconds elsewhere."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.lock, self.done = threading.Lock(), threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Live":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.done.set()
        self.thread.join()
        self.say()

    @contextlib.contextmanager
    def line(self, title: str, expected: float | None = None) -> Iterator[Line]:
        """A line for as long as this is entered."""
        added = Line(title, expected)
        with self.lock:
            self.lines.append(added)
        try:
            yield added
        finally:
            with self.lock:
                self.lines.remove(added)

    def say(self, text: str = "") -> None:
        """Print a line for good, above those that are repainted."""
        with self.lock:
            if sys.stderr.isatty():
                print("\r\033[J", end="", file=sys.stderr, flush=True)
            if text:
                print(text, flush=True)

    def _watch(self) -> None:
        terminal = sys.stderr.isatty()
        while not self.done.wait(0.5 if terminal else 10):
            with self.lock:
                if terminal:
                    width = shutil.get_terminal_size().columns - 1
                    shown = "\n".join(str(line)[:width] for line in self.lines)
                    back = f"\033[{len(self.lines) - 1}A" if len(self.lines) > 1 else ""
                    print(f"\r\033[J{shown}{back}\r", end="", file=sys.stderr, flush=True)
                else:
                    for line in self.lines:
                        print(line, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:30 or 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
