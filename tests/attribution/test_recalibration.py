"""Re-calibration and its controls: by hand, against a plain transcription of the released loop, and on every path."""

import math

import pytest
import torch
from torch import nn

from lib import InputError
from lib.attribution import (
    IDGI,
    Adversarial,
    Blur,
    Guided,
    Lines,
    PointAbsolute,
    RandomMask,
    Recalibrated,
    Riemann,
    SquaredMeanGradient,
    Straight,
    Weighted,
    attribute,
)
from lib.attribution.adversarial import other_classes
from lib.attribution.references import FromPool, NoisyCopies, Single, UniformNoise

F64 = torch.float64
IDS = ["a", "b", "c", "d"]
SCALE = 8  # functions see 8 times the pixels, which lie in [0, 1]; a power of two, so that nothing is rounded


def features(*values):
    return torch.tensor(values, dtype=F64).view(1, 1, 1, -1) / SCALE


def run(function, x, path, **rules):
    def model(x):
        return function(SCALE * x)

    return attribute(model, x, torch.zeros(len(x), dtype=torch.long), path=path, rules=rules, objective="logit")


def quadratic(x):
    """f = a^2 - 3a + 2b - ab with gradient (2a - 3 - b, 2 - a)."""
    a, b = x.flatten(1).unbind(1)
    return (a**2 - 3 * a + 2 * b - a * b)[:, None]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.Softplus(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3), nn.Tanh()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).double().eval()
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    return torch.rand(4, 3, 8, 8, dtype=F64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def target():
    return torch.tensor([0, 3, 1, 2])


def paths(images, target):
    pool = torch.rand(9, 3, 8, 8, dtype=F64, generator=torch.Generator().manual_seed(2))
    index = torch.arange(4)[:, None] + torch.arange(3)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=F64).expand(4, 3)
    return {
        "straight": Straight(4),
        "blur": Blur(4, sigma_max=2),
        "guided": Guided(4),
        "black": Lines(Single("black"), 4),
        "uniform": Lines(UniformNoise(IDS, 3), 4),
        "copies": Lines(NoisyCopies(IDS, 3), 4, grid="linspace"),
        "local": Lines(FromPool(pool, index, weights), 4, grid="uniform", images=IDS),
        "closed": Lines(UniformNoise(IDS, 3), 4, grid="closed"),
        "fresh": Lines(UniformNoise(IDS, 12), 4, pairing="fresh"),
        "tiled": Lines(UniformNoise(IDS, 3), 4, pairing="tiled"),
        "adversarial": Adversarial(other_classes(target, 5, 3, images=IDS), 4),
    }


NAMES = list(paths(torch.zeros(4, 3, 8, 8), torch.tensor([0, 3, 1, 2])))


def test_two_points_by_hand():
    # x = (2, 1) from black with midpoints (.5, .25) and (1.5, .75): gradients (-2.25, 1.5) and (-.75, .5).
    x = features(2.0, 1.0)
    rules = {
        "point": Recalibrated(),
        "displaced": Recalibrated(delta="displacement", norm="all"),
        "reference": Recalibrated(by="reference", delta="displacement"),
        "weighted": Weighted("remaining"),
        "travelled": Weighted("travelled"),
        "absolute": PointAbsolute("displacement"),
        "negatives": Recalibrated(norm="negatives"),
    }
    result = run(quadratic, x, Lines(Single("black"), 2), **rules)
    expected = {
        "point": (0.0, (0.75 * 1.5 + 0.25 * 0.5) / 2),  # the first feature has no valid point
        "displaced": (0.0, (1.5 + 0.5) / 2),
        "reference": (0.0, 1.0),
        "weighted": ((1.5 * -2.25 + 0.5 * -0.75) / 2, (0.75 * 1.5 + 0.25 * 0.5) / 2),
        "travelled": ((0.5 * -2.25 + 1.5 * -0.75) / 2, (0.25 * 1.5 + 0.75 * 0.5) / 2),
        "absolute": (2 * (2.25 + 0.75) / 2, 1.0),
        "negatives": (0.0, (0.75 * 1.5 + 0.25 * 0.5)),  # no negative points: divided by one point, a half
    }
    for name, values in expected.items():
        torch.testing.assert_close(result[name].flatten(), torch.tensor(values, dtype=F64), msg=name)


