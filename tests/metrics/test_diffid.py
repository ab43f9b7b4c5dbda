import pytest
import torch

from lib import InputError
from lib.metrics.diffid import RATIOS, area, diffid

ZERO = torch.tensor([0])


class Linear:
    """Logit 0 is the weighted sum of an image's normalised values, logit 1 a constant; notes what it is shown."""

    def __init__(self, weights=1.0, *, mean=0.0, std=1.0, other=0.0):
        self.weights, self.other = weights, other
        self.mean, self.std = (torch.as_tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (mean, std))
        self.shown = []

    def __call__(self, images):
        self.shown.append(images)
        logit = (((images - self.mean) / self.std) * self.weights).flatten(1).sum(1)
        return torch.stack([logit, torch.full_like(logit, self.other)], 1)


def close(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


X = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).view(1, 1, 2, 2)
WEIGHTS = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)  # f(X) = .4 + 2 * .1 = .6
TWO = torch.cat([X, torch.tensor([0.8, 0.0, 0.6, 0.5], dtype=torch.float64).view(1, 1, 2, 2)], 1)


@pytest.mark.parametrize("remove", ["elements", "pixels"])
def test_one_channel_by_hand(remove):
    # Ratios .25, .5, .75 remove 1, 2, 3 pixels. Order: pixel 3 (.1), 0 (.4), 2 (.2), 1 (.3).
    ranking = torch.tensor([[[[3.0, 1.0], [2.0, 4.0]]]])
    result = diffid(Linear(WEIGHTS, other=0.55), X, ranking, ZERO, remove=remove, ratios=(0.25, 0.5, 0.75))
    # Insertion: pixel 0 and 3 stay until the last, which leaves pixel 3 and the fill .1 elsewhere.
    close(result.insertion_logit * 0.6, [[[0.6, 0.6, 0.1 + 0.2]]])
    # Deletion: pixel 3 becomes mean(.4, .2, .3) = .3, then 0 and 3 become .25, then both become .3.
    close(result.deletion_logit * 0.6, [[[0.4 + 0.6, 0.25 * 3, 0.3 * 3]]])
    close(result.diffid_logit, [[[1 - 1 / 0.6, 1 - 0.75 / 0.6, 0.5 - 1.5]]])
    close(result.insertion_accuracy, [[[1, 1, 0]]])
    close(result.deletion_accuracy, [[[1, 1, 1]]])
    close(result.diffid_accuracy, [[[0, 0, -1]]])
    close(result.ratios, [0.25, 0.5, 0.75])


def test_an_element_game_splits_the_channels_of_the_last_pixel():
    model, ranking = Linear(), torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])
    diffid(model, TWO, ranking, ZERO, ratios=(0.4,))  # 3 of 8 elements
    _, insertion, deletion = torch.cat(model.shown)
    low = (0.4 + 0.8 + 0.3 + 0.0 + 0.2) / 5  # pixels 0 and 1 and the first channel of pixel 2
    close(insertion, [[[0.4, 0.3], [0.2, low]], [[0.8, 0.0], [low, low]]])
    high = (0.0 + 0.2 + 0.6 + 0.1 + 0.5) / 5  # without pixel 0 and the first channel of pixel 1
    close(deletion, [[[high, high], [0.2, 0.1]], [[high, 0.0], [0.6, 0.5]]])


def test_a_pixel_game_removes_whole_pixels():
    model, ranking = Linear(), torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])
    diffid(model, TWO, ranking, ZERO, ratios=(0.4,), remove="pixels")  # 1 of 4 pixels
    _, insertion, deletion = torch.cat(model.shown)
    low, high = (0.4 + 0.8 + 0.3 + 0.0 + 0.2 + 0.6) / 6, (0.3 + 0.0 + 0.2 + 0.6 + 0.1 + 0.5) / 6
    close(insertion, [[[0.4, 0.3], [0.2, low]], [[0.8, 0.0], [0.6, low]]])
    close(deletion, [[[high, 0.3], [0.2, 0.1]], [[high, 0.0], [0.6, 0.5]]])


