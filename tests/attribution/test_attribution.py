"""The engine on functions whose attributions are known by hand, and its invariances on small random networks."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from lib import InputError
from lib.attribution import IDGI, Blur, Guided, Riemann, SquaredGradient, Straight, attribute, walk
from lib.attribution.forward import scalar
from lib.attribution.nodes import Node

F64 = torch.float64
SCALE = 16  # functions see 16 times the pixels, which lie in [0, 1]; a power of two, so that nothing is rounded
PATHS = [
    Straight(16),
    Straight(16, reference="blurred"),
    Blur(16, sigma_max=4),
    Guided(16),
    Guided(16, fraction=0.5, max_dist=1.0),
]


def features(*values):
    """A batch of one image whose pixels are the features, of 0 to 16: (1, 1, 1, n)."""
    return torch.tensor(values, dtype=F64).view(1, 1, 1, -1) / SCALE


def function(of):
    """A 'network' with one logit, of(x1, x2, ...)."""
    return lambda x: of(*(SCALE * x).flatten(1).unbind(1))[:, None]


SEPARABLE = function(lambda a, b: 2 * a**2 + b**2)
DEPENDENT = function(lambda a, b: (2 * a + b) ** 2)


def logit_map(model, x, path, rule):
    result = attribute(model, x, torch.zeros(len(x), dtype=torch.long), path=path, rules={"a": rule}, objective="logit")
    return result["a"].flatten()


def close(actual, *expected, tolerance=1e-9):
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=F64), atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def network():
    """A small smooth convolutional network with ReLU-free curvature, in float64."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.Softplus(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3), nn.Tanh()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).double().eval()
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    return torch.rand(5, 3, 12, 12, dtype=F64, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([0, 3, 1, 4, 2])
RULES = {"ig": Riemann("trapezoid"), "left": Riemann("left"), "idgi": IDGI(), "g2": SquaredGradient()}


# --- by hand --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [Straight(200), Guided(200), Guided(200, fraction=0.5, max_dist=1.0)])
def test_a_linear_function_gets_weight_times_difference(path):
    path = replace(path, reference=features(3, 1))
    linear = function(lambda a, b: 2 * (a - 4) + b - 4)
    close(logit_map(linear, features(14, 9), path, Riemann("left")), 22, 8)


def test_a_separable_function_does_not_depend_on_the_path():
    for path in (Straight(600), Guided(600), Guided(600, fraction=0.5, max_dist=1.0)):
        close(logit_map(SEPARABLE, features(3, 3), path, Riemann("trapezoid")), 18, 9, tolerance=1e-3)


def test_an_interaction_is_split_along_the_path():
    x = features(3, 3)
    close(logit_map(DEPENDENT, x, Straight(100), Riemann("trapezoid")), 54, 27)
    # The corridor lets the feature of smaller gradient (x2) go first: all of x2, then all of x1.
    # One step of n turns the corner between them, which leaves an error of order 1/n.
    unbounded = logit_map(DEPENDENT, x, Guided(1000, fraction=0.5, max_dist=1.0), Riemann("trapezoid"))
    close(unbounded, 72, 9, tolerance=0.05)
    bounded = logit_map(DEPENDENT, x, Guided(1000, fraction=0.5, max_dist=0.2), Riemann("trapezoid"))
    assert 54 < bounded[0] < 72 and 9 < bounded[1] < 27
    assert bounded.sum().item() == pytest.approx(81, abs=1e-3)


@pytest.mark.parametrize("guided", [Guided(64, max_dist=0.0), Guided(64, fraction=1.0, max_dist=1.0)])
def test_guided_without_freedom_is_ig(guided):
    x = features(3, 2)
    straight = logit_map(DEPENDENT, x, Straight(64), Riemann("left"))
    torch.testing.assert_close(logit_map(DEPENDENT, x, guided, Riemann("left")), straight)


def test_quadrature_orders():
    cube = function(lambda a: a**3)  # the integral from 0 to 2 is 8, the gradient 3 a^2 along a = 2 alpha
    x = features(2)
    close(logit_map(cube, x, Straight(2, grid="gauss"), Riemann("gauss")), 8)
    close(logit_map(cube, x, Straight(2, grid="midpoint"), Riemann("midpoint")), 7.5)
    close(logit_map(cube, x, Straight(2), Riemann("left")), 3)
    close(logit_map(cube, x, Straight(2), Riemann("right")), 15)
    close(logit_map(cube, x, Straight(2), Riemann("trapezoid")), 9)


def test_idgi_of_a_linear_function_ignores_the_input():
    model = function(lambda a, b: 2 * a + b)
    near, far = features(1, 4), features(3, 0)  # both have f = 6
    for x in (near, far):
        close(logit_map(model, x, Straight(4), IDGI()), 6 * 4 / 5, 6 * 1 / 5)


def test_idgi_by_hand_on_two_steps():
    # f = a^2 + b from 0 to (2, 2): gradients at alpha 0, 1/2, 1: (0, 1), (2, 1), (4, 1); f = 0, 2, 6.
    model = function(lambda a, b: a**2 + b)
    close(logit_map(model, features(2, 2), Straight(2), IDGI()), 4 * 4 / 5, 2 + 4 * 1 / 5)
    close(logit_map(model, features(2, 2), Straight(2), IDGI("right")), 2 * 4 / 5 + 4 * 16 / 17, 2 / 5 + 4 / 17)


def test_squared_gradient_by_hand():
    model = function(lambda a, b: a**2 + b)
    close(logit_map(model, features(2, 2), Straight(2), SquaredGradient()) / SCALE**2, 4, 2)


def test_a_flat_step_is_counted_not_divided_by():
    # relu(a - 1) is flat on the first half of the way from 0 to 2: its gradient there is zero, and at a = 1 f starts.
    plateau = function(lambda a: torch.relu(a - 1))
    x, target = features(2), torch.tensor([0])
    rules = {"guarded": IDGI(), "released": IDGI(guard=False)}
    result = attribute(plateau, x, target, path=Straight(1), rules=rules, objective="logit")
    assert result["guarded"].item() == 0 and result.sums["guarded"]["lost"].item() == 1
    assert result["released"].isnan().all()


def test_a_tiny_gradient_does_not_underflow():
    model = function(lambda a, b: 1e-25 * (3 * a + 4 * b))
    x = features(1, 1).float()
    attribution = logit_map(model, x, Straight(4), IDGI())
    torch.testing.assert_close(attribution / attribution.sum(), torch.tensor([9 / 25, 16 / 25]), atol=1e-6, rtol=0)


# --- properties -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_idgi_sums_to_the_difference_on_every_path(path, network, images):
    result = attribute(network, images, TARGETS, path=path, rules=RULES)
    assert result.completeness_error("idgi").abs().max() < 1e-12
    assert (result.sums["idgi"]["lost"] == 0).all()


@pytest.mark.parametrize("path", [Straight(512), Blur(512, sigma_max=4), Guided(512)], ids=str)
def test_riemann_sums_converge_to_the_difference(path, network, images):
    result = attribute(network, images, TARGETS, path=path, rules=RULES)
    difference = (result.value - result.reference_value).abs()
    assert (result.completeness_error("ig").abs() / difference).max() < 1e-3
    assert result.completeness_error("ig").abs().max() < result.completeness_error("left").abs().max()


@pytest.mark.parametrize("path", [Straight(16), Blur(16, sigma_max=4)], ids=str)
def test_a_sweep_equals_separate_walks(path, network, images):
    sweep = attribute(network, images, TARGETS, path=path, rules=RULES, steps=(2, 4, 16))
    for n in (2, 4, 16):
        alone = attribute(network, images, TARGETS, path=type(path)(n, **_options(path)), rules=RULES)
        for name in RULES:
            torch.testing.assert_close(sweep[name, n], alone[name])
    assert sweep.evaluations == 17 * len(images)


def test_a_sweep_of_the_released_blur_equals_separate_walks(network, images):
    path = Blur(16, sigma_max=4, released=True)
    rules = {"left": Riemann("left"), "idgi": IDGI("right")}
    sweep = attribute(network, images, TARGETS, path=path, rules=rules, steps=(4, 16))
    alone = attribute(network, images, TARGETS, path=Blur(4, sigma_max=4, released=True), rules=rules)
    torch.testing.assert_close(sweep["left", 4], alone["left"])
    torch.testing.assert_close(sweep["idgi", 4], alone["idgi"])


def _options(path):
    return {"sigma_max": path.sigma_max} if isinstance(path, Blur) else {"reference": path.reference}


@pytest.mark.parametrize("path", [*PATHS, Straight(7, grid="gauss"), Blur(16, sigma_max=4, released=True)], ids=str)
def test_a_map_does_not_depend_on_its_company(path, network, images):
    rules = {"ig": Riemann(path.rules[0])}
    together = attribute(network, images, TARGETS, path=path, rules=rules)["ig"]
    order = [3, 0, 4, 1, 2]
    shuffled = attribute(network, images[order], TARGETS[order], path=path, rules=rules, budget=3)["ig"]
    torch.testing.assert_close(shuffled, together[order])
    alone = attribute(network, images[2:3], TARGETS[2:3], path=path, rules=rules, budget=1)["ig"]
    torch.testing.assert_close(alone, together[2:3])


def test_float32_stays_float32_and_inputs_are_untouched(network, images):
    model, x = network.float(), images.float()
    before = x.clone()
    for path in PATHS:
        result = attribute(model, x, TARGETS, path=path, rules=RULES)
        assert result["idgi"].dtype == torch.float32
        assert result.completeness_error("idgi").abs().max() < 1e-6
    assert torch.equal(x, before)
    network.double()


def test_an_image_equal_to_its_reference_gets_zeros(network):
    black = torch.zeros(2, 3, 12, 12, dtype=F64)
    black[1] = 0.5
    result = attribute(network, black, TARGETS[:2], path=Guided(8), rules={"gig": Riemann("left"), "idgi": IDGI()})
    assert (result["gig"][0] == 0).all() and (result["idgi"][0] == 0).all()
    assert result["gig"][1].abs().sum() > 0 and result["gig"].isfinite().all()


def test_the_guided_path_keeps_its_corridor_and_its_pace(network, images):
    path = Guided(20, fraction=0.25, max_dist=0.1)
    for node in walk(network, path, images, TARGETS):
        alpha = (node.x / images).flatten(1)
        along = node.index / 20
        assert (alpha >= along - 0.1 - 1e-9).all() and (alpha <= along + 0.1 + 1e-9).all()
        left = (images - node.x).abs().flatten(1).sum(1) / images.flatten(1).sum(1)
        torch.testing.assert_close(left, torch.full_like(left, 1 - along), atol=1e-8, rtol=0)
    assert torch.equal(node.x, images)


def test_idgi_adds_no_evaluations(network, images):
    for path in PATHS:
        plain = attribute(network, images, TARGETS, path=path, rules={"left": Riemann("left")})
        assert attribute(network, images, TARGETS, path=path, rules=RULES).evaluations == plain.evaluations


def test_only_a_few_nodes_live_at_a_time(network, images):
    alive, most = weakref.WeakSet(), 0

    def watch(node: Node, following):
        nonlocal most
        alive.add(node.grad.untyped_storage())
        most = max(most, len(alive))
        return node.grad * node.dx

    gc.collect()
    attribute(network, images, TARGETS, path=Straight(256), rules={"watch": watch}, steps=(2, 256))
    assert most <= 5


@pytest.mark.parametrize("path", [Straight(4), Blur(4, sigma_max=2)], ids=str)
def test_maps_can_be_differentiated(path, network, images):
    x = images[:1].clone().requires_grad_()

    def total(x):
        rules = {"ig": Riemann("left")}
        return attribute(network, x, TARGETS[:1], path=path, rules=rules, create_graph=True)["ig"].square().sum()

    (gradient,) = torch.autograd.grad(total(x), x)
    step = torch.zeros_like(x)
    step[0, 1, 5, 6] = 1e-6
    slope = (total(x + step) - total(x - step)) / 2e-6
    assert gradient[0, 1, 5, 6].item() == pytest.approx(slope.item(), rel=1e-5)


def test_maps_can_train_the_network(images):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.Softplus(), nn.Linear(8, 5)).double().eval()
    result = attribute(model, images, TARGETS, path=Straight(3), rules={"ig": Riemann()}, create_graph=True)
    result["ig"].abs().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model[1].parameters())
    assert model[1].weight.grad.abs().sum() > 0


