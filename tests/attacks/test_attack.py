"""Attacks on cases whose best direction is known, and what they promise: the ball, the range, the label, the batch."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn
from torchvision.models import VisionTransformer

from lib import InputError
from lib.attacks import (
    Attack,
    Method,
    attack,
    goal,
    mass_centre,
    normalised,
    pgd,
    pullback,
    random_sign,
    random_walk,
    raw_maps,
    robust_answers,
)
from lib.attribution import Riemann, Straight, attribute
from lib.models.softplus import softplus_twin
from lib.training.fit import digit_cnn

METHODS = [
    Method(),
    Method("input_x_gradient"),
    Method("integrated_gradients", 3),
    Method("integrated_gradients", 2, "right"),
]
IDS = [f"image-{i}" for i in range(4)]


class Quadratic(nn.Module):
    """f_0(x) = sum_p q_p x_p^2 / 2, f_1 = -1: gradient q x, second derivative q."""

    def __init__(self, q):
        super().__init__()
        self.q = q
        self.eval()

    def forward(self, x):
        value = (self.q * x.square()).flatten(1).sum(1) / 2
        return torch.stack([value, torch.full_like(value, -1)], 1)


@pytest.fixture(scope="module")
def digits():
    """An untrained network, four images, and the classes it gives them."""
    torch.manual_seed(0)
    model = digit_cnn().eval().requires_grad_(False)
    x = torch.rand(4, 1, 28, 28)
    return model, x, model(x).argmax(1)


def small(dtype=torch.float64):
    torch.manual_seed(1)
    layers = nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU6(), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(16, 5), nn.LeakyReLU(0.1), nn.Linear(5, 3))
    return model.to(dtype).eval().requires_grad_(False), torch.rand(2, 2, 8, 8, dtype=dtype), torch.tensor([0, 2])


@pytest.mark.parametrize("method", METHODS)
def test_maps_of_a_quadratic_by_hand(method):
    x, q = torch.rand(2, 1, 3, 4), torch.randn(1, 3, 4)
    mean = sum(method.alphas) / len(method.alphas)
    expected = q * x * mean * (1 if method.name == "gradient" else x)
    torch.testing.assert_close(raw_maps(Quadratic(q), x, torch.zeros(2, dtype=int), method), expected)


def test_the_points_of_the_two_grids():
    assert Method("integrated_gradients", 2).alphas == [0.25, 0.75]
    assert Method("integrated_gradients", 2, "right").alphas == [0.5, 1.0]
    assert Method().alphas == Method("input_x_gradient").alphas == [1.0]


def test_integrated_gradients_are_those_of_the_project(digits):
    model, x, y = digits
    ours = raw_maps(model, x, y, Method("integrated_gradients", 5, "right"))
    theirs = attribute(model, x, y, path=Straight(5), rules={"ig": Riemann("right")}, objective="logit")["ig"]
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_normalised_maps_have_mean_one_and_a_flat_one_stays_zero():
    raw = torch.randn(2, 3, 4, 5)
    raw[1] = 0
    a = normalised(raw)
    torch.testing.assert_close(a[0].mean(), torch.tensor(1.0))
    assert (a[0] >= 0).all() and (a[1] == 0).all()


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.1)])
def test_softplus_twin_by_its_formula_and_its_derivatives(layer):
    model = nn.Sequential(layer)
    twin = softplus_twin(model)
    x = torch.linspace(-40, 40, 81, dtype=torch.float64)
    soft = nn.functional.softplus
    expected = {
        nn.ReLU: soft(x),
        nn.ReLU6: soft(x) - soft(x - 6),
        nn.LeakyReLU: 0.1 * x + 0.9 * soft(x),
    }[type(layer)]
    torch.testing.assert_close(twin(x), expected, atol=1e-9, rtol=1e-9)
    assert (twin(x) - layer(x)).abs().max() < 0.7 + 1e-2  # softplus(0) = log 2
    near = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(twin, near, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(twin, near)


def test_softplus_twin_shares_weights_and_leaves_the_network_alone():
    model = small()[0]
    before = [type(layer) for layer in model.modules()]
    twin = softplus_twin(model)
    assert [type(layer) for layer in model.modules()] == before
    assert [p.data_ptr() for p in twin.parameters()] == [p.data_ptr() for p in model.parameters()]
    with pytest.raises(InputError, match="no ReLU"):
        softplus_twin(nn.Linear(2, 2))


def objectives(clean):
    region = torch.zeros(clean.shape[1:])
    region[:2, :3] = 1
    return [goal(aim, clean, k=5, region=region) for aim in ("top_k", "lens_top_k", "mass_centre", "target")]


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_through_a_map_against_double_backward_and_finite_differences(method):
    model, x, y = small()
    twin = softplus_twin(model)
    clean = normalised(raw_maps(model, x, y, method))
    generator = torch.Generator().manual_seed(0)
    along = torch.randn(x.shape, dtype=x.dtype, generator=generator)

    def value(point, wanted):
        return wanted(raw_maps(twin, point, y, method))

    for wanted in objectives(clean):
        gradient = pullback(twin, x, y, method, wanted)
        h = 1e-5
        numerical = (value(x + h * along, wanted) - value(x - h * along, wanted)) / (2 * h)
        torch.testing.assert_close((gradient * along).sum((1, 2, 3)), numerical, rtol=1e-4, atol=1e-6)
        point = x.clone().requires_grad_()
        points = torch.cat([alpha * point for alpha in method.alphas])
        logit = twin(points).gather(1, y.repeat(len(method.alphas))[:, None]).sum()
        (each,) = torch.autograd.grad(logit, points, create_graph=True)
        raw = method.multiplicand(point) * each.unflatten(0, (-1, len(x))).mean(0)
        (whole,) = torch.autograd.grad(wanted(raw).sum(), point)
        torch.testing.assert_close(gradient, whole, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(pullback(twin, x, y, method, wanted, budget=1), gradient)


class Activated(nn.Module):
    """A layer, an activation called as a function, a layer."""

    def __init__(self, activation):
        super().__init__()
        self.activation, self.one, self.two = activation, nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.two(self.activation(self.one(x.flatten(1))))


def attentive(kind):
    """A small network with softmax in it: attention, fused and in either library's words, or alone."""
    torch.manual_seed(0)
    size = {"image_size": 4, "patch_size": 2}
    model = {
        "torchvision": lambda: VisionTransformer(
            **size, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=3
        ),
        "timm": lambda: timm.models.VisionTransformer(4, 2, num_classes=3, embed_dim=8, depth=1, num_heads=2),
        "softmax": lambda: Activated(lambda h: h.softmax(1)),
    }[kind]()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)  # torchvision's head begins with zeros
    return model.double().eval().requires_grad_(False)


