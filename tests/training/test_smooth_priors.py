"""The prior on smoothness: total variation by hand, re-calibrated Expected Gradients, and a training with them."""

import pytest
import torch
from torch import nn

from lib.attribution import Node, Recalibrated
from lib.training import fit as training
from lib.training.fit import Diverged, classification_loss, fit, training_unit
from lib.training.priors import (
    Draws,
    batch_draws,
    cross_entropy,
    expected_gradients,
    recalibrated_gradients,
    smooth_loss,
    total_variation,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network():
    torch.manual_seed(3)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 16), nn.ReLU(), nn.Linear(16, 3)]
    return nn.Sequential(*layers).double()


def data(rows=8):
    return torch.rand(rows, 1, 5, 5, generator=generator(), dtype=torch.float64), torch.arange(rows) % 3


# -- total variation -------------------------------------------------------------------------------------------------


def test_total_variation_by_hand():
    one = torch.zeros(1)
    # stripes 0, 2 in two equal rows: standardised -1, 1; a difference of 2 sideways, none downwards
    assert total_variation(torch.tensor([0.0, 2, 0, 2]).view(1, 1, 2, 2), one).item() == pytest.approx(2)
    # a chessboard has 2 both ways; a ramp 0, 1, 2 in three equal rows has steps of 1 / sqrt(2/3)
    assert total_variation(torch.tensor([[0.0, 1], [1, 0]]).view(1, 1, 2, 2), one).item() == pytest.approx(4)
    assert total_variation(torch.arange(3.0).expand(1, 1, 3, 3), one).item() == pytest.approx(1.5**0.5)


def test_total_variation_sees_neither_size_nor_level_of_a_map():
    maps, y = torch.randn(4, 1, 6, 6, generator=generator(), dtype=torch.float64), torch.zeros(4)
    assert total_variation(3 * maps - 7, y).item() == pytest.approx(total_variation(maps, y).item(), rel=1e-12)


def test_total_variation_is_the_mean_over_images_of_each_network():
    maps = torch.randn(2, 3, 1, 4, 4, generator=generator())
    together = total_variation(maps, torch.zeros(2, 3))
    alone = torch.tensor([[total_variation(each[None], torch.zeros(1)) for each in row] for row in maps])
    torch.testing.assert_close(together, alone.mean(1))


def test_a_constant_map_has_no_variation_and_no_gradient():
    maps = torch.full((1, 1, 3, 3), 0.25, requires_grad=True)
    value = total_variation(maps, torch.zeros(1))
    value.backward()
    assert value == 0 and (maps.grad == 0).all()


# -- re-calibrated Expected Gradients ----------------------------------------------------------------------------------


def test_recalibrated_by_hand():
    w, x, y = torch.tensor([2.0, -1.0]), torch.tensor([[1.0, 3.0]]), torch.tensor([1])
    draws = Draws(torch.tensor([[[0.0, 4.0]], [[2.0, 5.0]], [[-1.0, 1.0]]]), torch.tensor([[0.5], [0.5], [0.0]]))

    def f(x):
        return x @ w

    # half of the way remains twice, all of it once: (x - x~) w = (1, .5), (-1, 1), (4, -2): the valid ones are averaged
    assert recalibrated_gradients(f, x, y, draws)[1].tolist() == [[2.5, 0.75]]
    none_valid = Draws(torch.tensor([[[2.0, 2.0]]]), torch.tensor([[0.5]]))
    assert recalibrated_gradients(f, x, y, none_valid)[1].tolist() == [[0, 0]]


def test_recalibrated_is_the_rule_for_maps():
    f, (x, y), count = network(), data(), 3
    draws = batch_draws(x, y, count, [generator()])
    rule, sums = Recalibrated(), {}
    for line in range(count):
        reference, alpha = draws.references[line], draws.alphas[line].view(-1, 1, 1, 1)
        point = (reference + alpha * (x - reference)).requires_grad_()
        value = f(point).gather(1, y[:, None]).squeeze(1)
        gradient = torch.autograd.grad(value.sum(), point)[0]
        found = {"input": x, "reference": reference, "share": 1 / count}
        node = rule(Node(point.detach(), x - reference, gradient, value.detach(), line, **found), None)
        sums = {name: each + sums.get(name, 0) for name, each in node.items()}
    expected = rule.finish(sums)["map"]
    torch.testing.assert_close(recalibrated_gradients(f, x, y, draws)[1].detach(), expected, rtol=1e-9, atol=1e-12)
    assert (expected >= 0).all() and (expected > 0).any()