def test_the_fill_is_one_value_in_normalised_space():
    mean, std = (0.5, 0.2), (0.1, 0.4)
    model, ranking = Linear(), torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])
    diffid(model, TWO, ranking, ZERO, ratios=(0.75,), remove="pixels", mean=mean, std=std)
    insertion = torch.cat(model.shown)[1]
    # Pixel 0 is left: (.4 - .5) / .1 = -1 and (.8 - .2) / .4 = 1.5, whose mean is .25.
    close(insertion, [[[0.4, 0.525], [0.525, 0.525]], [[0.8, 0.3], [0.3, 0.3]]])


@pytest.fixture
def crowd():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 3, 7, 5, generator=generator, dtype=torch.float64)
    ranking = torch.randn(3, 2, 7, 5, generator=generator)
    weights = torch.rand(3, 7, 5, generator=generator, dtype=torch.float64)
    statistics = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}
    return x, ranking, torch.tensor([0, 1, 0]), Linear(weights, **statistics, other=3.0), statistics


def released(model, image, scores, target, mean, std):
    """The published game on one image and map, element by element: insertion and deletion logit ratios and hits."""
    channels, pixels = image.flatten(1).shape
    z = [
        [(image[c].flatten()[p].item() - mean[c]) / std[c] for p in range(pixels)] for c in range(channels)
    ]  # fmt: skip
    highest_first = sorted(
        ((p, c) for p in range(pixels) for c in range(channels)),
        key=lambda element: -scores.flatten()[element[0]],
    )
    original = model(image[None])[0, target].item()
    curves = []
    for game in ("insertion", "deletion"):
        sequence = highest_first if game == "deletion" else highest_first[::-1]
        for step in range(1, 10):
            kept = sequence[int(channels * pixels * (step * 0.1)) :]
            fill = sum(z[c][p] for p, c in kept) / len(kept)
            canvas = torch.tensor([[fill * std[c] + mean[c]] * pixels for c in range(channels)], dtype=torch.float64)
            for p, c in kept:
                canvas[c, p] = image[c].flatten()[p]
            logits = model(canvas.view(1, *image.shape))[0]
            curves.append((logits[target].item() / original, float(logits.argmax() == target)))
    return torch.tensor(curves, dtype=torch.float64).view(2, 9, 2)


def test_matches_the_released_loop(crowd):
    x, ranking, target, model, statistics = crowd
    result = diffid(model, x, ranking, target, **statistics)
    for b in range(3):
        for m in range(2):
            expected = released(model, x[b], ranking[b, m], target[b].item(), **statistics)
            actual = [
                [result.insertion_logit, result.insertion_accuracy],
                [result.deletion_logit, result.deletion_accuracy],
            ]
            actual = torch.stack([torch.stack([values[b, m] for values in game], 1) for game in actual])
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    assert 0 < result.insertion_accuracy.mean() < 1  # both outcomes were compared


