"""Tables for the sparsity prior: a packaged one and a generated one, both of sparse signal, or the NHANES files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib import InputError
from lib.seeds import image_generator

COLUMNS = 118  # of the NHANES table, which the others are filled up to
NHANES_ROWS = 13_442
FILES = ("X_sparsity.csv", "y_sparsity.npy")
TRAIN, VALID = 100, 100  # rows, as in the released code; the rest are for testing


@dataclass(frozen=True)
class Table:
    """x (n, d) float64, NaN where a value is missing; y (n,) 0 or 1; real (d,): which columns can tell about y."""

    name: str
    x: np.ndarray
    y: np.ndarray
    real: np.ndarray
    data = "table"  # the kind of data that a verdict names

    def rows(self, repetition: int) -> tuple[np.ndarray, np.ndarray]:
        """What a repetition splits: x and y, the same in each."""
        return self.x, self.y

    @property
    def overlap(self) -> float:
        """Test rows / training rows of a split, for `lib.reporting.splits`."""
        return (len(self.x) - TRAIN - VALID) / TRAIN


@dataclass(frozen=True)
class FriedmanTable:
    """Rows of Friedman's function (Annals of Statistics 19, 1991), drawn anew for each repetition.

    118 columns, uniform on [0, 1] and independent, of which five tell about the label:
    10 sin(pi x1 x2) + 20 (x3 - .5)^2 + 10 x4 + 5 x5 + noise, normal with Friedman's standard deviation 1. The label is
    1 for the highest three quarters of a repetition's rows, NHANES' share. Repetitions share no rows: no overlap.

    >>> x, y = FriedmanTable().rows(0)
    >>> x.shape, float(y.mean()), FriedmanTable().overlap
    ((1200, 118), 0.75, 0.0)
    """

    length: int = 1_200  # rows of a repetition: as few as the packaged table's to train on, 1,000 to test
    noise: float = 1.0
    positive: float = 0.75
    name = "Friedman's function"
    data = "generated table"
    overlap = 0.0

    @property
    def real(self) -> np.ndarray:
        return np.arange(COLUMNS) < 5

    def rows(self, repetition: int) -> tuple[np.ndarray, np.ndarray]:
        """x (length, 118) and y of a repetition."""
        from sklearn.datasets import make_friedman1

        x, value = make_friedman1(self.length, COLUMNS, noise=self.noise, random_state=repetition)
        return x, (value > np.quantile(value, 1 - self.positive)).astype(np.int64)


@dataclass(frozen=True)
class Splits:
    """R ways to split a table, imputed and standardised by their training rows: float32 x (R, rows, d), y (R, rows)."""

    ids: list[str]
    train: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def table(nhanes: str = "") -> Table:
    """The table to learn from: NHANES I mortality in the folder `nhanes`, or the packaged one where it is "".

    Raises InputError where the folder does not hold the authors' two files in their shapes.
    """
    return _nhanes(Path(nhanes).expanduser()) if nhanes else _breast_cancer()


def _breast_cancer() -> Table:
    """scikit-learn's breast-cancer data (569 x 30), and row-permuted copies of its columns up to 118.

    A copy has its column's distribution but knows nothing about y. Column c is a copy of column c mod 30, permuted
    by a seed of its own.
    """
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    rows, real = x.shape
    copies = [x[_permutation(rows, column), column % real] for column in range(real, COLUMNS)]
    return Table("breast cancer", np.column_stack([x, *copies]), y.astype(np.int64), np.arange(COLUMNS) < real)


def _permutation(rows: int, column: int) -> np.ndarray:
    return torch.randperm(rows, generator=image_generator(0, f"column-{column}", "permutation")).numpy()


def _nhanes(folder: Path) -> Table:
    """X_sparsity.csv, an index column and 118 others; y_sparsity.npy, 13,442 labels 0 or 1."""
    features, labels = (folder / file for file in FILES)
    for path in (features, labels):
        if not path.is_file():
            raise InputError(f"{path} is missing; NHANES= names the folder that holds {' and '.join(FILES)}.")
    try:
        x = pd.read_csv(features, index_col=0).to_numpy(np.float64)
        y = np.load(labels, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:  # text among numbers, a damaged file, pickled objects
        raise InputError(f"{folder} holds no table of numbers ({error}); give the authors' files unchanged.") from error
    shapes, expected = (x.shape, y.shape), ((NHANES_ROWS, COLUMNS), (NHANES_ROWS,))
    if shapes != expected:
        raise InputError(
            f"{folder} holds features {x.shape} and labels {y.shape}, not {expected[0]} and {expected[1]}; give the "
            "authors' files unchanged."
        )
    if not np.isin(y, (0, 1)).all() or np.isinf(x).any():
        raise InputError(
            f"{labels} holds other labels than 0 and 1, or {features} infinite values; give them unchanged."
        )
    return Table("NHANES I", x, y.astype(np.int64), np.ones(COLUMNS, bool))


def splits(of: Table | FriedmanTable, repetitions: Sequence[int], *, real_only: bool = False) -> Splits:
    """The splits of these repetitions: 100 rows to train, 100 to validate, the others to test.

    As in the released code, train_test_split with random_state = the repetition takes 200 rows, and again halves them;
    missing values become the mean of the training rows, which then standardise every column. A column without any value
    among them becomes 0 (the released code would drop it, and its network would not fit).
    real_only: with the columns alone that can tell about y.
    Raises InputError for a table of no more than 200 rows.
    """
    parts = [_split(of, repetition, of.real if real_only else slice(None)) for repetition in repetitions]
    stacked = [torch.from_numpy(np.stack(arrays)) for arrays in zip(*parts, strict=True)]
    ids = [f"split-{repetition:03d}" for repetition in repetitions]
    return Splits(ids, (stacked[0], stacked[3]), (stacked[1], stacked[4]), (stacked[2], stacked[5]))


def _split(of: Table | FriedmanTable, repetition: int, columns: np.ndarray | slice) -> list[np.ndarray]:
    """Training, validation and test rows, and their labels."""
    from sklearn.impute import SimpleImputer
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = of.rows(repetition)
    if len(x) <= TRAIN + VALID:
        raise InputError(f"The table has {len(x)} rows; {TRAIN} to train, {VALID} to validate and some to test.")
    x, test, y, y_test = train_test_split(x[:, columns], y, train_size=TRAIN + VALID, random_state=repetition)
    train, valid, y_train, y_valid = train_test_split(x, y, train_size=TRAIN, random_state=repetition)
    scale = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler()).fit(train)
    return [scale.transform(part).astype(np.float32) for part in (train, valid, test)] + [y_train, y_valid, y_test]
