"""What the note beside a verdict says: how many images would decide, and what is missing."""

import math

from lib.reporting.claims.evidence import Evidence


def would_decide(needed: float, unit: str = "image") -> str:
    return f"about {math.ceil(needed)} {unit}s would decide" if needed < 1e6 else f"a million {unit}s would not decide"


def too_few(units: int, family: int, fewest: int, unit: str = "image") -> str:
    tests = f" in a family of {family} tests" if family > 1 else ""
    return f"{units} {unit}s can decide nothing{tests}: it takes {fewest}"


def images_for(threshold: float, estimate: float, low: float, high: float, n: int) -> str:
    """An interval's width shrinks with the square root of n, until it excludes the threshold."""
    distance = abs(estimate - threshold)
    needed = n * ((high - low) / 2 / distance) ** 2 if distance else math.inf
    return would_decide(max(needed, n + 1))


def images_of_cells(found: Evidence) -> str:
    counts = found.table.groupby("cell", observed=True)["image"].nunique()
    few, many, excluded = counts.min(), counts.max(), (found.images[counts.index] - counts).max()
    cell = f"{few}" if few == many else f"{few} to {many}"
    return f"{cell} images a cell, at most {excluded} excluded" if excluded or few < many else ""


def said_of_lacking(lacking: list[str]) -> list[str]:
    return [f"the table has no {part}" for part in lacking]


def joined(notes: list[str]) -> str:
    return "; ".join(filter(None, notes))
