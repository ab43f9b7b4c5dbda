"""What the note beside a verdict says: how many images would decide, and what is missing."""

import math

import pandas as pd

from lib.reporting.claims.evidence import Evidence


def would_decide(undecided: pd.DataFrame) -> str:
    """The first adverse cell to become significant would decide; without one, the last favourable one."""
    adverse = undecided[undecided["gain"] < 0]
    return _about(adverse["needed"].min() if len(adverse) else undecided["needed"].max())


def images_for(threshold: float, estimate: float, low: float, high: float, n: int) -> str:
    """An interval's width shrinks with the square root of n, until it excludes the threshold."""
    distance = abs(estimate - threshold)
    needed = n * ((high - low) / 2 / distance) ** 2 if distance else math.inf
    return _about(max(needed, n + 1))


def _about(needed: float) -> str:
    return f"about {math.ceil(needed)} images would decide" if needed < 1e6 else "a million images would not decide"


def images_of_cells(found: Evidence) -> str:
    counts = found.table.groupby("cell")["image"].nunique()
    few, many, excluded = counts.min(), counts.max(), (found.images[counts.index] - counts).max()
    cell = f"{few}" if few == many else f"{few} to {many}"
    return f"{cell} images a cell, at most {excluded} excluded" if excluded or few < many else ""


def said_of_lacking(lacking: list[str]) -> list[str]:
    return [f"the table has no {part}" for part in lacking]


def joined(notes: list[str]) -> str:
    return "; ".join(filter(None, notes))
