"""Robust training: its losses worked by hand, and networks that are trained once and kept."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lib import InputError
from lib.data.digits import Digits, digits
from lib.training import fit as training
from lib.training import robust
from lib.training.robust import Schedule, loss_attribution, robust_loss, schedule, trained_network


class Line(nn.Module):
    """Logits (0, w x) for images of one pixel, so that l(x, y=1) = log(1 + exp(-w x)), dl/dx = -w / (1 + exp(w x))."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(float(w)))

    def forward(self, x):
        value = self.w * x.flatten(1)[:, 0]
        return torch.stack([torch.zeros_like(value), value], 1)


def at(*values):
    return torch.tensor(values).view(-1, 1, 1, 1)


ONE = torch.ones(1, dtype=torch.long)


def slope(w, x):
    return -w / (1 + torch.exp(torch.tensor(w * x)))


@pytest.mark.parametrize(("m", "points"), [(1, [0.6]), (2, [0.4, 0.6]), (4, [0.3, 0.4, 0.5, 0.6])])
def test_attribution_of_the_loss_by_hand_with_m_points(m, points):
    found = loss_attribution(Line(3), at(0.2), at(0.6), ONE, m=m)
    expected = 0.4 * sum(slope(3.0, point) for point in points) / m
    torch.testing.assert_close(found.item(), expected.item())


def test_attribution_of_the_loss_sums_to_its_change():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Softplus(), nn.Linear(4, 3))
    x, other, y = torch.rand(2, 1, 2, 3), torch.rand(2, 1, 2, 3), torch.tensor([0, 2])
    total = loss_attribution(model, x, other, y, m=400).sum((1, 2, 3))
    change = cross_entropy(model(other), y, reduction="none") - cross_entropy(model(x), y, reduction="none")
    torch.testing.assert_close(total, change, atol=2e-3, rtol=1e-2)
    for row in range(2):  # and does not depend on the batch
        alone = loss_attribution(model, x[row : row + 1], other[row : row + 1], y[row : row + 1], m=5)
        torch.testing.assert_close(alone[0], loss_attribution(model, x, other, y, m=5)[row])


def ell(w, x):
    return torch.log1p(torch.exp(torch.tensor(-w * x)))


def test_the_three_losses_by_hand():
    # l falls with x, so its worst neighbour of .5 within .1 is .4; |IG| grows on both sides, and the start decides.
    how = Schedule(epsilon=0.1, step=0.1, iterations=3, m=2, m_inner=1, weight=0.5)
    torch.manual_seed(0)
    side = -1 if torch.rand(1, 1, 1, 1).item() < 0.5 else 1
    attribution, either = (
        0.1 * (abs(slope(3.0, 0.5 + s * 0.05)) + abs(slope(3.0, 0.5 + s * 0.1))) / 2 for s in (-1, side)
    )
    expected = {
        "pgd": ell(3.0, 0.4),
        "ig_norm": ell(3.0, 0.5) + 0.5 * either,
        "ig_sum_norm": ell(3.0, 0.4) + 0.5 * attribution,
    }
    for kind, value in expected.items():
        model = Line(3)
        torch.manual_seed(0)
        loss = robust_loss(kind, how)(model, at(0.5), ONE)
        torch.testing.assert_close(loss.item(), value.item(), atol=1e-6, rtol=1e-5)
        (gradient,) = torch.autograd.grad(loss, model.w)
        h = 1e-3
        ends = [_loss_at(kind, how, 3 + shift) for shift in (h, -h)]
        torch.testing.assert_close(gradient.item(), (ends[0] - ends[1]) / (2 * h), atol=2e-3, rtol=1e-2)


def _loss_at(kind, how, w):
    torch.manual_seed(0)
    return robust_loss(kind, how)(Line(w).double(), at(0.5).double(), ONE).item()


def test_unknown_kinds_are_one_sentence(tmp_path):
    with pytest.raises(InputError, match="did you mean 'ig_norm'"):
        robust_loss("ig_nrom", Schedule())
    with pytest.raises(InputError, match="did you mean 'pgd'"):
        trained_network("pdg", cache=tmp_path)


@pytest.mark.parametrize("kind", ["natural", "pgd", "ig_norm", "ig_sum_norm"])
def test_a_network_is_trained_once_and_kept(tmp_path, monkeypatch, kind):
    few = digits("train").take(range(60))
    monkeypatch.setattr(training, "digits", lambda part: few)
    monkeypatch.setattr(robust, "image_set", lambda data, part, root: few)
    for module in (training, robust):
        monkeypatch.setattr(module, "best_device", lambda: torch.device("cpu"))
    natural = training.digit_network
    monkeypatch.setattr(robust, "digit_network", lambda **asked: natural(**asked, epochs=1))
    how = None if kind == "natural" else Schedule(iterations=1, m=2, m_inner=1, epochs=1, batch=30)
    first = trained_network(kind, cache=tmp_path, how=how)
    assert not first.model.training and not any(p.requires_grad for p in first.model.parameters())
    assert first.name == ("mnist_cnn" if kind == "natural" else f"mnist_cnn_{kind}")
    monkeypatch.setattr(torch.optim, "Adam", None)  # nothing can be trained any more
    again = trained_network(kind, cache=tmp_path, how=how)
    for one, other in zip(first.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["natural", "ig_sum_norm"])
def test_colour_images_get_the_residual_network(tmp_path, monkeypatch, kind):
    torch.manual_seed(0)
    signs = Digits(torch.rand(8, 3, 32, 32), torch.arange(8), [f"sign-{i}" for i in range(8)])
    monkeypatch.setattr(robust, "image_set", lambda data, part, root: signs)
    monkeypatch.setattr(robust, "NATURAL", Schedule(epochs=1, batch=4))
    how = None if kind == "natural" else Schedule(8 / 255, 2 / 255, 1, 2, 1, epochs=1, batch=4)
    network = trained_network(kind, "gtsrb", cache=tmp_path, how=how)
    assert network.name == f"gtsrb_{kind}" and network.size == 32
    assert network.model(signs.x.to(robust.best_device())).shape == (8, 43)


def test_schedules_of_the_image_sets():
    assert schedule("pgd") == Schedule()
    assert schedule("ig_sum_norm").weight == 0.1 and schedule("ig_sum_norm", "gtsrb").weight == 1
    assert schedule("pgd", "flowers17").epsilon == 8 / 255 and schedule("pgd", "flowers17").iterations == 6
    assert schedule("pgd", "mnist_5k", "released") == Schedule(0.3, 0.01, 40, 50, 10, epochs=83, learning_rate=1e-4)
    with pytest.raises(InputError, match="did you mean 'released'"):
        schedule("pgd", "mnist", "relased")


def test_pgd_training_raises_pgd_accuracy():
    from lib.attacks import robust_answers
    from lib.training.fit import digit_cnn, fit

    train, test = digits("train").take(slice(1000)), digits("test").take(slice(100))
    ball = {"epsilon": 0.15, "step": 0.05, "iterations": 5}
    found = {}
    for name, loss in (("natural", training.classification_loss), ("pgd", robust_loss("pgd", Schedule(0.15, 0.08, 3)))):
        model = fit(digit_cnn(), train.x, train.y, epochs=3, seed=0, loss=loss, batch=50, learning_rate=2e-3)
        model.requires_grad_(False)
        device = next(model.parameters()).device
        found[name] = robust_answers(model, test.x.to(device), test.y.to(device), images=test.ids, **ball)[:, 1]
    assert found["pgd"].float().mean() > found["natural"].float().mean() + 0.05
