"""What is computed for one unit: tidy, complete, and the same however photographs are grouped."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lib import InputError
from lib.attribution import IDGI, Riemann, Straight
from lib.attribution.gradients import random_maps
from lib.data.imagenet import photographs
from lib.experiments import axioms, idgi, subjects
from lib.models.zoo import Network, best_device
from lib.store.units import evaluate

KEYS = ["image", "path", "rule", "steps", "mode", "metric"]
RULES = {"riemann": Riemann("trapezoid"), "idgi": IDGI()}


@pytest.fixture(scope="module")
def network():
    """A small random network of 1000 classes at 176 pixels, the least that MS-SSIM takes."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 5, stride=4), nn.Softplus(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 1000)
    model = nn.Sequential(*layers).eval().requires_grad_(False).to(best_device())
    return Network("small", model, 176, 200, "bilinear", (0.5,) * 3, (0.25, 0.5, 0.75), "none")


@pytest.fixture
def small(network, monkeypatch):
    monkeypatch.setattr(idgi, "network_named", lambda name, weights: network)
    return network


def test_predictions_are_the_same_from_one_unit_and_from_several(small, tmp_path, monkeypatch):
    """To the bit and in the same order, and so are the units of maps that are chosen by them."""
    monkeypatch.setattr(idgi, "BATCH", 4)
    photos = photographs(limit=11)

    def prediction(size):
        asked = idgi.prediction_units(photos, ["small", "other"], size)
        assert len(asked) == 2 * -(-len(photos) // size)
        compute = partial(idgi.predicted, weights="")
        return evaluate(asked, compute, cache=tmp_path / str(size), label="predictions")

    whole = prediction(16)
    assert list(whole["image"]) == 2 * [photo.id for photo in photos]
    assert list(whole["model"]) == 11 * ["small"] + 11 * ["other"]
    for size in (4, 8):
        pd.testing.assert_frame_equal(prediction(size), whole, check_exact=True)
    # By hand: a batch of 4 photographs at a time, of which the third has three.
    x, target = zip(*(subjects.batch(small, photos[start : start + 4]) for start in (0, 4, 8)), strict=True)
    answers = [small.model(each).softmax(1) for each in x]
    assert whole["predicted"][:11].tolist() == [label for each in answers for label in each.argmax(1).tolist()]
    own = [p[range(len(labels)), labels].tolist() for p, labels in zip(answers, target, strict=True)]
    assert whole["probability"][:11].tolist() == [p for each in own for p in each]
    chosen = whole.assign(used=["insertion", idgi.ALL_METRICS, "no", "insertion"] * 5 + ["no", "insertion"])
    for name in ("small", "other"):
        groups = idgi.idgi_units(photos, chosen, name, 3)
        kept = chosen[(chosen["model"] == name) & (chosen["used"] != "no")]
        assert [photo.id for _, group, _ in groups.values() for photo in group] == list(kept["image"])
        confident = [each for *_, flags in groups.values() for each in flags]
        assert confident == list(kept["used"] == idgi.ALL_METRICS)


SETTINGS = {"steps": 4, "sweep": [2], "modes": ["corrected", "released"], "webp": []}


@pytest.fixture
def rows(small):
    return idgi.idgi_benchmark("small", photographs(limit=3), [True, False, True], **SETTINGS)


def test_benchmark_is_tidy_and_has_every_score(rows):
    assert not rows.duplicated(KEYS).any()
    counted = rows.groupby(["mode", "path", "rule", "steps", "metric"]).size()
    assert (counted == 3).all()
    final = set(rows[(rows["metric"] == "sic_png") & (rows["mode"] == "corrected")]["rule"])
    assert final == {"riemann", "riemann_abs", "idgi", "squared_gradient", "random"}
    steps = rows[(rows["metric"] == "insertion") & (rows["rule"] == "idgi")].groupby(["mode", "path"])["steps"].agg(set)
    assert steps["corrected", "straight"] == steps["released", "blur"] == {2, 4} and steps["corrected", "guided"] == {4}


def test_photographs_that_are_not_confident_have_no_information_curves(rows):
    information = rows[rows["metric"].str.startswith(("aic", "sic"))]
    middle = photographs(limit=3)[1].id
    assert information[information["image"] == middle]["value"].isna().all()
    assert rows[rows["metric"] == "insertion"]["value"].notna().all()


def test_corrected_idgi_is_complete_and_released_is_not(rows):
    error = rows[(rows["metric"] == "completeness") & (rows["rule"] == "idgi")]
    worst = error.groupby(["mode", "path", "steps"])["value"].max()
    scale = rows[rows["metric"] == "insertion"]["value"].mean()
    assert (worst["corrected"] < 1e-5 * scale).all()
    assert worst["released", "straight", 4] < 1e-5 * scale  # the full grid reaches the image, its sub-grid does not
    assert worst["released", "straight", 2] > 100 * worst["corrected", "straight", 2]
    assert worst["released", "guided", 4] > 100 * worst["corrected", "guided", 4]


def test_scores_do_not_depend_on_the_grouping(rows, small):
    alone = [
        idgi.idgi_benchmark("small", [photo], [confident], **SETTINGS)
        for photo, confident in zip(photographs(limit=3), (True, False, True), strict=True)
    ]
    together, apart = (frame.set_index(KEYS)["value"].sort_index() for frame in (rows, pd.concat(alone)))
    games = together.index.get_level_values("metric").str.startswith("insertion")
    # a rounding in a map may swap two pixels of equal score, and half precision makes many equal
    corrected = games & (together.index.get_level_values("mode") == "corrected")
    np.testing.assert_allclose(together[corrected], apart[corrected], rtol=1e-4)


def test_stability_compares_a_map_with_its_jpegs(small):
    settings = {"steps": 4, "modes": ["corrected", "released"]}
    rows = idgi.stability("small", photographs(limit=2), [True, True], quality=30, **settings)
    assert not rows.duplicated(KEYS).any() and set(rows["metric"]) == {"mse_signed", "mse_l1", "spearman", "topk"}
    # of this network's probabilities of .001, half precision leaves the released maps little
    agreement = rows[rows["metric"].isin(["spearman", "topk"]) & (rows["mode"] == "corrected")]["value"]
    assert ((agreement > 0) & (agreement <= 1)).all() and agreement.min() < 0.999
    better = idgi.stability("small", photographs(limit=2), [True, True], quality=95, **settings)
    error = [each[(each["metric"] == "mse_l1") & (each["mode"] == "corrected")]["value"] for each in (better, rows)]
    assert error[0].mean() < error[1].mean()


def test_units_leave_out_the_misclassified_and_refuse_nothing_left():
    photos = photographs(limit=4)
    used = [idgi.ALL_METRICS, "no", "insertion", "insertion"]
    seen = pd.DataFrame({"image": [photo.id for photo in photos], "model": "net", "used": used})
    units = list(idgi.idgi_units(photos, seen, "net", 2).values())
    assert units == [("net", [photos[0], photos[2]], [True, False]), ("net", [photos[3]], [False])]
    with pytest.raises(InputError, match="none of the 4 photographs"):
        idgi.idgi_units(photos, seen.assign(used="no"), "net", 2)


def test_random_maps_depend_on_seed_and_image_alone():
    both = random_maps(["a", "b"], (4, 5), seed=1)
    assert torch.equal(both[1], random_maps(["b"], (4, 5), seed=1)[0])
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(both, random_maps(["a", "b"], (4, 5), seed=2))


def test_explain_by_hand():
    table = axioms.explain(lambda a, b: 2 * a + b, (3.0, 1.0), path=Straight(3), rules=RULES)
    assert table.loc["riemann"].tolist() == pytest.approx([6, 1, 7, 7, 0])
    assert table.loc["idgi"].tolist() == pytest.approx([5.6, 1.4, 7, 7, 0])


def test_steps_of_a_straight_line_through_a_nearly_linear_function():
    # two classes whose probability is a sigmoid of a + 2 b near 0: the step (1, 1) has cosine 3 / sqrt(10) with (1, 2)
    def model(x):
        u = x[:, 0, 0, 0] + 2 * x[:, 0, 0, 1]
        return torch.stack([torch.zeros_like(u), u], 1)

    x = torch.full((1, 1, 1, 2), 1e-3, dtype=torch.float64)
    table = axioms.steps_of(model, Straight(4), x, torch.tensor([1]))
    assert len(table) == 4
    np.testing.assert_allclose(table["kept"], 3 / 10**0.5, rtol=1e-9)
    assert table["missed"].max() < 1e-3


def test_distance_is_relative_and_per_image():
    a = torch.tensor([[1.0, 1.0], [4.0, 0.0]]).view(2, 1, 1, 2)
    b = torch.tensor([[1.0, 3.0], [2.0, 2.0]]).view(2, 1, 1, 2)
    assert axioms.distance(a, b) == pytest.approx((2 / 4 + 4 / 4) / 2)
