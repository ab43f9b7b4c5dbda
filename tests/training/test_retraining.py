"""Retraining without pixels: which go, what takes their place, and the areas under the curves."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from lib import InputError
from lib.metrics.ranking import pixel_order
from lib.training import retraining
from lib.training.fit import digit_cnn
from lib.training.retraining import ENDS, SHARES, filled, removal_areas, removed_pixels, retrained_network, rightness

X = torch.tensor([[0.1, 0.2], [0.3, 0.4]]).view(1, 1, 2, 2)


@pytest.mark.parametrize(
    ("share", "end", "expected"),
    [
        (0.5, "highest", [0.1, 9.0, 9.0, 0.4]),
        (0.5, "lowest", [9.0, 0.2, 0.3, 9.0]),
        (0.7, "highest", [0.1, 9.0, 9.0, 0.4]),  # 2.8 pixels: two
        (0.2, "lowest", [0.1, 0.2, 0.3, 0.4]),  # 0.8 pixels: none
        (1, "lowest", [9.0] * 4),
    ],
)
def test_removed_by_hand(share, end, expected):
    places = pixel_order(torch.tensor([[[1.0, 4.0], [3.0, 0.0]]]))
    found = filled(X, removed_pixels(places, share, end), 9.0)
    torch.testing.assert_close(found, torch.tensor(expected).view_as(X))


def test_every_channel_of_a_removed_pixel_is_filled_and_of_no_other():
    removed = torch.tensor([[[True, False], [False, False]]])
    found = filled(torch.zeros(1, 3, 2, 2), removed, 0.5)
    assert found.sum() == 1.5 and (found[0, :, 0, 0] == 0.5).all()


def test_a_share_that_is_a_whole_number_of_pixels_is_not_lost_to_rounding():
    places = torch.arange(100).view(1, 10, 10)
    for share in SHARES:  # .29 * 100 is 28.999… in floating point, and so are others
        assert [removed_pixels(places, share, end).sum().item() for end in ENDS] == [round(100 * share)] * 2
    assert removed_pixels(places, 0.29, "highest").sum() == 29


def test_lowest_is_what_is_not_highest_in_the_rest_but_for_a_pixel():
    places = pixel_order(torch.rand(4, 28, 28, generator=torch.Generator().manual_seed(0)))
    for share in SHARES:
        lowest = removed_pixels(places, share, "lowest")
        others = removed_pixels(places, 1 - share, "highest")
        assert ((lowest == others).sum((1, 2)) <= 1).all()
        assert not (lowest & others).any()


def test_what_does_not_exist_is_refused(tmp_path):
    places = torch.zeros(1, 2, 2)
    with pytest.raises(InputError, match="highest"):
        removed_pixels(places, 0.5, "higest")
    with pytest.raises(InputError, match="from 0 to 1"):
        removed_pixels(places, 1.5, "highest")
    with pytest.raises(InputError, match="fine-tuned"):
        y = torch.zeros(1)
        retrained_network(X, y, data="mnist_5k", start="fine", seed=0, epochs=1, cache=tmp_path, label="")


def test_from_scratch_begins_at_the_seeds_own_weights_and_fine_tuned_at_the_natural_network(tmp_path, monkeypatch):
    began = []

    def fit(model, x, y, **options):
        assert all(each.requires_grad for each in model.parameters())
        began.append([each.detach().clone() for each in model.parameters()])
        return model.eval()

    class Natural:
        model = digit_cnn(seed=7).eval().requires_grad_(False)

    monkeypatch.setattr(retraining, "fit", fit)
    monkeypatch.setattr(retraining, "trained_network", lambda kind, data, *, root, cache: Natural)
    asked = {"data": "mnist_5k", "epochs": 1, "cache": tmp_path, "label": ""}
    for start, seed in (("from scratch", 0), ("from scratch", 1), ("fine-tuned", 0), ("fine-tuned", 1)):
        retrained_network(X, torch.zeros(1), start=start, seed=seed, **asked)
    expected = [digit_cnn(seed=seed).parameters() for seed in (0, 1, 7, 7)]
    for found, each in zip(began, expected, strict=True):
        for one, other in zip(found, each, strict=True):
            torch.testing.assert_close(one, other.detach(), rtol=0, atol=0)


def test_right_is_where_the_largest_logit_is_the_labels():
    class Answers(nn.Linear):
        def forward(self, x):
            return torch.eye(3)[x.flatten().long()]

    x = torch.tensor([0.0, 1.0, 2.0, 2.0]).view(4, 1, 1, 1)
    right = partial(rightness, Answers(1, 1), x, torch.tensor([0, 2, 2, 1]))
    assert right().tolist() == right(batch=3).tolist() == [1, 0, 1, 0]


def test_areas_by_hand():
    found = removal_areas([1, 0], [[1, 0], [0, 0]], [[1, 1], [0, 1]], [0.5, 0.9])
    assert found["roar"] == pytest.approx([(0.5 + 0.4 * 0.5) / 0.9, 0])
    assert found["diffroar"] == pytest.approx([0.4 * 0.5 / 0.9] * 2)


def test_areas_of_constants():
    ones = np.ones((3, 5))
    assert removal_areas(ones[:, 0], ones, ones, SHARES)["roar"] == pytest.approx([1, 1, 1])
    assert removal_areas(ones[:, 0], ones, ones, SHARES)["diffroar"] == pytest.approx([0, 0, 0])


def test_a_network_without_a_result_has_no_area():
    highest = np.array([[1, np.nan], [1, 1]])
    found = removal_areas([1, 1], highest, np.ones((2, 2)), [0.1, 0.3])
    assert np.isnan(found["roar"]).tolist() == np.isnan(found["diffroar"]).tolist() == [True, False]
