"""The tables of docs/REVIEWING.md: how each claim is checked and how near its number must be, compute, checklists."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from lib import ROOT
from lib.reporting.claims import Claim
from lib.reporting.deviation import TOLERANCE, allowed, interval_width, selects_seconds
from lib.reporting.tables import brackets, to_markdown
from lib.store.files import read_yaml

CHECKLISTS = ROOT / "params" / "checklists.yaml"
OPTIONS = {"laptop": "", "sample": " PROFILE=sample IMAGENET=imagenet-sample-images"}  # of the command for each record
READY_MADE = ("photographs", "paper", "made-up inputs", "")  # data whose networks are not trained on the spot
BRANCHING = {"guided": "Guided IG", "adversarial": "AGI"}  # paths that sort gradients, or follow their signs
SIDES = ("where", "a", "b", "within", "defined")  # the selections of a test


def reviewing_blocks(
    records: dict[str, pd.DataFrame], provenances: dict[str, dict], registry: list[Claim]
) -> dict[str, str]:
    """{name of a block of docs/REVIEWING.md: its text}.

    records: {profile: its claims.csv}; provenances: {profile: the content of its provenance.json}
    """
    checks = {
        f"checks-{name}": checks_block(name, table, provenances[name], registry) for name, table in records.items()
    }
    return checks | {
        "tolerance": tolerance_block(),
        "compute": compute_block(provenances),
        "checklists": checklists_block(CHECKLISTS),
    }


def reproducibility(claim: Claim, data: str, registry: list[Claim]) -> str:
    """What becomes of a claim's number on another kind of processor: "deterministic" or "stochastic (by what)".

    Rounding differs between kinds of processors. By the claim's test and the data of the verdict alone:

    deterministic  the test is an exact one (an identity or a count within a bound), and names no data of which networks
                   are trained on the spot; or nothing on the way to the number amplifies rounding
    stochastic     the test selects seconds (clock), or something amplifies rounding: networks trained on the spot (of
                   all data but photographs), attacks (the test names some), or a path of BRANCHING (the test names it,
                   or is about all papers together)

    >>> test = {"kind": "order", "a": {"path": "guided"}, "b": {"path": "straight"}, "where": {"metric": "insertion"}}
    >>> claim = Claim("C1", "idgi", "Guided IG is better.", "text", "nb", test)
    >>> reproducibility(claim, "photographs", [claim]), reproducibility(claim, "digits", [claim])
    ('stochastic (Guided IG)', 'stochastic (training, Guided IG)')
    """
    of = {each.id: each.test for each in registry}
    tests = [of[name] for name in claim.test.get("claims", ())] or [claim.test]
    parts = [test[side] for test in tests for side in SIDES if side in test]
    if any(map(selects_seconds, tests)):
        return "stochastic (clock)"
    data = data or next((kind for part in parts for kind in _listed(part.get("data", ()))), "")
    exact = claim.test.get("statistic") == "max"
    paths = {path for part in parts for path in _listed(part.get("path", ()))}
    paths |= {*BRANCHING} if claim.paper == "cross" else set()
    reasons = [] if data in READY_MADE else ["training"]
    reasons += ["attack"] if not exact and any("attack" in part for part in parts) else []
    reasons += [] if exact else [title for path, title in BRANCHING.items() if path in paths]
    return f"stochastic ({', '.join(reasons)})" if reasons else "deterministic"


def _listed(value: object) -> list:
    return list(value) if isinstance(value, list | tuple) else [value]


def checks_block(profile: str, claims: pd.DataFrame, provenance: dict, registry: list[Claim]) -> str:
    """How each claim of a record is checked: command, minutes of its notebook, expected number and verdict, and how
    reproducible these are; a table for each notebook, folded.

    Claims that the registry no longer has cannot be checked, and are left out.
    """
    known = {claim.id: claim for claim in registry}
    claims = claims[claims["claim"].isin(known)]
    labels = [reproducibility(known[row.claim], row.data, registry) for row in claims.itertuples()]
    claims = claims.assign(label=labels, allowed=allowed(claims["estimate"], interval_width(claims)))
    judged = claims[claims["verdict"] != "not run"]
    counts = judged["label"].str.partition(" (")[0].value_counts()
    said = ", ".join(f"{count} {label}" for label, count in counts.items())
    blocks = [f"{judged['claim'].nunique()} claims, {len(judged)} verdicts: {said}." if len(judged) else ""]
    for notebook, rows in claims.groupby("notebook", sort=False):
        minutes = _minutes(provenance.get(notebook, {}))
        head = f"<b>{notebook}</b>: {minutes + ' min' if minutes else 'not run'}, {rows['claim'].nunique()} claims"
        table = to_markdown(pd.DataFrame(_checks(rows, profile, minutes, known)))
        blocks.append(f"<details><summary>{head}</summary>\n\n{table}\n\n</details>")
    return "\n\n".join(filter(None, blocks))


def _minutes(used: dict) -> str:
    return f"{used['seconds'] / 60:.1f}" if "seconds" in used else ""


def _checks(rows: pd.DataFrame, profile: str, minutes: str, known: dict[str, Claim]) -> Iterator[dict]:
    """A line for each verdict; what a claim's lines share is said in its first."""
    before = ""
    for row in rows.itertuples():
        first = row.claim != before
        before = row.claim
        network = "the paper's network" if row.network == "paper" else row.network
        yield {
            "claim": row.claim if first else "",
            "command": f"`make claim-{row.claim}{OPTIONS[profile]}`" if first else "",
            "minutes": minutes if first else "",
            "on": ", ".join(filter(None, (row.metric, row.data, network))),
            "protocol": row.protocol,
            "expected": _expected(row, known[row.claim].test),
            "verdict": row.verdict if row.verdict != "not run" else f"not run ({row.note})",
            "reproducibility": row.label if row.verdict != "not run" else "",
        }


