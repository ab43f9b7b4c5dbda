import io

import numpy
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

from lib import InputError
from lib.metrics.stability import jpeg, mse_l1, mse_signed, spearman, topk_overlap


def maps(*rows):
    return torch.tensor(rows, dtype=torch.float64).view(len(rows), 2, 2)


def noise(seed, count=5):
    return torch.randn(count, 6, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def photograph(size=(64, 48)):
    rng = numpy.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8))


def test_mse_by_hand():
    a, b = maps([1, 1, 1, 1], [3, -1, 0, 0]), maps([2, 0, 0, 0], [1, 1, 1, 1])
    # (1/4,1/4,1/4,1/4) - (1,0,0,0); (3,-1,0,0)/2 - 1/4; (3,-1,0,0)/4 - 1/4
    assert mse_signed(a, b).tolist() == pytest.approx([(9 + 3) / 64, (25 + 9 + 1 + 1) / 64])
    assert mse_l1(a, b).tolist() == pytest.approx([(9 + 3) / 64, (4 + 4 + 1 + 1) / 64])


def test_mse_ignores_scale_and_signed_mse_ignores_sign():
    a, b = noise(0), noise(1)
    torch.testing.assert_close(mse_signed(5 * a, -b), mse_signed(a, b))
    torch.testing.assert_close(mse_l1(5 * a, 2 * b), mse_l1(a, b))
    assert (mse_l1(a, -a) > mse_l1(a, a)).all()
    assert mse_l1(a, 3 * a).max() < 1e-30


def test_signed_mse_is_unbounded_where_l1_is_not():
    a, b = maps([1, -1, 0, 1e-6]), maps([1, 0, 0, 0])
    assert mse_signed(a, b).item() == pytest.approx(2 * 1e12 / 4, rel=1e-3)
    assert mse_l1(a, b).item() <= 4 / 4


def test_sum_of_exactly_zero_is_nan():
    cancelling, plain = maps([1, -1, 2, -2], [0, 0, 0, 0]), maps([1, 2, 3, 4], [1, 2, 3, 4])
    assert mse_signed(cancelling, plain).isnan().tolist() == [True, True]
    assert mse_signed(plain, cancelling).isnan().tolist() == [True, True]
    assert mse_l1(cancelling, plain).isnan().tolist() == [False, True]


def test_single_precision_maps_are_compared_in_double():
    a, b = noise(0).float(), noise(1).float()
    assert torch.equal(mse_l1(a, b), mse_l1(a.double(), b.double()))
    assert torch.equal(mse_signed(a, b), mse_signed(a.double(), b.double()))


def test_spearman_matches_scipy_with_and_without_ties():
    for a, b in [(noise(0), noise(1)), ((noise(2) * 2).round(), (noise(3) * 2).round())]:
        expected = [spearmanr(p.flatten(), q.flatten()).statistic for p, q in zip(a, b, strict=True)]
        assert spearman(a, b).tolist() == pytest.approx(expected, abs=1e-12)


def test_spearman_by_hand_and_its_limits():
    assert spearman(maps([1, 2, 3, 4]), maps([1, 2, 4, 3])).item() == pytest.approx(1 - 6 * 2 / (4 * 15))
    a = noise(0)
    assert spearman(a, a.exp()).tolist() == pytest.approx([1] * 5)
    assert spearman(a, -a).tolist() == pytest.approx([-1] * 5)
    assert spearman(torch.zeros_like(a), a).isnan().all()


def test_topk_overlap_by_hand_with_stable_ties():
    a, b = maps([4, 3, 2, 1], [1, 1, 1, 1]), maps([4, 1, 3, 2], [0, 0, 5, 0])
    assert topk_overlap(a, b, k=1).tolist() == [1, 0]
    assert topk_overlap(a, b, k=2).tolist() == [0.5, 0.5]  # ties: pixels {0, 1} and {2, 0}
    assert topk_overlap(a, b, k=3).tolist() == pytest.approx([2 / 3, 1])
    assert topk_overlap(a, b, k=4).tolist() == [1, 1]


def test_topk_overlap_of_unrelated_maps_is_k_over_pixels():
    overlap = topk_overlap(noise(0, 4000), noise(1, 4000), k=14)
    assert overlap.mean().item() == pytest.approx(14 / 42, abs=0.01)


def test_a_pair_does_not_depend_on_its_company_and_is_not_changed():
    a, b = noise(0), noise(1)
    before = a.clone(), b.clone()
    for metric in (mse_signed, mse_l1, spearman, lambda a, b: topk_overlap(a, b, k=5)):
        together = metric(a, b)
        assert together.shape == (5,)
        alone = torch.cat([metric(a[i : i + 1], b[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])


def test_jpeg_is_lossy_keeps_the_size_and_loses_more_at_lower_quality():
    image = photograph()
    before = numpy.asarray(image).copy()
    errors = [numpy.abs(before - numpy.asarray(jpeg(image, quality=q)).astype(float)).mean() for q in (95, 75, 10)]
    assert 0 < errors[0] < errors[1] < errors[2]
    assert jpeg(image).size == image.size and jpeg(image).mode == "RGB"
    assert (numpy.asarray(image) == before).all()


def test_jpeg_is_what_pillow_writes_by_default():
    buffer = io.BytesIO()
    photograph().save(buffer, "JPEG")
    assert (numpy.asarray(jpeg(photograph())) == numpy.asarray(Image.open(buffer))).all()


@pytest.mark.parametrize("quality", [0, 101, -5, 75.5])
def test_jpeg_quality_out_of_range(quality):
    with pytest.raises(InputError, match=f"quality is {quality}; give a whole number from 1 to 100"):
        jpeg(photograph(), quality=quality)


def test_bad_maps_are_refused():
    good = noise(0)
    with pytest.raises(InputError, match=r"\(5, 6, 7\) and \(4, 6, 7\)"):
        spearman(good, good[:4])
    with pytest.raises(InputError, match=r"first stack of maps has shape \(6, 7\); give \(N, H, W\)"):
        mse_l1(good[0], good[0])
    bad = good.clone()
    bad[3, 0, 0] = torch.nan
    with pytest.raises(InputError, match="second stack of maps: map 3 is NaN or infinite at 1 of 42"):
        topk_overlap(good, bad, k=3)
    for k in (0, 43):
        with pytest.raises(InputError, match=f"k is {k}; give a number of pixels from 1 to 42"):
            topk_overlap(good, good, k=k)
