"""Sensitivity-n and the sanity checks for a few images: tidy, complete, and right where the answer is known."""

import io
from copy import deepcopy
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from lib import InputError
from lib.experiments import discrepancies, recalibration_checks
from lib.experiments.recalibration import BY_POINT, BY_REFERENCE, integral_maps
from lib.experiments.subjects import DIGITS, Subject
from lib.metrics.diffid import RATIOS
from lib.metrics.sanity import similarities
from lib.models.zoo import Network, best_device

KEYS = ["image", "label", "path", "rule", "steps", "mode", "metric"]
CHOICE = {"points": 2, "references": 3}
SENSITIVITY = CHOICE | {"draws": {"corrected": 5, "released": 4}, "fills": ["zero", "mean"]}
SIX = ["straight", "uniform", "noise", "noise_squared", "dataset", "adversarial"]
SANITY = CHOICE | {"paths": ["straight", "uniform"], "permuted_epochs": 7}
MEASURES = {"spearman", "spearman_abs", "ssim", "hog"}


def subject(name: str, model: nn.Module, channels: int, *, mean: float = 0.5, std: float = 0.25) -> Subject:
    """Three images of 12 x 12 and a pool that holds them, for a network of five classes."""
    statistics = (mean,) * channels, (std,) * channels
    device = best_device()
    network = Network(name, model.to(device).eval().requires_grad_(False), 12, 12, "bilinear", *statistics, "none")
    pool = torch.rand(6, channels, 12, 12, generator=torch.Generator().manual_seed(1)).to(device)
    return Subject(network, pool[:3], torch.tensor([0, 2, 4], device=device), ["a", "b", "c"], pool, [0, 1, 2])


def cnn(channels: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(54, 5))


@pytest.fixture(scope="module")
def whole() -> Subject:
    return subject("small", cnn(3), 3)


@pytest.fixture(scope="module")
def sensitive(whole) -> pd.DataFrame:
    return recalibration_checks.sensitivity(lambda: whole, paths=SIX, **SENSITIVITY)


@pytest.fixture(scope="module")
def digit() -> Subject:
    return subject(DIGITS, cnn(1), 1)


@pytest.fixture
def asked(digit, monkeypatch) -> list[dict]:
    """What `sanity` asks of `digit_network`, whose answers are networks with other weights."""
    found = []

    def trained(**how):
        found.append(how)
        torch.manual_seed(len(found))
        model = deepcopy(digit.model)
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
        return replace(digit.network, model=model)

    monkeypatch.setattr(recalibration_checks, "digit_network", trained)
    return found


@pytest.fixture
def sane(digit, asked, tmp_path) -> pd.DataFrame:
    return recalibration_checks.sanity(lambda: digit, cache=tmp_path, **SANITY)


# Sensitivity-n


def test_a_correlation_for_every_map_fill_and_share(sensitive):
    assert not sensitive.duplicated([*KEYS, "fraction"]).any()
    counts = sensitive.groupby(["mode", "path", "rule", "metric"]).size()
    assert (counts == 3 * len(RATIOS)).all()
    assert set(sensitive["fraction"]) == set(RATIOS)
    assert set(sensitive["metric"]) == {"sensitivity_zero", "sensitivity_mean"}
    assert set(sensitive["model"]) == {"small"}
    assert sensitive["value"].abs().max() <= 1
    rules = sensitive.groupby(["mode", "path"])["rule"].agg(set)
    assert rules["corrected", "straight"] == {"riemann", "riemann_abs", "relu", BY_POINT, "point_abs"}
    assert rules["corrected", "dataset"] == {*rules["corrected", "straight"], BY_REFERENCE}
    assert rules["released", "uniform"] == {"riemann", "riemann_abs", BY_POINT, BY_REFERENCE}
    assert rules["released", "straight"] == {"riemann", "riemann_abs"}


@pytest.mark.parametrize("changed", ["corrected", "released"])
def test_the_number_of_draws_of_a_mode_concerns_that_mode_only(whole, sensitive, changed):
    draws = SENSITIVITY["draws"] | {changed: 9}
    other = recalibration_checks.sensitivity(lambda: whole, paths=SIX, **SENSITIVITY | {"draws": draws})
    moved = (other["value"] - sensitive["value"]).abs().groupby(sensitive["mode"]).max()
    assert moved[changed] > 0.1
    assert moved.drop(changed).item() < 1e-6


def test_ig_of_a_linear_network_accounts_for_every_mask_and_its_absolute_value_does_not():
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 5))
    of = subject("linear", linear, 3, mean=0.0, std=1.0)  # so that the fill "zero" is IG's reference, black
    rows = recalibration_checks.sensitivity(lambda: of, paths=["straight"], **SENSITIVITY | {"fills": ["zero"]})
    by_rule = rows[rows["mode"] == "corrected"].groupby("rule")["value"]
    assert by_rule.min()["riemann"] == pytest.approx(1, abs=1e-5)
    assert by_rule.mean()["riemann_abs"] < 0.8


# Sanity checks


