"""Walk once, integrate many ways: the code behind the notebooks."""

import difflib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class InputError(ValueError):
    """Something given by the user cannot be used; the message says what was given, what is allowed, what to type."""


class MissingData(InputError):
    """Data or weights that a part of the study needs were not given; the message begins with "This needs"."""


def nearest(given: str, allowed) -> str:
    """The end of an error message: the allowed names, the most similar one first where there is one."""
    allowed = sorted(map(str, allowed))
    close = difflib.get_close_matches(str(given), allowed, n=1)
    return f"did you mean {close[0]!r}?" if close else f"it must be one of {', '.join(allowed)}"
