"""Locality-sensitive scores: cases worked by hand, the pixel sets as loops, identities, chance levels, bad input."""

import pytest
import torch
from scipy.ndimage import maximum_filter, uniform_filter
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from lib import InputError
from lib.metrics.chance import adjusted, chance, with_chance
from lib.metrics.lens import locality
from lib.metrics.selection import dilate, diverse_top_k, pixel_map, top_k

SETS = ("top_k", "lens_recall_1", "lens_precision_1")


def marked(size: tuple[int, int], *places: tuple[int, int]) -> Tensor:
    """A map (1, H, W) whose highest pixels are these, the first the highest."""
    maps = torch.zeros(1, *size)
    for value, (row, column) in enumerate(reversed(places), start=1):
        maps[0, row, column] = value
    return maps


def random_maps(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.rand(count, size, size, generator=torch.Generator().manual_seed(seed))


def scores(a: Tensor, b: Tensor, k: int, w: int = 1) -> tuple[float, float, float]:
    found = locality(a, b, k=k, radii=(w,))
    return tuple(found[name].item() for name in ("top_k", f"lens_recall_{w}", f"lens_precision_{w}"))


def test_a_shifted_pair_has_full_recall_and_half_precision():
    a, b = marked((6, 6), (2, 2), (2, 3)), marked((6, 6), (2, 4), (3, 4))
    assert scores(a, b, 2) == (0.0, 1.0, 0.5)


def test_one_of_two_pixels_is_near_until_the_window_grows():
    a, b = marked((6, 6), (0, 0), (5, 5)), marked((6, 6), (0, 1), (3, 3))
    assert scores(a, b, 2) == (0.0, 0.5, 0.5)
    assert scores(a, b, 2, w=2)[1] == 1.0


def test_windows_do_not_run_on_into_the_next_row():
    assert scores(marked((6, 6), (2, 5)), marked((6, 6), (3, 0)), 1) == (0.0, 0.0, 0.0)


def test_ties_go_to_the_smaller_index_and_are_counted():
    maps = torch.tensor([[[1.0, 2.0, 1.0, -0.0, 0.0, 1.0]]])
    mask, left_out = top_k(maps, 3)
    assert mask.flatten().nonzero().flatten().tolist() == [0, 1, 2] and left_out.tolist() == [1]
    mask, left_out = top_k(maps, 5)
    assert mask.flatten().tolist() == [True, True, True, True, False, True] and left_out.tolist() == [1]  # -0 equals 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_top_k_agrees_with_a_stable_sort_of_signed_values(dtype):
    maps = (torch.randn(3, 17, 13, generator=torch.Generator().manual_seed(1), dtype=dtype) * 3).round() / 3
    mask, _ = top_k(maps, 40)
    for each, row in zip(mask.flatten(1), maps.flatten(1).tolist(), strict=True):
        assert each.nonzero().flatten().tolist() == sorted(sorted(range(len(row)), key=lambda p: -row[p])[:40])


def test_dilation_is_a_maximum_filter_and_composes():
    mask, _ = top_k(random_maps(2, 23), 9)
    for w in (1, 2, 3):
        expected = torch.stack([torch.from_numpy(maximum_filter(m.numpy(), 2 * w + 1, mode="constant")) for m in mask])
        assert torch.equal(dilate(mask, w), expected)
    assert torch.equal(dilate(dilate(mask, 1), 2), dilate(mask, 3))
    assert torch.equal(dilate(mask, 0), mask)


def greedy(values: Tensor, k: int, w: int) -> list[tuple[int, int]]:
    """The definition, pixel by pixel."""
    order = sorted(range(values.numel()), key=lambda p: -values.flatten()[p].item())
    found = []
    for place in (divmod(p, values.shape[1]) for p in order):
        if len(found) < k and all(max(abs(place[0] - r), abs(place[1] - c)) > w for r, c in found):
            found.append(place)
    return found


@pytest.mark.parametrize("w", [1, 2, 3])
def test_diverse_pixels_are_those_of_the_definition(w):
    maps = (random_maps(2, 14, seed=w) * 50).round()  # with ties
    mask, picked = diverse_top_k(maps, 12, w)
    for each, values, count in zip(mask, maps, picked.tolist(), strict=True):
        expected = greedy(values, 12, w)
        assert sorted(expected) == [tuple(place) for place in each.nonzero().tolist()] and count == len(expected)


def test_the_released_selection_drops_the_second_pixel_the_first_index_and_wraps():
    row = torch.tensor([[[0.5, 9, 8, 7, 6, 5, 4, 3, 2]]])
    assert diverse_top_k(row, 3, 1)[0].flatten().nonzero().flatten().tolist() == [1, 3, 5]
    assert diverse_top_k(row, 3, 1, released=True)[0].flatten().nonzero().flatten().tolist() == [1, 5, 7]
    corner = marked((3, 6), (0, 0), (2, 2))
    assert diverse_top_k(corner, 1, 1)[0][0, 0, 0] and diverse_top_k(corner, 1, 1, released=True)[0][0, 2, 2]
    wrapped = marked((3, 6), (0, 5), (2, 2), (1, 0), (0, 3))  # (1, 0) follows (0, 5) in memory
    assert diverse_top_k(wrapped, 3, 1)[0][0, 1, 0] and not diverse_top_k(wrapped, 2, 1, released=True)[0][0, 1, 0]
    assert diverse_top_k(row, 3, 1, released=True, candidates=4)[1].tolist() == [1]


@pytest.mark.parametrize(("size", "k", "w", "low", "high"), [(28, 100, 2, 60, 75), (28, 100, 3, 33, 45)])
def test_small_images_have_too_few_distant_pixels(size, k, w, low, high):
    _, picked = diverse_top_k(random_maps(20, size), k, w)
    assert low < picked.double().mean() < high
    found = locality(random_maps(2, size), random_maps(2, size, seed=1), k=k, radii=(w,))
    assert found[f"lens_recall_div_{w}"].isnan().all() and found[f"lens_recall_{w}"].isfinite().all()


def test_flowers_are_infeasible_at_three_and_photographs_are_not():
    assert (diverse_top_k(random_maps(2, 128), 1000, 3)[1] < 800).all()
    assert (diverse_top_k(random_maps(2, 128), 1000, 2)[1] == 1000).all()
    assert (diverse_top_k(random_maps(2, 227), 1000, 3)[1] == 1000).all()


# Spec of independent maps: |A ∩ B| / k, then recall for w = 1, 2, 3, then recall of diverse sets where they exist.
UNRELATED = {
    (28, 100): (0.128, (0.707, 0.967, 0.999), {1: 0.83}),
    (32, 100): (0.098, (0.603, 0.923, 0.993), {1: 0.69}),
    (128, 1000): (0.061, (0.433, 0.793, 0.954), {1: 0.48, 2: 0.95}),
    (227, 1000): (0.019, (0.162, 0.387, 0.617), {1: 0.16, 2: 0.42, 3: 0.73}),
}


@pytest.mark.parametrize(("size", "k"), UNRELATED)
def test_chance_levels_of_independent_maps(size, k):
    top, recall, diverse = UNRELATED[size, k]
    count = 12 if size < 100 else 3
    found = chance(random_maps(count, size), random_maps(count, size, seed=1), k=k)
    assert found["top_k"].mean().item() == pytest.approx(top, abs=0.02)
    for w, level in enumerate(recall, start=1):
        assert found[f"lens_recall_{w}"].mean().item() == pytest.approx(level, abs=0.03)  # the border costs a little
        assert found[f"lens_precision_{w}"].mean().item() == pytest.approx(level, abs=0.03)
    for w, level in diverse.items():
        assert found[f"lens_recall_div_{w}"].mean().item() == pytest.approx(level, abs=0.03)
    assert found["spearman"].abs().max() < 0.1


def test_chance_is_the_mean_over_the_other_images_and_adjusted_runs_from_it_to_one():
    a, b = random_maps(3, 12), random_maps(3, 12, seed=1)
    found = chance(a, b, k=10, radii=(1,))
    pairs = [locality(a[:1], b[j : j + 1], k=10, radii=(1,)) for j in (1, 2)]
    for name in (*SETS, "top_k_div_1", "spearman", "lens_spearman_1", "centre_shift"):
        assert found[name][0].item() == pytest.approx(sum(pair[name].item() for pair in pairs) / 2, abs=1e-12)
    both = with_chance(a, b, k=10, radii=(1,))
    assert torch.equal(both["top_k_chance"], found["top_k"])
    assert torch.equal(both["top_k_adjusted"], (both["top_k"] - found["top_k"]) / (1 - found["top_k"]))
    assert "left_out_chance" not in both and "centre_shift_adjusted" not in both
    assert adjusted(torch.tensor([1.0, 0.4, 1.0]), torch.tensor([0.4, 0.4, 1.0])).nan_to_num(-9).tolist() == [1, 0, -9]


def test_identical_maps_score_one_and_a_shift_costs_the_top_k_alone():
    maps = random_maps(2, 40)
    same = locality(maps, maps, k=50, kendall=True)
    for name, value in same.items():
        if name.startswith(("top", "lens", "spearman", "kendall")):
            assert value == pytest.approx(1, abs=1e-12), name
    assert same["centre_shift"].tolist() == [0, 0]
    inner = torch.zeros(1, 40, 40)
    inner[:, 8:32, 8:32] = maps[:1, 8:32, 8:32]
    moved = locality(inner, inner.roll(2, 2), k=50)
    assert moved["lens_recall_2"].item() == moved["lens_precision_2"].item() == 1.0 > moved["top_k"].item()
    assert moved["centre_shift"].item() == pytest.approx(2, abs=1e-6)


def test_precision_is_recall_the_other_way_and_scores_grow_with_the_window():
    a, b = random_maps(4, 30), random_maps(4, 30, seed=1)
    one, other = locality(a, b, k=30, radii=(0, 1, 2, 3)), locality(b, a, k=30, radii=(0, 1, 2, 3))
    for w in range(4):
        for kind in ("", "div_"):
            assert torch.equal(one[f"lens_precision_{kind}{w}"], other[f"lens_recall_{kind}{w}"])
        assert (one[f"lens_recall_{w}"] >= one["top_k"]).all()
    for name in ("lens_recall_0", "lens_precision_0", "top_k_div_0"):
        assert torch.equal(one[name], one["top_k"])
    assert (one["lens_recall_3"] >= one["lens_recall_2"]).all() and (one["lens_recall_2"] >= one["lens_recall_1"]).all()


def test_rank_correlations_agree_with_scipy_also_of_local_means():
    a = (random_maps(2, 16) * 9).round()  # many ties
    b = (a + 3 * random_maps(2, 16, seed=1)).round()
    found = locality(a, b, k=5, radii=(1,), kendall=True)
    inside = torch.from_numpy(uniform_filter(torch.ones(16, 16).double().numpy(), 3, mode="constant"))
    for i in range(2):
        plain = [maps[i].double() for maps in (a, b)]
        means = [torch.from_numpy(uniform_filter(each.numpy(), 3, mode="constant")) / inside for each in plain]
        means = [each.mul(1e9).round() for each in means]  # undoes the rounding of sums in another order
        for prefix, suffix, (p, q) in (("", "", plain), ("lens_", "_1", means)):
            p, q = p.flatten(), q.flatten()
            assert found[f"{prefix}spearman{suffix}"][i].item() == pytest.approx(spearmanr(p, q).statistic, abs=1e-12)
            assert found[f"{prefix}kendall{suffix}"][i].item() == pytest.approx(kendalltau(p, q).statistic, abs=1e-12)


def test_the_score_of_an_image_does_not_depend_on_its_batch():
    a, b = random_maps(3, 20), random_maps(3, 20, seed=1)
    together, alone = locality(a, b, k=20), locality(a[1:2], b[1:2], k=20)
    assert all(torch.equal(value[1:2].nan_to_num(-9), alone[name].nan_to_num(-9)) for name, value in together.items())


def test_constant_maps_are_excluded_from_scores_and_from_the_chance_level_of_others():
    a, b = random_maps(3, 10), random_maps(3, 10, seed=1)
    b[1] = 0.25
    for found in (locality(a, b, k=10, radii=(1,)), chance(a, b, k=10, radii=(1,))):
        assert found["top_k"][[0, 2]].isfinite().all()
    found = locality(a, b, k=10, radii=(1,))
    assert all(found[name][1].isnan() for name in ("top_k", "lens_recall_1", "spearman", "centre_shift"))
    assert found["left_out_perturbed"][1] == 90


def test_pixel_maps_by_three_reductions():
    maps = torch.tensor([[[[1.0]], [[-3.0]]]])
    assert [pixel_map(maps, name).item() for name in ("abs_sum", "signed_sum", "max_abs")] == [4, -2, 3]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m: top_k(m, 101), "k is 101; give a number of pixels from 1 to 100"),
        (lambda m: locality(m, m, k=0), "k is 0"),
        (lambda m: top_k(m / 0 * 0, 3), "map 0 is NaN or infinite at 100 of 100 pixels"),
        (lambda m: locality(m, m[:, :5], k=3), "give two equal shapes"),
        (lambda m: chance(m[:1], m[:1], k=3), "at least two images"),
        (lambda m: top_k(m[:, None], 3), "pixel_map"),
        (lambda m: top_k(m, 2.5), "k is 2.5; give a number of pixels"),
        (lambda m: dilate(m, 1), "give .* of truth values"),
        (lambda m: dilate(m > 0, 0.5), "radius is 0.5; give a whole number"),
        (lambda m: locality(m, m, k=3, radii=2), r"radii is 2; give a list .*\[1, 2, 3\]"),
        (lambda m: locality(m, m, k=3, radii=[-1]), "radius is -1"),
        (lambda m: diverse_top_k(m, 3, 1, candidates=0), "candidates is 0"),
        (lambda m: pixel_map(m[:, None], "abs"), "there is no reduction 'abs'"),
    ],
)
def test_unusable_input_is_one_sentence(call, match):
    with pytest.raises(InputError, match=match):
        call(random_maps(2, 10))
