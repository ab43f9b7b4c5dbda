import io

import numpy
import pytest
import torch
from PIL import Image
from pytorch_msssim import ms_ssim

from lib import InputError
from lib.metrics.information import Revealed, blurred, information_curves
from lib.metrics.insertion import reveal_counts
from lib.metrics.pic import aggregate_curves, exclusions, pic, pic_auc
from lib.metrics.stability import jpeg


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def at(curve, *positions):
    return [curve[..., round(position * (curve.shape[-1] - 1))].item() for position in positions]


GOLDEN = tensor(100, 180, 150, 260, 330, 300), tensor(0.1, 0.3, 0.7, 0.6, 0.95, 0.9)


@pytest.mark.parametrize("points", [100, 1000])
def test_golden_curve(points):
    # u 0, .4, .25, .8, 1, 1; running maximum v 0, .25, .75, .75, 1, 1: the curve falls where bytes do
    curve, auc = pic_auc(*GOLDEN, points=points)
    assert curve.shape == (points + 1,)
    assert auc.item() == pytest.approx(0.54375, abs=1e-12)
    assert at(curve, 0, 0.25, 0.4, 0.8, 1) == pytest.approx([0, 0.75, 0.25, 0.75, 1])
    assert at(curve, 0.1, 0.3, 0.9) == pytest.approx([0.3, 0.75 - 0.5 / 3, 0.875])


def test_curves_are_independent_of_each_other_and_of_scale():
    information, performance = (values.repeat(2, 3, 1) for values in GOLDEN)
    information[0, 1], performance[0, 1] = tensor(0, 1, 1, 1, 1, 1), tensor(0, 0, 0, 0, 0, 1)
    curve, auc = pic_auc(7 * information - 2, performance / 2 + 0.1, points=100)
    assert curve.shape == (2, 3, 101)
    assert auc[1, 2].item() == pytest.approx(0.54375, abs=1e-12)
    assert auc[0, 1].item() == pytest.approx(0.5 / 100, abs=1e-12)  # 0 before the last grid point, where it is 1


def test_equal_information_interpolates_from_the_last_in_order():
    # u 0, 0, .5, .5, 1 and the added (0, 0): rises from 0 (not from .2) to .4, then from .6 to 1
    curve, auc = pic_auc(tensor(10, 5, 20, 20, 30), tensor(0, 0.2, 0.4, 0.6, 1))
    assert at(curve, 0, 0.25, 0.499, 0.5, 0.75, 1) == pytest.approx([0, 0.2, 0.3992, 0.6, 0.8, 1])
    assert auc.item() == pytest.approx(0.5 * 0.2 + 0.5 * 0.8, abs=2e-4)


def test_more_information_than_the_original_counts_as_all_of_it():
    # u 0, .5, 1.2 -> 1, 1: towards u = 1 the curve rises to the first of the two, .8
    curve, auc = pic_auc(tensor(0, 50, 120, 100), tensor(0, 0.4, 0.8, 1))
    assert at(curve, 0.5, 0.75, 0.999, 1) == pytest.approx([0.4, 0.6, 0.7992, 1])
    assert auc.item() == pytest.approx(0.5 * 0.2 + 0.5 * 0.6, abs=2e-4)


def test_raw_information_leaves_the_curve_at_zero_up_to_the_blurred_image():
    u, v = tensor(0.6, 0.8, 1.0), tensor(0.1, 0.5, 0.9)
    raw, raw_auc = pic_auc(u, v, normalise=False)
    assert at(raw, 0, 0.3, 0.6, 0.7, 0.8, 0.9) == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75])
    assert raw_auc.item() == pytest.approx(0.4 * 0.5)
    assert pic_auc(u, v)[1].item() == pytest.approx(0.5)


def test_nothing_to_gain_is_nan():
    assert pic_auc(tensor(5, 6, 5), tensor(0, 1, 1))[1].isnan()
    assert pic_auc(tensor(5, 6, 7), tensor(1, 0, 1))[0].isnan().all()
    assert pic_auc(tensor(1, 1, 1), tensor(0, 1, 1), normalise=False)[1].isfinite()


