"""Retraining without some pixels: what is removed, from which digits, and what ROAR and DiffROAR make of it."""

from functools import partial

import pandas as pd
import pytest
import torch
from torch import nn

from lib.data.digits import MEAN, STD, digits
from lib.experiments import lpi, lpi_retraining
from lib.experiments.subjects import Subject
from lib.models.fold import prepare
from lib.models.zoo import Network
from lib.training.fit import digit_cnn


@pytest.fixture(scope="module")
def network():
    return Network("untrained", prepare(digit_cnn(seed=0), shape=(1, 28, 28)), 28, 28, "bilinear", MEAN, STD, "cnn")


X = torch.tensor([[0.1, 0.2], [0.3, 0.4]]).view(1, 1, 2, 2)


@pytest.mark.parametrize(
    ("share", "end", "expected"),
    [
        (0.5, "highest", [0.1, 9.0, 9.0, 0.4]),
        (0.5, "lowest", [9.0, 0.2, 0.3, 9.0]),
        (0.7, "highest", [0.1, 9.0, 9.0, 0.4]),  # 2.8 pixels: two
        (0.2, "lowest", [0.1, 0.2, 0.3, 0.4]),  # 0.8 pixels: none
    ],
)
def test_removed_by_hand(share, end, expected):
    scores = torch.tensor([[[1.0, 4.0], [3.0, 0.0]]])
    found = lpi_retraining._removed(X, scores, share, end, torch.tensor(9.0))
    torch.testing.assert_close(found, torch.tensor(expected).view_as(X))


def test_one_training_for_each_method_share_and_end():
    units = lpi_retraining.retraining_units(["local", "random"])
    assert len(units) == len(set(units.values())) == 1 + 2 * 5 * 2
    assert units["nothing removed"] == ("none", 0.0, "highest")
    assert units["local 0.3 lowest"] == ("local", 0.3, "lowest")


def test_training_and_test_digits_lose_the_same_share(network, tmp_path, monkeypatch):
    seen = []

    class Model(nn.Linear):
        def forward(self, x):
            seen.append(x)
            return torch.eye(10)[[3] * len(x)]

    def fit(model, x, y, **options):
        seen.append(x)
        return Model(1, 1)

    monkeypatch.setattr(lpi_retraining, "fit", fit)
    monkeypatch.setattr(lpi_retraining, "digit_network", lambda cache: network)
    retrained = partial(lpi_retraining.retrained, clusters=1, train=50, test=20, epochs=1, cache=tmp_path)
    fill = digits("train").x[:50].mean()
    table = retrained("random", 0.5, "highest")
    assert [len(x) for x in seen] == [50, 20]
    for x, whole in zip(seen, (digits("train").x, digits("test").x), strict=True):
        filled = x == fill
        assert (filled.flatten(1).sum(1) == 392).all()
        assert torch.equal(x[~filled], whole[: len(x)][~filled])
    high = seen[0] == fill
    retrained("random", 0.5, "lowest")
    assert torch.equal(seen[2] == fill, ~high)
    retrained("none", 0.0, "highest")
    assert torch.equal(seen[4], digits("train").x[:50]) and torch.equal(seen[5], digits("test").x[:20])
    assert table["image"].tolist() == digits("test").ids[:20]
    assert table["value"].tolist() == [float(label == 3) for label in table["label"]]
    assert table[["path", "share", "end"]].drop_duplicates().to_numpy().tolist() == [["random", 0.5, "highest"]]


def test_retrained_networks_see_the_maps_of_the_method(network, tmp_path, monkeypatch):
    monkeypatch.setattr(lpi_retraining, "digit_network", lambda cache: network)
    train, test = lpi_retraining._whole_maps("dataset", 1, tmp_path, 3, 2)
    assert train.shape == (3, 28, 28) and test.shape == (2, 28, 28) and train.min() >= 0
    part, whole = digits("test").take(slice(2)), digits("train").x
    alone = Subject(network, part.x, part.y, part.ids, whole, [-1, -1])
    expected = lpi.maps_at(alone, [1], clusters=1, cache=tmp_path)["dataset", "riemann_abs", 1, "corrected"]
    torch.testing.assert_close(test, expected, rtol=1e-4, atol=1e-6)


def test_roar_by_hand():
    curves = {  # right or not after the shares .5 and .9; the first digit is right when nothing is removed
        ("x", "highest"): (1, 0),
        ("x", "lowest"): (1, 1),
        ("y", "highest"): (0, 0),
        ("y", "lowest"): (0, 1),
    }
    rows = [("none", 0.0, "highest", "x", 3, 1.0), ("none", 0.0, "highest", "y", 5, 0.0)]
    for (image, end), values in curves.items():
        for share, value in zip((0.5, 0.9), values, strict=True):
            rows.append(("local", share, end, image, {"x": 3, "y": 5}[image], float(value)))
    table = pd.DataFrame(rows[::-1], columns=["path", "share", "end", "image", "label", "value"])
    found = lpi_retraining.roar(table).set_index(["metric", "image"])
    assert set(found["path"]) == {"local"}
    expected = {
        ("roar", "x"): (0.5 * 1 + 0.4 * 0.5) / 0.9,
        ("roar", "y"): 0.0,
        ("diffroar", "x"): 0.4 * 0.5 / 0.9,
        ("diffroar", "y"): 0.4 * 0.5 / 0.9,
    }
    assert found["value"].to_dict() == pytest.approx(expected)
    assert found["label"].groupby("image").agg(set).to_dict() == {"x": {3}, "y": {5}}


def test_games_begin_with_the_network_from_which_nothing_was_removed():
    rows = [("none", 0.0, "highest", "x", 1.0), ("local", 0.5, "highest", "x", 0.0), ("local", 0.5, "lowest", "x", 1.0)]
    table = pd.DataFrame(rows, columns=["path", "share", "end", "image", "value"])
    found = lpi_retraining.games(table).set_index(["game", "path", "share"])["value"].to_dict()
    assert found == {
        ("roar", "local", 0.0): 1.0,
        ("roar", "local", 0.5): 0.0,
        ("diffroar", "local", 0.0): 0.0,
        ("diffroar", "local", 0.5): 1.0,
    }