def test_a_sign_change_on_the_way_keeps_a_feature_s_own_points():
    # f = cos(a) has gradient -sin(a), which at the midpoints pi/4, 3pi/4, 5pi/4 is negative, negative, positive.
    x = features(1.5 * math.pi)
    result = run(lambda x: x.flatten(1).cos(), x, Lines(Single(0), 3), point=Recalibrated(), plain=Riemann("mean"))
    assert result["point"].item() == pytest.approx((0.25 * math.pi) * math.sin(0.25 * math.pi))
    root = math.sin(math.pi / 4)
    assert result["plain"].item() == pytest.approx(1.5 * math.pi * (-root - root + root) / 3)


def test_by_reference_tests_each_line_s_sum():
    # f = a^2 / 2 at x = 1: references 0 and 3 give (1 - r)(1 + r)/2 = 1/2 and -4.
    pool = features(0.0, 3.0).view(2, 1, 1, 1)
    path = Lines(FromPool(pool, torch.tensor([[0, 1]])), 8)
    reference = Recalibrated(by="reference", delta="displacement")
    both = run(lambda x: x.flatten(1) ** 2 / 2, features(1.0), path, reference=reference, plain=Riemann("mean"))
    assert both["reference"].item() == pytest.approx(0.5)
    assert both["plain"].item() == pytest.approx((0.5 - 4) / 2)
    assert both.reference_value.item() == pytest.approx(4.5 / 2)


def test_densities_weigh_lines():
    pool = features(0.0, 3.0).view(2, 1, 1, 1)
    weights = torch.tensor([[0.75, 0.25]], dtype=F64)
    path = Lines(FromPool(pool, torch.tensor([[0, 1]]), weights), 8)
    result = run(lambda x: x.flatten(1) ** 2 / 2, features(1.0), path, plain=Riemann("mean"), all=Recalibrated())
    assert result["plain"].item() == pytest.approx(0.75 * 0.5 - 0.25 * 4)
    assert result.completeness_error("plain").abs().item() < 1e-12


def test_squares_by_hand():
    # f = a^2 / 2, x = 2 from 0 with midpoints .5 and 1.5, and from 1 with 1.25 and 1.75.
    pool = features(0.0, 1.0).view(2, 1, 1, 1)
    path = Lines(FromPool(pool, torch.tensor([[0, 1]])), 2)
    rules = {"vanilla": SquaredMeanGradient(), "point": Recalibrated(square=True)}
    rules["reference"] = Recalibrated(by="reference", delta="displacement", square=True)
    result = run(lambda x: x.flatten(1) ** 2 / 2, features(2.0), path, **rules)
    assert result["vanilla"].item() / SCALE == pytest.approx((2 * 1**2 + 1 * 1.5**2) / 2)
    squares = [(1.5 * 0.5) ** 2, (0.5 * 1.5) ** 2, (0.75 * 1.25) ** 2, (0.25 * 1.75) ** 2]
    assert result["point"].item() == pytest.approx(sum(squares) / 4)
    assert result["reference"].item() == pytest.approx(((2 * 1) ** 2 + (1 * 1.5) ** 2) / 2)


def released_loop(model, x, target, references, k, *, by):
    """The released schedule in its own words: k R samples, tiled references and alphas, one backward pass each.

    references (R, B, C, H, W) -> the map of IG_SG.py:128-168, valid_ip or valid_ref.
    """
    count = len(references)
    alphas = torch.linspace(0, 1, k, dtype=x.dtype).repeat(count)
    samples = references.repeat(k, 1, 1, 1, 1)  # r1 ... rR, r1 ... rR, ...
    points = torch.stack([a * x + (1 - a) * r for r, a in zip(samples, alphas, strict=True)])
    grads = []
    for point in points:
        point = point.clone().requires_grad_()
        model(point).gather(1, target[:, None]).sum().backward()
        grads.append(point.grad)
    grads = torch.stack(grads)
    if by == "point":
        p = (x - points) * grads / k
        valid = (p >= 0).to(x)
        return (p * valid).sum(0) / valid.sum(0).clamp(min=1)
    mean = grads.unflatten(0, (count, k)).mean(1)
    p = (x - references) * mean
    if by == "none":
        return p.mean(0)
    valid = (p >= 0).to(x)
    return (p * valid).sum(0) / valid.sum(0).clamp(min=1)


