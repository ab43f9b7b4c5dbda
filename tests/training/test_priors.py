"""Attribution priors: by hand, against finite differences, and where they must coincide."""

from functools import partial

import pytest
import torch
from torch import nn

from lib import InputError
from lib.training import fit as training
from lib.training.priors import (
    Draws,
    batch_draws,
    cross_entropy,
    expected_gradients,
    gini,
    log_probability_gradient,
    sparse_loss,
    sparsity,
    trainable_gradient,
    trainable_x_gradient,
)

ATTRIBUTIONS = (trainable_x_gradient, trainable_gradient, log_probability_gradient, expected_gradients)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(bias=True, classes=None, inputs=5):
    torch.manual_seed(3)
    layers = [
        nn.Linear(inputs, 16, bias),
        nn.ReLU(),
        nn.Linear(16, 8, bias),
        nn.ReLU(),
        nn.Linear(8, classes or 1, bias),
    ]
    return nn.Sequential(*layers, *([] if classes else [nn.Flatten(0)])).double()


def data(classes=2, rows=12, inputs=5):
    return torch.randn(rows, inputs, generator=generator(), dtype=torch.float64), torch.arange(rows) % classes


# -- Gini ------------------------------------------------------------------------------------------------------


def test_gini_by_hand():
    # (1, 3): |1 - 3| twice, / (2 * 4 * 2) = 1/4.  One of four: 6 pairs of 1 / (2 * 16 / 4) = 3/4.  Equal: 0.
    cases = torch.tensor([[1.0, 3.0, 1.0, 3.0], [0.0, 0.0, 5.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    assert gini(cases).tolist() == pytest.approx([0.25, 0.75, 0])
    assert gini(torch.tensor([1.0, 3.0])).item() == pytest.approx(0.25)


def test_gini_is_the_sum_over_all_pairs_and_ignores_scale_and_order():
    v = torch.rand(7, 118, generator=generator(), dtype=torch.float64)
    pairs = (v[:, :, None] - v[:, None]).abs().sum((1, 2)) / (2 * 118**2 * v.mean(1))
    assert gini(v) == pytest.approx(pairs, rel=1e-12)
    assert gini(100 * v.flip(1)) == pytest.approx(pairs, rel=1e-12)


def test_gini_of_nothing_is_0_with_gradient_0():
    v = torch.zeros(2, 3)
    v[1] = torch.tensor([1.0, 2.0, 3.0])
    v.requires_grad_()
    gini(v).sum().backward()
    assert gini(v)[0] == 0
    assert (v.grad[0] == 0).all()
    assert v.grad.isfinite().all()


def test_sparsity_takes_the_mean_of_absolute_values_over_rows_before_the_gini():
    attributions = torch.tensor([[1.0, -4.0], [-1.0, 2.0]])  # means of |.|: 1 and 3
    assert sparsity(attributions, torch.zeros(2)).item() == pytest.approx(0.25)
    assert sparsity(torch.stack([attributions, -attributions]), torch.zeros(2, 2)).tolist() == pytest.approx([0.25] * 2)


# -- the attributions ------------------------------------------------------------------------------------------


def test_attributions_of_a_linear_logit_by_hand():
    w, x, y = torch.tensor([2.0, -1.0]), torch.tensor([[1.0, 3.0]]), torch.tensor([1])
    f = partial(torch.matmul, other=w)
    draws = Draws(torch.tensor([[[0.0, 1.0]], [[2.0, 2.0]]]), torch.tensor([[0.3], [0.9]]))
    assert trainable_gradient(f, x, y)[1].tolist() == [[2, -1]]
    assert trainable_x_gradient(f, x, y)[1].tolist() == [[2, -3]]
    # (x - r) w is (2, -2) and (-2, -1): the mean is (0, -1.5)
    assert expected_gradients(f, x, y, draws)[1].tolist() == [[0, -1.5]]
    # z = -1: d/dz [2 logsigmoid(z) - z] = 2 sigmoid(-z) - 1 = tanh(1/2)
    slope = torch.tanh(torch.tensor(0.5)).item()
    assert log_probability_gradient(f, x, y)[1].tolist() == [pytest.approx([2 * slope, -slope])]
    assert all(each(f, x, y, draws)[0].tolist() == [-1] for each in ATTRIBUTIONS)


def test_binary_is_the_same_as_two_classes_with_logits_0_and_z():
    f, (x, y) = network(), data()

    def two(x):
        return torch.stack([torch.zeros(len(x), dtype=x.dtype), f(x)], 1)

    one, other = (log_probability_gradient(each, x, y)[1] for each in (f, two))
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(cross_entropy(f(x), y), cross_entropy(two(x), y))


def test_losses_are_torchs():
    x, y = data(3)
    logits = network(classes=3)(x)
    torch.testing.assert_close(cross_entropy(logits, y), nn.functional.cross_entropy(logits, y))
    z = network()(x)
    expected = nn.functional.binary_cross_entropy_with_logits(z, (y > 0).double())
    torch.testing.assert_close(cross_entropy(z, (y > 0).long()), expected)


@pytest.mark.parametrize("count", [1, 2, 32])
def test_one_reference_of_0_on_a_network_without_biases_is_x_gradient_for_every_count_and_alpha(count):
    f, (x, y) = network(bias=False), data()
    draws = batch_draws(torch.zeros_like(x), y, count, [generator(count)])
    exact = trainable_x_gradient(f, x, y)[1]
    torch.testing.assert_close(expected_gradients(f, x, y, draws)[1], exact, rtol=1e-12, atol=1e-15)
    with_biases = network(bias=True)
    other = expected_gradients(with_biases, x, y, draws)[1] - trainable_x_gradient(with_biases, x, y)[1]
    assert other.abs().max() > 1e-3 * exact.abs().max()


def test_x_gradient_is_complete_without_biases():
    f, (x, y) = network(bias=False), data()
    logits, attributions = trainable_x_gradient(f, x, y)
    torch.testing.assert_close(attributions.sum(1), logits, rtol=1e-12, atol=0)


def test_logits_of_other_shapes_are_refused():
    x, y = data()
    one_column = nn.Linear(5, 1).double()
    with pytest.raises(InputError, match=r"\(12, 1\) for labels \(12,\)"):
        trainable_x_gradient(one_column, x, y)
    with pytest.raises(InputError, match="logits are"):
        cross_entropy(torch.zeros(3, 2), y)


# -- references ------------------------------------------------------------------------------------------------


def test_every_row_is_a_reference_as_often_as_any_other_unless_drawn_with_replacement():
    x, y = torch.arange(10.0)[:, None], torch.zeros(10)
    draws = batch_draws(x, y, 4, [generator()])
    assert draws.references.shape == (4, 10, 1)
    assert draws.alphas.shape == (4, 10)
    counts = draws.references.flatten().long().bincount(minlength=10)
    assert (counts == 4).all()
    assert ((draws.alphas >= 0) & (draws.alphas < 1)).all()
    drawn = batch_draws(x, y, 4, [generator()], replacement=True).references.flatten().long().bincount(minlength=10)
    assert drawn.sum() == 40
    assert (drawn != 4).any()


def test_a_network_s_draws_depend_on_its_own_generator_alone():
    x, y = torch.randn(3, 6, 2), torch.zeros(3, 6)
    together = batch_draws(x, y, 2, [generator(seed) for seed in (7, 8, 9)])
    alone = batch_draws(x[1:2], y[1:2], 2, [generator(8)])
    assert torch.equal(together.references[1:2], alone.references)
    assert torch.equal(together.alphas[1:2], alone.alphas)


def test_no_references_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        batch_draws(torch.zeros(2, 1), torch.zeros(2), 0, [generator()])


# -- the loss --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attribution", ATTRIBUTIONS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("classes", [None, 3])
def test_gradient_with_respect_to_the_weights_is_that_of_finite_differences(attribution, classes):
    model, (x, y) = network(classes=classes), data(classes or 2)
    draws = batch_draws(x, y, 3, [generator()])

    def loss():
        return sparse_loss(model, x, y, attribution=attribution, strength=2.0, draws=draws)[0]

    parameters = list(model.parameters())
    exact = torch.autograd.grad(loss(), parameters, allow_unused=True)
    moved = [torch.randn(p.shape, generator=generator(1), dtype=p.dtype) for p in parameters]
    values = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            for p, direction in zip(parameters, moved, strict=True):
                p += step * direction
        values.append(loss().item())
        with torch.no_grad():
            for p, direction in zip(parameters, moved, strict=True):
                p -= step * direction
    along = sum((g * d).sum().item() for g, d in zip(exact, moved, strict=True))
    assert along == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6)
    plain = torch.autograd.grad(cross_entropy(model(x), y), parameters)
    assert along != pytest.approx(sum((g * d).sum().item() for g, d in zip(plain, moved, strict=True)), rel=1e-3)


def test_the_loss_rewards_sparsity_and_reports_it():
    f, (x, y) = network(), data()
    value, found = sparse_loss(f, x, y, attribution=trainable_x_gradient, strength=10.0)
    torch.testing.assert_close(value, cross_entropy(f(x), y) - 10 * found)
    assert 0 < found < 1


def test_images_train_with_a_prior_through_fit(monkeypatch):
    monkeypatch.setattr(training, "best_device", lambda: torch.device("cpu"))
    y = torch.arange(60) % 2
    x = torch.rand(60, 1, 4, 4, generator=generator())
    x[:, 0, 1, 2] += 3 * y  # one pixel tells

    def trained(strength):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 32, bias=False), nn.ReLU(), nn.Linear(32, 2, bias=False))
        draws = [generator()]

        def loss(model, x, y):
            drawn = batch_draws(x, y, 2, draws)
            return sparse_loss(model, x, y, attribution=expected_gradients, strength=strength, draws=drawn)[0]

        training.fit(model, x, y, epochs=15, seed=0, batch=20, learning_rate=0.01, loss=loss)
        return sparsity(trainable_x_gradient(model, x, y)[1], y).item(), training.accuracy(model, x, y)

    (plain, right), (sparse, still_right) = trained(0.0), trained(1.0)
    assert sparse > plain + 0.1
    assert min(right, still_right) > 0.9