# --- objectives and errors ------------------------------------------------------------------------------------


def test_objectives_by_hand():
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0]], dtype=F64))
    target = torch.tensor([1])
    log = torch.log(torch.tensor([1.0, 2.0, 5.0], dtype=F64))
    assert scalar(logits, target, "logit").item() == pytest.approx(log[1].item())
    assert scalar(logits, target, "probability").item() == pytest.approx(0.25)
    assert scalar(logits, target, "log_probability").item() == pytest.approx(
        log[1].item() - log.exp().sum().log().item()
    )
    assert scalar(logits, target, "contrast").item() == pytest.approx((log[1] - log[0] / 6 - log[2] * 5 / 6).item())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m, x, t: Straight(0), "at least 1"),
        (lambda m, x, t: Straight(8.0), "whole number"),
        (lambda m, x, t: Straight(8, grid="open"), "closed, midpoint or gauss"),
        (lambda m, x, t: Guided(8, fraction=0), "0 < fraction"),
        (lambda m, x, t: Blur(8, padding="wrap"), "reflect or zero"),
        (lambda m, x, t: Riemann("simpson"), "trapezoid"),
        (lambda m, x, t: IDGI("middle"), "left or right"),
        (
            lambda m, x, t: attribute(m, x, t, path=Straight(8), rules={"a": Riemann("gauss")}),
            "left, right, trapezoid only",
        ),
        (
            lambda m, x, t: attribute(m, x, t, path=Straight(8, grid="gauss"), rules={"a": IDGI()}),
            "both ends",
        ),
        (lambda m, x, t: attribute(m, x, t, path=Straight(8), rules=RULES, steps=(3,)), "divisors of 8"),
        (
            lambda m, x, t: attribute(m, x, t, path=Guided(8), rules=RULES, steps=(4,)),
            "walk it once per step count",
        ),
        (lambda m, x, t: attribute(m, x[0], t, path=Straight(8), rules=RULES), r"\(B, C, H, W\)"),
        (lambda m, x, t: attribute(m, x, t[:2], path=Straight(8), rules=RULES), "one whole class index"),
        (
            lambda m, x, t: attribute(m, x, t, path=Straight(8), rules=RULES, objective="loss"),
            "log_probability",
        ),
        (
            lambda m, x, t: attribute(m, x, t, path=Straight(8, reference="grey"), rules=RULES),
            "'black', 'white'",
        ),
        (
            lambda m, x, t: attribute(m, x, t, path=Straight(8, reference=x[:, :1]), rules=RULES),
            "reference has shape",
        ),
        (lambda m, x, t: attribute(m, x, t, path=Straight(8), rules=RULES, budget=0), "at least 1"),
        (
            lambda m, x, t: attribute(lambda z: m(z) * float("nan"), x, t, path=Straight(2), rules=RULES),
            "not finite",
        ),
    ],
)
def test_mistakes_are_named(call, said, network, images):
    with pytest.raises(InputError, match=said):
        call(network, images, TARGETS)


def test_an_image_that_is_done_with_a_guided_step_waits_for_the_others_of_its_batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 3, 8, 8, generator=generator)
    x[0, :, :4] = 0  # as the reference there
    weights = torch.randn(192, 3, generator=generator) / 5

    def gig(images):
        network = lambda z: (z.flatten(1) @ weights).tanh()  # noqa: E731
        return attribute(network, images, 0, path=Guided(6), rules={"gig": Riemann()}, objective="logit")["gig"]

    alone = torch.cat([gig(image[None]) for image in x])
    torch.testing.assert_close(gig(x), alone, rtol=1e-5, atol=1e-6)
