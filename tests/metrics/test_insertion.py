import pytest
import torch

from lib import InputError
from lib.metrics.insertion import insertion, reveal, reveal_counts
from lib.metrics.ranking import pixel_order


class Linear:
    """p(class 0) is exactly the weighted sum of an image's values; counts the images it is shown."""

    def __init__(self, weights=1.0):
        self.weights, self.images, self.largest = weights, 0, 0

    def __call__(self, images):
        self.images += len(images)
        self.largest = max(self.largest, len(images))
        p = (images * self.weights).flatten(1).sum(1).clamp(0, 1)
        return torch.stack([p, 1 - p], 1).log()


X = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).view(1, 1, 2, 2)
BEST, WORST = X.clone(), -X
ZERO = torch.tensor([0])


def close(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_whole_curve_of_a_sum_by_hand():
    result = insertion(Linear(), X, torch.cat([BEST, WORST], 1), ZERO, steps=4)
    close(result.fractions, [0, 0.25, 0.5, 0.75, 1])
    close(result.probabilities, [[[0, 0.4, 0.7, 0.9, 1], [0, 0.1, 0.3, 0.6, 1]]])
    close(result.probability, [[0.625, 0.375]])  # (0/2 + .4 + .7 + .9 + 1/2) / 4
    close(result.ratio, [[0.625, 0.375]])


def test_ratio_divides_by_the_full_image_and_target_picks_the_class():
    result = insertion(Linear(0.5), X, BEST, ZERO, steps=4)
    close(result.probability, [[0.3125]])
    close(result.ratio, [[0.625]])
    other = insertion(Linear(0.5), X, BEST, torch.tensor([1]), steps=4)
    close(other.probabilities, [[[1, 0.8, 0.65, 0.55, 0.5]]])
    close(other.ratio, [[(1 + 1.6 + 1.3 + 1.1 + 0.5) / 4]])


def test_ratio_is_nan_where_the_full_image_has_no_probability():
    harmful = Linear(torch.tensor([[1.0, -1.0], [-1.0, -1.0]]))
    result = insertion(harmful, X, BEST, ZERO, steps=4)
    close(result.probabilities, [[[0, 0.4, 0.1, 0, 0]]])
    assert result.ratio.isnan().all()


def test_all_channels_of_a_pixel_appear_together():
    x = torch.cat([X, X / 2], 1) / 1.5
    result = insertion(Linear(), x, BEST, ZERO, steps=4)
    close(result.probabilities, [[[0, 0.4, 0.7, 0.9, 1]]])


def test_start_image_is_what_is_not_yet_shown():
    result = insertion(Linear(), X, BEST, ZERO, steps=4, start=0.1)
    close(result.probabilities, [[[0.4, 0.7, 0.9, 1, 1]]])
    flipped = insertion(Linear(), X, BEST, ZERO, steps=2, start=X.flip(3))
    close(flipped.probabilities, [[[1, 0.4 + 0.3 + 0.1 + 0.2, 1]]])
    close(insertion(Linear(), X, BEST, ZERO, steps=1, start=X * 0.5).probabilities, [[[0.5, 1]]])


def test_counts_are_the_published_ones():
    assert reveal_counts(224 * 224, 20).tolist() == [
        *(0, 2508, 5017, 7526, 10035, 12544, 15052, 17561, 20070, 22579, 25088),
        *(27596, 30105, 32614, 35123, 37632, 40140, 42649, 45158, 47667, 50176),
    ]
    assert reveal_counts(299 * 299, 20)[[1, 2, 20]].tolist() == [4470, 8940, 89401]
    assert reveal_counts(224 * 224, 24)[:7].tolist() == [0, 2090, 4181, 6272, 8362, 10453, 12544]


def test_steps_that_do_not_divide_the_pixel_count():
    result = insertion(Linear(), X, BEST, ZERO, steps=3)  # 0, 1, 2 and 4 pixels
    close(result.probabilities, [[[0, 0.4, 0.7, 1]]])
    close(result.probability, [[(0.4 + 0.7 + 0.5) / 3]])
    more = insertion(Linear(), X, BEST, ZERO, steps=8)  # 0, 0, 1, 1, 2, 2, 3, 3, 4
    close(more.probabilities, [[[0, 0, 0.4, 0.4, 0.7, 0.7, 0.9, 0.9, 1]]])


def test_ties_go_to_the_smaller_row_major_index():
    ranking = torch.zeros(1, 1, 20, 20)
    ranking[0, 0, 10] = 1.0
    order = pixel_order(ranking).flatten()
    assert order[200:220].tolist() == list(range(20))
    assert order[:200].tolist() == list(range(20, 220))
    assert order[220:].tolist() == list(range(220, 400))
    signed_zero = torch.tensor([-0.0, 0.0, -1.0, 2.0]).view(1, 1, 2, 2)
    assert pixel_order(signed_zero).flatten().tolist() == [1, 2, 3, 0]


@pytest.fixture
def crowd():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 3, 7, 5, generator=generator, dtype=torch.float64)
    ranking = torch.randn(3, 2, 7, 5, generator=generator)
    weights = torch.rand(3, 7, 5, generator=generator, dtype=torch.float64) / 60
    return x, ranking, torch.tensor([0, 1, 0]), Linear(weights)


