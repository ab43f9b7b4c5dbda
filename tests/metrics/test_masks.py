"""Mask games: worked by hand, against a plain transcription of the protocol, and whatever the batch."""

import math

import pytest
import torch
from scipy.ndimage import convolve
from torch import nn

from lib import InputError
from lib.metrics.masks import FRACTIONS, GAMES, backdrop, masks


def total(x):
    """A network of two logits: the sum of the pixels, and 0."""
    s = x.flatten(1).sum(1, keepdim=True)
    return torch.cat([s, torch.zeros_like(s)], 1)


@pytest.fixture
def network():
    torch.manual_seed(3)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 5)
    return nn.Sequential(*layers).double().eval()


def transcription(model, x, scores, target, fractions, kernel):
    """The protocol for one image and one map, step by step; (6, F) of logits and of hits."""
    blurred, pixels = backdrop(x[None], kernel=kernel)[0], scores.numel()
    logits, hits = [], []
    for order in (scores, -scores, scores.abs()):
        p = order.clamp(min=0).flatten()
        for game in ("keep", "remove"):
            row = []
            for f in fractions:
                k = min(int(f * pixels + 1e-9), int((p > 0).sum()))
                by_score = sorted(range(pixels), key=lambda i: (-float(p[i]), i))
                positive = [i for i in by_score if p[i] > 0]
                seen = positive[:k] if game == "keep" else positive[len(positive) - k :]
                image = blurred.flatten(1).clone()
                image[:, seen] = x.flatten(1)[:, seen]
                out = model(image.view_as(x)[None])[0]
                row.append((float(out[target]), float(out.argmax() == target)))
            logits.append([a for a, _ in row])
            hits.append([b for _, b in row])
    return torch.tensor(logits, dtype=torch.float64), torch.tensor(hits, dtype=torch.float64)


def test_by_hand_on_four_pixels():
    # A row of four pixels 1, 0, 1, 0 and a kernel of radius 1: whatever is blurred sums to what its weights say.
    x = torch.tensor([[[[1.0, 0.0, 1.0, 0.0]]]], dtype=torch.float64)
    scores = torch.tensor([[[[0.4, 0.3, -0.2, 0.0]]]], dtype=torch.float64)
    found = masks(total, x, scores, torch.tensor([0]), fractions=(0.25, 0.5, 1.0))
    b = backdrop(x)[0, 0, 0]
    keep = [1 + b[1] + b[2] + b[3], 1 + 0 + b[2] + b[3], 1 + 0 + b[2] + b[3]]  # two pixels have a positive score
    remove = [b[0] + 0 + b[2] + b[3], keep[1], keep[1]]  # the lowest positive one first
    negative = [b[0] + b[1] + 1 + b[3]] * 3
    absolute = [1 + b[1] + b[2] + b[3], 1 + 0 + b[2] + b[3], 1 + 0 + 1 + b[3]]  # the pixel of score 0 is never seen
    for game, expected in (("keep_positive", keep), ("remove_positive", remove), ("keep_negative", negative)):
        torch.testing.assert_close(
            found.logit[0, 0, GAMES.index(game)], torch.stack(list(map(torch.as_tensor, expected)))
        )
    torch.testing.assert_close(found.logit[0, 0, GAMES.index("keep_absolute")], torch.stack(absolute))
    hand = 0.25 * (keep[0] + keep[1]) / 2 + 0.5 * keep[1]
    torch.testing.assert_close(found.area("keep_positive")[0, 0], hand)


@pytest.mark.parametrize("kernel", ["stated", "released"])
def test_equals_the_protocol_step_by_step(network, kernel):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 9, 8, generator=generator, dtype=torch.float64)
    maps = torch.randn(2, 2, 9, 8, generator=generator, dtype=torch.float64).round(decimals=1)  # with ties
    target = torch.tensor([1, 4])
    found = masks(network, x, maps, target, kernel=kernel)
    for image in range(2):
        for m in range(2):
            logits, hits = transcription(network, x[image], maps[image, m], int(target[image]), FRACTIONS, kernel)
            torch.testing.assert_close(found.logit[image, m], logits)
            assert torch.equal(found.accuracy[image, m], hits)