@pytest.mark.parametrize("seed", range(5))
def test_matches_pair_saliency(monkeypatch, seed):
    theirs = pytest.importorskip("saliency.metrics.pic")
    rng = numpy.random.default_rng(seed)
    entropy = numpy.sort(rng.integers(100, 120, 15)) + rng.integers(-5, 6, 15)  # not monotone, with ties
    entropy[0], entropy[-1] = 100, 120
    prediction = rng.random(15)
    prediction[0], prediction[-1] = 0.05, 0.9
    # The image filled with k stands for the k-th one; each call for a revealed image gives the next.
    states = iter(range(15))

    def next_image(full_img, pixel_mask):
        return numpy.full_like(full_img, next(states))

    monkeypatch.setattr(numpy, "trapz", numpy.trapezoid, raising=False)
    monkeypatch.setattr(theirs, "estimate_image_entropy", lambda image: entropy[image.flat[0]])
    monkeypatch.setattr(theirs, "create_blurred_image", next_image)
    expected = theirs.compute_pic_metric(
        img=numpy.full((4, 4, 3), 14, dtype=numpy.uint8),
        saliency_map=rng.random((4, 4)),
        random_mask=numpy.zeros((4, 4), dtype=bool),
        pred_func=lambda images: [prediction[image.flat[0]] for image in images],
        saliency_thresholds=numpy.linspace(0.1, 0.9, 13),
    )
    curve, auc = pic_auc(torch.tensor(entropy), torch.tensor(prediction))
    numpy.testing.assert_allclose(curve, expected.curve_y, atol=1e-12)
    assert auc.item() == pytest.approx(expected.auc, abs=1e-12)


def evidence(**images):
    """One map, three points each: (probability, correct, bytes) by image."""
    probability, correct, size = (tensor(*column)[:, None] for column in zip(*images.values(), strict=True))
    return Revealed(torch.tensor([0, 2, 4]), probability, correct, {"png": size, "msssim": size / 200})


CASES = evidence(
    kept=([0.1, 0.5, 0.9], [0, 1, 1], [100, 150, 200]),
    unsure=([0.1, 0.5, 0.79], [0, 0, 1], [100, 150, 200]),
    recognised=([0.6, 0.7, 0.9], [1, 1, 1], [100, 150, 200]),
    wrong=([0.1, 0.2, 0.3], [0, 0, 0], [100, 150, 200]),
    large=([0.1, 0.5, 0.9], [0, 1, 1], [200, 150, 200]),
    probable=([0.9, 0.5, 0.9], [1, 1, 1], [100, 150, 200]),
)


def test_exclusions_of_each_curve_and_jointly():
    large, probable, known = "blur as large", "blur as probable", "blur recognised"
    assert exclusions(CASES, "sic", "png") == ("", "unsure", "", "unsure", large, probable)
    assert exclusions(CASES, "aic", "png") == ("", "", known, "misclassified", large, known)
    assert exclusions(CASES, "sic", "png", joint=True) == ("", "unsure", known, "unsure", large, probable)
    assert exclusions(CASES, "aic", "png", joint=True) == ("", "unsure", known, "misclassified", large, known)
    assert exclusions(CASES, "sic", "png", min_probability=0.3)[1] == ""


