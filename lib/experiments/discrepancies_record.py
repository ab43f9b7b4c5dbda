"""A defect of released code as a record: where it stands, what it does and should do, and a toy case that shows it."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from math import isclose, nan
from typing import NamedTuple

from torch import Tensor

from lib.attribution import Path, Rule, attribute
from lib.experiments.subjects import Subject

TMLR, IDGI_ORIGINAL = "ShreeSinghi/TMLR-IDGI", "yangruo1226/IDGI"
RECALIBRATION, LPI = "ypeiyu/attribution_recalibration", "ypeiyu/LPI"
LENS, RAR = "ksandeshk/LENS", "jfc43/robust-attribution-regularization"
FRAGILITY = "amiratag/InterpretationFragility"
XDNN, PRIORS = "visinf/fast-axiomatic-attribution", "suinleelab/attributionpriors"
CAPTUM, SALIENCY = "meta-pytorch/captum", "PAIR-code/saliency"
QUANTUS, TORCHVISION = "understandable-machine-intelligence-lab/Quantus", "pytorch/vision"
READ_AT = {  # the commit of each repository whose lines are named; a library's own version instead
    TMLR: "71e0d2f9019d347778e702bc0cddf11443aa1238",
    IDGI_ORIGINAL: "10cc723e7e272539e42ede555eb496d4c6967029",
    RECALIBRATION: "5b745d4827239450e89a058f26b03a529b537a7f",
    LPI: "6ff4785c07cd7faabd515fd741c937a73540fb40",
    LENS: "96f6cc7ad7bd78b3fbe630b7926c119e0ce2071a",
    RAR: "5167eb5ca25c2417673be7abea38ff0ebcf309d1",
    FRAGILITY: "e8ff467dea5cc20b1a5cca31609b8568c1d8dd46",
    XDNN: "28607811da8a0c8d4a2ee32a8df0d40c8af6f7f9",
    PRIORS: "487bd64842f341c918ed08121dc90718eb564789",
}
LIBRARIES = {  # repository: (distribution, version that was run)
    CAPTUM: ("captum", "0.9.0"),
    SALIENCY: ("saliency", "0.2.1"),
    QUANTUS: ("quantus", "0.6.0"),
    TORCHVISION: ("torchvision", "0.29.1"),
}


class Place(NamedTuple):
    """A line of others' code.

    >>> Place(TMLR, "ig.py", 82).text, Place(CAPTUM, "a.py", 1).link
    ('ShreeSinghi/TMLR-IDGI ig.py:82', 'https://github.com/meta-pytorch/captum/blob/v0.9.0/a.py#L1')
    """

    repository: str
    file: str
    line: int

    @property
    def text(self) -> str:
        return f"{self.repository} {self.file}:{self.line}"

    @property
    def link(self) -> str:
        at = READ_AT.get(self.repository) or f"v{LIBRARIES[self.repository][1]}"
        return f"https://github.com/{self.repository}/blob/{at}/{self.file}#L{self.line}"


class Outcome(NamedTuple):
    """A number by the released code, by the corrected one, and by hand; NaN where there is none, or code stops."""

    released: float
    corrected: float
    expected: float


@dataclass(frozen=True)
class Discrepancy:
    """One defect.

    name        in a few words;  where: the line, and further lines of the same defect
    quote       the line itself, two at most
    does, should  what it does and should do
    shows       what the numbers of `check` are
    options     what gives the released value and what the corrected one: options of one function of `lib` where it
                repeats the defect, "stand-in" for a line or two of our own where it does not, the library itself
    check()     the outcome on a toy case
    effect(of, steps)  released and corrected maps (B, H, W), or scores (B,), of a subject's photographs; None where no
                map or score moves, or the toy case says all
    tolerance   of the corrected value, and what the released one is off by at least

    >>> half = Discrepancy("half", Place(TMLR, "a.py", 1), "x / 2", "halves", "keeps", "x", "stand-in",
    ...     check=lambda: Outcome(0.5, 1.0, 1.0))
    >>> half.shown(half.check()), half.missing
    (True, '')
    """

    name: str
    where: Place
    quote: str
    does: str
    should: str
    shows: str
    options: str
    check: Callable[[], Outcome]
    effect: Callable[[Subject, int], tuple[Tensor, Tensor]] | None = None
    also: tuple[Place, ...] = ()
    tolerance: float = 1e-5

    @property
    def missing(self) -> str:
        """Why it cannot be checked here, "" where it can: its library is not installed.

        Another version than was looked at is checked all the same: one that has mended the defect fails the test.
        """
        name = LIBRARIES.get(self.where.repository, ("", ""))[0]
        return f"{name} is not installed" if name and find_spec(name) is None else ""

    def right(self, outcome: Outcome) -> bool:
        """Is the corrected value the one by hand?"""
        return isclose(outcome.corrected, outcome.expected, rel_tol=0, abs_tol=self.tolerance)

    def wrong(self, outcome: Outcome) -> bool:
        """Is the released value another, or none?"""
        return not isclose(outcome.released, outcome.expected, rel_tol=0, abs_tol=self.tolerance)

    def shown(self, outcome: Outcome) -> bool:
        return self.right(outcome) and self.wrong(outcome)

    def described(self, outcome: Outcome) -> str:
        """The record in Markdown, with the numbers of its toy case."""
        released, corrected, expected = (_number(each) for each in outcome)
        places = ", ".join(f"[{each.file}:{each.line}]({each.link})" for each in (self.where, *self.also))
        return (
            f"**{self.name}** · {places}\n\n```\n{self.quote}\n```\n\nIt {self.does}. It should {self.should}.  \n"
            f"{self.shows[:1].upper()}{self.shows[1:]}: released **{released}**, corrected **{corrected}**, by hand "
            f"{expected} ({self.options}).\n"
        )


def run_or_nan(run: Callable[[], float], *errors: type[Exception]) -> float:
    """run(), or NaN where it stops with one of these errors.

    >>> run_or_nan(lambda: 1 / 0, ZeroDivisionError)
    nan
    """
    try:
        return float(run())
    except errors:
        return nan


def total(function: Callable[[Tensor], Tensor], x: Tensor, path: Path, rule: Rule, **asked) -> float:
    """Sum of a map of function (B, N) -> (B,) of an image's N values, explained as a logit.

    >>> import torch
    >>> from lib.attribution import Riemann, Straight
    >>> total(lambda values: values[:, 0] ** 2, torch.ones(1, 1, 1, 1), Straight(4), Riemann())
    1.0
    """
    asked = {"objective": "logit"} | asked
    found = attribute(lambda points: function(points.flatten(1))[:, None], x, 0, path=path, rules={"a": rule}, **asked)
    return found["a"].sum().item()


def photograph_maps(of: Subject, path: Path, rule: Rule, **asked) -> Tensor:
    """The signed sums over channels (B, H, W) of a subject's maps of its own classes."""
    return attribute(of.model, of.x, of.target, path=path, rules={"a": rule}, **asked)["a"].sum(1)


def two_totals(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    released: tuple[Path, Rule],
    corrected: tuple[Path, Rule],
    expected: float,
) -> Outcome:
    """The outcome of a toy function whose map's sum is compared, by two pairs of a path and a rule; see `total`."""
    return Outcome(total(function, x, *released), total(function, x, *corrected), expected)


def two_maps(of: Subject, released: tuple[Path, Rule], corrected: tuple[Path, Rule]) -> tuple[Tensor, Tensor]:
    """A subject's maps (B, H, W) of the probability by two pairs of a path and a rule; equal paths are walked once."""
    (path, first), (other, second) = released, corrected
    if path != other:
        return photograph_maps(of, path, first), photograph_maps(of, other, second)
    found = attribute(of.model, of.x, of.target, path=path, rules={"released": first, "corrected": second})
    return found["released"].sum(1), found["corrected"].sum(1)


def _number(value: float) -> str:
    return "none" if value != value else f"{value:.4g}"
