"""Penalties on log densities: on networks whose densities are known, derivatives by hand, and where they end."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from lib import InputError
from lib.training.density import (
    DENSITIES,
    IMPLEMENTATIONS,
    PENALTIES,
    density_loss,
    density_penalty,
    log_density,
    penalised,
    reweighted_loss,
    saved_bytes,
)
from lib.training.fit import fit


class Mixture(nn.Module):
    """Logits -|x - mu_c|^2 / 2: p(x) is an equal mixture of normal distributions with these means, up to a factor."""

    def __init__(self, means):
        super().__init__()
        self.means = nn.Parameter(torch.as_tensor(means, dtype=torch.float64))

    def forward(self, x):
        return -(x[:, None] - self.means).square().sum(2) / 2


class TwoBumps(nn.Module):
    """The mixture with means -m and m on a line: d log p / dx = m tanh(m x) - x."""

    def __init__(self, m):
        super().__init__()
        self.m = nn.Parameter(torch.tensor(m, dtype=torch.float64))

    def forward(self, x):
        return torch.cat([-(x + self.m).square() / 2, -(x - self.m).square() / 2], 1)


def network(seed=0, inputs=6, classes=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, classes)).double()


def points(rows=8, inputs=6, seed=1):
    return torch.randn(rows, inputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.arange(8) % 4


# -- values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("density", "label", "expected"),
    # f = (x_1, 2 x_2) at 0: both classes have p = 1/2. Gradients: joint (1, 0) and (0, 2); marginal (1/2, 1);
    # conditional their difference, (1/2, -1) and (-1/2, 1).
    [("joint", 0, 1), ("joint", 1, 4), ("marginal", 0, 1.25), ("marginal", 1, 1.25)]
    + [("conditional", 0, 1.25), ("conditional", 1, 1.25)],
)
def test_penalties_of_a_linear_network_by_hand(density, label, expected):
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    logits, penalty = density_penalty(model, torch.zeros(1, 2), torch.tensor([label]), density=density)
    assert logits.tolist() == [[0, 0]]
    assert penalty.item() == pytest.approx(expected)


@pytest.mark.parametrize("by", ["exact", "detached"])
def test_the_marginal_of_a_mixture_is_its_density(by):
    means, x = points(3, 2), points(20, 2, seed=2).requires_grad_()
    parts = Independent(Normal(means, torch.ones_like(means)), 1)
    log_p = MixtureSameFamily(Categorical(torch.ones(3, dtype=torch.float64)), parts).log_prob(x)
    (score,) = torch.autograd.grad(log_p.sum(), x)
    found = density_penalty(Mixture(means), x.detach(), torch.zeros(20, dtype=torch.long), by=by)[1]
    torch.testing.assert_close(found, score.square().sum(1))
    difference = log_density(Mixture(means)(x), torch.zeros(20, dtype=torch.long), "marginal") - log_p
    torch.testing.assert_close(difference, torch.full_like(difference, math.log(3) + math.log(2 * math.pi)))


def test_joint_is_conditional_plus_marginal_and_so_are_the_mean_penalties_over_the_networks_own_labels():
    model, x = network(), points()
    own = model(x).softmax(1).detach()
    mean = dict.fromkeys(DENSITIES, 0.0)
    for label in range(4):
        y = torch.full((8,), label)
        of = {each: log_density(model(x), y, each) for each in DENSITIES}
        torch.testing.assert_close(of["joint"], of["conditional"] + of["marginal"])
        for each in DENSITIES:
            mean[each] = mean[each] + own[:, label] * density_penalty(model, x, y, density=each)[1]
    torch.testing.assert_close(mean["joint"], mean["conditional"] + mean["marginal"])


@pytest.mark.parametrize("by", IMPLEMENTATIONS)
def test_the_marginal_penalty_does_not_see_the_predictions(by):
    """log softmax f predicts what f does, and has the same density everywhere."""
    recentred = nn.Sequential(network(), nn.LogSoftmax(1))
    penalty = density_penalty(recentred, points(), LABELS, by=by)[1]
    assert penalty.abs().max() < 1e-20
    assert density_penalty(network(), points(), LABELS, by=by)[1].min() > 1e-6
    gradients = torch.autograd.grad(penalty.sum(), recentred.parameters(), allow_unused=True, materialize_grads=True)
    assert all(each.isfinite().all() for each in gradients)


@pytest.mark.parametrize("by", IMPLEMENTATIONS)
def test_large_logits_are_no_trouble(by):
    class Steep(nn.Module):
        def forward(self, x):
            return torch.cat([1000 * x, -1000 * x], 1)  # exp(1000) is infinite

    x = torch.full((4000, 1), 1.0)
    torch.manual_seed(0)
    penalty = density_penalty(Steep(), x, torch.zeros(4000, dtype=torch.long), by=by, step=1e-3)[1]
    assert Steep()(x).exp().sum(1).isinf().all()
    assert penalty.mean().item() == pytest.approx(1e6, rel=0.1 if by == "random_direction" else 1e-3)


@pytest.mark.parametrize("by", IMPLEMENTATIONS)
@pytest.mark.parametrize("density", DENSITIES)
def test_a_network_that_ignores_its_input_has_no_penalty_and_a_finite_derivative(by, density):
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.weight)
    penalty = density_penalty(model, torch.rand(4, 3), torch.tensor([0, 1, 0, 1]), density=density, by=by)[1]
    assert (penalty == 0).all()
    penalty.sum().backward()
    assert all(each.grad is None or (each.grad == 0).all() for each in model.parameters())


# -- derivatives by the weights ------------------------------------------------------------------------------------


def derivative(m, x, by, step=0.01):
    model = TwoBumps(m)
    y = torch.zeros(len(x), dtype=torch.long)
    density_penalty(model, x, y, by=by, step=step)[1].mean().backward()
    return model.m.grad.item()


@pytest.mark.parametrize(("m", "at"), [(1.0, 0.5), (2.0, 0.3), (0.5, -1.5)])
def test_the_derivative_on_two_bumps_by_hand(m, at):
    # r = m t - x, t = tanh(m x), R = r^2: dR/dm = 2 r (t + m x (1 - t^2)). With constant weights t stays: 2 r t.
    t = math.tanh(m * at)
    r = m * t - at
    x = torch.tensor([[at]], dtype=torch.float64)
    exact = 2 * r * (t + m * at * (1 - t**2))
    assert density_penalty(TwoBumps(m), x, torch.tensor([0]))[1].item() == pytest.approx(r**2)
    assert derivative(m, x, "exact") == pytest.approx(exact)
    assert derivative(m, x, "detached") == pytest.approx(2 * r * t)
    assert derivative(m, x, "finite_difference", step=1e-6) == pytest.approx(exact, rel=1e-4)


def test_the_error_of_finite_differences_is_proportional_to_the_step():
    x = torch.tensor([[0.5]], dtype=torch.float64)
    exact = derivative(1.0, x, "exact")
    errors = [abs(derivative(1.0, x, "finite_difference", step=step) - exact) for step in (1e-3, 1e-4, 1e-5)]
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.05)


def test_random_directions_are_right_in_the_mean_and_spread_as_said():
    # v . g is normal with deviation |g|: its square has the mean |g|^2 and the deviation sqrt(2) |g|^2.
    torch.manual_seed(0)
    means, draws = points(3, 2), 40_000
    x, y = points(1, 2, seed=4).repeat(draws, 1), torch.zeros(draws, dtype=torch.long)
    exact = density_penalty(Mixture(means), x[:1], y[:1])[1].item()
    found = density_penalty(Mixture(means), x, y, by="random_direction", step=1e-5)[1]
    assert found.mean().item() == pytest.approx(exact, rel=5 * math.sqrt(2 / draws))
    assert found.std().item() == pytest.approx(math.sqrt(2) * exact, rel=0.05)
    one = torch.full((draws, 1), 0.5, dtype=torch.float64)
    assert derivative(1.0, one, "random_direction", step=1e-5) == pytest.approx(derivative(1.0, one, "exact"), rel=0.05)


@pytest.mark.parametrize("by", ["exact", "detached", "finite_difference"])
@pytest.mark.parametrize("density", DENSITIES)
def test_rows_do_not_depend_on_their_company(density, by):
    model, x = network(), points()
    together = density_penalty(model, x, LABELS, density=density, by=by)[1]
    alone = [density_penalty(model, x[r : r + 1], LABELS[r : r + 1], density=density, by=by)[1] for r in range(8)]
    torch.testing.assert_close(together, torch.cat(alone))


# -- losses --------------------------------------------------------------------------------------------------------


def test_the_loss_is_cross_entropy_and_strength_times_the_mean_penalty():
    model, x = network(), points()
    logits, penalty = density_penalty(model, x, LABELS, density="joint")
    expected = nn.functional.cross_entropy(logits, LABELS) + 0.3 * penalty.mean()
    found = density_loss(model, x, LABELS, density="joint", strength=0.3)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_training_with_a_penalty_lowers_it(penalty):
    x = points(60).float().view(60, 1, 2, 3)
    y = (x.flatten(1)[:, 0] > 0).long()

    def trained(loss):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
        return fit(model, x, y, epochs=8, seed=0, batch=20, learning_rate=0.02, **loss)

    density = PENALTIES[penalty][0]
    with_penalty = trained({"loss": lambda *of: density_loss(*of, **penalised(penalty, 3.0))})
    sizes = [density_penalty(model.cpu(), x, y, density=density)[1].mean() for model in (trained({}), with_penalty)]
    assert sizes[1] < 0.5 * sizes[0]


def test_reweighting_by_hand():
    # Groups of 6, 2, 1 and 1 images: weights 10 / (4 n) = 5/12, 5/4, 5/2, 5/2. Logits (0, log 3): p_1 = 3/4.
    class Fixed(nn.Module):
        def forward(self, x):
            return torch.tensor([[0.0, math.log(3)]]).expand(len(x), 2)

    groups = torch.tensor([0, 1, 2, 3])  # class + 2 * attribute: classes 0, 1, 0, 1
    losses = [math.log(4), math.log(4 / 3), math.log(4), math.log(4 / 3)]
    expected = sum(w * loss for w, loss in zip((5 / 12, 5 / 4, 5 / 2, 5 / 2), losses, strict=True)) / 4
    found = reweighted_loss(Fixed(), torch.zeros(4, 1), groups, counts=[6, 2, 1, 1], classes=2)
    assert found.item() == pytest.approx(expected)
    with pytest.raises(InputError, match="each needs one"):
        reweighted_loss(Fixed(), torch.zeros(4, 1), groups, counts=[6, 2, 0, 1], classes=2)


def test_memory_counts_each_storage_once():
    x = torch.ones(1000, requires_grad=True)
    assert saved_bytes(lambda: x.square().sum()) == 4000
    assert saved_bytes(lambda: (x.square() + x.pow(3)).sum()) == 4000
    assert saved_bytes(lambda: (x.square() * x.pow(3)).sum()) == 12000  # and both factors


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"density": "margnal"}, "no density 'margnal'; did you mean 'marginal'"),
        ({"by": "exactly"}, "no implementation 'exactly'; did you mean 'exact'"),
        ({"by": "finite_difference", "step": 0.0}, "step is 0.0; give a distance"),
        ({"step": float("nan")}, "step is nan"),
    ],
)
def test_what_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        density_penalty(network(), points(), LABELS, **given)


def test_an_unknown_penalty_is_refused():
    with pytest.raises(InputError, match="did you mean 'marginal_detached'"):
        penalised("marginal_detach", 0.1)