def _expected(row, test: dict) -> str:
    """A number and how far it may move; the bound of a claim that is exact."""
    if pd.isna(row.estimate):
        return "–"
    number = brackets(row.estimate, float("nan"), float("nan"))
    if pd.notna(row.ci_low):
        return f"{number} ± {row.allowed:.2g}"
    bounds = [f"{side.replace('_', ' ')} {test[side]:g}" for side in ("at_most", "at_least") if side in test]
    return f"{' and '.join(bounds)} (here {number})" if bounds else number


def tolerance_block() -> str:
    """How far numbers may move, in words."""
    return (
        f"`make verify` allows a number to move by {TOLERANCE:g} times its size plus {TOLERANCE:g} times the spread of "
        "what it measures. For a claim the spread is the width of its interval; for a score it is the standard "
        "deviation of all scores of that metric in its table."
    )


def compute_block(provenances: dict[str, dict]) -> str:
    """What computed the records, and for how long: a line for each, and the photographs that were left out."""
    return to_markdown(pd.DataFrame(_computed(provenances)))


def _computed(provenances: dict[str, dict]) -> Iterator[dict]:
    for profile, provenance in provenances.items():
        finished = [used for used in provenance.values() if "seconds" in used]
        seconds = sum(used["own_seconds"] + used["unit_seconds"] for used in finished)
        versions = [used.get("versions", {}) for used in finished]
        yield {
            "record": f"`{profile}`",
            "notebooks": len(finished),
            "units": sum(used["units"] for used in finished),
            "core-hours": f"{seconds / 3600:.1f}",
            "of which units": f"{sum(used['unit_seconds'] for used in finished) / 3600:.1f}",
            "workers": _each(used["workers"] for used in finished),
            "peak memory of a process": f"{max(used['peak_memory_mb'] for used in finished) / 1000:.1f} GB",
            "device": _each(used.get("device", "") for used in finished),
            "Python": _each(each.get("python", "") for each in versions),
            "torch": _each(each.get("torch", "") for each in versions),
        }


def _each(values: Iterable) -> str:
    """The different values."""
    return ", ".join(sorted({str(value) for value in values if value != ""}))


def checklists_block(path: Path) -> str:
    """The requirements of checklists for reviewers, who asks them, how far they are met, and where to look.

    path: a list of requirements; each has `item`, `asked_by` (a list), `met` (fully, partly or not), `answer`, and
    `link`, a path from the root
    """
    entries = read_yaml(path)
    met = pd.Series([entry["met"] for entry in entries]).value_counts()
    lines = [
        {
            "requirement": entry["item"],
            "who asks": ", ".join(entry["asked_by"]),
            "met": entry["met"],
            "answer": entry["answer"],
            "where": f"[{entry['link']}](../{entry['link']})",
        }
        for entry in entries
    ]
    said = ", ".join(f"{met.get(how, 0)} {how} met" for how in ("fully", "partly", "not"))
    return f"{len(entries)} requirements: {said}.\n\n{to_markdown(pd.DataFrame(lines))}"