def test_every_fill_is_the_mean_of_what_is_kept(crowd):
    x, ranking, target, model, statistics = crowd
    for remove in ("elements", "pixels"):
        model.shown.clear()
        diffid(model, x[:1], ranking[:1, :1], target[:1], remove=remove, **statistics, batch=1)
        clean, *perturbed = ((image[0] - model.mean) / model.std for image in model.shown)
        assert len(perturbed) == 18
        for image, ratio in zip(perturbed, RATIOS * 2, strict=True):
            kept = (image - clean).abs() < 1e-9
            assert (~kept).sum() == (int(105 * ratio) if remove == "elements" else 3 * int(35 * ratio))
            torch.testing.assert_close(image[~kept], clean[kept].mean().expand((~kept).sum()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("pixels", [*range(1, 100), 224 * 224])
def test_removed_counts_are_exact_and_the_released_ones(pixels):
    x = torch.rand(1, 1, 1, pixels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    removed = []

    def count(images):
        removed.extend((images != x).flatten(1).sum(1).tolist())
        return torch.ones(len(images), 2)

    diffid(count, x, x, ZERO)
    expected = [pixels * step // 10 for step in range(1, 10)]
    assert expected == [int(pixels * (step * 0.1)) for step in range(1, 10)]
    assert removed == [0, *expected, *expected]


def test_ratios_are_decimal_numbers():
    assert int(0.7 * 90) == 62
    x = torch.linspace(0, 1, 90, dtype=torch.float64).view(1, 1, 9, 10)
    model = Linear()
    diffid(model, x, x, ZERO, ratios=(0.7,))
    assert (torch.cat(model.shown) != x).flatten(1).sum(1).tolist() == [0, 63, 63]


def test_equal_scores_keep_the_smaller_index_longest_and_channels_together():
    model = Linear()
    diffid(model, TWO, torch.zeros(1, 1, 2, 2), ZERO, ratios=(0.5,))
    _, insertion, deletion = torch.cat(model.shown)
    close(insertion[:, 0], [[0.4, 0.3], [0.8, 0.0]])
    close(deletion[:, 1], [[0.2, 0.1], [0.6, 0.5]])


def test_areas_of_the_published_curves():
    curves = torch.tensor(
        [
            [0.299, 0.352, 0.392, 0.409, 0.404, 0.376, 0.323, 0.232, 0.118],  # LPI
            [0.306, 0.350, 0.394, 0.399, 0.394, 0.348, 0.295, 0.219, 0.130],  # LPI, random density
            [0.264, 0.322, 0.361, 0.370, 0.361, 0.329, 0.283, 0.208, 0.119],  # EG
            [0.160, 0.201, 0.227, 0.239, 0.248, 0.234, 0.199, 0.155, 0.080],  # IG
        ],
        dtype=torch.float64,
    )
    legend = torch.tensor([0.290, 0.284, 0.262, 0.174], dtype=torch.float64)
    torch.testing.assert_close(area(curves), legend, rtol=0, atol=6e-4)
    whole = torch.nn.functional.pad(curves, (1, 1))
    torch.testing.assert_close(area(curves), torch.trapezoid(whole, dx=0.1), rtol=0, atol=1e-12)


def test_a_random_map_scores_nothing_and_the_contribution_scores_most():
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(1, 1, 12, 12, generator=generator, dtype=torch.float64)
    weights = torch.rand(12, 12, generator=generator, dtype=torch.float64)
    gain = weights * (x - x.mean())
    noise = torch.rand(1, 400, 12, 12, generator=generator)
    scores = area(diffid(Linear(weights), x, torch.cat([gain, -gain, noise], 1), ZERO).diffid_logit)[0]
    best, worst, random = scores[0], scores[1], scores[2:]
    assert abs(random.mean()) < 4 * random.std() / 20  # 4 standard errors of 400 maps
    assert random.std() < best / 4 and best > 0.1
    assert (random < best).all() and (random > worst).all()


def fields(result):
    names = ("insertion_logit", "deletion_logit", "insertion_accuracy", "deletion_accuracy")
    return torch.stack([getattr(result, name) for name in names])  # (4, B, M, K)


@pytest.mark.parametrize("batch", [1, 5, 1000])
def test_batch_size_order_and_company_do_not_matter(crowd, batch):
    x, ranking, target, model, statistics = crowd
    together = fields(diffid(model, x, ranking, target, **statistics, batch=batch))
    assert together.shape == (4, 3, 2, 9)
    for b in range(3):
        for m in range(2):
            alone = diffid(model, x[b : b + 1], ranking[b : b + 1, m : m + 1], target[b : b + 1], **statistics)
            torch.testing.assert_close(together[:, b, m], fields(alone)[:, 0, 0], rtol=1e-12, atol=1e-12)
    turned = fields(diffid(model, x.flip(0), ranking.flip(0, 1), target.flip(0), **statistics, batch=batch))
    torch.testing.assert_close(together, turned.flip(1, 2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("remove", ["elements", "pixels"])
def test_only_the_order_of_the_scores_counts(crowd, remove):
    x, ranking, target, model, statistics = crowd
    plain = fields(diffid(model, x, ranking, target, remove=remove, **statistics))
    for monotone in (ranking.double().exp(), 3 * ranking - 7, ranking.double() ** 3):
        assert torch.equal(fields(diffid(model, x, monotone, target, remove=remove, **statistics)), plain)
    assert not torch.equal(fields(diffid(model, x, ranking.abs(), target, remove=remove, **statistics)), plain)


def test_costs_18_images_per_map_and_one_per_image_in_batches_of_the_given_size(crowd):
    x, ranking, target, model, _ = crowd
    before = [tensor.clone() for tensor in (x, ranking, target)]
    result = diffid(model, x.requires_grad_(), ranking, target, batch=8)
    sizes = [len(images) for images in model.shown]
    assert sum(sizes) == 3 * (18 * 2 + 1) and max(sizes) == 8
    for tensor, copy in zip((x, ranking, target), before, strict=True):
        assert torch.equal(tensor, copy)
    assert result.insertion_logit.dtype == torch.float64 and not result.insertion_logit.requires_grad


def test_single_precision_images_stay_so(crowd):
    x, ranking, target, model, statistics = crowd
    exact = fields(diffid(model, x, ranking, target, **statistics))
    model.shown.clear()
    single = fields(diffid(model, x.float(), ranking, target, **statistics))
    assert {images.dtype for images in model.shown} == {torch.float32}
    torch.testing.assert_close(single[:2], exact[:2], rtol=1e-4, atol=1e-5)


def test_a_logit_of_zero_has_no_ratio():
    x = torch.tensor([0.5, 0.5, 0.25, 0.0], dtype=torch.float64).view(1, 1, 2, 2)
    weights = torch.tensor([[1.0, -1.0], [0.0, 1.0]])
    result = diffid(Linear(weights, other=-9.0), x, x, ZERO)
    assert result.insertion_logit.isnan().all() and result.diffid_logit.isnan().all()
    assert (result.insertion_accuracy == 1).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"remove": "pixel"}, "remove is 'pixel'; did you mean 'pixels'"),
        ({"ranking": X[0]}, "ranking has shape"),
        ({"ranking": X * torch.nan}, "image 0, map 0 is NaN or infinite at 4 of 4 pixels"),
        ({"target": torch.tensor([0, 0])}, r"target is \(2,\).*one whole class index an image, \(1,\)"),
        ({"x": X * 3 - 1}, r"x spans \[-0.7, 0.2\]"),
        ({"ratios": (0.5, 1.0)}, r"ratios are \(0.5, 1.0\); give one or more between 0 and 1"),
        ({"ratios": ()}, "give one or more"),
        ({"mean": (0.5,)}, "std is None; give 1 numbers each"),
        ({"mean": (0.5, 0.5, 0.5), "std": (1, 1, 1)}, "give 1 numbers each, one per channel"),
        ({"mean": (0.5,), "std": (0.0,)}, "deviations above 0"),
        ({"ratios": 0.5}, "ratios are 0.5; give one or more"),
        ({"model": lambda images: torch.full((len(images), 2), torch.inf)}, "answer to some image is not finite"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {"model": Linear(), "x": X, "ranking": X, "target": ZERO} | change
    with pytest.raises(InputError, match=message):
        diffid(**arguments)


def test_an_area_needs_the_nine_ratios():
    result = diffid(Linear(), X, X, ZERO, ratios=(0.1, 0.5))
    with pytest.raises(InputError, match=r"the curve has 2 values.*nine ratios"):
        area(result.diffid_logit)
