"""The tests of the registry in words."""

import re

import pytest

from lib.reporting.claims import load_registry
from lib.reporting.claims.registry import KINDS
from lib.reporting.wording import in_words

TESTS = {
    "order": {"a": {"rule": "idgi"}, "b": {"rule": "riemann"}, "direction": "greater", "every": True}
    | {"where": {"path": ["straight", "blur"], "steps": "largest"}},
    "change": {"kind": "order", "a": {"rule": "idgi"}, "b": {"rule": "riemann"}, "direction": "less", "every": False}
    | {"change": "steps"},
    "overlap": {"kind": "order", "a": {"method": "rrr"}, "b": {"references": 1}, "direction": "less", "every": False}
    | {"overlap": "overlap"},
    "share": {"a": {"rule": "idgi"}, "b": {"rule": "riemann"}, "direction": "greater"},
    "within": {"kind": "share", "a": {"rule": "idgi"}, "b": {"rule": "riemann"}, "direction": "greater"}
    | {"within": {"model": "resnet*"}},
    "bound": {"where": {"metric": "lost"}, "statistic": "max", "at_most": 1e-6},
    "mean": {"kind": "bound", "where": {"metric": ["aic_png", "sic_png"]}, "statistic": "mean", "at_least": 0.5},
    "equivalence": {"where": {"epsilon": 0.3}, "margin": 0.01},
    "exclusion": {"where": {"metric": "sic_png"}, "defined": {"metric": "aic_png"}, "at_most": 0.01},
    "agree": {"claims": ["E1", "E2", "E3"]},
}
SAID = {
    "order": "Base + IDGI against base, on the same images (path IG or Blur IG; the largest number of steps). Holds: "
    "the mean difference is above 0; fails: it is below 0. Both need p < 0.05 by sign-flip permutations, after Holm's "
    "correction. Whether that is so in every cell by itself is judged beside the mean.",
    "change": "What is compared is by how much the score changes from the fewest steps to the most. Holds: the mean "
    "difference is below 0; fails: it is above 0.",
    "overlap": "RRR gradient against references 1, on the same splits. Holds: the mean difference is below 0; fails: "
    "it is above 0. Both need p < 0.05 by t tests for splits that share rows, after Holm's correction.",
    "share": "The mean difference is above 0 in most cells, but not in all.",
    "within": "Cells whose mean difference is above 0 are less frequent inside (network resnet…) than outside.",
    "bound": "Every value is at most 1e-06 (measure lost). One value beyond, or undefined, breaks the claim.",
    "mean": "The mean over images is at least 0.5 (measure “AIC, entropy” or “SIC, entropy”, each by itself). Holds: "
    "its whole 95 % interval is; fails: the interval lies wholly beyond.",
    "equivalence": "The mean is 0 but for 0.01 either way (ε 0.3).",
    "exclusion": "To leave out the images without another score (measure “AIC, entropy”) changes the mean by at most "
    "0.01 (measure “SIC, entropy”).",
    "agree": "The cells of E1, E2 and E3 lead to the same conclusions",
}


@pytest.mark.parametrize("name", TESTS)
def test_a_test_is_said_in_words(name):
    assert SAID[name] in in_words({"kind": name} | TESTS[name])


def test_every_kind_of_test_has_words():
    assert {*KINDS} <= {*TESTS}


@pytest.mark.parametrize("claim", load_registry(), ids=lambda claim: claim.id)
def test_every_test_of_the_registry_is_said_without_keys(claim):
    said = in_words(claim.test)
    assert not said[0].islower() and said.endswith(".")
    assert not re.search(r"[_\[\]{}*']", said.replace("Holm's", "").replace("what's", "")), said
