"""Paths and rules of one's own, and which of them fit together."""

import functools
from dataclasses import dataclass, replace

import pytest
import torch
from walks import IDS, paths, rules

from lib import InputError
from lib.attribution import (
    IDGI,
    Lines,
    Path,
    PointAbsolute,
    RandomMask,
    Recalibrated,
    Riemann,
    Rule,
    SquaredGradient,
    SquaredMeanGradient,
    Straight,
    Weighted,
    attribute,
    walk,
)
from lib.attribution.references import UniformNoise


def model(x):
    return x.flatten(1).cumsum(1)[:, -5:].square()


def batch():
    return torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 3])


def maps(path, **given):
    return attribute(model, *batch(), path=path, rules=given, objective="logit")


def own(node, following):
    return node.grad * node.dx


class Bound:
    def method(self, node, following):
        return own(node, following)


class Class(Rule):
    def __call__(self, node, following):
        return own(node, following)


@pytest.mark.parametrize("path", paths(batch()[0]).values(), ids=paths(batch()[0]))
def test_a_rule_of_one_s_own_in_any_form(path):
    if not path.at_input:
        return
    partial = functools.partial(lambda scale, node, following: scale * own(node, following), 1)
    found = maps(
        path, function=own, method=Bound().method, partial=partial, object=Class(), ours=Riemann(path.rules[0])
    )
    for form in ("method", "partial", "object"):
        assert torch.equal(found[form], found["function"])
    if path.rules[0] != "right":
        torch.testing.assert_close(found["ours"], found["function"])


def test_parts_of_a_rule_are_optional_and_each_is_used():
    class Lengths(Rule):
        """Closes lines and finishes: the mean over lines of the largest gradient on them."""

        def __call__(self, node, following):
            return {"map": node.grad.abs(), "lines": torch.zeros(())}

        def close(self, sums):
            return {"map": sums["map"].square(), "lines": torch.ones(())}

        def finish(self, sums):
            return sums | {"map": sums["map"] / sums["lines"]}

    path = Lines(UniformNoise(IDS, 3), 2)
    nodes = list(walk(model, path, *batch(), objective="logit"))
    lines = [sum(node.grad.abs() for node in nodes if node.line == line) for line in range(3)]
    torch.testing.assert_close(maps(path, a=Lengths())["a"], sum(line.square() for line in lines) / 3)


@dataclass(frozen=True)
class Detour(Path):
    """By way of white: two straight lines in one, without help of ours."""

    steps: int = 4

    def ends(self, x):
        yield 1.0, torch.zeros_like(x)

    def nodes(self, x, probe):
        before, after = Straight(self.steps, "black"), Straight(self.steps, "white")
        white = torch.ones_like(x)
        first = [replace(node, share=node.share / 2) for node in before.nodes(white, probe)][:-1]
        yield from first
        for node in after.nodes(x, probe):
            yield replace(node, index=node.index + self.steps, share=node.share / 2)


def test_a_path_of_one_s_own():
    found = maps(Detour(64), ig=Riemann(), idgi=IDGI(), point=Recalibrated(delta="displacement"))
    lost = found.sums["idgi"]["lost"]  # f is flat at black
    assert ((found.completeness_error("idgi") + lost) / found.value).abs().max() < 1e-5
    assert (found.completeness_error("ig") / found.value).abs().max() < 1e-3
    with pytest.raises(InputError, match="walk it once per step count"):
        attribute(model, *batch(), path=Detour(4), rules={"ig": Riemann()}, steps=[2])
    with pytest.raises(InputError, match=r"needs nodes for 'mean'; .*has nodes for left, right, trapezoid only"):
        maps(Detour(4), ig=Riemann("mean"))


SHORT = Lines(UniformNoise(IDS, 3), 4, "linspace", "tiled", at_input=False)
READS_THE_INPUT = {
    "mean": Riemann("mean"),
    "squared": SquaredMeanGradient(),
    "weighted": Weighted("displacement"),
    "travelled": Recalibrated(delta="travelled"),
    "line": Recalibrated(by="reference", delta="displacement"),
    "absolute": PointAbsolute("displacement"),
    "mask": RandomMask(IDS, "displacement"),
    "function": own,
    "object": Class(),
}


@pytest.mark.parametrize("name", READS_THE_INPUT)
@pytest.mark.parametrize("pairing", ["full", "tiled", "fresh"])
def test_rules_that_read_the_input_are_refused_where_it_is_left_out(name, pairing):
    path = Lines(UniformNoise(IDS, 4), 4, "linspace", pairing, at_input=False)
    with pytest.raises(InputError, match=r"reads the gradient at the input.*at_input=True"):
        maps(path, a=READS_THE_INPUT[name])
    maps(replace(path, at_input=True), a=READS_THE_INPUT[name])


@pytest.mark.parametrize("pairing", ["full", "tiled", "fresh"])
def test_rules_that_do_not_read_the_input_give_the_same_without_it(pairing):
    path = Lines(UniformNoise(IDS, 4), 4, "linspace", pairing)
    given = rules(SHORT) | {"squares": Recalibrated(square=True), "line": Recalibrated(by="reference")}
    found, expected = maps(replace(path, at_input=False), **given), maps(path, **given)
    assert found.evaluations < expected.evaluations
    for name in given:
        assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize("rule", [IDGI(), SquaredGradient(), Riemann("trapezoid"), Riemann("right")], ids=str)
@pytest.mark.parametrize("name", ["midpoint", "black", "pool", "adversarial"])
def test_rules_that_need_both_ends_are_refused_on_open_grids(rule, name):
    with pytest.raises(InputError, match="both ends of every interval"):
        maps(paths(batch()[0])[name], a=rule)


class Duck:
    def __call__(self, node, following):
        return own(node, following)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"path": "straight"}, "path is 'straight'.*lib.attribution.Path"),
        ({"path": Straight}, "path is <class"),
        ({"path": None}, "path is None"),
        ({"rules": Riemann()}, "give a dict"),
        ({"rules": None}, "give a dict"),
        ({"rules": {"a": Riemann}}, "the class Riemann"),
        ({"rules": {"a": "ig"}}, "rule 'a' is a str"),
        ({"rules": {"a": Duck()}}, "rule 'a' is a Duck.*inherits from lib.attribution.Rule"),
        ({"steps": 4}, "give a list of step counts"),
        ({"steps": "4"}, "give a list of step counts"),
        ({"steps": [3]}, "divisors of 4"),
        ({"steps": [0]}, "at least 1"),
        ({"budget": 1.5}, "budget is 1.5"),
    ],
)
def test_what_is_no_path_rule_or_step_count_is_named(given, said):
    with pytest.raises(InputError, match=said):
        attribute(model, *batch(), **({"path": Straight(4), "rules": {"a": Riemann()}} | given))
    if "path" in given:
        with pytest.raises(InputError, match=said):
            walk(model, given["path"], *batch())
