from itertools import pairwise

import pytest
import torch
from torch import nn

from lib import InputError
from lib.data.digits import digits
from lib.training import fit as training
from lib.training.fit import accuracy, digit_cnn, digit_network, fit, permuted_labels


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Where two runs must agree to the bit."""
    monkeypatch.setattr(training, "best_device", lambda: torch.device("cpu"))


@pytest.fixture
def few_digits(monkeypatch):
    few = digits("train").take(range(100))
    monkeypatch.setattr(training, "digits", lambda part: few)
    return few


def data(count=100):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 2
    return torch.rand(count, 1, 4, 4, generator=generator) + y[:, None, None, None], y


def small(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2))


def weights(model):
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])


def test_steps_by_hand():
    # Adam moves a weight with a constant gradient by its learning rate; 2 epochs of 2 batches: 1, 3/4, 1/2, 1/4.
    model = nn.Linear(1, 1, bias=False)
    start = model.weight.item()
    fit(
        model,
        torch.ones(4, 1),
        torch.zeros(4),
        epochs=2,
        seed=0,
        batch=2,
        learning_rate=0.1,
        loss=lambda f, x, y: f(x).mean(),
    )
    assert model.weight.item() == pytest.approx(start - 0.1 * (1 + 3 / 4 + 1 / 2 + 1 / 4), abs=1e-6)


def test_the_loss_decides_what_is_learned():
    x, y = data()
    options = {"epochs": 20, "seed": 0, "batch": 10, "learning_rate": 0.02}
    assert accuracy(fit(small(), x, y, **options), x, y) > 0.95

    def opposite(model, x, y):
        return training.classification_loss(model, x, 1 - y)

    assert accuracy(fit(small(), x, y, loss=opposite, **options), x, y) < 0.05


def batches(seed, draw=False):
    seen = []

    def loss(model, x, y):
        seen.append([round(value) for value in x.flatten().tolist()])
        return (model(x) * (torch.rand(1) if draw else 1)).mean()

    fit(nn.Linear(1, 1), torch.arange(10.0)[:, None], torch.zeros(10), epochs=2, seed=seed, batch=4, loss=loss)
    return seen


def test_every_image_is_seen_once_an_epoch_in_an_order_of_the_seed_alone():
    seen = batches(0)
    assert [len(rows) for rows in seen] == [4, 4, 2] * 2
    first, second = ([row for rows in epoch for row in rows] for epoch in (seen[:3], seen[3:]))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second and first != list(range(10))
    assert batches(0, draw=True) == seen  # a loss with a random part sees the same batches
    assert batches(1) != seen


def test_two_runs_agree_to_the_bit_and_leave_the_global_generator_alone():
    x, y = data()
    results = []
    for seed, disturbance in ((0, 5), (0, 6), (1, 5)):
        model = small(dropout=0.5)
        torch.manual_seed(disturbance)
        expected = torch.random.get_rng_state()
        results.append(weights(fit(model, x, y, epochs=2, seed=seed)))
        assert torch.equal(torch.random.get_rng_state(), expected)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_train_mode_inside_eval_mode_for_until_and_at_the_end():
    x, y = data()
    modes, asked = [], []

    def loss(model, x, y):
        modes.append(model.training)
        return training.classification_loss(model, x, y)

    def until(model):
        asked.append(model.training)
        return len(asked) == 3

    model = fit(small().eval(), x, y, epochs=9, seed=0, batch=50, loss=loss, until=until)
    assert modes == [True] * 6
    assert asked == [False] * 3
    assert not model.training


def test_a_loss_that_is_not_finite_is_one_sentence():
    calls = []

    def loss(model, x, y):
        calls.append(0)
        return training.classification_loss(model, x, y) * (torch.inf if len(calls) == 4 else 1)

    with pytest.raises(InputError, match=r"^mine: the loss became inf in epoch 2 of 5; lower learning_rate=0.5, or"):
        fit(small(), *data(), epochs=5, seed=0, batch=40, learning_rate=0.5, loss=loss, label="mine")


def test_labels_must_match_the_images():
    x, y = data()
    with pytest.raises(InputError, match=r"^training was given 100 images and 99 labels; give as many of each"):
        fit(small(), x, y[:-1], epochs=1, seed=0)
    with pytest.raises(InputError, match="0 images and 0 labels"):
        fit(small(), x[:0], y[:0], epochs=1, seed=0)


@pytest.mark.parametrize(("norm", "sizes"), [(True, [4, 5]), (False, [4, 4, 1])])
def test_batch_norms_never_see_a_single_image(norm, sizes):
    seen, x, y = [], torch.rand(9, 3), torch.arange(9) % 2
    layers = [nn.Linear(3, 4), nn.BatchNorm1d(4) if norm else nn.ReLU(), nn.Linear(4, 2)]

    def loss(model, x, y):
        seen.append(len(x))
        return training.classification_loss(model, x, y)

    fit(nn.Sequential(*layers), x, y, epochs=2, seed=0, batch=4, loss=loss)
    assert seen == 2 * sizes
    if norm:
        for rows, batch in ((9, 1), (1, 4)):
            with pytest.raises(InputError, match="batches of two images or more"):
                fit(nn.Sequential(*layers), x[:rows], y[:rows], epochs=1, seed=0, batch=batch)


def test_progress_is_shown_on_standard_error(capsys):
    fit(small(), *data(), epochs=2, seed=0, batch=50, label="two blobs")
    captured = capsys.readouterr()
    assert "two blobs" in captured.err and "/4" in captured.err
    assert captured.out == ""


def test_accuracy_by_hand_in_any_batches():
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.eye(2)
    x = torch.tensor([[1.0, 0], [0, 1], [2, 1], [1, 3], [5, 0]])
    y = torch.tensor([0, 1, 1, 1, 0])
    assert [accuracy(model, x, y, batch=batch) for batch in (1, 2, 5, 256)] == [0.8] * 4


def test_the_digit_classifier_depends_on_its_seed_alone():
    before = torch.random.get_rng_state()
    first = weights(digit_cnn())
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(123)
    assert torch.equal(weights(digit_cnn(seed=0)), first)
    assert not torch.equal(weights(digit_cnn(seed=1)), first)


def test_without_biases_the_digit_classifier_is_homogeneous_in_the_normalised_image():
    def logits(model, scale):
        return model[1:](scale * model[0](digits("test").x[:8]))

    free, usual = digit_cnn(bias=False, classes=7), digit_cnn(classes=7)
    assert logits(free, 1).shape == (8, 7)
    torch.testing.assert_close(logits(free, 3), 3 * logits(free, 1))
    assert (logits(usual, 3) - 3 * logits(usual, 1)).abs().max() > 0.01
    assert not any("bias" in name for name in free.state_dict())
    assert not any(layer.inplace for layer in usual if isinstance(layer, nn.ReLU))


def test_digits_are_learned_in_one_epoch():
    train, test = digits("train"), digits("test")
    model = fit(digit_cnn(), train.x, train.y, epochs=1, seed=0, batch=32, learning_rate=2e-3)
    assert accuracy(model, test.x, test.y) > 0.9


def test_permuted_labels_keep_the_classes_and_lose_the_images():
    y = digits("train").y
    permuted = permuted_labels(y, seed=0)
    assert permuted.bincount().tolist() == [400] * 10
    assert (permuted == y).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(permuted, permuted_labels(y, seed=0))
    assert not torch.equal(permuted, permuted_labels(y, seed=1))


def test_a_digit_network_is_ready_for_attribution_and_trained_once(tmp_path, few_digits, monkeypatch):
    network = digit_network(cache=tmp_path, epochs=3)
    assert (network.name, network.family, network.size, network.resize) == ("mnist_cnn", "small-cnn", 28, 28)
    assert (network.mean, network.std) == ((0.1307,), (0.3081,))
    assert not network.model.training and not any(p.requires_grad for p in network.model.parameters())
    (file,) = tmp_path.glob("*.pt")
    assert file.name.startswith("mnist_cnn-") and file.suffix == ".pt"

    expected = fit(digit_cnn(), few_digits.x, few_digits.y, epochs=3, seed=0, batch=32, learning_rate=2e-3)
    assert torch.equal(weights(network.model), weights(expected))
    monkeypatch.setattr(training, "fit", None)
    assert torch.equal(weights(digit_network(cache=tmp_path, epochs=3).model), weights(expected))


def test_seed_epochs_and_labels_each_have_their_own_file(tmp_path, few_digits):
    variants = [{}, {"seed": 1}, {"epochs": 2}, {"permuted": True}]
    trained = [weights(digit_network(cache=tmp_path, **({"epochs": 1} | variant)).model) for variant in variants]
    assert len(list(tmp_path.glob("*.pt"))) == 4
    assert not any(torch.equal(a, b) for a, b in pairwise([*trained, trained[0]]))


@pytest.mark.parametrize("damage", [b"", b"not a state dict", "another network", "incomplete", "cut"])
def test_a_damaged_file_is_trained_again_and_said_so(tmp_path, few_digits, capsys, damage):
    whole = weights(digit_network(cache=tmp_path, epochs=1).model)
    (file,) = tmp_path.glob("*.pt")
    if damage == "another network":
        torch.save(small().state_dict(), file)
    elif damage == "incomplete":
        torch.save(dict(list(digit_cnn(seed=5).state_dict().items())[:-1]), file)
    else:
        file.write_bytes(file.read_bytes()[:999] if damage == "cut" else damage)
    capsys.readouterr()
    assert torch.equal(weights(digit_network(cache=tmp_path, epochs=1).model), whole)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "made again" in line]
    assert line.startswith(f"{file.name} is made again: ")
    digit_network(cache=tmp_path, epochs=1)
    assert "made again" not in capsys.readouterr().err


def test_permuted_labels_are_memorised(tmp_path, few_digits, capsys):
    network = digit_network(cache=tmp_path, permuted=True, epochs=200)
    assert network.name == "mnist_cnn_permuted"
    assert accuracy(network.model, few_digits.x, permuted_labels(few_digits.y, seed=0)) >= 0.95
    assert accuracy(network.model, few_digits.x, few_digits.y) < 0.4
    assert "give more epochs" not in capsys.readouterr().err


def test_too_few_epochs_to_memorise_are_said_so(tmp_path, few_digits, capsys):
    network = digit_network(cache=tmp_path, permuted=True, epochs=2)
    reached = accuracy(network.model, few_digits.x, permuted_labels(few_digits.y, seed=0))
    sentence = (
        f"mnist_cnn_permuted fits {reached:.1%} of its permuted labels after 2 epochs, not 95%; give more epochs."
    )
    assert sentence in capsys.readouterr().err.splitlines()