def test_every_relative_of_a_digit_network_is_compared(sane, asked, tmp_path):
    assert not sane.duplicated([*KEYS, "comparison", "stage"]).any()
    assert set(sane["mode"]) == {"corrected"} and set(sane["model"]) == {DIGITS}
    maps = 4 + 3  # no re-calibration by reference with a single one
    by_stage = sane.groupby(["comparison", "stage"], sort=False).size()
    assert (by_stage == 3 * maps * len(MEASURES)).all()
    assert list(by_stage.index) == [
        ("cascade", "Linear 6"),
        ("cascade", "Conv2d 2"),
        ("cascade", "Conv2d 0"),
        ("randomised, first", "-"),
        ("randomised, all", "-"),
        ("randomised, mean", "-"),
        ("permuted labels", "-"),
        ("other initial weights", "-"),
    ]
    assert set(sane["metric"]) == MEASURES
    assert asked == [{"cache": tmp_path, "permuted": True, "epochs": 7}, {"cache": tmp_path, "seed": 1}]


def test_the_ends_and_the_mean_are_those_of_the_cascade(sane):
    keys = [*KEYS, "model"]
    stages = {stage: rows.set_index(keys)["value"] for stage, rows in sane.groupby("stage")}
    named = {name: rows.set_index(keys)["value"] for name, rows in sane.groupby("comparison")}
    wide = pd.DataFrame({stage: stages[stage] for stage in ("Linear 6", "Conv2d 2", "Conv2d 0")})
    assert (named["randomised, first"] == wide["Linear 6"]).all()
    assert (named["randomised, all"] == wide["Conv2d 0"]).all()
    assert (named["randomised, mean"] - wide.mean(axis=1)).abs().max() < 1e-12
    assert wide.std(axis=1).max() > 0.01


def test_maps_of_a_network_left_as_it_was_are_wholly_alike(digit, monkeypatch, tmp_path):
    monkeypatch.setattr(recalibration_checks, "randomised", lambda model, stage, seed: deepcopy(model))
    monkeypatch.setattr(recalibration_checks, "digit_network", lambda **how: digit.network)
    rows = recalibration_checks.sanity(lambda: digit, cache=tmp_path, **SANITY)
    assert rows["value"].min() > 1 - 1e-6


def test_maps_of_the_networks_that_were_trained_differ(sane):
    alike = sane[sane["metric"] == "spearman"].groupby("comparison")["value"].mean()
    assert alike.max() < 0.9


def test_photographs_have_the_cascade_alone_from_the_weights_that_are_given(whole, monkeypatch, tmp_path):
    asked = []

    def loaded(name, *, weights, prepared):
        asked.append((name, weights, prepared))
        return whole.network

    monkeypatch.setattr(recalibration_checks, "load_network", loaded)
    rows = recalibration_checks.sanity(lambda: whole, weights="folder", cache=tmp_path, **SANITY)
    assert set(rows["comparison"]) == {"cascade", "randomised, first", "randomised, all", "randomised, mean"}
    assert asked == [("small", "folder", False)]


def test_similarity_does_not_depend_on_the_other_images(digit, sane, asked, tmp_path):
    asked.clear()  # so that the relatives are drawn as before
    one = replace(digit, x=digit.x[1:2], target=digit.target[1:2], images=["b"], own=[1])
    alone = recalibration_checks.sanity(lambda: one, cache=tmp_path, **SANITY)
    keys = [*KEYS, "comparison", "stage"]
    both = alone.merge(sane, on=keys, suffixes=("", "_together"))
    assert len(both) == len(alone)
    assert (both["value"] - both["value_together"]).abs().max() < 1e-3


def test_keys_are_read_back_as_they_were_written(sane):
    back = pd.read_csv(io.StringIO(sane.to_csv(index=False)))
    keys = [*KEYS, "comparison", "stage", "model"]
    assert back[keys].equals(sane[keys])


def test_cascade_maps_are_those_that_sanity_compares(digit, sane):
    maps = recalibration_checks.cascade_maps(digit, path="uniform", **CHOICE)
    assert list(maps) == ["riemann", "riemann_abs", BY_POINT, BY_REFERENCE]
    assert all(list(each) == ["original", "Linear 6", "Conv2d 2", "Conv2d 0"] for each in maps.values())
    own = integral_maps(digit, "corrected", paths=["uniform"], **CHOICE)
    assert torch.equal(maps["riemann"]["original"], own["uniform", "riemann", 6, "corrected"])
    found = similarities(maps[BY_POINT]["original"], maps[BY_POINT]["Conv2d 2"])["ssim"]
    rows = sane[(sane["stage"] == "Conv2d 2") & (sane["path"] == "uniform") & (sane["metric"] == "ssim")]
    assert rows[rows["rule"] == BY_POINT]["value"].tolist() == pytest.approx(found.tolist())


def test_the_released_schedule_needs_two_points():
    of = subject("cnn", cnn(3), 3)
    with pytest.raises(InputError, match="points is 1; the released schedule divides by points - 1"):
        discrepancies.pairing(of, points=1, references=3)
    assert len(discrepancies.pairing(of, points=2, references=3)) > 0
