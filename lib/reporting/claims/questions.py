"""One question is one verdict: a claim, in one unit of measurement, under one protocol, on one population."""

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from lib.reporting.claims.populations import EVERYTHING, Population, populations
from lib.reporting.claims.registry import Claim
from lib.reporting.deviation import selects_seconds
from lib.reporting.stored import StoredScores, cells_of


class Question(NamedTuple):
    """A claim's test, narrowed to one metric, protocol and population."""

    claim: Claim
    metric: str
    protocol: str
    population: Population
    test: dict

    @property
    def kind(self) -> str:
        return self.test["kind"]

    @property
    def family(self) -> tuple:
        """Tests that Holm's correction sees together: of a paper's claims under one protocol on one population.

        Those of seconds are apart, so that no other verdict depends on the clock.
        """
        return self.claim.paper, self.protocol, self.population.kind, selects_seconds(self.test)


def conditions(test: dict, scores: pd.DataFrame | StoredScores, protocol: str) -> dict:
    """What both sides of a test select: the protocol, if the table has a column `mode`, and its `where`."""
    return {**({"mode": protocol} if "mode" in scores.columns else {}), **test.get("where", {})}


def unit_of(test: dict, scores: pd.DataFrame | StoredScores) -> str:
    """The column whose values are independent: see `lib.reporting.claims.evidence.Evidence`."""
    sides = [test.get(side, {}).get("metric", "") for side in ("a", "b", "where")]
    adjusted = any("_adjusted" in str(metric) for metric in sides)
    return "group" if adjusted and "group" in scores.columns else "image"


def asked(claims: list[Claim], scores: pd.DataFrame | StoredScores) -> list[Question]:
    """All questions that a notebook's claims put to its table, in the registry's order, corrected before released."""
    protocols = sorted(cells_of(scores)["mode"].unique()) if "mode" in scores.columns else ["corrected"]
    found = {claim.id: list(_of(claim, scores, protocols)) for claim in claims if claim.test["kind"] != "agree"}
    for claim in claims:
        if claim.test["kind"] == "agree":
            of = [each for name in claim.test["claims"] for each in found[name]]
            groups = {each.population.kind: each.population._replace(where={}) for each in of}
            found[claim.id] = [Question(claim, "", "both", group, claim.test) for group in groups.values()]
    return [each for claim in claims for each in found[claim.id]]


def _of(claim: Claim, scores: pd.DataFrame | StoredScores, protocols: list[str]) -> Iterator[Question]:
    for metric, test in _by_metric(claim.test):
        for protocol in (each for each in protocols if not claim.protocols or each in claim.protocols):
            exact = test.get("statistic") == "max"
            where = conditions(test, scores, protocol) | test.get("a", {})
            parts = [EVERYTHING] if exact else populations(scores, where, claim.paper)
            for part in parts:
                yield Question(claim, metric, protocol, part, test | {"where": test.get("where", {}) | part.where})


def _by_metric(test: dict) -> list[tuple[str, dict]]:
    """The test once for each metric that it lists, because metrics have units; whole for shares and extremes."""
    where = test.get("where", {})
    metrics = where.get("metric")
    if isinstance(metrics, list) and (test["kind"] in ("order", "equivalence") or test.get("statistic") == "mean"):
        return [(metric, test | {"where": where | {"metric": metric}}) for metric in metrics]
    return [(metrics if isinstance(metrics, str) else "", test)]
