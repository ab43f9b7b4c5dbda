"""What the studies keep depends on all that it is computed from: photographs, weights, image sets, pools."""

import pickle
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from lib.data.digits import MEAN, STD, digits
from lib.data.imagenet import photographs
from lib.experiments import idgi, lens, lens_attacks, lpi, subjects, xdnn
from lib.models import twins
from lib.models.zoo import Network
from lib.store.digest import digest
from lib.training import fit, robust


@pytest.fixture
def folder(tmp_path):
    """Eight photographs of two classes."""
    for label, wnid in enumerate(["n01440764", "n01443537"]):
        (tmp_path / "set" / wnid).mkdir(parents=True)
        for number in range(4):
            picture = Image.new("RGB", (8, 8), (label, number, 0))
            picture.save(tmp_path / "set" / wnid / f"{wnid}_{number}.png", compress_level=0)
    return tmp_path / "set"


def repaint(path, colour) -> None:
    size = path.stat().st_size
    Image.new("RGB", (8, 8), colour).save(path, compress_level=0)
    assert path.stat().st_size == size


def keys(units: dict) -> dict[str, str]:
    return {name: digest(unit) for name, unit in units.items()}


def chosen(folder, **changes) -> dict:
    asked = {"images": str(folder), "limit": 0, "digits_limit": 64, "group": 2, "pool": 2, "weights": ""}
    return asked | {"cache": folder.parent / "trained"} | changes


UNITS = {
    "subjects": lambda **asked: subjects.subject_units("efficientnet_lite0", **asked),
    "lens": lambda **asked: lens.lens_units("resnet50_pgd", **asked),
    "xdnn": lambda **asked: xdnn.twin_units("vgg16", **asked)["x"],
    "digits": lambda **asked: subjects.subject_units("mnist_cnn", **asked),
}


@pytest.mark.parametrize("study", ["subjects", "lens", "xdnn"])
def test_units_of_photographs_depend_on_the_photographs_and_their_company(study, folder):
    units = UNITS[study]
    before = keys(units(**chosen(folder)))
    assert len(set(before.values())) == len(before) == 4
    assert keys(units(**chosen(folder, cache=folder))) == before
    few = keys(units(**chosen(folder, limit=4)))
    shared = set(few) & set(before)
    assert shared and not set(few.values()) & set(before.values())  # the same names, and other photographs
    assert not set(keys(units(**chosen(folder, pool=3))).values()) & set(before.values())
    pool = photographs(str(folder), 2)
    path = next(p.path for p in photographs(str(folder)) if p not in pool)
    repaint(path, (9, 9, 9))
    after = keys(units(**chosen(folder)))
    assert sum(after[name] != before[name] for name in before) == 1
    repaint(pool[0].path, (8, 8, 8))  # one that references are drawn from concerns every unit
    assert not set(keys(units(**chosen(folder))).values()) & {*before.values(), *after.values()}


@pytest.mark.parametrize("study", ["subjects", "lens", "xdnn"])
def test_units_depend_on_the_contents_of_the_weights(study, folder, tmp_path):
    weights, seen = tmp_path / "weights", set()
    weights.mkdir()
    for content in (b"one", b"two"):
        (weights / "net.pth").write_bytes(content)
        for given in (weights, weights / "net.pth"):
            seen |= {digest(each) for each in UNITS[study](**chosen(folder, weights=str(given))).values()}
    assert len(seen) == 16


def test_units_of_digits_depend_on_their_range_network_and_code_alone(folder):
    before = keys(UNITS["digits"](**chosen(folder)))
    assert keys(UNITS["digits"](**chosen(folder, cache=folder, weights="x"))) == before
    few = keys(UNITS["digits"](**chosen(folder, digits_limit=40)))
    assert len({*before.values(), *few.values()}) == 5  # two of the three are among the four
    twin = keys(subjects.subject_units("mnist_xcnn", **chosen(folder)))
    assert not set(twin.values()) & set(before.values())


def test_units_of_idgi_depend_on_labels_and_confidence(folder):
    photos = photographs(str(folder))

    def units(confident: str, photos=photos) -> set[str]:
        seen = pd.DataFrame({"image": [p.id for p in photos], "model": "net", "used": [confident] * len(photos)})
        return set(keys(idgi.idgi_units(photos, seen, "net", 2)).values())

    relabelled = [replace(photo, label=photo.label + 1) for photo in photos]
    assert len(units(idgi.ALL_METRICS) | units("insertion") | units("insertion", relabelled)) == 12


def test_units_of_an_image_set_depend_on_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(lens_attacks, "image_set", lambda data, part, **_: digits("test").take(slice(4)))
    (tmp_path / "sets").mkdir()
    seen = set()
    for content in (b"one", b"two"):
        (tmp_path / "sets" / "train.bin").write_bytes(content)
        chosen = {"root": str(tmp_path / "sets"), "limit": 0, "group": 2, "cache": tmp_path}
        seen |= {digest(each) for each in lens_attacks.set_units("gtsrb", "pgd", **chosen).values()}
    assert len(seen) == 4