@pytest.mark.parametrize("k,count", [(5, 10), (3, 4), (4, 6)])
def test_tiled_pairing_is_the_released_code(network, images, target, k, count):
    references = UniformNoise(IDS, count)
    stacked = torch.stack([references(r, images) for r in range(count)])
    path = Lines(references, k, grid="linspace", pairing="tiled")
    rules = {"point": Recalibrated(), "none": Riemann("mean")}
    rules["reference"] = Recalibrated(by="reference", delta="displacement")
    result = attribute(network, images, target, path=path, rules=rules, objective="logit")
    factors = {"point": k, "none": 1, "reference": 1}
    for by, factor in factors.items():
        theirs = released_loop(network, images, target, stacked, k, by=by)
        torch.testing.assert_close(result[by], theirs * factor, rtol=1e-9, atol=1e-12, msg=by)


def test_the_released_default_needs_eight_evaluations_of_fifty(network, images, target):
    references = UniformNoise(IDS, 10)
    rules = {"a": Recalibrated()}
    asked = {"objective": "logit", "rules": rules}
    tiled = attribute(network, images, target, path=Lines(references, 5, "linspace", "tiled"), **asked)
    short = attribute(network, images, target, path=Lines(references, 5, "linspace", "tiled", at_input=False), **asked)
    assert tiled.evaluations == 9 * len(images)
    assert short.evaluations == 8 * len(images)
    torch.testing.assert_close(short["a"], tiled["a"], rtol=0, atol=0)


def test_full_pairing_evaluates_the_input_once(network, images, target):
    path = Lines(UniformNoise(IDS, 3), 5, grid="linspace")
    result = attribute(network, images, target, path=path, rules={"a": Recalibrated()}, objective="logit")
    assert result.evaluations == (3 * 4 + 1) * len(images)