@pytest.mark.parametrize("attribution", [expected_gradients, recalibrated_gradients], ids=["plain", "recalibrated"])
def test_gradient_with_respect_to_the_weights_is_that_of_finite_differences(attribution):
    model, (x, y) = network(), data()
    draws, weights = batch_draws(x, y, 3, [generator()]), list(model.parameters())
    moved = [torch.randn(each.shape, generator=generator(1), dtype=each.dtype) for each in weights]

    def loss():
        return smooth_loss(model, x, y, attribution=attribution, strength=0.7, draws=draws)[0]

    found = torch.autograd.grad(loss(), weights, allow_unused=True)
    along = sum((g * d).sum().item() for g, d in zip(found, moved, strict=True) if g is not None)
    values = []
    for step in (1e-7, -2e-7):
        with torch.no_grad():
            for each, direction in zip(weights, moved, strict=True):
                each += step * direction
        values.append(loss().item())
    assert along == pytest.approx((values[0] - values[1]) / 2e-7, rel=1e-5)


def test_both_attributions_evaluate_the_network_as_often():
    x, y = data()
    draws = batch_draws(x, y, 3, [generator()])
    for attribution in (expected_gradients, recalibrated_gradients):
        passed, model = [], network()
        model.register_forward_hook(lambda model, args, out, passed=passed: passed.append(len(args[0])))
        attribution(model, x, y, draws)
        assert sorted(passed) == [8, 3 * 8]


def test_the_loss_is_a_mixture():
    f, (x, y) = network(), data()
    draws = batch_draws(x, y, 2, [generator()])
    value, found = smooth_loss(f, x, y, attribution=recalibrated_gradients, strength=0.25, draws=draws)
    torch.testing.assert_close(value, 0.75 * cross_entropy(f(x), y) + 0.25 * found)
    assert found.item() == total_variation(recalibrated_gradients(f, x, y, draws)[1], y).item()


# -- training ----------------------------------------------------------------------------------------------------------


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(25, 3))


def test_training_with_the_prior_makes_maps_smoother(monkeypatch):
    monkeypatch.setattr(training, "best_device", lambda: torch.device("cpu"))
    x, y = (each.float() if each.is_floating_point() else each for each in data(60))

    def trained(strength):
        draws = [generator()]

        def loss(model, x, y):
            drawn = batch_draws(x, y, 2, draws)
            return smooth_loss(model, x, y, attribution=recalibrated_gradients, strength=strength, draws=drawn)[0]

        model = fit(small(), x, y, epochs=10, seed=0, batch=20, learning_rate=0.02, loss=loss)
        drawn = batch_draws(x, y, 20, [generator(1)])
        return total_variation(recalibrated_gradients(model, x, y, drawn)[1], y).item()

    assert trained(0.9) < trained(0.0)


def test_several_losses_take_their_steps_in_turn_each_with_its_own_adam(monkeypatch):
    """With an Adam of its own, a loss's weight does not count: its first steps are as long for 1e-2 as for 1."""
    monkeypatch.setattr(training, "best_device", lambda: torch.device("cpu"))
    x, y = (each.float() if each.is_floating_point() else each for each in data(20))

    def weights(*losses):
        model = fit(small(), x, y, epochs=2, seed=0, batch=10, loss=list(losses))
        return torch.cat([each.detach().flatten() for each in model.parameters()])

    def size(scale):
        return lambda model, x, y: scale * sum(each.square().sum() for each in model.parameters())

    alone, one, hundredth = (weights(classification_loss, *each) for each in ([], [size(1)], [size(0.01)]))
    torch.testing.assert_close(one, hundredth, rtol=0, atol=1e-4)
    assert (alone - one).abs().max() > 1e-3

    def joint(scale):
        return weights(lambda model, x, y: classification_loss(model, x, y) + size(scale)(model, x, y))

    assert (joint(1) - joint(0.01)).abs().max() > 1e-3


def test_a_training_that_diverges_has_no_network_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(training, "best_device", lambda: torch.device("cpu"))

    def load():
        nan = lambda model, x, y: classification_loss(model, x, y) * torch.nan  # noqa: E731
        return fit(small(), torch.rand(4, 1, 5, 5), torch.arange(4) % 3, epochs=1, seed=0, loss=nan, label="mine")

    with pytest.raises(Diverged, match="mine: the loss became nan in epoch 1"):
        load()
    rows = training_unit(load)
    assert rows["weights"].tolist() == [0] and rows["network"][0].startswith("diverged: mine")
    assert "mine: the loss became nan" in capsys.readouterr().err
