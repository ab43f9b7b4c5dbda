"""From the registry of claims and tables of scores to verdicts.

The registry (params/claims.yaml, whose header explains the kinds of test) fixes each claim's test before its
result is seen. A verdict is one of

    reproduced, contradicted                     with the paper's own data, networks and released protocol
    holds, fails with the paper's network        with its networks and protocol on other photographs
    holds here, fails here                       elsewhere, and for whatever is not the paper's own claim
    inconclusive                                 the data could decide but do not; the note says how many images would
    not testable here                            no outcome of these data could decide; the note says why
    not run                                      the note says what is missing
"""

import json
from pathlib import Path

import pandas as pd

from lib import ROOT
from lib.reporting.claims import agreement, evidence, verdicts
from lib.reporting.claims.populations import EVERYTHING
from lib.reporting.claims.populations import PAPERS as PAPERS
from lib.reporting.claims.questions import Question, asked, conditions
from lib.reporting.claims.registry import Claim as Claim
from lib.reporting.claims.registry import among
from lib.reporting.claims.registry import load_registry as load_registry
from lib.reporting.claims.verdicts import NOT_TESTABLE, Finding
from lib.reporting.stored import StoredScores, cells_of, select
from lib.store.digest import digest
from lib.store.files import content_digest

_known: dict[str, pd.DataFrame] = {}  # verdicts on a notebook's claims, by the digest of its table

COLUMNS = [
    "claim",
    "metric",
    "paper",
    "whose",
    "source",
    "statement",
    "notebook",
    "protocol",
    "data",
    "network",
    "code",
]
COLUMNS += [
    "estimate",
    "ci_low",
    "ci_high",
    "n",
    "cells",
    "cells_won",
    "every",
    "p_holm",
    "published",
    "verdict",
    "note",
]


def judge(results: Path, *, registry: list[Claim] | None = None) -> pd.DataFrame:
    """Verdicts on every claim of the registry from the tables in results/<profile>, in the registry's order.

    A notebook ran in its paper's setting when provenance.json there says so: its parameter `setting` was
    "paper" and its images, or its table, were not the packaged ones. A table counts only as a
    finished notebook left it: one of a notebook that was cut off, or that was changed since, is `not run`.

    returns: one row per claim, metric, protocol and population, with the columns COLUMNS
    """
    registry = load_registry() if registry is None else registry
    provenance = read_provenance(results)
    rows = []
    for name in dict.fromkeys(claim.notebook for claim in registry):
        settings = provenance.get(name, {}).get("settings", {})
        packaged = settings.get("images") == "packaged" or settings.get("nhanes") == ""
        own = settings.get("setting") == "paper" and not packaged
        setting = "paper" if own else "analogue"
        claims = [claim for claim in registry if claim.notebook == name]
        rows.append(_judged(name, results, claims, setting, provenance.get(name, {})))
    order = {claim.id: position for position, claim in enumerate(registry)}
    return pd.concat(rows).sort_values("claim", key=lambda ids: ids.map(order), kind="stable", ignore_index=True)


def _judged(name: str, results: Path, claims: list[Claim], setting: str, record: dict) -> pd.DataFrame:
    """`check` of the table at hand, remembered: the page is rewritten after every notebook, and most tables stay."""
    needs, tables = record.get("needs", ""), record.get("tables", {})
    files = [file for suffix in ("csv", "parquet") if (file := Path(results) / f"{name}.{suffix}").exists()]
    if any(tables.get(file.name) != content_digest(file) for file in files):
        files, needs = [], f"{name} has a table that no finished run left: make reproduce ONLY={name}"
    key = digest([name, files, claims, setting, needs])
    if key not in _known:
        scores = read_table(results, name) if files else None
        _known[key] = check(name, scores, registry=claims, setting=setting, needs=needs)
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

    scores: the tidy table, judged once per value of its column `mode` (a table without one is `corrected`), and apart
        for photographs and digits, and for the paper's networks and others
    setting: "paper" where data and models are the paper's own, which allows `reproduced` and `contradicted`
    needs: what the notebook that has no table of a finished run lacks, for the note
    returns: one row per claim, metric, protocol and population, with the columns COLUMNS
    """
    among("setting", setting, ("analogue", "paper"))
    registry = load_registry() if registry is None else registry
    claims = [claim for claim in registry if claim.notebook == notebook]
    if scores is None:
        written = (ROOT / "notebooks" / f"{notebook}.ipynb").exists()
        how = f"has not been run: make reproduce ONLY={notebook}" if written else "is still to be written"
        missing = Finding("not run", needs or f"{notebook} {how}")
        questions = [Question(claim, "", "any", EVERYTHING, claim.test) for claim in claims]
        return pd.DataFrame([_row(each, missing, setting, "") for each in questions], columns=COLUMNS)
    questions = asked(claims, scores)
    found = evidence.gather(questions, scores, seed=seed)
    rows = []
    for question, each in zip(questions, found, strict=True):
        if question.kind == "agree":
            finding = agreement.agree(_of_claims(question, questions, found), seed)
        else:
            finding = getattr(verdicts, question.kind)(question.test, scores, question.protocol, each, seed)
        rows.append(_row(question, finding, setting, _code(question, scores)))
    return pd.DataFrame(rows, columns=COLUMNS)


def _of_claims(question: Question, questions: list[Question], found: list) -> dict[str, dict]:
    """{protocol: {claim and metric: evidence}} of the claims that a question about agreement names."""
    of: dict[str, dict] = {}
    for other, each in zip(questions, found, strict=True):
        if other.claim.id in question.test["claims"] and other.population.kind == question.population.kind:
            of.setdefault(other.protocol, {})[f"{other.claim.id} {other.metric}".strip()] = each
    return of


def _code(question: Question, scores: pd.DataFrame | StoredScores) -> str:
    """`paper` for the released protocol, and where all rows have the settings of a claim's `as_published`."""
    if question.protocol not in ("corrected", "any"):
        return "paper"
    settings = question.claim.as_published
    if not settings or not set(settings) <= set(scores.columns):
        return "corrected"
    where = conditions(question.test, scores, question.protocol) | question.test.get("a", {})
    rows = select(cells_of(scores), where)[[*settings]].drop_duplicates()
    return "paper" if rows.to_dict("records") == [settings] else "corrected"


def _row(question: Question, found: Finding, setting: str, code: str) -> list:
    claim, (data, network, _) = question.claim, question.population
    outcome, note = found.outcome, found.note
    if outcome not in ("not run", NOT_TESTABLE) and data in claim.untestable:
        outcome, note = NOT_TESTABLE, f"{claim.untestable[data]}; {note}"
    data = "paper" if setting == "paper" and data in ("photographs", "") else data
    verdict = outcome
    if outcome in ("holds", "fails"):
        verdict = f"{outcome} here"
        if claim.whose == "paper" and network == code == "paper":
            verdict = f"{outcome} with the paper's network"
            if data == "paper":
                verdict = {"holds": "reproduced", "fails": "contradicted"}[outcome]
    statement = f"{claim.statement} (added {claim.added})" if claim.added else claim.statement
    fields = [claim.id, question.metric, claim.paper, claim.whose, claim.source, statement, claim.notebook]
    fields += [question.protocol, data, network, code]
    numbers = [found.estimate, found.low, found.high, found.n, found.cells, found.cells_won, found.every, found.p]
    return [*fields, *numbers, claim.published, verdict, note]
