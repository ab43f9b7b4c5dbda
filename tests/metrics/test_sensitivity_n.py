import numpy
import pytest
import torch
from scipy.stats import pearsonr

from lib import InputError
from lib.metrics.diffid import RATIOS
from lib.metrics.sensitivity_n import FILLS, sensitivity_n
from lib.seeds import image_generator

STATISTICS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}
MEAN, STD = (torch.tensor(STATISTICS[name], dtype=torch.float64).view(3, 1, 1) for name in ("mean", "std"))


class Network:
    """Logits Σ w z and Σ w (z + curvature z²) of normalised values z; notes what it is shown."""

    def __init__(self, weights, curvature=0.0):
        self.weights, self.curvature, self.shown = weights, curvature, []

    def __call__(self, images):
        self.shown.append(images)
        z = (images - MEAN) / STD
        return torch.stack(
            [(value * self.weights).flatten(1).sum(1) for value in (z, z + self.curvature * z.square())], 1
        )


@pytest.fixture
def crowd():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 3, 6, 5, generator=generator, dtype=torch.float64)
    maps = torch.randn(3, 2, 6, 5, generator=generator)
    weights = torch.randn(3, 6, 5, generator=generator, dtype=torch.float64)
    return Network(weights, curvature=0.3), x, maps, torch.tensor([0, 1, 1])


IDS = {"images": ["a", "b", "c"]}


def test_the_exact_contribution_correlates_perfectly_at_every_fraction(crowd):
    model, x, _, _ = crowd
    exact = (model.weights * (x - MEAN) / STD).sum(1, keepdim=True)  # what is lost where z becomes 0
    maps = torch.cat([exact, -exact, 5 * exact], 1)
    r = sensitivity_n(model, x, maps, torch.zeros(3, dtype=torch.long), **IDS, draws=20, **STATISTICS)
    assert r.shape == (3, 3, 9) and r.dtype == torch.float64
    torch.testing.assert_close(r, torch.tensor([1.0, -1.0, 1.0]).double().view(1, 3, 1).expand(3, 3, 9))


def test_zero_means_black_without_statistics(crowd):
    model, x, _, _ = crowd
    exact = (model.weights * x / STD).sum(1, keepdim=True)
    r = sensitivity_n(model, x, exact, torch.zeros(3, dtype=torch.long), **IDS, draws=20)
    torch.testing.assert_close(r, torch.ones(3, 1, 9, dtype=torch.float64))


def oracle(model, x, maps, target, name, fraction, fill, draws):
    """One image and fraction in numpy: masks drawn as documented, one image at a time."""
    hidden, noise = (image_generator(7, name, f"sensitivity/{fraction}{use}") for use in ("", "/fill"))
    z = ((x - MEAN) / STD).numpy()
    original = model(x[None])[0, target].item()
    sums, changes = [], []
    for _ in range(draws):
        mask = (torch.rand(x.shape[1:], generator=hidden) < fraction).numpy()
        fillings = {
            "zero": lambda mask: 0.0,
            "random": lambda mask: torch.rand(x.shape, generator=noise).numpy(),
            "mean": lambda mask: z[:, ~mask].mean() if not mask.all() else 0.0,
        }
        masked = numpy.where(mask, fillings[fill](mask), z)
        points = torch.from_numpy(masked)[None] * STD + MEAN
        changes.append(original - model(points)[0, target].item())
        sums.append([attribution.numpy()[mask].astype(float).sum() for attribution in maps])
    return [pearsonr(column, changes).statistic for column in numpy.array(sums).T]


@pytest.mark.parametrize("fill", FILLS)
def test_matches_scipy_on_a_curved_network(crowd, fill):
    model, x, maps, target = crowd
    fractions = (0.1, 0.5, 0.9)
    r = sensitivity_n(
        model, x, maps, target, **IDS, draws=12, fractions=fractions, fill=fill, seed=7, batch=5, **STATISTICS
    )
    for b, name in enumerate(IDS["images"]):
        for k, fraction in enumerate(fractions):
            expected = oracle(model, x[b], maps[b], target[b].item(), name, fraction, fill, draws=12)
            assert r[b, :, k].tolist() == pytest.approx(expected, abs=1e-9)


