"""Sorting that says where each value was."""

import pytest
import torch

from lib.metrics.ranking import descending


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_places_by_descending_value_the_smaller_first_among_equals(dtype):
    rows = torch.tensor([[0.0, 2, -1, 2, -0.0], [-3, -3, -1e-40, 1e-40, -5]], dtype=dtype)
    assert descending(rows).tolist() == [[1, 3, 0, 4, 2], [3, 2, 0, 1, 4]]


@pytest.mark.parametrize("spread", [1e-30, 1.0, 1e30])
def test_equals_a_stable_sort(spread):
    rows = torch.randn(4, 3000, generator=torch.Generator().manual_seed(0)) * spread
    rows[1] = rows[1].sign()
    rows[2, 500:2000] = 0
    rows[3] = rows[3].abs()
    assert torch.equal(descending(rows), rows.argsort(dim=1, descending=True, stable=True))