def test_pic_by_hand_with_nan_where_excluded():
    sic = pic(CASES, "sic", "png", points=100)
    # recognised: v = 0, 1/3, 1 at u = 0, .5, 1
    assert sic.auc[:, 0].tolist() == pytest.approx(
        [0.5, *[numpy.nan], 0.25 / 3 + 0.5 * 2 / 3, *[numpy.nan] * 3], nan_ok=True
    )
    assert sic.curve.shape == (6, 1, 101) and sic.grid[[0, 1, -1]].tolist() == [0, 0.01, 1]
    assert sic.curve[1].isnan().all() and sic.curve[0, 0, 50].item() == pytest.approx(0.5)
    aic = pic(CASES, "aic", "png", points=100)
    # kept: 0, 1, 1 at u = 0, .5, 1; unsure: 0, 0, 1
    assert aic.auc[:2, 0].tolist() == pytest.approx([0.75, 0.25]) and aic.auc[2:].isnan().all()
    assert pic(CASES, "sic", "png", joint=True).auc.isnan()[:, 0].tolist() == [False] + [True] * 5


def test_raw_msssim_only_changes_msssim():
    # kept: MS-SSIM .5, .75, 1
    assert pic(CASES, "sic", "msssim").auc[0, 0].item() == pytest.approx(0.5)
    assert pic(CASES, "sic", "msssim", raw_msssim=True).auc[0, 0].item() == pytest.approx(0.25)
    assert pic(CASES, "sic", "png", raw_msssim=True).auc[0, 0].item() == pytest.approx(0.5)


def test_aggregate_by_hand_without_the_excluded():
    nan = numpy.nan
    curves = tensor([0, 0.2, 1], [nan, nan, nan], [0, 0.4, 1], [0, 0.9, 1], [0, 0.3, 1])
    median, median_auc = aggregate_curves(curves, "median")
    assert median.tolist() == pytest.approx([0, 0.35, 1]) and median_auc.item() == pytest.approx(0.425)
    mean, mean_auc = aggregate_curves(curves, "mean")
    assert mean.tolist() == pytest.approx([0, 0.45, 1]) and mean_auc.item() == pytest.approx(0.475)
    assert all(value.isnan().all() for value in aggregate_curves(curves[1:2], "median"))
    with pytest.raises(InputError, match="aggregate 'mode' is unknown; it must be one of mean, median"):
        aggregate_curves(curves, "mode")


class Bright:
    """p(class 0) is the mean of the image."""

    images = 0

    def __call__(self, images):
        self.images += len(images)
        p = images.double().mean((1, 2, 3))
        return torch.stack([p, 1 - p], 1).log()


def pictures(size, count=2, maps=2):
    generator = torch.Generator().manual_seed(0)
    x, soft = (torch.rand(count, 3, size, size, generator=generator) * scale for scale in (1, 0.3))
    return x, soft, torch.randn(count, maps, size, size, generator=generator), torch.tensor([0, 1])[:count]


def test_every_revealed_image_is_measured_as_a_plain_loop_would():
    x, soft, ranking, target = pictures(12)
    result = information_curves(Bright(), x, soft, ranking, target, points=6, measures=("webp", "png"), batch=5)
    assert result.counts.tolist() == [0, 28, 57, 86, 115, 144] == reveal_counts(144, 5).tolist()
    assert list(result.information) == ["webp", "png"]
    for image in range(2):
        for index in range(2):
            best_first = ranking[image, index].flatten().argsort(descending=True, stable=True)
            for point, count in enumerate(result.counts):
                shown = soft[image].clone().flatten(1)
                shown[:, best_first[:count]] = x[image].flatten(1)[:, best_first[:count]]
                p = shown.double().mean().item()
                p, correct = (p, p > 0.5) if target[image] == 0 else (1 - p, p < 0.5)
                where = image, index, point
                assert result.probability[where].item() == pytest.approx(p, abs=1e-9)
                assert result.correct[where].item() == correct
                picture = Image.fromarray((shown.view(3, 12, 12) * 255).byte().permute(1, 2, 0).numpy())
                for measure, options in (("png", {}), ("webp", {"lossless": True, "quality": 100})):
                    buffer = io.BytesIO()
                    picture.save(buffer, measure, **options)
                    assert result.information[measure][where].item() == len(buffer.getvalue())


