"""From the registry of claims and tables of scores to verdicts.

The registry (params/claims.yaml, whose header explains the kinds of test) fixes each claim's test before its
result is seen. A verdict is one of

    reproduced, contradicted   on the paper's own data and models, by its released protocol
    holds here, fails here     elsewhere: an analogue of that setting, the corrected protocol, our controls
    inconclusive               the data cannot decide; the note says how many images would
    not run                    the note says what is missing
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lib import ROOT, InputError, nearest
from lib.reporting.claims import evidence, verdicts
from lib.reporting.claims.verdicts import Finding
from lib.reporting.stored import StoredScores, cells_of
from lib.store.digest import digest
from lib.store.files import read_yaml

_known: dict[str, pd.DataFrame] = {}  # verdicts on a notebook's claims, by the digest of its table

COLUMNS = [
    "claim",
    "paper",
    "statement",
    "notebook",
    "protocol",
    "estimate",
    "ci_low",
    "ci_high",
    "n",
    "p_holm",
]
COLUMNS += ["published", "verdict", "note"]
PAPERS = {
    "idgi": "Yang et al., CVPR 2023",
    "tmlr": "Singhi & Kumari, TMLR 2024",
    "recalibration": "Yang et al., ICLR 2023",
    "lpi": "Yang et al., AAAI 2023",
    "xdnn": "Hesse et al., NeurIPS 2021",
    "lens": "Kamath et al., AAAI 2024",
}
PROTOCOLS = ("corrected", "released")
FIELDS = {"statement": str, "notebook": str, "published": str, "protocols": list, "test": dict}
SOURCES = ("abstract", "summary", "common", "code", "derived", "ours")
KINDS = {  # kind: keys it must have, keys it may have
    "order": ({"a", "b", "direction", "every"}, {"where", "change"}),
    "share": ({"a", "b", "direction"}, {"where", "within"}),
    "bound": ({"where", "statistic"}, {"at_most", "at_least"}),
    "exclusion": ({"where", "defined", "at_most"}, set()),
    "agree": ({"claims"}, set()),
}
VALUES = {  # key of a test: the values it may have, or their type
    "direction": ("greater", "less"),
    "statistic": ("max", "mean"),
    "every": bool,
    "change": str,
    "claims": list,
    "at_most": (int | float),
    "at_least": (int | float),
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
            _among(f"claim {claim.id}: claims", other, known)
            if known[other].notebook != claim.notebook or known[other].test["kind"] != "order":
                raise InputError(f"claim {claim.id}: {other} must be an order claim of {claim.notebook}.")
    return claims


def _claim(name: str, entry: dict) -> Claim:
    who = f"claim {name}"
    if not isinstance(name, str) or not isinstance(entry, dict):
        raise InputError(f"{who} must be a name with its fields below it; see the header of params/claims.yaml.")
    _keys(who, entry, {"paper", "statement", "source", "notebook", "test"}, {"published", "protocols"})
    for key, kind in FIELDS.items():
        _typed(f"{who}: {key}", entry.get(key, kind()), kind)
    _among(f"{who}: paper", entry["paper"], PAPERS)
    _among(f"{who}: source", entry["source"], SOURCES)
    _among(f"{who}: kind", entry["test"].get("kind"), KINDS)
    _check_test(who, entry["test"])
    for protocol in entry.get("protocols", ()):
        _among(f"{who}: protocol", protocol, PROTOCOLS)
    return Claim(name, **{**entry, "protocols": tuple(entry.get("protocols", ()))})


def _keys(who: str, given: dict, required: set, optional: set) -> None:
    for key in given:
        _among(f"{who}: key", key, required | optional)
    if missing := required - set(given):
        raise InputError(f"{who} lacks {', '.join(sorted(missing))}; add it to params/claims.yaml.")


def _among(what: str, given, allowed) -> None:
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
            _among(f"{who}: {key}", test[key], allowed)
        else:
            _typed(f"{who}: {key}", test[key], allowed)
    if test["kind"] == "bound" and ("at_most" in test) == ("at_least" in test):
        raise InputError(f"{who}: a bound needs either at_most or at_least.")


def judge(results: Path, *, registry: list[Claim] | None = None) -> pd.DataFrame:
    """Verdicts on every claim of the registry from the tables in results/<profile>, in the registry's order.

    A notebook ran in its paper's setting when provenance.json there says so: its parameter `setting` was
    "paper" and its images, or its table, were not the packaged ones.

    returns: one row per claim and protocol, with the columns COLUMNS
    """
    registry = load_registry() if registry is None else registry
    provenance = read_provenance(results)
    rows = []
    for name in dict.fromkeys(claim.notebook for claim in registry):
        settings = provenance.get(name, {}).get("settings", {})
        packaged = settings.get("images") == "packaged" or settings.get("nhanes") == ""
        own = settings.get("setting") == "paper" and not packaged
        setting = "paper" if own else "analogue"
        needs = provenance.get(name, {}).get("needs", "")
        rows.append(_judged(name, results, registry, setting, needs))
    order = {claim.id: position for position, claim in enumerate(registry)}
    return pd.concat(rows).sort_values("claim", key=lambda ids: ids.map(order), kind="stable", ignore_index=True)


def _judged(name: str, results: Path, registry: list[Claim], setting: str, needs: str) -> pd.DataFrame:
    """`check` of the table at hand, remembered: the page is rewritten after every notebook, and most tables stay."""
    files = [file for suffix in ("csv", "parquet") if (file := Path(results) / f"{name}.{suffix}").exists()]
    key = digest([name, files, registry, setting, needs])
    if key not in _known:
        _known[key] = check(name, read_table(results, name), registry=registry, setting=setting, needs=needs)
    return _known[key]


def read_provenance(results: Path) -> dict:
    """What results/<profile>/provenance.json says of each notebook; {} where there is none yet."""
    path = Path(results) / "provenance.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def read_table(results: Path, notebook: str) -> pd.DataFrame | StoredScores | None:
    """The table of scores a notebook left in results/<profile>, or None where it has not run."""
    table, packed = (Path(results) / f"{notebook}.{suffix}" for suffix in ("csv", "parquet"))
    if packed.exists():
        return StoredScores(packed)
    return pd.read_csv(table) if table.exists() else None


def check(
    notebook: str,
    scores: pd.DataFrame | StoredScores | None,
    *,
    registry: list[Claim] | None = None,
    setting: str = "analogue",
    needs: str = "",
    seed: int = 0,
) -> pd.DataFrame:
    """Verdicts on the claims of one notebook, from its own table: what `judge` will say of them.

    scores: the tidy table, judged once per value of its column `mode` (a table without one is `corrected`)
    setting: "paper" where data and models are the paper's own, which allows `reproduced` and `contradicted`
    needs: what the notebook that has no table lacked, for the note
    returns: one row per claim and protocol, with the columns COLUMNS
    """
    _among("setting", setting, ("analogue", "paper"))
    registry = load_registry() if registry is None else registry
    claims = [claim for claim in registry if claim.notebook == notebook]
    if scores is None:
        missing = Finding("not run", needs or f"{notebook} has not been run: make reproduce ONLY={notebook}")
        return pd.DataFrame([_row(claim, "any", missing, setting) for claim in claims], columns=COLUMNS)
    protocols = sorted(cells_of(scores)["mode"].unique()) if "mode" in scores.columns else ["corrected"]
    compared = {claim.id: claim.test for claim in claims if "a" in claim.test}
    papers = {claim.id: claim.paper for claim in claims}
    found = {protocol: evidence.gather(compared, papers, scores, protocol, seed=seed) for protocol in protocols}
    rows = []
    for claim in claims:
        if claim.test["kind"] == "agree":
            rows.append(_row(claim, "both", verdicts.agree(claim.test, found, seed), setting))
            continue
        judged = getattr(verdicts, claim.test["kind"])
        for protocol in (p for p in protocols if not claim.protocols or p in claim.protocols):
            finding = judged(claim.test, scores, protocol, found[protocol].get(claim.id), seed)
            rows.append(_row(claim, protocol, finding, setting))
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(claim: Claim, protocol: str, found: Finding, setting: str) -> list:
    ours = claim.source == "ours" or protocol != "released"
    words = {
        "holds": "holds here" if ours or setting != "paper" else "reproduced",
        "fails": "fails here" if ours or setting != "paper" else "contradicted",
    }
    fields = [claim.id, claim.paper, claim.statement, claim.notebook, protocol]
    numbers = [found.estimate, found.low, found.high, found.n, found.p]
    return [*fields, *numbers, claim.published, words.get(found.outcome, found.outcome), found.note]