@pytest.mark.parametrize("method", [METHODS[0], METHODS[2]])
@pytest.mark.parametrize("kind", ["torchvision", "timm", "softmax"])
def test_the_gradient_through_a_map_of_an_attentive_network_against_finite_differences(kind, method):
    model, y = attentive(kind), torch.tensor([0, 2])
    generator = torch.Generator().manual_seed(3)
    side = 2 if kind == "softmax" else 4
    x, along = (torch.rand(2, 3, side, side, dtype=torch.float64, generator=generator) * 0.9 + 0.05 for _ in "ab")
    clean = normalised(raw_maps(model, x, y, method))
    wanted, h = goal("top_k", clean, k=2), 1e-5
    numerical = [wanted(raw_maps(model, x + by * along, y, method)) / (2 * h) for by in (h, -h)]
    found = (pullback(model, x, y, method, wanted) * along).sum((1, 2, 3))
    assert (found != 0).all()
    torch.testing.assert_close(found, numerical[0] - numerical[1], rtol=1e-4, atol=1e-8)


def test_an_attack_on_a_transformer_takes_the_network_itself_as_surrogate():
    model = attentive("timm").float()
    x = torch.rand(2, 3, 4, 4)
    y, how = model(x).argmax(1), Attack("top_k", epsilon=0.1, step=0.05, iterations=3, k=2)
    found = attack(model, x, y, Method(), how, images=IDS[:2], surrogate=model)
    assert (found.score < 1).all()
    with pytest.raises(InputError, match="surrogate=model"):
        attack(model, x, y, Method(), how, images=IDS[:2])
    with pytest.raises(InputError, match="smooth surrogate="):
        attack(lambda p: model(p), x, y, Method(), how, images=IDS[:2])
    assert attack(model, x, y, Method(), replace(how, aim="random"), images=IDS[:2]).usable.all()  # needs none


