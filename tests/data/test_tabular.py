"""The tables: what they hold, how they are split, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_breast_cancer

from lib import InputError
from lib.data import tabular
from lib.data.tabular import FriedmanTable, Table, splits, table


@pytest.fixture
def small(monkeypatch):
    """NHANES' size, made small enough for a made-up file."""
    monkeypatch.setattr(tabular, "NHANES_ROWS", 230)


def write(folder, x, y):
    folder.mkdir(exist_ok=True)
    pd.DataFrame(x, columns=[f"column {c}" for c in range(x.shape[1])]).to_csv(folder / "X_sparsity.csv")
    np.save(folder / "y_sparsity.npy", y)
    return str(folder)


def made_up(rows=230, columns=118):
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, columns))
    x[3, 5] = np.nan
    return x, np.arange(rows) % 2


def test_the_packaged_table_is_the_packages_own_and_shuffled_copies():
    x, y = load_breast_cancer(return_X_y=True)
    found = table()
    assert found.x.shape == (569, 118)
    assert np.array_equal(found.x[:, :30], x)
    assert np.array_equal(found.y, y)
    assert found.real.sum() == 30
    assert found.real[:30].all()
    for column in range(30, 118):
        copy, own = found.x[:, column], x[:, column % 30]
        assert np.array_equal(np.sort(copy), np.sort(own))
        assert (copy != own).mean() > 0.5
    again = table().x
    assert np.array_equal(found.x, again)


def test_copies_of_one_column_are_shuffled_differently_and_know_nothing_of_the_label():
    found = table()
    first, second = found.x[:, 30], found.x[:, 60]
    assert (first != second).mean() > 0.5
    correlations = [abs(np.corrcoef(found.x[:, c], found.y)[0, 1]) for c in range(118)]
    assert max(correlations[30:]) < 0.2 < np.median(correlations[:30])


def test_nhanes_files_are_read(tmp_path, small):
    x, y = made_up()
    found = table(write(tmp_path / "nhanes", x, y))
    assert found.name == "NHANES I"
    assert np.allclose(found.x, x, equal_nan=True)
    assert np.array_equal(found.y, y)
    assert found.real.all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x[:-1], y[:-1]), r"features \(229, 118\) and labels \(229,\), not \(230, 118\) and \(230,\)"),
        (lambda x, y: (x[:, 1:], y), r"features \(230, 117\)"),
        (lambda x, y: (x, y + 1), "other labels than 0 and 1"),
        (lambda x, y: (np.where(np.isnan(x), np.inf, x), y), "infinite"),
        (lambda x, y: (np.where(np.isnan(x), "often", x.astype(object)), y), "no table of numbers"),
        (lambda x, y: (x, y.astype(object)), "no table of numbers .*pickle"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path, small, change, said):
    with pytest.raises(InputError, match=said) as caught:
        table(write(tmp_path / "nhanes", *change(*made_up())))
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"X_sparsity.csv is missing; NHANES= names the folder"):
        table(str(tmp_path))


def test_splits_are_those_of_the_protocol():
    of = table()
    found = splits(of, [0, 7])
    assert found.ids == ["split-000", "split-007"]
    assert [part[0].shape for part in (found.train, found.valid, found.test)] == [
        (2, 100, 118),
        (2, 100, 118),
        (2, 369, 118),
    ]
    x = found.train[0]
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.mean(1), torch.zeros(2, 118), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(1, correction=0), torch.ones(2, 118), atol=1e-5, rtol=0)
    assert found.valid[0].mean(1).abs().max() > 0.01  # standardised by the training rows, not by its own
    alone = splits(of, [7])
    assert torch.equal(alone.train[0][0], x[1])
    labels = torch.cat([found.train[1], found.valid[1], found.test[1]], 1)
    assert (labels.sum(1) == of.y.sum()).all()  # every row once


def test_missing_values_become_the_training_mean_and_an_empty_column_0():
    random = np.random.default_rng(0)
    x = random.normal(loc=5, size=(260, 3))
    x[::4, 1] = np.nan
    x[:, 2] = np.nan
    found = splits(Table("made up", x, np.arange(260) % 2, np.ones(3, bool)), [0])
    missing = np.isnan(x[:, 1]).sum()  # become the mean, standardised
    imputed = [(part[0][0, :, 1].abs() < 1e-6).sum().item() for part in (found.train, found.valid, found.test)]
    assert sum(imputed) == missing
    for part in (found.train, found.valid, found.test):
        assert (part[0][..., 2] == 0).all()
        assert part[0].isfinite().all()


def test_too_few_rows_are_refused():
    x = np.zeros((200, 2))
    with pytest.raises(InputError, match="200 rows"):
        splits(Table("small", x, np.zeros(200, int), np.ones(2, bool)), [0])


def test_friedmans_labels_are_those_of_his_function():
    x, y = FriedmanTable(length=400, noise=0.0).rows(3)
    value = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    assert y.sum() == 300
    assert value[y == 0].max() < value[y == 1].min()
    assert FriedmanTable().real.nonzero()[0].tolist() == [0, 1, 2, 3, 4]


def test_a_generated_table_has_other_rows_in_each_repetition_and_the_same_again():
    of = FriedmanTable()
    one, other, again = (splits(of, [repetition]) for repetition in (0, 1, 0))
    assert one.test[0].shape == (1, 1000, 118)
    assert torch.equal(one.train[0], again.train[0]) and not torch.equal(one.train[0], other.train[0])
    assert not set(of.rows(0)[0][:, 0]) & set(of.rows(1)[0][:, 0])
    assert of.overlap == 0 and table().overlap == 3.69


def test_only_the_real_columns_are_split_as_all_are():
    of = table()
    whole, real = splits(of, [2]), splits(of, [2], real_only=True)
    assert real.train[0].shape == (1, 100, 30)
    for one, other in ((whole.train, real.train), (whole.test, real.test)):
        assert torch.equal(one[0][..., :30], other[0]) and torch.equal(one[1], other[1])