def test_does_not_depend_on_company_or_batch(network):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(3, 3, 9, 8, generator=generator, dtype=torch.float64)
    maps, target = torch.randn(3, 2, 9, 8, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2])
    whole = masks(network, x, maps, target)
    small = masks(network, x, maps, target, batch=5)
    torch.testing.assert_close(whole.logit, small.logit)
    alone = masks(network, x[1:2], maps[1:2, 1:], target[1:2])
    torch.testing.assert_close(whole.logit[1:2, 1:], alone.logit)


def test_keep_and_remove_meet_once_every_signed_pixel_is_seen(network):
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(1, 3, 9, 8, generator=generator, dtype=torch.float64)
    maps, target = torch.randn(1, 1, 9, 8, generator=generator, dtype=torch.float64), torch.tensor([0])
    found = masks(network, x, maps, target)
    for order in ("positive", "negative", "absolute"):
        keep, remove = (found.logit[0, 0, GAMES.index(f"{game}_{order}")] for game in ("keep", "remove"))
        assert keep[-1] == remove[-1]
    full = network(x)[0, 0].detach()
    torch.testing.assert_close(found.logit[0, 0, GAMES.index("keep_absolute"), -1], full)
    assert found.passes < 6 * len(FRACTIONS)  # equal images are seen once


def test_the_paper_s_numbers_of_visible_pixels():
    # 50,176 pixels of 224 x 224 and the sixteen fractions
    floors = [int(f * 224 * 224 + 1e-9) for f in FRACTIONS]
    expected = [501, 682, 927, 1260, 1713, 2328, 3165, 4303, 5850, 7952, 10810, 14694, 19975, 27153, 36911, 50176]
    assert floors == expected
    assert math.isclose(torch.trapezoid(torch.ones(16), torch.tensor(FRACTIONS)).item(), 0.99, rel_tol=1e-6)


@pytest.mark.parametrize("kernel, exponent", [("stated", 0.5), ("released", 0.25)])
def test_backdrop_is_the_truncated_kernel(kernel, exponent):
    x = torch.rand(1, 1, 224, 224, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    d = torch.arange(-25, 26, dtype=torch.float64)
    weights = torch.exp(-exponent * (d / 41) ** 2)
    assert weights.shape == (51,)
    plane = torch.outer(weights, weights)
    expected = convolve(x[0, 0].numpy(), (plane / plane.sum()).numpy(), mode="mirror")
    torch.testing.assert_close(backdrop(x, kernel=kernel)[0, 0], torch.from_numpy(expected))


def test_released_kernel_is_nearly_a_box():
    corner = math.exp(-2 * 0.25 * (25 / 41) ** 2)
    assert math.isclose(corner, 0.830, abs_tol=5e-4)


def test_refuses_what_cannot_be_played(network):
    x, target = torch.rand(1, 3, 9, 8).double(), torch.tensor([0])
    with pytest.raises(InputError, match="NaN"):
        masks(network, x, torch.full((1, 1, 9, 8), torch.nan), target)
    with pytest.raises(InputError, match="ranking has shape"):
        masks(network, x, torch.zeros(1, 1, 8, 8), target)
    with pytest.raises(InputError, match="rising"):
        masks(network, x, torch.zeros(1, 1, 9, 8), target, fractions=(0.5, 0.1))
    with pytest.raises(InputError, match="kernel"):
        masks(network, x, torch.zeros(1, 1, 9, 8), target, kernel="box")
    with pytest.raises(InputError, match="game"):
        masks(network, x, torch.zeros(1, 1, 9, 8), target).area("keep")