class Once(torch.autograd.Function):
    """2 x, with a gradient but neither a forward mode nor a second derivative."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * grad


def test_a_network_without_second_derivatives_is_refused_in_a_sentence():
    model, x = Activated(lambda h: Once.apply(h).square()).eval(), torch.rand(1, 3, 2, 2)
    with pytest.raises(InputError, match="no derivative by way of autograd"):
        pullback(model, x, 0, Method(), lambda raw: raw.square().sum((1, 2, 3)))
    with pytest.raises(InputError, match="not a function of the map"):
        pullback(model, x, 0, Method(), lambda raw: torch.ones(1))


def test_the_direction_on_a_quadratic_by_hand():
    # a(x) = |q x| HW / sum: less mass on the top pixels moves them towards 0 and all others away from it.
    q, x = torch.tensor([[[4.0, 1.0], [-1.0, 1.0]]]), torch.full((1, 1, 2, 2), 0.5)
    y = torch.zeros(1, dtype=int)
    clean = normalised(raw_maps(Quadratic(q), x, y, Method()))
    torch.testing.assert_close(clean[0], torch.tensor([[16.0, 4], [4, 4]]) / 7)
    direction = pullback(Quadratic(q), x, y, Method(), goal("top_k", clean, k=1)).sign()
    assert direction.flatten().tolist() == [-1, 1, 1, 1]
    up = pullback(Quadratic(q), x, y, Method(), goal("target", clean, k=1, region=clean[0] > 1)).sign()
    assert up.flatten().tolist() == [1, -1, -1, -1]


def test_one_step_of_the_top_k_attack_on_a_quadratic_by_hand():
    q, x = torch.tensor([[[4.0, 1.0], [-1.0, 1.0]]]), torch.full((1, 1, 2, 2), 0.5)
    how = Attack("top_k", epsilon=0.1, step=0.3, iterations=1, k=1, measure="top_k")
    model, y = Quadratic(q), torch.zeros(1, dtype=int)
    found = attack(model, x, y, Method(), how, images=["a"], surrogate=model)
    assert found.score.item() == 1 and torch.equal(found.x, x)  # 4 x .4 is still the largest: nothing was gained
    large = Attack("top_k", epsilon=0.45, step=0.45, iterations=1, k=1, measure="top_k")
    found = attack(model, x, y, Method(), large, images=["a"], surrogate=model)
    torch.testing.assert_close(found.x.flatten(), torch.tensor([0.05, 0.95, 0.95, 0.95]))
    assert found.score.item() == 0


def test_a_linear_network_has_a_gradient_that_no_attack_moves():
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 2)).eval().requires_grad_(False)
    x = torch.rand(2, 1, 3, 3)
    y = model(x).argmax(1)
    how = Attack("top_k", epsilon=0.1, step=0.05, iterations=3, k=2)
    found = attack(model, x, y, Method(), how, images=IDS[:2], surrogate=model)
    assert torch.equal(found.x, x) and found.usable.all()
    torch.testing.assert_close(found.score, torch.ones(2, dtype=torch.float64))


def test_goals_by_hand():
    clean = torch.zeros(1, 4, 5)
    clean[0, 1, 4] = 20
    raw = torch.ones(1, 2, 4, 5)
    assert goal("top_k", clean, k=1)(raw).item() == pytest.approx(-1)
    assert goal("lens_top_k", clean, k=1, radius=1)(raw).item() == pytest.approx(-6)  # 3 x 2 at the border
    # by flat index: place 9 and its neighbours 3 4 5, 8 9 10, 13 14 15, three of them on the wrong row
    assert goal("lens_top_k", clean, k=1, radius=1, released=True)(raw).item() == pytest.approx(-9)
    first = torch.zeros(1, 4, 5)
    first[0, 0, 0] = 20
    raw[0, :, 3, 4] = 0  # the last pixel, which is index -1
    assert goal("lens_top_k", first, k=1, released=True)(raw).item() == pytest.approx(-8 * 20 / 19)
    assert goal("lens_top_k", first, k=1)(raw).item() == pytest.approx(-4 * 20 / 19)
    assert mass_centre(clean).tolist() == [[1, 4]]
    clean[0, 2, 4] = 20  # centre (1.5, 4)
    moved = torch.zeros(1, 1, 4, 5)
    moved[0, 0, 1, 2] = 3
    assert goal("mass_centre", clean, k=1)(moved).item() == pytest.approx(0.25 + 4)
    assert goal("mass_centre", clean, k=1, released=True)(moved).item() == pytest.approx(4)


@pytest.mark.parametrize("aim", ["top_k", "lens_top_k", "mass_centre", "target", "random"])
@pytest.mark.parametrize("method", [METHODS[0], METHODS[2]])
def test_attacks_stay_in_the_ball_keep_the_class_and_lower_the_measure(digits, aim, method):
    model, x, y = digits
    region = torch.zeros(28, 28)
    region[:7] = 1
    how = Attack(aim, epsilon=0.05, step=0.02, iterations=3, k=50, restarts=2, region=region)
    found = attack(model, x, y, method, how, images=IDS)
    assert found.usable.all()
    assert (found.x - x).abs().max() <= 0.05 + 1e-6
    assert found.x.min() >= 0 and found.x.max() <= 1
    assert torch.equal(model(found.x).argmax(1), y)
    assert (found.score < 1).all()
    assert found.evaluations == 6 * len(method.alphas) * (1 if aim == "random" else 5)


@pytest.mark.parametrize("aim", ["top_k", "random"])
def test_attacks_do_not_depend_on_batch_order_or_other_restarts(digits, aim):
    model, x, y = digits
    how = Attack(aim, epsilon=0.05, step=0.02, iterations=3, k=50, restarts=2)
    whole = attack(model, x, y, Method(), how, images=IDS)
    turned = attack(model, x.flip(0), y.flip(0), Method(), how, images=IDS[::-1], budget=3)
    alone = attack(model, x[:1], y[:1], Method(), how, images=IDS[:1])
    torch.testing.assert_close(turned.score.flip(0), whole.score, atol=1e-3, rtol=0)
    torch.testing.assert_close(alone.score, whole.score[:1], atol=1e-3, rtol=0)
    single = attack(model, x, y, Method(), Attack(aim, 0.05, 0.02, 3, 50), images=IDS)
    assert (whole.score <= single.score + 1e-3).all()


def test_a_better_aim_for_the_measure_wins(digits):
    model, x, y = digits
    results = {}
    for aim, measure in (("top_k", "top_k"), ("mass_centre", "centre_shift"), ("random", "top_k")):
        how = Attack(aim, epsilon=0.1, step=0.02, iterations=10, k=50, measure=measure)
        results[aim] = attack(model, x, y, Method(), how, images=IDS).score
    assert results["top_k"].mean() < results["random"].mean()
    assert (results["mass_centre"] < 0).all()  # a distance, negated


def test_kendall_chooses_by_kendall(digits):
    from scipy.stats import kendalltau

    model, x, y = digits
    how = Attack("random", epsilon=0.1, step=0.05, iterations=2, k=50, measure="kendall")
    found = attack(model, x, y, Method(), how, images=IDS)
    maps = [normalised(raw_maps(model, each, y, Method())).flatten(1).numpy() for each in (x, found.x)]
    expected = [kendalltau(*pair).statistic for pair in zip(*maps, strict=True)]
    assert found.score.tolist() == pytest.approx(expected)


def test_released_restarts_repeat_the_first(digits):
    model, x, y = digits
    options = {"epsilon": 0.05, "step": 0.02, "iterations": 2, "k": 50, "released": True}
    one, three = (attack(model, x, y, Method(), Attack("top_k", restarts=r, **options), images=IDS) for r in (1, 3))
    torch.testing.assert_close(one.score, three.score, atol=1e-3, rtol=0)


def test_levels_leave_whole_pixel_values(digits):
    model, x, y = digits
    x = (x * 255).round() / 255
    how = Attack("random", epsilon=8 / 255, step=1 / 255, iterations=3, k=50, levels=255)
    found = attack(model, x, y, Method(), how, images=IDS)
    torch.testing.assert_close(found.x * 255, (found.x * 255).round(), atol=1e-3, rtol=0)
    assert (found.x - x).abs().max() <= 8 / 255 + 1e-6


def test_a_wrong_answer_and_a_constant_map_are_left_out():
    q = torch.ones(1, 2, 2)
    x = torch.stack([torch.tensor([[[0.5, 0.2], [0.1, 0.9]]]), torch.zeros(1, 2, 2), torch.full((1, 2, 2), 0.3)])
    y = torch.tensor([1, 0, 0])  # the network says 0 throughout; the second map is zero, the third constant
    how = Attack("random", epsilon=0.1, step=0.1, iterations=1, k=1)
    found = attack(Quadratic(q), x, y, Method(), how, images=IDS[:3])
    assert found.usable.tolist() == [False, False, False]
    assert found.score.isnan().all() and torch.equal(found.x, x)
    some = attack(Quadratic(q), x, torch.zeros(3, dtype=int), Method(), how, images=IDS[:3])
    assert some.usable.tolist() == [True, False, False]


def test_random_signs_by_hand_and_by_image():
    x = torch.full((2, 1, 40, 40), 0.5)
    noisy = random_sign(x, epsilon=0.1, images=IDS[:2])
    torch.testing.assert_close((noisy - x).abs(), torch.full_like(x, 0.1))
    assert abs((noisy > x).double().mean().item() - 0.5) < 0.05
    assert torch.equal(random_sign(x[:1], epsilon=0.1, images=IDS[1:2])[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[1])
    assert random_sign(torch.ones(1, 1, 40, 40), epsilon=0.1, images=IDS[:1]).max() == 1
    steps = random_walk(x, images=IDS[:2])
    first, second = next(steps), next(steps)
    assert first.unique().tolist() == [-1, 1] and not torch.equal(first, second)


def test_pgd_on_a_linear_objective_goes_to_the_corner():
    w, x = torch.tensor([1.0, -2, 3, 0]), torch.tensor([[[[0.5, 0.5, 0.95, 0.5]]]])
    found = pgd(lambda p: (w * p).sum(), x, epsilon=0.1, step=0.06, iterations=2, start=x)
    torch.testing.assert_close(found, torch.tensor([[[[0.6, 0.4, 1.0, 0.5]]]]))
    assert not found.requires_grad


def test_pgd_accuracy_of_a_network_with_a_known_margin():
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False)).requires_grad_(False)
    model[1].weight.data = torch.tensor([[-1.0], [1.0]])
    model = nn.Sequential(nn.AvgPool2d(1), _Shift(0.5), model).eval()
    x = torch.tensor([0.45, 0.2, 0.55, 0.9]).view(4, 1, 1, 1)
    y = torch.tensor([0, 0, 1, 0])
    found = robust_answers(model, x, y, epsilon=0.1, step=0.05, iterations=5, images=IDS)
    assert found.tolist() == [[True, False], [True, True], [True, False], [False, False]]


class _Shift(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x - self.by


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Attack("topk", 0.1, 0.1, 1, 5), "did you mean 'top_k'"),
        (lambda: Attack("top_k", 0.1, 0.1, 1, 5, measure="kendal"), "did you mean 'kendall'"),
        (lambda: Attack("top_k", 8, 1, 1, 5), r"from 0 to 1 .* \(8/255 is 0.0314\)"),
        (lambda: Attack("top_k", 0.1, 0.1, 0, 5), "iterations is 0; give a whole number of at least 1"),
        (lambda: Attack("top_k", 0.1, 0.1, 1.5, 5), "iterations is 1.5"),
        (lambda: Attack("top_k", 0.1, 0.1, 1, 0), "k is 0"),
        (lambda: Attack("top_k", 0.1, 0.1, 1, 5, attack_k=True), "attack_k is True"),
        (lambda: Attack("top_k", 0.1, 0.1, 1, 5, restarts=0), "restarts is 0"),
        (lambda: Attack("top_k", 0.1, 0.1, 1, 5, radius=-1), "radius is -1"),
        (lambda: Attack("top_k", 0.1, 0.1, 1, 5, levels=0), "levels is 0"),
        (lambda: Attack("top_k", "8/255", 0.1, 1, 5), r"epsilon is '8/255' .* \(8/255 is 0.0314\)"),
        (lambda: Attack("top_k", float("nan"), 0.1, 1, 5), "epsilon is nan"),
        (lambda: Attack("top_k", 0.1, float("nan"), 1, 5), "step nan"),
        (lambda: Attack("top_k", 0.1, float("inf"), 1, 5), "step inf"),
        (lambda: Method("ig"), "no attack on 'ig'"),
        (lambda: Method("gradient", 5), "the others 1"),
        (lambda: Method("integrated_gradients", 0), "steps is 0"),
        (lambda: Method("integrated_gradients", 2.5), "steps is 2.5"),
        (lambda: Method("integrated_gradients", 5, "left"), "midpoint or right"),
        (lambda: goal("target", torch.rand(1, 4, 4), k=1), "region is a NoneType"),
        (lambda: goal("target", torch.rand(1, 4, 4), k=1, region=torch.ones(4, 5)), r"region is \(4, 5\)"),
        (lambda: goal("target", torch.rand(1, 4, 4), k=1, region=torch.zeros(4, 4)), "region holds no pixel"),
        (lambda: goal("lens_top_k", torch.rand(1, 4, 4), k=1, radius=-1), "radius is -1"),
        (lambda: goal("top_k", torch.rand(1, 4, 4), k=17), "k is 17"),
        (lambda: goal("mass_centre", torch.rand(4, 4), k=1), r"clean has shape \(4, 4\)"),
        (lambda: goal("mass_centre", torch.full((1, 4, 4), torch.nan), k=1), "clean: map 0 is NaN"),
        (lambda: mass_centre(torch.rand(1, 1, 4, 4)), r"give \(N, H, W\)"),
        (lambda: mass_centre(torch.tensor([[[-1.0, 1.0]]])), "negative"),
        (lambda: normalised(torch.rand(4, 4)), r"give \(B, C, H, W\)"),
        (lambda: normalised(torch.ones(1, 1, 4, 4, dtype=torch.long)), "as floats"),
        (lambda: normalised(torch.full((1, 1, 4, 4), torch.inf)), "infinite"),
        (lambda: random_sign(torch.rand(2, 1, 4, 4), epsilon=0.1, images=["a"]), "one id an image"),
        (lambda: random_sign(torch.rand(1, 1, 4, 4), epsilon=2, images=["a"]), "epsilon is 2"),
    ],
)
def test_what_cannot_be_is_one_sentence(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_k_beyond_the_image_is_refused(digits):
    model, x, y = digits
    with pytest.raises(InputError, match="k is 785"):
        attack(model, x, y, Method(), Attack("top_k", 0.1, 0.1, 1, 785), images=IDS)
