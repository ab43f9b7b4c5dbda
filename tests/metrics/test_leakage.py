"""Leakage and the insertion of pixels into black: numbers made by hand."""

import pytest
import torch
from torch import nn

from lib import InputError
from lib.metrics.leakage import insertion_pixels, leakage


class Brightness(nn.Module):
    """Logits (1 + the sum of all pixels, 0)."""

    def forward(self, x):
        total = 1 + x.flatten(1).sum(1)
        return torch.stack([total, torch.zeros_like(total)], 1)


def test_leakage_by_hand():
    maps = torch.tensor([[[[1.0, -2.0], [3.0, -4.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    null = torch.tensor([[[True, True], [False, False]]])
    total, share = leakage(maps, null)
    assert total.tolist() == [[3, 0]]
    assert share[0, 0].item() == pytest.approx(0.3)
    assert share[0, 1].isnan()  # of a map of zeros
    half = leakage(maps / 2, null)
    assert half[0][0, 0] == 1.5 and half[1][0, 0] == share[0, 0]  # the share does not shrink with the map


def test_leakage_refuses_what_is_no_mask():
    maps = torch.zeros(2, 1, 2, 2)
    for null in (torch.zeros(2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool), torch.zeros(2, 4, dtype=torch.bool)):
        with pytest.raises(InputError, match="give truth values"):
            leakage(maps, null)
    with pytest.raises(InputError, match="NaN"):
        leakage(maps * torch.nan, torch.zeros(2, 2, 2, dtype=torch.bool))


def test_insertion_of_equal_pixels_is_a_triangle():
    # Each of 100 pixels returns 1/100 of the logit: over the first ten, 10 * (10/100) / 2.
    x, ranking = torch.ones(1, 1, 10, 10), torch.arange(100.0).view(1, 1, 10, 10)
    assert insertion_pixels(Brightness(), x, ranking, [0], steps=10).item() == pytest.approx(0.5)
    assert insertion_pixels(Brightness(), x, ranking, [0], share=1, steps=7).item() == pytest.approx(50)


def test_insertion_rewards_the_map_that_ranks_what_matters_first():
    # Two of 100 pixels carry the logit, half each. First: r = 1/2 at 1 pixel, 1 from 2 on, to 10: 1/4 + 3/4 + 8 = 9.
    x = torch.zeros(1, 1, 10, 10)
    x[0, 0, 3, 4] = x[0, 0, 5, 5] = 0.5
    ranking = torch.stack([x[0, 0], -x[0, 0]])[None]
    found = insertion_pixels(Brightness(), x, ranking, [0], steps=10)
    assert found[0].tolist() == pytest.approx([9, 0])


def test_insertion_needs_a_logit_that_is_highest_and_above_that_of_black():
    x = torch.stack([torch.ones(1, 4, 4), torch.zeros(1, 4, 4)])
    found = insertion_pixels(Brightness(), x, x, [0, 0], share=1, steps=4)
    assert found.isnan().tolist() == [[False], [True]]  # a black image changes nothing
    assert insertion_pixels(Brightness(), x, x, [1, 1], share=1, steps=4).isnan().all()  # another class is higher


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
def test_shares_that_are_refused(share):
    with pytest.raises(InputError, match="share is"):
        insertion_pixels(Brightness(), torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4), [0], share=share)
