"""Maps on their way in: sorting that says where each value was, ranks, numbers of pixels."""

import pytest
import torch
from scipy.stats import rankdata

from lib import InputError
from lib.metrics.ranking import descending, pixel_count, pixel_order, rank_correlation, ranks


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [None, 50, 2])
def test_ranks_are_scipys_centred_and_of_length_one(dtype, levels):
    rows = torch.randn(4, 500, generator=torch.Generator().manual_seed(0), dtype=dtype)
    rows = rows if levels is None else (rows * levels / 4).round()  # with many ties
    rows[0, :100] = 0
    rows[0, 50:70] = -0.0
    expected = torch.from_numpy(rankdata(rows.double().numpy(), axis=1))
    expected -= expected.mean(1, keepdim=True)
    expected /= expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(ranks(rows), expected, rtol=0, atol=1e-12)
    assert torch.equal(ranks(rows), ranks(rows, descending(rows)))
    torch.testing.assert_close(rank_correlation(ranks(rows), ranks(rows)), torch.ones(4).double())


def test_constant_rows_have_no_ranks_and_leave_others_alone():
    rows = torch.tensor([[2.0, 2, 2], [2, 1, 2], [0.5, 0.5, 0.5]])
    found = ranks(rows)
    assert found.isnan().all(1).tolist() == [True, False, True]
    assert torch.equal(found[1:2], ranks(rows[1:2]))


def test_order_of_pixels_is_the_inverse_of_places():
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).round()
    order = pixel_order(maps)
    assert order.dtype == torch.int32 and order.shape == maps.shape
    rows = maps.flatten(0, 1).flatten(1)
    assert torch.equal(order.flatten(0, 1).flatten(1).long(), descending(rows).argsort(dim=1))


@pytest.mark.parametrize("k", [0, 13, 2.0, True, None, "3"])
def test_a_number_of_pixels_is_whole_and_within_the_map(k):
    with pytest.raises(InputError, match="give a number of pixels from 1 to 12"):
        pixel_count(k, torch.zeros(1, 3, 4))
