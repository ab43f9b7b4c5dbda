"""The registry of claims, params/claims.yaml: what each paper says, and the test that decides it."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from lib import ROOT, InputError, nearest
from lib.reporting.claims.populations import KINDS_OF_DATA, PAPERS
from lib.store.files import read_yaml

PROTOCOLS = ("corrected", "released")
FIELDS = {"statement": str, "notebook": str, "published": str, "protocols": list, "test": dict}
FIELDS |= {"whose": str, "added": str, "headline": str, "untestable": dict, "as_published": dict}
SOURCES = ("text", "abstract", "summary", "common", "code", "derived", "ours")
WHOSE = ("paper", "audit", "control", "identity", "ours")
KINDS = {  # kind: keys it must have, keys it may have
    "order": ({"a", "b", "direction", "every"}, {"where", "change", "overlap"}),
    "share": ({"a", "b", "direction"}, {"where", "within"}),
    "bound": ({"where", "statistic"}, {"at_most", "at_least", "overlap"}),
    "equivalence": ({"where", "margin"}, {"overlap"}),
    "exclusion": ({"where", "defined", "at_most"}, set()),
    "agree": ({"claims"}, set()),
}
NUMBER = int | float
VALUES = {  # key of a test: the values it may have, or their type
    "direction": ("greater", "less"),
    "statistic": ("max", "mean"),
    "every": bool,
    "change": str,
    "overlap": str,
    "claims": list,
    **dict.fromkeys(("at_most", "at_least", "margin"), NUMBER),
    **dict.fromkeys(("a", "b", "where", "within", "defined"), dict),
}


@dataclass(frozen=True)
class Claim:
    """One entry of the registry; the header of params/claims.yaml explains the fields."""

    id: str
    paper: str
    statement: str
    source: str
    notebook: str
    test: dict
    published: str = ""
    protocols: tuple[str, ...] = ()
    whose: str = ""
    added: str = ""
    headline: str = ""
    untestable: dict = field(default_factory=dict)
    as_published: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        of = {"derived": "identity", "ours": "control"}
        object.__setattr__(self, "whose", self.whose or of.get(self.source, "paper"))


def load_registry(path: Path = ROOT / "params" / "claims.yaml") -> list[Claim]:
    """The claims of a registry, checked.

    Raises InputError, naming the claim, for an unknown or missing key, kind, paper, source or value.
    """
    found = read_yaml(path)
    if not found or not isinstance(found, dict):
        raise InputError(f"{path} holds no claims; give each as its name, and its fields below it.")
    claims = [_claim(name, entry) for name, entry in found.items()]
    known = {claim.id: claim for claim in claims}
    for claim in claims:
        for other in claim.test.get("claims", ()):
            among(f"claim {claim.id}: claims", other, known)
            if known[other].notebook != claim.notebook or known[other].test["kind"] != "order":
                raise InputError(f"claim {claim.id}: {other} must be an order claim of {claim.notebook}.")
    return claims


def _claim(name: str, entry: dict) -> Claim:
    who = f"claim {name}"
    if not isinstance(name, str) or not isinstance(entry, dict):
        raise InputError(f"{who} must be a name with its fields below it; see the header of params/claims.yaml.")
    required = {"paper", "statement", "source", "notebook", "test"}
    _keys(who, entry, required, {*FIELDS} - required)
    for key, kind in FIELDS.items():
        _typed(f"{who}: {key}", entry.get(key, kind()), kind)
    among(f"{who}: paper", entry["paper"], PAPERS)
    among(f"{who}: source", entry["source"], SOURCES)
    among(f"{who}: whose", entry.get("whose", "paper"), WHOSE)
    among(f"{who}: kind", entry["test"].get("kind"), KINDS)
    _check_test(who, entry["test"])
    for protocol in entry.get("protocols", ()):
        among(f"{who}: protocol", protocol, PROTOCOLS)
    for data in entry.get("untestable", ()):
        among(f"{who}: untestable", data, KINDS_OF_DATA)
    return Claim(name, **{**entry, "protocols": tuple(entry.get("protocols", ()))})


def _keys(who: str, given: dict, required: set, optional: set) -> None:
    for key in given:
        among(f"{who}: key", key, required | optional)
    if missing := required - set(given):
        raise InputError(f"{who} lacks {', '.join(sorted(missing))}; add it to params/claims.yaml.")


def among(what: str, given, allowed) -> None:
    """Raise InputError, with the nearest name, for a value that is none of those allowed."""
    if given not in list(allowed):  # of a list, which has no hash, a dictionary cannot say so
        raise InputError(f"{what} {given!r} is unknown; {nearest(given, allowed)}")


def _typed(what: str, given, kind) -> None:
    number = not isinstance(given, float) or math.isfinite(given)
    if not isinstance(given, kind) or (isinstance(given, bool) and kind is not bool) or not number:
        raise InputError(f"{what} {given!r} has the wrong type; see the header of params/claims.yaml.")


def _check_test(who: str, test: dict) -> None:
    required, optional = KINDS[test["kind"]]
    _keys(f"{who}: test", test, {"kind"} | required, optional)
    for key in set(test) - {"kind"}:
        allowed = VALUES[key]
        if isinstance(allowed, tuple):
            among(f"{who}: {key}", test[key], allowed)
        else:
            _typed(f"{who}: {key}", test[key], allowed)
    if test["kind"] == "bound" and ("at_most" in test) == ("at_least" in test):
        raise InputError(f"{who}: a bound needs either at_most or at_least.")