def test_webp_bytes_are_pair_saliencys_entropy():
    theirs = pytest.importorskip("saliency.metrics.pic")
    x, soft, ranking, target = pictures(96, count=1)
    x = (x.cumsum(3).cumsum(2) / 2000).frac()  # some structure, so that the encoder's effort matters
    result = information_curves(Bright(), x, soft, ranking, target, points=2, measures=("webp",))
    images = [(image[0] * 255).byte().permute(1, 2, 0).numpy() for image in (soft, x)]
    assert result.information["webp"][0, 1].tolist() == [theirs.estimate_image_entropy(image) for image in images]


def test_eight_bit_values_survive_the_conversion():
    grey = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, -1, -1) / 255
    result = information_curves(Bright(), grey, grey, grey[:, :1], torch.tensor([0]), points=2, measures=("png",))
    buffer = io.BytesIO()
    Image.fromarray(numpy.arange(256, dtype=numpy.uint8).reshape(16, 16, 1).repeat(3, 2)).save(buffer, "PNG")
    assert result.information["png"][0, 0, 1].item() == len(buffer.getvalue())


def test_msssim_is_the_librarys_and_one_for_the_original():
    x, soft, ranking, target = pictures(161, maps=1)
    result = information_curves(Bright(), x, soft, ranking, target, points=3, measures=("msssim",))
    half = ranking.flatten(2).topk(161 * 161 // 2).indices
    shown = torch.zeros(2, 1, 161 * 161, dtype=torch.bool).scatter_(2, half, True).view(2, 1, 161, 161)
    for image in range(2):
        images = torch.stack([soft[image], torch.where(shown, x, soft)[image], x[image]])
        expected = ms_ssim(images, x[image].expand_as(images), data_range=1, size_average=False)
        torch.testing.assert_close(result.information["msssim"][image, 0], expected.double(), rtol=0, atol=1e-5)
        assert result.information["msssim"][image, 0, 2].item() == 1


def test_msssim_needs_more_than_160_pixels():
    with pytest.raises(InputError, match=r"MS-SSIM needs sides above 160 pixels, these images have \(160, 160\)"):
        information_curves(Bright(), *pictures(160, count=1, maps=1))


def test_batch_size_and_company_do_not_matter_and_inputs_are_kept():
    x, soft, ranking, target = arguments = pictures(12)
    before = [argument.clone() for argument in arguments]
    together = information_curves(Bright(), *arguments, points=5, measures=("png",), batch=7)
    second = [argument[1:] for argument in (x, soft, ranking[:, 1:], target)]
    alone = information_curves(Bright(), *second, points=5, measures=("png",), batch=1)
    for name in ("probability", "correct"):
        torch.testing.assert_close(getattr(together, name)[1:, 1:], getattr(alone, name))
    assert torch.equal(together.information["png"][1:, 1:], alone.information["png"])
    assert all(torch.equal(argument, copy) for argument, copy in zip(arguments, before, strict=True))


def test_only_the_necessary_forward_passes():
    model = Bright()
    information_curves(model, *pictures(8), points=25, measures=())
    assert model.images == 2 * (23 * 2 + 2)


def test_blurred_keeps_size_removes_detail_and_is_stored_as_jpeg():
    rng = numpy.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=numpy.uint8))
    before = numpy.asarray(image).copy()
    plain = blurred(image, jpeg_quality=None)
    assert plain.size == (80, 60)
    assert numpy.asarray(plain).std() < numpy.asarray(blurred(image, radius=2, jpeg_quality=None)).std() < before.std()
    assert (numpy.asarray(blurred(image)) == numpy.asarray(jpeg(plain, quality=75))).all()
    assert (numpy.asarray(image) == before).all()
    with pytest.raises(InputError, match="JPEG quality is 0"):
        blurred(image, jpeg_quality=0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"measures": ("gif",)}, "measure 'gif' is unknown; it must be one of msssim, png, webp"),
        (
            {"measures": ("png", "msssim")},
            r"MS-SSIM needs sides above 160 pixels, these images have \(12, 12\)",
        ),
        ({"points": 1}, "points is 1; give a whole number of at least 2"),
        ({"blurred": torch.zeros(2, 3, 12, 11)}, r"blurred has shape \(2, 3, 12, 11\).*\(2, 3, 12, 12\)"),
        ({"blurred": torch.full((2, 3, 12, 12), -0.5)}, r"blurred spans \[-0.5, -0.5\]"),
        (
            {"ranking": torch.full((2, 1, 12, 12), torch.inf)},
            "image 0, map 0 is NaN or infinite at 144 of 144",
        ),
    ],
)
def test_bad_input_is_refused(change, message):
    names = ("x", "blurred", "ranking", "target")
    arguments = dict(zip(names, pictures(12), strict=True)) | {"measures": ("png",)} | change
    with pytest.raises(InputError, match=message):
        information_curves(Bright(), **arguments)