@pytest.mark.parametrize("batch", [1, 4, 1000])
def test_batch_size_and_company_do_not_matter(crowd, batch):
    x, ranking, target, model = crowd
    together = insertion(model, x, ranking, target, steps=6, batch=batch).probabilities
    for image in range(3):
        one = slice(image, image + 1)
        for index in range(2):
            alone = insertion(model, x[one], ranking[one, index : index + 1], target[one], steps=6).probabilities
            torch.testing.assert_close(together[one, index : index + 1], alone, rtol=0, atol=1e-12)


def test_matches_a_plain_loop(crowd):
    x, ranking, target, model = crowd
    actual = insertion(model, x, ranking, target, steps=6).probabilities
    for image in range(3):
        for index in range(2):
            best_first = sorted(range(35), key=lambda pixel: -ranking[image, index].flatten()[pixel])
            for step in range(7):
                canvas = torch.zeros(3, 35, dtype=torch.float64)
                chosen = best_first[: 35 * step // 6]
                canvas[:, chosen] = x[image].flatten(1)[:, chosen]
                expected = model(canvas.view(1, 3, 7, 5)).softmax(1)[0, target[image]]
                assert actual[image, index, step].item() == pytest.approx(expected.item(), abs=1e-12)


def test_only_the_necessary_forward_passes_in_batches_of_the_given_size(crowd):
    x, ranking, target, model = crowd
    insertion(model, x, ranking, target, steps=6, batch=8)
    assert model.images == 3 * ((6 - 1) * 2 + 2)
    assert model.largest == 8


def test_inputs_are_not_changed_and_nothing_requires_grad(crowd):
    x, ranking, target, model = crowd
    before = [tensor.clone() for tensor in (x, ranking, target)]
    result = insertion(model, x.requires_grad_(), ranking, target)
    for tensor, copy in zip((x, ranking, target), before, strict=True):
        assert torch.equal(tensor, copy)
    assert not result.probabilities.requires_grad


def test_best_order_beats_random_beats_worst_on_a_linear_model(crowd):
    x, _, _, model = crowd
    gain = (x * model.weights).sum(1, keepdim=True)
    noise = torch.rand(3, 60, 7, 5, generator=torch.Generator().manual_seed(1))
    auc = insertion(
        model, x, torch.cat([gain, -gain, noise], 1), torch.zeros(3, dtype=torch.long), steps=35
    ).probability
    best, worst, random = auc[:, 0], auc[:, 1], auc[:, 2:]
    assert (random < best[:, None]).all() and (random > worst[:, None]).all()
    # A random order shows half of the sum on average, at every step: area p(x) / 2.
    torch.testing.assert_close(random.mean(1), gain.flatten(1).sum(1) / 2, rtol=0.04, atol=0)


def test_reveal_returns_every_number_for_given_thresholds():
    order = pixel_order(torch.cat([BEST, WORST], 1))
    sums = reveal(
        lambda images, rows: torch.stack([images.flatten(1).sum(1), rows.double()], 1),
        Linear(),
        X,
        torch.zeros_like(X),
        order,
        torch.tensor([3, 0, 4, 1]),
        batch=2,
    )
    close(sums[..., 0], [[[0.9, 0, 1, 0.4], [0.6, 0, 1, 0.1]]])
    assert (sums[..., 1] == 0).all()


def test_scores_that_are_not_finite_are_named():
    ranking = torch.zeros(2, 3, 2, 2)
    ranking[1, 2, 0] = torch.nan
    with pytest.raises(InputError, match="image 1, map 2 is NaN or infinite at 2 of 4 pixels"):
        insertion(Linear(), X.expand(2, -1, -1, -1), ranking, torch.tensor([0, 0]))
    ranking[1, 2, 0] = -torch.inf
    with pytest.raises(InputError, match="image 1, map 2"):
        insertion(Linear(), X.expand(2, -1, -1, -1), ranking, torch.tensor([0, 0]))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ranking": torch.zeros(1, 2, 2)}, r"ranking has shape \(1, 2, 2\).*need \(1, maps, 2, 2\)"),
        ({"ranking": torch.zeros(1, 1, 2, 3)}, "ranking has shape"),
        ({"target": torch.tensor([0, 0])}, r"target is \(2,\).*\(1,\)"),
        ({"x": X * 3 - 1}, r"x spans \[-0.7, 0.2\].*\[0, 1\]"),
        ({"x": X * torch.nan}, "x spans"),
        ({"steps": 0}, "steps is 0; give a whole number of at least 1"),
        ({"start": torch.zeros(1, 1, 3, 3)}, r"\(1, 1, 3, 3\)"),
        ({"start": 1.5}, r"reference spans \[1.5, 1.5\]"),
        ({"model": lambda images: torch.full((len(images), 2), torch.nan)}, "answer to some image is not finite"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {"model": Linear(), "x": X, "ranking": BEST, "target": ZERO} | change
    with pytest.raises(InputError, match=message):
        insertion(**arguments)
