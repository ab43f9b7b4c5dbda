"""What the re-calibration study computes for a few images: tidy, complete, and the same however images are grouped."""

from functools import partial

import pytest
import torch
from torch import nn

from lib import InputError
from lib.experiments import discrepancies, subjects
from lib.experiments import recalibration as study
from lib.experiments.subjects import Subject
from lib.models.zoo import Network

KEYS = ["image", "path", "rule", "steps", "mode", "metric"]
SIX = {"straight", "uniform", "noise", "noise_squared", "dataset", "adversarial"}
CHOICE = {"points": 2, "references": 3}


@pytest.fixture(scope="module")
def whole():
    """Six images of 12 x 12 under a small random network of five classes, and a pool that holds them."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 5)]
    model = nn.Sequential(*layers).eval().requires_grad_(False)
    network = Network("small", model, 12, 12, "bilinear", (0.5,) * 3, (0.25,) * 3, "none")
    pool = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    x = pool[:6]
    with torch.no_grad():
        target = model(x).argmax(1)
    target[3] = (target[3] + 1) % 5  # one is misclassified
    return Subject(network, x, target, [f"image {i}" for i in range(6)], pool, list(range(6)))


def some(of, rows):
    return Subject(of.network, of.x[rows], of.target[rows], [of.images[r] for r in rows], of.pool, rows)


@pytest.fixture(scope="module")
def rows(whole):
    return study.perturbation(lambda: whole, modes=list(study.MODES), **CHOICE)


def test_rows_are_tidy_and_complete(rows):
    assert not rows.duplicated(KEYS).any()
    assert (rows.groupby(["mode", "path", "rule", "metric"]).size() == 6).all()
    assert set(rows["metric"]) == {*study.GAMES, "least_score"}
    corrected = rows[rows["mode"] == "corrected"]
    assert set(corrected["path"]) == SIX | {"guided", "blur", "none"}
    assert set(corrected[corrected["path"] == "none"]["rule"]) == {
        *("gradient", "input_x_gradient", "smoothgrad", "smoothgrad_squared", "gradcam", "fullgrad", "random")
    }
    uniform = set(corrected[corrected["path"] == "uniform"]["rule"])
    controls = {"relu", "point_abs", "random_mask", "masked", "weighted", "weighted_abs"}
    assert uniform == controls | {"riemann", "riemann_abs", study.BY_POINT, study.BY_REFERENCE}
    assert set(rows[rows["mode"] == "released"]["path"]) == SIX
    assert set(rows[rows["mode"] == "paper_era"]["path"]) == {"straight", "uniform", "noise", "dataset"}


def test_misclassified_images_are_excluded_from_corrected_scores_only(rows):
    games = rows[rows["metric"] == "diffid_logit"]
    undefined = games[games["value"].isna()]
    assert set(undefined["image"]) == {"image 3"}
    assert set(undefined["mode"]) == {"corrected"}
    assert len(undefined) == (games["mode"] == "corrected").sum() / 6


def test_recalibrated_maps_have_no_negative_score(rows):
    least = rows[(rows["metric"] == "least_score") & rows["rule"].isin([study.BY_POINT, study.BY_REFERENCE])]
    assert least["value"].min() >= 0
    assert rows[(rows["metric"] == "least_score") & (rows["rule"] == "riemann")]["value"].min() < 0


def test_corrected_scores_do_not_depend_on_the_grouping(whole, rows):
    alone = study.perturbation(lambda: some(whole, [2]), modes=["corrected"], **CHOICE).set_index(KEYS)["value"]
    together = rows.set_index(KEYS)["value"].loc[alone.index]
    assert (alone - together).abs().max() < 1e-4


def test_only_the_paths_that_are_asked_for(whole):
    maps = study.integral_maps(whole, "corrected", paths=["noise", "blur"], **CHOICE)
    assert {key[0] for key in maps} == {"noise", "blur"}
    assert {key[2] for key in maps} == {6}


def test_only_the_rules_that_are_asked_for_and_the_same_maps(whole):
    every = study.integral_maps(whole, "corrected", **CHOICE)
    wanted = ["relu", "weighted_abs", study.BY_REFERENCE]
    maps = study.integral_maps(whole, "corrected", rules=wanted, **CHOICE)
    assert set(maps) == {key for key in every if key[1] in wanted}
    for key, each in maps.items():
        torch.testing.assert_close(each, every[key], msg=str(key))


def test_images_without_a_score_are_not_shown_to_the_network(whole):
    right, key = whole.answers()[1], ("none", "random", 0)
    shown = []
    hook = whole.model.register_forward_hook(lambda *args: shown.append(len(args[1][0])))
    for mode, images in (("corrected", 5), ("released", 6)):
        shown.clear()
        study.removal_rows(whole, {(*key, mode): torch.rand(6, 12, 12)}, remove="elements", right=right)
        assert sum(shown) == images * (18 + 1)
    hook.remove()


def test_guided_and_blur_spend_as_much_as_the_others(whole):
    extra = discrepancies.extra_evaluations(whole, modes=["corrected", "released"], **CHOICE)
    assert (extra["value"] == 0).all()
    assert set(extra["path"]) == SIX | {"guided", "blur"}


def test_the_released_default_and_its_shortcut(whole):
    table = discrepancies.pairing(whole, points=5, references=10)
    spent = table[table["metric"] == "evaluations"].groupby("rule")["value"].unique().map(list)
    assert spent.to_dict() == {
        "every sample": [50],
        "distinct points": [9],
        "distinct points, not the image itself": [8],
    }
    assert table[table["metric"] == "shortcut_difference"]["value"].max() < 1e-6


def test_company_matters_to_the_released_copies_only(whole):
    moved = discrepancies.company(whole, points=2, references=3).groupby("mode")["value"].max()
    assert moved["corrected"] < 1e-4
    assert moved["released"] > 0.01


def test_released_ig_grows_with_its_points_and_ours_does_not(whole):
    table = discrepancies.completeness(some(whole, [0, 1]), steps=[10, 40])
    ratio = table[table["metric"] == "sum_over_change"].groupby(["mode", "steps"])["value"].mean()
    assert ratio["corrected", 40] == pytest.approx(1, abs=0.02)
    assert ratio["released", 40] / ratio["released", 10] == pytest.approx(4, rel=0.2)


def test_references_are_other_images_of_the_pool(whole):
    drawn = whole.drawn(7)
    assert all(row not in index for row, index in enumerate(drawn.index.tolist()))
    assert torch.equal(drawn(0, whole.x), whole.pool[drawn.index[:, 0]])
    with pytest.raises(InputError, match="7 other images"):
        whole.drawn(8)


def test_agi_takes_no_more_targets_than_there_are(whole):
    targets = study._targets(whole, 10, 0)
    assert targets.shape == (6, 4)
    assert study._targets(whole, 10, 0, released=True).shape == (6, 3)


def test_units_cover_every_image_once(tmp_path):
    asked = {"images": "packaged", "limit": 5, "digits_limit": 20, "pool": 3, "cache": tmp_path}
    photographs = subjects.subject_units("efficientnet_lite0", group=2, **asked)
    assert [len(load.args[1]) for load in photographs.values()] == [2, 2, 1]
    digits = subjects.subject_units("mnist_cnn", group=2, **asked)
    assert [load.args[1:3] for load in digits.values()] == [(0, 16), (16, 20)]
    with pytest.raises(InputError, match="at least 1"):
        subjects.subject_units("mnist_cnn", group=0, **asked)


def test_photographs_know_their_place_in_the_pool(tmp_path):
    load = partial(subjects.subject_units, "efficientnet_lite0", images="packaged", limit=2, digits_limit=0, group=2)
    (part,) = load(pool=20, cache=tmp_path).values()
    of = part()
    for image, place in zip(of.x, of.own, strict=True):
        assert torch.equal(of.pool[place], image)