# -- what a process remembers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [subjects.network_named, twins.network])
def test_a_network_is_loaded_again_when_its_weights_were_replaced(named, tmp_path, monkeypatch):
    loaded = []

    def load(name, *, weights):
        loaded.append((tmp_path / "net.pth").read_bytes())
        return len(loaded)

    for module in (subjects, twins):
        monkeypatch.setattr(module, "load_network", load)
    for content in (b"one", b"one", b"two", b"two"):
        (tmp_path / "net.pth").write_bytes(content)
        named("efficientnet_lite0", str(tmp_path))
    assert loaded == [b"one", b"two"]


def test_a_pool_is_read_again_when_a_photograph_of_it_was_replaced(folder, tmp_path):
    network = Network("made up", nn.Identity(), 8, 8, "bilinear", (0.0,) * 3, (1.0,) * 3, "made-up")
    load = partial(lambda network: network, network)
    photos = photographs(str(folder))
    pools = []
    for colour in ((1, 1, 1), (2, 2, 2)):
        repaint(photos[0].path, colour)
        shared = subjects._listed(photos[:2], tmp_path)
        pools.append(subjects._photographed(load, photos[2:4], shared, tmp_path).pool)
    torch.testing.assert_close((pools[1][0] - pools[0][0]).cpu(), torch.full((3, 8, 8), 1 / 255))


def test_what_a_unit_carries_does_not_grow_with_its_pool(folder):
    """Neither what travels to a worker nor the files that its key is made of."""
    few, many = (next(iter(UNITS["subjects"](**chosen(folder, pool=pool)).values())) for pool in (1, 8))
    assert len(pickle.dumps(few)) == len(pickle.dumps(many)) < 2000
    assert digest(few) != digest(many)
    before = digest(many)
    for photo in photographs(str(folder))[2:]:  # those that it does not explain
        repaint(photo.path, (7, 7, 7))
    assert digest(many) == before != digest(next(iter(UNITS["subjects"](**chosen(folder, pool=8)).values())))


# -- what is trained or clustered on the spot --------------------------------------------------------------------------


@pytest.fixture
def trainings(monkeypatch):
    """Names of what was trained, in order; nothing is."""
    made = []

    def quick(model, x, y, *, label, **_):
        made.append(label)
        return model.eval()

    for module in (fit, robust):
        monkeypatch.setattr(module, "fit", quick)
    return made


def test_trained_networks_depend_on_settings_code_versions_device_and_data(tmp_path, trainings, monkeypatch):
    from lib.store import provenance

    monkeypatch.setattr(robust, "image_set", lambda data, part, root: digits(part).take(slice(4)))
    (tmp_path / "sets").mkdir()

    def train(changed: bool = True, **asked) -> None:
        """Once, and a second time from what is kept."""
        before = len(trainings)
        for _ in range(2):
            robust.trained_network(**{"kind": "natural", "cache": tmp_path / "trained"} | asked)
        assert (len(trainings) > before) is changed
        assert len(trainings) - before <= 2

    train()
    train(seed=1)
    train(kind="pgd")
    train(kind="pgd", how=replace(robust.schedule("pgd"), weight=2.0))
    own = {"data": "fashion_mnist", "root": str(tmp_path / "sets")}
    (tmp_path / "sets" / "train.bin").write_bytes(b"one")
    train(**own)
    (tmp_path / "sets" / "train.bin").write_bytes(b"two")
    train(**own)
    train(changed=False)
    real = provenance._version
    monkeypatch.setattr(provenance, "_version", lambda name: "9.9" if name == "scipy" else real(name))
    train()
    here = torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: not here)
    monkeypatch.setattr(robust, "best_device", lambda: torch.device("cpu"))  # there is none to train on
    monkeypatch.setattr(fit, "best_device", lambda: torch.device("cpu"))
    train()
    train(changed=False)


def test_clusters_depend_on_the_weights_and_on_the_pools_content_and_order(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(lpi, "cached_local_references", lambda logits, *, key, **_: made.append(key))
    model, pool = fit.digit_cnn(seed=0), digits("train").x[:8]
    network = Network("mnist_cnn", model, 28, 28, "bilinear", MEAN, STD, "small-cnn")
    swapped = pool[torch.tensor([1, 0, *range(2, 8)])]
    moved = pool.clone()  # as much light as before, elsewhere
    moved[0] = moved[0].flip(-1)
    other = replace(network, model=fit.digit_cnn(seed=1))
    for of, x in ((network, pool), (network, pool.clone()), (network, swapped), (network, moved), (other, pool)):
        lpi.local_set(of, x, clusters=1, cache=tmp_path)
    assert made[0] == made[1]
    assert len(set(made)) == 4
    with torch.no_grad():
        model[1].weight[0, 0, 0, 0] += 1e-7
    lpi.local_set(network, pool, clusters=1, cache=tmp_path)
    assert len(set(made)) == 5
    with torch.no_grad():
        pool[0, 0, 0, 0] += 0.5
    lpi.local_set(network, pool, clusters=1, cache=tmp_path)
    assert len(set(made)) == 6


def test_a_pool_is_read_once_for_all_clusters_of_it(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(lpi, "cached_local_references", lambda logits, *, key, **_: key)
    monkeypatch.setattr(subjects, "digest", lambda value: read.append(value) or digest(value))
    pool = digits("train").x[:8].clone()
    network = Network("mnist_cnn", fit.digit_cnn(seed=0), 28, 28, "bilinear", MEAN, STD, "small-cnn")
    found = {lpi.local_set(network, pool, clusters=each, cache=tmp_path) for each in (1, 2, 3)}
    assert len(found) == len(read) == 1