def test_fresh_references_meet_one_alpha_each(network, images, target):
    path = Lines(UniformNoise(IDS, 6), 3, grid="linspace", pairing="fresh")
    rule = Recalibrated(delta="travelled")
    result = attribute(network, images, target, path=path, rules={"a": rule}, objective="logit")
    total, valid = torch.zeros_like(images), torch.zeros_like(images)
    for j in range(6):
        r = path.references(j, images)
        point = (r + (j % 3) / 2 * (images - r)).requires_grad_()
        (grad,) = torch.autograd.grad(network(point).gather(1, target[:, None]).sum(), point)
        p = (point - r).detach() * grad
        total, valid = total + p.clamp(min=0), valid + (p >= 0)
    torch.testing.assert_close(result["a"], total / valid.clamp(min=1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("by", ["point", "reference"])
def test_never_negative_and_no_extra_gradients_on_any_path(network, images, target, name, by):
    path = paths(images, target)[name]
    asked = {"path": path, "objective": "logit"}
    rules = {"a": Recalibrated(by=by, delta="displacement"), "b": Recalibrated(by=by)}
    ours = attribute(network, images, target, rules=rules, **asked)
    bare = attribute(network, images, target, rules={}, **asked)
    for key in rules:
        assert ours[key].min() >= 0
        assert ours[key].max() > 0
        assert ours[key].isfinite().all()
    assert ours.evaluations == bare.evaluations


@pytest.mark.parametrize("name", NAMES)
def test_same_map_in_any_company(network, images, target, name):
    rules = {"a": Recalibrated(), "b": Recalibrated(by="reference", delta="displacement")}
    asked = {"rules": rules, "objective": "logit"}
    whole = attribute(network, images, target, path=paths(images, target)[name], **asked)
    path = paths(images, target)[name]
    kept = {"images": [IDS[2]]} if getattr(path, "images", ()) else {}
    if isinstance(path, Lines):
        sets = path.references
        if isinstance(sets, FromPool):
            sets = FromPool(sets.pool, sets.index[2:3], sets.weights[2:3])
        elif not isinstance(sets, Single):
            sets = type(sets)([IDS[2]], sets.count)
        path = Lines(sets, path.steps, path.grid, path.pairing, **kept)
    if isinstance(path, Adversarial):
        path = Adversarial(path.targets[2:3], path.steps)
    alone = attribute(network, images[2:3], target[2:3], path=path, budget=3, **asked)
    for key in rules:
        torch.testing.assert_close(whole[key][2:3], alone[key], rtol=1e-9, atol=1e-14)


def test_released_noisy_copies_depend_on_the_batch_and_ours_do_not(images):
    pair, swapped = images[:2], images[:2].flip(0)
    for cross in (False, True):
        one = NoisyCopies(IDS[:2], 3, cross_images=cross)(1, pair)[0]
        two = NoisyCopies(IDS[:2][::-1], 3, cross_images=cross)(1, swapped)[1]
        assert torch.equal(one, two) is not cross
    # slot (b, r) = (0, 1) of a batch of two holds a copy of image 1
    released = NoisyCopies(IDS[:2], 3, sigma=1e-9, cross_images=True)(1, pair)
    torch.testing.assert_close(released[0], pair[1], atol=1e-6, rtol=0)


def test_noisy_copies_have_the_stated_spread():
    x = torch.full((1, 3, 64, 64), 0.5, dtype=F64)
    x[0, 0, 0, :2] = torch.tensor([0.3, 0.7])
    noise = NoisyCopies(["a"], 2)(0, x) - x
    assert noise.std().item() == pytest.approx(0.15 * 0.4, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.002)


def test_midpoints_in_full_pairing_are_complete(network, images, target):
    path = Lines(UniformNoise(IDS, 4), 64)
    result = attribute(network, images, target, path=path, rules={"a": Riemann("mean")}, objective="logit")
    change = (result.value - result.reference_value).abs()
    assert (result.completeness_error("a").abs() < 1e-3 * change).all()
    tiled = Lines(UniformNoise(IDS, 4), 64, pairing="tiled")
    mixed = attribute(network, images, target, path=tiled, rules={"a": Riemann("mean")}, objective="logit")
    assert mixed.completeness_error("a").abs().max() > 10 * result.completeness_error("a").abs().max()


def test_idgi_on_many_references_is_complete(network, images, target):
    path = Lines(UniformNoise(IDS, 3), 4, grid="closed")
    rules = {"idgi": IDGI(), "ig": Riemann("trapezoid")}
    result = attribute(network, images, target, path=path, rules=rules, objective="logit", steps=[2, 4])
    for steps in (2, 4):
        assert result.completeness_error(("idgi", steps)).abs().max() < 1e-12


def test_a_sweep_over_drawn_points_is_a_run_of_fewer(network, images, target):
    rules = {"a": Recalibrated(), "b": Riemann("mean"), "c": Recalibrated(by="reference", delta="displacement")}

    def lines(k):
        return Lines(UniformNoise(IDS, 3), k, grid="uniform", images=IDS)

    sweep = attribute(network, images, target, path=lines(7), rules=rules, steps=[1, 3, 7], objective="logit")
    assert sweep.evaluations == 7 * 3 * len(images)
    for k in (1, 3, 7):
        single = attribute(network, images, target, path=lines(k), rules=rules, objective="logit")
        for rule in rules:
            torch.testing.assert_close(sweep[rule, k], single[rule], rtol=1e-10, atol=1e-15)


def test_one_midpoint_is_not_nothing_and_one_released_point_is(network, images, target):
    def one(grid):
        path = Lines(UniformNoise(IDS, 3), 1, grid=grid)
        return attribute(network, images, target, path=path, rules={"a": Recalibrated()}, objective="logit")["a"]

    assert one("midpoint").max() > 0
    assert one("linspace").max() == 0  # AR:IG_SG.py:41-42: alpha = 1 for k = 1


def test_random_mask_keeps_as_much_but_not_the_same(network, images, target):
    path = Lines(UniformNoise(IDS, 3), 4)
    rules = {"ours": Recalibrated(norm="all"), "random": RandomMask(IDS), "weighted": Weighted()}
    result = attribute(network, images, target, path=path, rules=rules, objective="logit")
    counted = attribute(network, images, target, path=path, rules={"a": Recalibrated()}, objective="logit").sums["a"]
    kept, valid = (sums["counted"].mean().item() for sums in (result.sums["random"], counted))
    assert kept == pytest.approx(valid, abs=0.02)
    assert result["random"].min() < 0
    again = attribute(network, images, target, path=path, rules={"random": RandomMask(IDS)}, objective="logit")
    assert torch.equal(result["random"], again["random"])
    other = attribute(network, images, target, path=path, rules={"r": RandomMask(IDS, seed=1)}, objective="logit")
    assert not torch.equal(result["random"], other["r"])


def test_maps_can_be_trained_on(network, images, target):
    x = images.clone().requires_grad_()
    path = Lines(UniformNoise(IDS, 2), 2)
    rules = {"a": Recalibrated()}
    result = attribute(network, x, target, path=path, rules=rules, objective="logit", create_graph=True)
    (grad,) = torch.autograd.grad(result["a"].sum(), x)
    assert grad.abs().max() > 0


def test_adversarial_steps_by_hand():
    # Two logits, f_0 = a b and f_1 = -a: from (.5, .5) towards class 1 the first feature falls by epsilon a step.
    def model(x):
        a, b = x.flatten(1).unbind(1)
        return torch.stack([a * b, -a], 1)

    x, target = torch.full((1, 1, 1, 2), 0.5, dtype=F64), torch.tensor([0])
    rules = {"agi": Riemann("left"), "recalibrated": Recalibrated()}
    path = Adversarial(torch.tensor([[1]]), steps=2, epsilon=0.1)
    result = attribute(model, x, target, path=path, rules=rules, objective="logit")
    torch.testing.assert_close(result["agi"].flatten(), torch.tensor([0.1 * 0.5 * 2, 0.0], dtype=F64))
    expected = torch.tensor([(0.1 * 0.5 + 0.2 * 0.5) / 2, 0.0], dtype=F64)
    torch.testing.assert_close(result["recalibrated"].flatten(), expected)
    assert result.evaluations == 3
    restarted = Adversarial(torch.tensor([[1]]), steps=2, epsilon=0.1, restart=True)
    result = attribute(model, x, target, path=restarted, rules=rules, objective="logit")
    torch.testing.assert_close(result["agi"].flatten(), torch.tensor([0.1 * 0.5, 0.0], dtype=F64))


def test_targets_are_never_the_label_except_as_released():
    labels = torch.arange(8)
    names = [f"image {i}" for i in range(8)]
    drawn = other_classes(labels, 8, 7, images=names)
    assert all(sorted(row) == sorted(set(range(8)) - {own}) for own, row in enumerate(drawn.tolist()))
    released = other_classes(labels, 8, 5, images=names, released=True)
    assert released.max() <= 5
    assert any(own in row for own, row in enumerate(released.tolist()))


@pytest.mark.parametrize(
    "wrong,said",
    [
        (lambda: Recalibrated(by="pixel"), "point or reference"),
        (lambda: Recalibrated(delta="x"), "remaining, travelled, displacement"),
        (lambda: Weighted("x"), "choose one of"),
        (lambda: Lines(Single(), 5, grid="mid"), "midpoint"),
        (lambda: Lines(Single(), 0), "at least 1"),
        (lambda: Lines(UniformNoise(IDS, 7), 5, pairing="fresh"), "multiple of 5"),
        (lambda: Lines(UniformNoise(IDS, 7), 5, grid="uniform"), "images is"),
        (lambda: Lines(UniformNoise(IDS, 7), 5, grid="closed", pairing="tiled"), "pairing=.full."),
        (lambda: other_classes(torch.tensor([0]), 10, 10, images=["a"]), "give 1 to 9"),
        (lambda: Adversarial(torch.zeros(1, 1), epsilon=2), "epsilon"),
        (lambda: UniformNoise(["a"], 1)(0, torch.zeros(2, 1, 2, 2)), "1 ids for 2 images"),
    ],
)
def test_options_are_checked(wrong, said):
    with pytest.raises(InputError, match=said):
        wrong()


def test_what_an_adversarial_path_cannot_do(network, images, target):
    path = paths(images, target)["adversarial"]
    with pytest.raises(InputError, match="needs a reference"):
        attribute(network, images, target, path=path, rules={"a": Recalibrated(delta="travelled")})
    result = attribute(network, images, target, path=path, rules={"a": Recalibrated()})
    with pytest.raises(InputError, match="not known beforehand"):
        result.completeness_error("a")
    with pytest.raises(InputError, match="both ends"):
        attribute(network, images, target, path=path, rules={"a": IDGI()})


def test_a_class_beyond_the_network_is_refused(network, images):
    with pytest.raises(InputError, match="0 to 4"):
        attribute(network, images, torch.full((4,), 5), path=Straight(2), rules={"a": Riemann()})