def test_masks_hide_whole_pixels_at_the_given_rate_and_the_fill_replaces_them():
    x = torch.full((1, 3, 40, 50), 0.9)
    model = Network(torch.ones(3, 40, 50))
    shown = {}
    for fill in FILLS:
        model.shown.clear()
        sensitivity_n(
            model, x, x[:, :1], torch.tensor([0]), images=["a"], draws=9, fractions=(0.3,), fill=fill, **STATISTICS
        )
        images = [image for batch in model.shown for image in batch if not torch.equal(image, x[0])]
        shown[fill] = ((torch.stack(images).double() - MEAN) / STD).float()
    hidden = shown["zero"].abs() < 1e-5  # (9, 3, 40, 50)
    assert torch.equal(hidden[:, :1].expand_as(hidden), hidden)
    # Share of hidden pixels over 9 * 2000 draws: standard error sqrt(.3 * .7 / 18000) = .0034.
    assert hidden.float().mean().item() == pytest.approx(0.3, abs=4 * 0.0034)
    # z is 2, 5/3 and 2.4 throughout, of which the mean is 2.02222.
    assert (shown["mean"][hidden] - 2.02222).abs().max() < 1e-4
    noise = shown["random"][hidden]
    assert noise.min() > -1e-5 and noise.max() < 1 + 1e-5
    # Uniform: mean 1/2, standard error sqrt(1/12 / (3 * 5400)) = .0023.
    assert noise.mean().item() == pytest.approx(0.5, abs=4 * 0.0023)
    for images in shown.values():
        assert torch.equal(images[~hidden], shown["zero"][~hidden])


@pytest.mark.parametrize("batch", [1, 7, 1000])
@pytest.mark.parametrize("fill", FILLS)
def test_batch_order_company_and_number_of_maps_do_not_matter(crowd, batch, fill):
    model, x, maps, target = crowd
    options = {"draws": 10, "fractions": (0.2, 0.6), "fill": fill, **STATISTICS}
    together = sensitivity_n(model, x, maps, target, **IDS, **options, batch=batch)
    for b, name in enumerate(IDS["images"]):
        one = slice(b, b + 1)
        for m in range(2):
            alone = sensitivity_n(model, x[one], maps[one, m : m + 1], target[one], images=[name], **options)
            torch.testing.assert_close(together[one, m : m + 1], alone, rtol=0, atol=1e-12)
    turned = sensitivity_n(
        model, x.flip(0), maps.flip(0), target.flip(0), images=IDS["images"][::-1], **options, batch=batch
    )
    torch.testing.assert_close(together, turned.flip(0), rtol=0, atol=1e-12)
    reseeded = sensitivity_n(model, x, maps, target, **IDS, **options, seed=1)
    renamed = sensitivity_n(model, x, maps, target, images=["d", "e", "f"], **options)
    assert (together - reseeded).abs().max() > 0.01 and (together - renamed).abs().max() > 0.01


@pytest.mark.parametrize("fill", FILLS)
def test_the_first_draws_of_many_are_those_of_few(crowd, fill):
    model, x, maps, target = crowd
    one = {"images": ["a"], "fractions": (0.4,), "fill": fill, "batch": 6, **STATISTICS}
    shown = {}
    for draws in (10, 100):
        model.shown.clear()
        sensitivity_n(model, x[:1], maps[:1], target[:1], draws=draws, **one)
        images = torch.cat(model.shown)
        shown[draws] = images[(images != x[0]).flatten(1).any(1)]
    assert len(shown[10]) == 10 and len(shown[100]) == 100
    assert torch.equal(shown[10], shown[100][:10])


def test_each_map_may_have_its_own_number_of_draws(crowd):
    model, x, maps, target = crowd
    asked = {**IDS, "fractions": (0.2, 0.6), **STATISTICS}
    mixed = sensitivity_n(model, x, maps[:, [0, 1, 0]], target, draws=[10, 30, 30], **asked)
    for m, (source, draws) in enumerate([(0, 10), (1, 30), (0, 30)]):
        alone = sensitivity_n(model, x, maps[:, source : source + 1], target, draws=draws, **asked)
        torch.testing.assert_close(mixed[:, m : m + 1], alone, rtol=0, atol=1e-12)


