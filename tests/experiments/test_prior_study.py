"""The prior study: which trainings, what two of them share, how strengths are chosen, and what the tables hold."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from lib import InputError
from lib.data.digits import digits
from lib.experiments import prior, prior_tables
from lib.models.zoo import best_device
from lib.seeds import seeded
from lib.training.fit import Diverged, classification_loss, digit_cnn, prepared
from lib.training.priors import total_variation

TRAINING = {"train": 20, "epochs": 2, "references": 2}


def test_one_training_for_each_prior_strength_seed_and_schedule():
    units = prior.prior_units(strengths=[0.1, 0.9], levels=[0.3], seeds=[0, 1], separate=[0.1, 0.9])
    assert len(units) == len(set(units.values())) == (1 + 1 + 1 + 2 + 2) * 2 + 2 * 2
    separate = [each for each in units.values() if each[3] == "separate"]
    assert {each[0] for each in separate} == {"plain", "recalibrated"} and {each[2] for each in separate} == {0}
    assert {each[:2] for each in units.values() if each[0] == "noisy_digits"} == {("noisy_digits", 0.3)}


@pytest.fixture
def fitted(monkeypatch):
    """(images, epochs, initial weights, losses) of every training; none takes place."""
    found = []

    def fit(model, x, y, *, epochs, seed, batch, loss, label):
        found.append((len(x), epochs, [each.detach().clone() for each in model.parameters()], loss))
        assert batch == 50
        return model.eval()

    monkeypatch.setattr(prior, "fit", fit)
    return found


def test_all_priors_of_a_seed_begin_alike(fitted, tmp_path):
    for name in prior.PRIORS:
        prior.prior_network(name, 0.5, 3, "joint", cache=tmp_path, **TRAINING)
        prior.prior_network(name, 0.5, 3, "joint", cache=tmp_path, **TRAINING)  # from what is kept
    assert [each[:2] for each in fitted] == [(20, 2), (20, 14), (20, 2), (20, 2), (20, 2)]
    for _, _, weights, _ in fitted:
        assert all(torch.equal(*pair) for pair in zip(weights, fitted[0][2], strict=True))


def losses_of(name, strength, schedule, fitted, cache):
    prior.prior_network(name, strength, 0, schedule, cache=cache, **TRAINING)
    return fitted[-1][3]


def test_losses(fitted, tmp_path):
    model, (x, y) = digit_cnn(seed=1), (digits("train").x[:8], digits("train").y[:8])
    plain = classification_loss(model, x, y)
    of = partial(losses_of, fitted=fitted, cache=tmp_path)
    torch.testing.assert_close(of("unregularised", 0.0, "joint")(model, x, y), plain)
    with seeded(0):
        noisy = of("noisy_digits", 0.3, "joint")(model, x, y)
    with seeded(0):
        torch.testing.assert_close(noisy, classification_loss(model, x + 0.3 * torch.randn(x.shape), y))
    for name in prior.ATTRIBUTIONS:
        whole = of(name, 0.25, "joint")(model, x, y)
        first, second = of(name, 0.25, "separate")
        torch.testing.assert_close(first(model, x, y), 0.75 * plain)
        torch.testing.assert_close(first(model, x, y) + second(model, x, y), whole)  # the same draws
        assert second(model, x, y) > 0


def test_what_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InputError, match="recalibrated"):
        prior.prior_network("recalibrate", 0.5, 0, "joint", cache=tmp_path, **TRAINING)
    with pytest.raises(InputError, match="separate"):
        prior.prior_network("plain", 0.5, 0, "seperate", cache=tmp_path, **TRAINING)


# -- how a network is judged -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    return prepared("mnist_cnn", digit_cnn(seed=0), (1, 28, 28))


SIZES = {"levels": [0.5], "valid": 6, "test": 5, "maps": 3}


def test_rows_of_a_network(network, tmp_path, monkeypatch):
    monkeypatch.setattr(prior, "prior_network", lambda *_, **__: network)
    rows = prior.judged("plain", 0.1, 0, "joint", cache=tmp_path, **SIZES, **TRAINING)
    assert not rows.duplicated(["image", "part", "level", "metric"]).any()
    assert (rows.groupby(["part", "metric"]).size() == [5, 5, 3, 3, 6, 6]).all()
    valid = rows[(rows["part"] == "valid") & (rows["level"] == 0)]
    assert valid["image"].tolist() == digits("train").ids[20:26]  # after those that are trained on
    of = digits("test").take(slice(5))
    noisy = rows[(rows["part"] == "test") & (rows["metric"] == "accuracy_under_noise")]
    right = network.model(prior.noisy(of, 0.5).to(best_device())).argmax(1).cpu() == of.y
    assert noisy["value"].tolist() == right.double().tolist()
    one = prior.maps_of(network, of.take([1]))
    for kind, map_ in one.items():
        value = rows[(rows["metric"] == f"variation_{kind}") & (rows["image"] == of.ids[1])]["value"].item()
        assert value == pytest.approx(total_variation(map_, torch.zeros(1)).item(), rel=1e-4)
    assert (one["recalibrated"] >= 0).all() and (one["plain"] < 0).any()


def test_noise_depends_on_digit_and_level_alone():
    of = digits("test").take(slice(4))
    noise = prior.noisy(of, 0.5) - of.x
    torch.testing.assert_close(prior.noisy(of.take([2]), 0.5), prior.noisy(of, 0.5)[2:3], rtol=0, atol=0)
    assert noise.std().item() == pytest.approx(0.5, rel=0.05)
    assert (noise[0] != noise[1]).any() and torch.equal(prior.noisy(of, 0.0), of.x)
    assert not torch.allclose(prior.noisy(of, 1.0) - of.x, 2 * noise)


def test_a_training_that_diverged_leaves_no_numbers(tmp_path, monkeypatch, capsys):
    def diverging(*_, **__):
        raise Diverged("the loss became inf")

    monkeypatch.setattr(prior, "prior_network", diverging)
    rows = prior.judged("plain", 0.9, 0, "joint", cache=tmp_path, **SIZES, **TRAINING)
    assert rows["value"].isna().all() and len(rows) == 2 * 6 + 2 * 5 + 2 * 3
    assert "became inf" in capsys.readouterr().err


# -- tables ------------------------------------------------------------------------------------------------------------


def rows_of(prior_name, strength, seed, value, schedule="joint", part="test", level=0.5):
    rows = pd.DataFrame({"image": ["a", "b"], "label": [0, 1], "value": value})
    about = {"prior": prior_name, "strength": strength, "seed": seed, "schedule": schedule, "part": part}
    return rows.assign(**about, level=level, metric="accuracy_under_noise")


def test_the_strength_with_the_best_validation_is_chosen_and_none_that_diverged():
    nan = [np.nan, np.nan]
    frames = [rows_of("plain", 0.1, seed, [0, 1], part="valid") for seed in (0, 1)]
    frames += [rows_of("plain", 0.3, seed, [0, 1], part="valid") for seed in (0, 1)]  # as good: the smaller stays
    frames += [rows_of("plain", 0.9, seed, value, part="valid") for seed, value in ((0, [1, 1]), (1, nan))]
    frames += [rows_of("plain", 0.6, 0, [1, 1], part="valid", schedule="separate")]
    frames += [rows_of("plain", 0.6, 0, [1, 1], part="test")]  # the test digits decide nothing
    frames += [rows_of("recalibrated", 0.9, 0, nan, part="valid")]
    rows = pd.concat(frames, ignore_index=True)
    assert prior_tables.best_strengths(rows) == {"plain": 0.1}
    means = prior_tables.validation(rows).set_index(["prior", "strength"])["value"]
    assert means["plain", 0.3] == 0.5 and np.isnan(means["plain", 0.9])
    lost = prior_tables.diverged(rows)[["prior", "strength", "seed"]].to_numpy().tolist()
    assert lost == [["plain", 0.9, 1], ["recalibrated", 0.9, 0]]


def test_scores_at_the_best_strengths_and_the_effect_of_strength():
    frames = [rows_of("plain", 0.1, 0, [0, 0], part="valid"), rows_of("plain", 0.9, 0, [1, 0], part="valid")]
    frames += [rows_of("plain", 0.1, 0, [0, 1]), rows_of("plain", 0.9, 0, [1, 1])]
    frames += [rows_of("plain", 0.1, 1, [0, 1]), rows_of("plain", 0.9, 1, [0, 0])]
    frames += [rows_of("plain", 0.1, 0, [1, 1], "separate"), rows_of("plain", 0.9, 0, [1, 0], "separate")]
    rows = pd.concat(frames, ignore_index=True)
    chosen = prior_tables.at_chosen_strengths(rows)
    assert chosen["strength"].unique().tolist() == [0.9] and len(chosen) == 4
    assert set(chosen["schedule"]) == {"joint"} and set(chosen["part"]) == {"test"}
    effects = prior_tables.strength_effects(rows, 0.1, 0.9).set_index(["schedule", "image"])["value"].to_dict()
    assert effects == {("joint", "a"): 1, ("joint", "b"): 0, ("separate", "a"): 0, ("separate", "b"): -1}
    table = prior_tables.prior_table(rows, prior_tables.exact_checks(), 0.1, 0.9)
    assert not table.duplicated([column for column in table if column != "value"]).any()
    assert "strength" not in table and table.notna().all(axis=None)


def test_exact_checks_hold_and_cover_both_priors():
    found = prior_tables.exact_checks().set_index(["metric", "prior"])["value"]
    assert len(found) == 4
    assert (found["finite_difference_error"] < 1e-6).all() and (found["extra_evaluations"] == 0).all()