def test_unknown_curve_or_measure_is_refused():
    with pytest.raises(InputError, match="curve 'roc' is unknown; it must be one of aic, sic"):
        pic(CASES, "roc", "png")
    with pytest.raises(InputError, match="measure 'webp' is unknown; it must be one of msssim, png"):
        pic(CASES, "sic", "webp")


class Mean:
    """Logit 0 is the mean of an image of any number of channels, logit 1 a half."""

    def __call__(self, images):
        mean = images.flatten(1).mean(1)
        return torch.stack([mean, torch.full_like(mean, 0.5)], 1)


def of_channels(count, size=12):
    x = torch.rand(1, count, size, size, generator=torch.Generator().manual_seed(0))
    return x, x * 0.3, x[:, :1], torch.tensor([0])


@pytest.mark.parametrize("measure", ["png", "webp"])
def test_files_of_grey_images_are_grey(measure):
    x, soft, ranking, target = of_channels(1)
    found = information_curves(Mean(), x, soft, ranking, target, points=2, measures=(measure,)).information[measure]
    for point, image in enumerate([soft, x]):
        buffer = io.BytesIO()
        picture = Image.fromarray((image[0, 0] * 255).byte().numpy())
        assert picture.mode == "L"
        picture.save(buffer, measure, **({"lossless": True, "quality": 100} if measure == "webp" else {}))
        assert found[0, 0, point] == len(buffer.getvalue())


@pytest.mark.parametrize("measure", ["png", "webp"])
@pytest.mark.parametrize("channels", [2, 4, 5])
def test_files_of_other_images_are_refused(measure, channels):
    with pytest.raises(InputError, match=f"{channels} channels, which no file .* 1 or 3 channels"):
        information_curves(Mean(), *of_channels(channels), measures=(measure,))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_msssim_is_of_any_number_of_channels(channels):
    x, soft, ranking, target = of_channels(channels, size=161)
    found = information_curves(Mean(), x, soft, ranking, target, points=2, measures=("msssim",)).information["msssim"]
    expected = [ms_ssim(image, x, data_range=1).item() for image in (soft, x)]
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "1", "I;16"])
def test_pictures_that_cannot_be_written_as_they_are_are_refused(mode):
    picture = Image.new(mode, (16, 16))
    for call in (blurred, jpeg):
        with pytest.raises(InputError, match=f"the picture is {mode}; give an RGB or grey"):
            call(picture)
    assert blurred(Image.new("L", (16, 16))).mode == "L"
    with pytest.raises(InputError, match="radius is -1"):
        blurred(Image.new("L", (16, 16)), radius=-1)


@pytest.mark.parametrize(
    ("information", "performance"),
    [
        (tensor(1, 2, 3), tensor(1, 2)),
        (tensor(1), tensor(1)),
        (tensor(1, numpy.nan, 3), tensor(1, 2, 3)),
        (tensor(1, 2, 3), tensor(1, numpy.inf, 3)),
    ],
)
def test_what_is_no_curve_is_refused(information, performance):
    with pytest.raises(InputError, match=r"give two equal ones \(..., P\) of finite numbers"):
        pic_auc(information, performance)