def test_passes_are_shared_by_all_maps_and_batches_have_the_given_size(crowd):
    model, x, maps, target = crowd
    before = [tensor.clone() for tensor in (x, maps, target)]
    for count in (1, 2):
        model.shown.clear()
        r = sensitivity_n(model, x, maps[:, :count], target, **IDS, draws=10, batch=8)
        sizes = [len(images) for images in model.shown]
        assert sum(sizes) == 3 * (10 * len(RATIOS) + 1) and max(sizes) == 8
    for tensor, copy in zip((x, maps, target), before, strict=True):
        assert torch.equal(tensor, copy)
    assert not sensitivity_n(model, x.requires_grad_(), maps, target, **IDS, draws=3).requires_grad
    assert r.abs().max() <= 1


def test_no_correlation_where_sums_or_changes_are_constant(crowd):
    model, x, maps, target = crowd
    maps = torch.cat([maps, torch.zeros(3, 1, 6, 5), torch.full((3, 1, 6, 5), 0.1)], 1)
    r = sensitivity_n(model, x, maps, target, **IDS, draws=10)
    assert r[:, 2].isnan().all()
    # A flat map other than zero counts the masked pixels.
    assert r[:, [0, 1, 3]].isfinite().all()
    indifferent = Network(0 * model.weights)
    assert sensitivity_n(indifferent, x, maps, target, **IDS, draws=10).isnan().all()

    def recognises_only_the_whole(images):
        return 0.6 * (images.flatten(1).amin(1, keepdim=True) > 0).double().expand(-1, 2)

    for draws in (11, 70):  # the mean of so many equal changes is not that change in floating point
        options = {"draws": draws, "fractions": (0.5,), **IDS}
        assert sensitivity_n(recognises_only_the_whole, x, maps, target, **options).isnan().all()


def test_an_image_hidden_whole_takes_the_mean_colour():
    x, model = torch.full((1, 3, 1, 1), 0.9, dtype=torch.float64), Network(torch.ones(3, 1, 1))
    options = {"images": ["a"], "draws": 20, "fractions": (0.5,), "fill": "mean", **STATISTICS}
    r = sensitivity_n(model, x, torch.ones(1, 1, 1, 1), torch.tensor([0]), **options)
    assert r.item() == pytest.approx(1)
    assert {round(value, 6) for images in model.shown for value in images[:, 0].flatten().tolist()} == {0.5, 0.9}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"draws": 2}, "draws is 2; give a whole number of at least 3"),
        ({"draws": [10, 5, 5]}, "draws has 3 numbers; give one, or one for each of 2 maps"),
        ({"fill": "blur"}, "fill 'blur' is unknown; it must be one of mean, random, zero"),
        ({"images": ["a", "b"]}, "images is 2 ids for 3 images"),
        ({"fractions": (0.0, 0.5)}, r"fractions are \(0.0, 0.5\); give one or more between 0 and 1"),
        ({"fractions": ()}, "give one or more"),
        ({"mean": (0.5,), "std": (0.5,)}, "give 3 numbers each, one per channel"),
        ({"std": (1, 1, 1)}, "mean is None and std is"),
        ({"ranking": torch.zeros(3, 6, 5)}, "ranking has shape"),
        ({"ranking": torch.full((3, 1, 6, 5), torch.nan)}, "image 0, map 0 is NaN or infinite at 30 of 30"),
        ({"target": torch.tensor([0])}, r"target is \(1,\)"),
        ({"x": torch.full((3, 3, 6, 5), 1.5)}, r"x spans \[1.5, 1.5\]"),
        ({"model": lambda images: images.flatten(1) * torch.nan}, "answer to some image is not finite"),
    ],
)
def test_bad_input_is_refused(crowd, change, message):
    model, x, maps, target = crowd
    arguments = {"model": model, "x": x, "ranking": maps, "target": target, **IDS} | change
    with pytest.raises(InputError, match=message):
        sensitivity_n(**arguments)
