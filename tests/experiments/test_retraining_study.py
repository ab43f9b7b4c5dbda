"""The retraining study: which maps, which trainings, what a retrained network sees, and the tables made of it."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lib import InputError
from lib.attribution import Riemann, attribute
from lib.data.digits import digits
from lib.experiments import lpi, retraining, retraining_tables
from lib.experiments.recalibration import integral_maps
from lib.experiments.retraining import MAPS, MASK
from lib.metrics.ranking import pixel_order
from lib.training.fit import Diverged, digit_cnn, prepared
from lib.training.retraining import ENDS, SHARES, STARTS

TRAIN, TEST = 6, 4


@pytest.fixture(scope="module")
def network():
    return prepared("mnist_cnn", digit_cnn(seed=0), (1, 28, 28))


@pytest.fixture
def natural(network, monkeypatch):
    monkeypatch.setattr(retraining, "trained_network", lambda kind, data, **options: network)


@pytest.fixture
def units(natural, tmp_path):
    chosen = {"group": 4, "cache": tmp_path}
    sizes = {"train": TRAIN, "test": TEST}
    return {part: retraining.map_units("mnist_5k", part, limit=size, **chosen) for part, size in sizes.items()}


@pytest.fixture
def ranked(tmp_path):
    return partial(retraining.ranked, points=1, references=2, clusters=2, cache=tmp_path)


@pytest.fixture
def files(units, ranked, tmp_path):
    """The files of the walk "none"."""
    found = {}
    for part, each in units.items():
        found[part] = []
        for name, load in each.items():
            found[part].append(tmp_path / f"{name}.parquet")
            ranked(load, "none").to_parquet(found[part][-1], index=False)
    return {"none": (found["train"], found["test"])}


# -- maps --------------------------------------------------------------------------------------------------------------


def test_every_method_of_the_study_has_its_maps():
    keys = [key for group in MAPS.values() for key in group]
    assert len(keys) == len(set(keys)) == 6 * 3 + 1 + 5
    for path in retraining.INTEGRAL:
        assert {rule for walked, rule in keys if walked == path} == set(retraining.RULES)


def test_units_hold_all_images_once_and_know_which_are_references_too(units):
    subjects = [load() for load in units["train"].values()]
    assert [len(of.images) for of in subjects] == [4, 2]
    assert [image for of in subjects for image in of.images] == digits("train").ids[:TRAIN]
    assert [place for of in subjects for place in of.own] == list(range(TRAIN))
    (test,) = (load() for load in units["test"].values())
    assert test.own == [-1] * TEST and torch.equal(test.x.cpu(), digits("test").x[:TEST])
    assert len(test.pool) == len(digits("train").ids)


def test_places_are_those_of_the_studies_own_maps(units, ranked, tmp_path):
    load = next(iter(units["test"].values()))
    of, asked = load(), {"points": 1, "references": 2}
    maps = integral_maps(of, "corrected", rules=retraining.RULES, paths=["noise", "noise_squared"], **asked)
    rows = ranked(load, "noise")
    assert [*rows] == ["image", "label", *(f"{path} {rule}" for path, rule in MAPS["noise"])]
    for (path, rule, *_), each in maps.items():
        places = torch.from_numpy(np.stack(rows[f"{path} {rule}"]))
        assert torch.equal(places.int(), pixel_order(each).flatten(1).cpu())
    near = lpi.sets(of, clusters=2, cache=tmp_path)["local", "density"]
    way = lpi.walk_of(of, "local", 1, references=near)
    asked = {"rules": {"a": Riemann("mean")}, "objective": "logit"}
    expected = pixel_order(attribute(of.model, of.x, of.target, path=way, **asked)["a"].abs().sum(1)).flatten(1).cpu()
    assert torch.equal(torch.from_numpy(np.stack(ranked(load, "local")["local density"])).int(), expected)


def test_controls(units, ranked):
    load = next(iter(units["test"].values()))
    of, rows = load(), ranked(load, "none")
    x = of.x.clone().requires_grad_()
    of.model(x).gather(1, of.target[:, None]).sum().backward()
    for rule, expected in (("gradient", x.grad.abs()), ("gradient_signed", x.grad), ("gradient_relu", x.grad.relu())):
        places = torch.from_numpy(np.stack(rows[f"none {rule}"])).int()
        assert (places == pixel_order(expected[:, 0]).flatten(1).cpu()).float().mean() > 0.99  # but for rounding
    random = np.stack(rows["none random"])
    assert (np.sort(random) == np.arange(784)).all() and (random[0] != random[1]).any()


def test_edges_by_hand():
    step = torch.zeros(1, 1, 4, 6)
    step[..., 3:] = 1
    expected = torch.tensor([0, 0, 0.5, 0.5, 0, 0]).expand(1, 4, 6)
    torch.testing.assert_close(retraining.edges(step), expected)
    torch.testing.assert_close(retraining.edges(step.mT), expected.mT)
    torch.testing.assert_close(retraining.edges(torch.cat([step, step + 1], 1)), expected)  # the mean over channels
    assert retraining.edges(torch.ones(2, 3, 5, 5)).abs().max() == 0


# -- trainings ---------------------------------------------------------------------------------------------------------


def test_one_training_for_each_map_share_end_way_and_seed():
    files = {walk: ([f"{walk} train"], [f"{walk} test"]) for walk in ("local", "none")}
    units = retraining.retraining_units(files, seeds=[0, 1], trainings=[*STARTS, MASK])
    assert len(units) == len(set(units.values())) == 2 * (2 * (6 * 5 * 2 + 1) + 6 * 5)
    for path, rule, share, end, training, seed, train, test in units.values():
        assert train == (f"{path} train",) and test == (f"{path} test",)
        assert training != MASK or (end == "highest" and share > 0)
        assert share > 0 or (path, rule, end) == ("none", "random", "highest")
        assert seed in (0, 1)


@pytest.fixture
def seen(monkeypatch):
    """(inputs, labels, options) of each training, which is none: the network says 3 and notes what it is shown."""
    found = []

    class Model(nn.Linear):
        def forward(self, x):
            found.append(x)
            return torch.eye(10)[[3] * len(x)]

    def trained(x, y, **options):
        found.append((x, y, options))
        return Model(1, 1)

    monkeypatch.setattr(retraining, "retrained_network", trained)
    return found


def test_training_and_test_digits_lose_the_same_share(files, seen, tmp_path):
    retrained = partial(retraining.retrained, data="mnist_5k", epochs=3, cache=tmp_path)
    both = tuple(map(tuple, files["none"]))
    table = retrained("none", "random", 0.5, "highest", "fine-tuned", 1, *both)
    (x, y, options), shown = seen
    assert torch.equal(y, digits("train").y[:TRAIN])
    assert options["start"] == "fine-tuned" and (options["seed"], options["epochs"]) == (1, 3)
    fill = digits("train").x[:TRAIN].mean()
    for found, whole in ((x, digits("train").x[:TRAIN]), (shown, digits("test").x[:TEST])):
        assert ((found == fill).flatten(1).sum(1) == 392).all()
        assert torch.equal(found[found != fill], whole[found != fill])
    retrained("none", "random", 0.5, "lowest", "from scratch", 1, *both)
    assert torch.equal(seen[2][0] == fill, x != fill)
    retrained("none", "random", 0.0, "highest", "from scratch", 1, *both)
    assert torch.equal(seen[4][0], digits("train").x[:TRAIN])
    assert table["image"].tolist() == digits("test").ids[:TEST]
    assert table["value"].tolist() == [float(label == 3) for label in table["label"]]


def test_a_network_shown_the_mask_alone_sees_nothing_else(files, seen, tmp_path):
    asked = {"data": "mnist_5k", "epochs": 1, "cache": tmp_path}
    retraining.retrained("none", "random", 0.1, "highest", MASK, 0, *map(tuple, files["none"]), **asked)
    (x, _, options), shown = seen
    assert options["start"] == "from scratch"
    for each in (x, shown):
        assert set(each.unique().tolist()) == {0, 1}
        assert (each.flatten(1).sum(1) == 78).all()


def test_a_training_that_diverges_is_no_answer(files, tmp_path, monkeypatch, capsys):
    def diverging(*_, **__):
        raise Diverged("the loss became nan")

    monkeypatch.setattr(retraining, "retrained_network", diverging)
    asked = {"data": "mnist_5k", "epochs": 1, "cache": tmp_path}
    both = map(tuple, files["none"])
    table = retraining.retrained("none", "random", 0.5, "highest", "from scratch", 0, *both, **asked)
    assert table["value"].isna().all() and len(table) == TEST
    assert "became nan" in capsys.readouterr().err


def test_an_unknown_image_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="mnist_5k"):
        retraining.map_units("mnist5k", "train", limit=1, group=1, cache=tmp_path)


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def answers():
    """Two images, two shares; fine-tuned and from scratch alike but for the untouched network."""
    right = {
        ("x", "highest"): (1, 0),
        ("x", "lowest"): (1, 1),
        ("y", "highest"): (0, 0),
        ("y", "lowest"): (0, 1),
    }
    rows = []
    for training, whole in (("from scratch", (1, 0)), ("fine-tuned", (1, 1))):
        rows += [("none", "random", training, 0.0, "highest", *each) for each in zip("xy", whole, strict=True)]
        for (image, end), values in right.items():
            for share, value in zip((0.5, 0.9), values, strict=True):
                rows.append(("local", "density", training, share, end, image, value))
    for image, values in (("x", (1, 1)), ("y", (1, 0))):
        for share, value in zip((0.5, 0.9), values, strict=True):
            rows.append(("local", "density", MASK, share, "highest", image, value))
    table = pd.DataFrame(rows[::-1], columns=["path", "rule", "training", "share", "end", "image", "value"])
    return table.assign(seed=0, label=table["image"].map({"x": 3, "y": 5}), value=table["value"].astype(float))


def test_areas_of_each_image(answers):
    found = pd.concat(retraining_tables.roar(answers))
    assert not found.duplicated(["image", *retraining_tables.KEYS, "metric"]).any()
    values = found.set_index(["metric", "training", "image"])["value"].to_dict()
    assert values == pytest.approx(
        {
            ("roar", "from scratch", "x"): (0.5 + 0.4 * 0.5) / 0.9,
            ("roar", "from scratch", "y"): 0,
            ("roar", "fine-tuned", "x"): (0.5 + 0.4 * 0.5) / 0.9,
            ("roar", "fine-tuned", "y"): 0.5 * 0.5 / 0.9,
            ("diffroar", "from scratch", "x"): 0.4 * 0.5 / 0.9,
            ("diffroar", "from scratch", "y"): 0.4 * 0.5 / 0.9,
            ("diffroar", "fine-tuned", "x"): 0.4 * 0.5 / 0.9,
            ("diffroar", "fine-tuned", "y"): 0.4 * 0.5 / 0.9,
            ("mask_accuracy", MASK, "x"): 1,
            ("mask_accuracy", MASK, "y"): 0.5,
        }
    )
    assert found.groupby("image")["label"].agg(set).to_dict() == {"x": {3}, "y": {5}}


def test_curves_begin_at_the_untouched_network_and_have_the_areas(answers):
    curves = retraining_tables.curves_of(answers)
    assert not curves.duplicated([*retraining_tables.KEYS, "image", "share", "metric"]).any()
    areas = pd.concat(retraining_tables.roar(answers)).set_index([*retraining_tables.KEYS, "metric", "image"])["value"]
    for key, rows in curves.groupby([*retraining_tables.KEYS, "metric", "image"]):
        rows = rows.sort_values("share")
        if key[4] == "mask_accuracy":
            assert rows["value"].mean() == areas[key]
        else:
            assert rows["share"].tolist() == [0, 0.5, 0.9]
            assert np.trapezoid(rows["value"], rows["share"]) / 0.9 == pytest.approx(areas[key])


def test_distance_to_published_curves_ignores_levels():
    shares = [0.0, *SHARES]
    ours = np.array([0.9, 0.9, 0.9, 0.45, 0.45, 0.0])
    curves = pd.DataFrame({"share": shares, "value": ours}).assign(metric="roar", training="from scratch", image="a")
    curves = curves.assign(path="local", rule="density", seed=0)
    theirs = pd.DataFrame({"fraction": shares, "value": ours / 2}).assign(metric="roar_curve", model="net, CIFAR")
    theirs = theirs.assign(path="local", rule="density")
    assert retraining_tables.apart(curves, theirs)["value"].tolist() == pytest.approx([0])
    theirs.loc[1:, "value"] += 0.045  # a tenth of its start, at each of the five shares
    found = retraining_tables.apart(curves, theirs)
    assert found["value"].tolist() == pytest.approx([0.1])
    assert found[["model", "training", "seed"]].to_numpy().tolist() == [["net, CIFAR", "from scratch", 0]]


def test_both_ends_are_known():
    assert ENDS == ("highest", "lowest")
