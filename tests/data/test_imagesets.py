"""Image sets that the user has, on small made-up files in their published layouts."""

import gzip
import io
import struct

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import savemat

from lib import InputError, MissingData
from lib.data.imagesets import image_set


def write_idx(folder, count):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10
    for part in ("train", "t10k"):
        for kind, data in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(">HBB", 0, 8, data.ndim) + struct.pack(f">{data.ndim}I", *data.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(head + data.tobytes())
            with gzip.open(folder / f"{part}-{kind}-ubyte.gz", "wb") as file:
                file.write(head + data.tobytes())
    return images, labels


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_and_fashion(tmp_path, name, folder):
    images, labels = write_idx(tmp_path / folder / "raw", 12)
    found = image_set(name, "test", root=tmp_path)
    assert found.x.shape == (12, 1, 28, 28) and found.ids[3] == f"{name}-test-00003"
    torch.testing.assert_close(found.x[:, 0], torch.from_numpy(images).float() / 255)
    assert found.y.tolist() == labels.tolist()
    few = image_set(name, "train", root=tmp_path, limit=3)
    assert few.ids == [f"{name}-train-{row:05d}" for row in (0, 4, 8)]


def test_gtsrb_is_resized_and_equalised(tmp_path):
    for label in (0, 1):
        folder = tmp_path / "gtsrb" / "GTSRB" / "Training" / f"{label:05d}"
        folder.mkdir(parents=True)
        grey = np.linspace(100, 130, 40 * 50).reshape(40, 50).astype(np.uint8)  # a dull image
        Image.fromarray(np.stack([grey] * 3, 2)).save(folder / "00000_00000.ppm")
    found = image_set("gtsrb", "train", root=tmp_path)
    assert found.x.shape == (2, 3, 32, 32) and found.y.tolist() == [0, 1]
    assert found.x.max() == 1 and found.x.min() < 0.05


def test_flowers17_keeps_eight_of_each_class_for_testing(tmp_path):
    folder = tmp_path / "17flowers" / "jpg"
    folder.mkdir(parents=True)
    for number in range(1, 1361):
        Image.new("RGB", (6, 4), ((number - 1) // 80 * 15, 0, 0)).save(folder / f"image_{number:04d}.jpg")
    test = image_set("flowers17", "test", root=tmp_path)
    assert test.x.shape == (136, 3, 128, 128)
    assert test.y.bincount().tolist() == [8] * 17
    assert (test.x[:, 0].mean((1, 2)) * 255 / 15 - test.y).abs().max() < 0.3  # the class is the colour
    assert len(image_set("flowers17", "train", root=tmp_path, limit=17).ids) == 17


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "gtsrb", "flowers102"])
def test_what_is_absent_is_one_sentence(tmp_path, name):
    with pytest.raises(MissingData, match=f"^This needs {name}, which is not below .*download=True.*DATASETS=<"):
        image_set(name, "test", root=tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "gtsrb", "flowers102", "flowers17"])
def test_without_a_folder_what_is_needed_is_said(name):
    with pytest.raises(MissingData, match=f"^This needs {name}, which is not packaged: give DATASETS=<"):
        image_set(name, "train")


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("missing", [1360, 1])
def test_flowers_that_are_not_all_there(tmp_path, part, missing):
    (tmp_path / "17flowers" / "jpg").mkdir(parents=True)
    for number in range(1, 1361 - missing):
        (tmp_path / "17flowers" / "jpg" / f"image_{number:04d}.jpg").touch()
    with pytest.raises(MissingData, match=f"^This needs flowers17, of whose 1360 .* holds {1360 - missing}: unpack"):
        image_set("flowers17", part, root=tmp_path)


def test_signs_without_their_classes_are_missing(tmp_path):
    (tmp_path / "gtsrb" / "GTSRB" / "Final_Test" / "Images").mkdir(parents=True)
    with pytest.raises(MissingData, match=r"^This needs gtsrb, .*GT-final_test.csv"):
        image_set("gtsrb", "test", root=tmp_path)


def test_names_and_parts_and_a_negative_limit_are_refused(tmp_path):
    with pytest.raises(InputError, match="did you mean 'gtsrb'"):
        image_set("gtsrbs", "test", root=tmp_path)
    with pytest.raises(InputError, match="did you mean 'test'"):
        image_set("mnist", "tests", root=tmp_path)
    with pytest.raises(InputError, match="limit=-1 selects no image"):
        image_set("mnist_5k", "test", limit=-1)


def ppm() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(content, "PPM")
    return content.getvalue()


@pytest.mark.parametrize("content", [b"P6 cut", ppm()[:-50], b"", None], ids=["header", "pixels", "empty", "absent"])
def test_a_damaged_sign_is_named(tmp_path, content):
    """In the list of the test set, where a file can be absent, and not the first one."""
    folder = tmp_path / "gtsrb" / "GTSRB" / "Final_Test" / "Images"
    folder.mkdir(parents=True)
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_text("Filename;ClassId\n0.ppm;1\n1.ppm;2\n")
    for number in (0, 1):
        (folder / f"{number}.ppm").write_bytes(ppm())
    assert image_set("gtsrb", "test", root=tmp_path).y.tolist() == [1, 2]
    (folder / "1.ppm").unlink() if content is None else (folder / "1.ppm").write_bytes(content)
    with pytest.raises(InputError, match=r"^/.*/Images/1\.ppm cannot be used: .*unpack the archive of gtsrb again"):
        image_set("gtsrb", "test", root=tmp_path)


@pytest.fixture
def flowers102(tmp_path, monkeypatch):
    """Two flowers for testing, with torchvision's lists but for their published hashes."""
    monkeypatch.setattr(torchvision.datasets.flowers102, "check_integrity", lambda file, md5: True)
    folder = tmp_path / "flowers-102" / "jpg"
    folder.mkdir(parents=True)
    savemat(folder.parent / "setid.mat", {"trnid": [[1, 2]], "tstid": [[2, 3]]})
    savemat(folder.parent / "imagelabels.mat", {"labels": [[7, 8, 102]]})
    for number in (1, 2, 3):
        Image.new("RGB", (160, 140), (number * 40, 0, 0)).save(folder / f"image_{number:05d}.jpg")
    return folder


def test_flowers102_has_the_published_lists(tmp_path, flowers102):
    found = image_set("flowers102", "test", root=tmp_path)
    assert found.x.shape == (2, 3, 128, 128) and found.y.tolist() == [7, 101]
    assert (found.x[:, 0].mean((1, 2)) * 255).round().tolist() == pytest.approx([80, 120], abs=1)


@pytest.mark.parametrize("cut", [True, False], ids=["cut", "absent"])
def test_a_damaged_flower_is_named(tmp_path, flowers102, cut):
    file = flowers102 / "image_00003.jpg"
    file.write_bytes(file.read_bytes()[:-100]) if cut else file.unlink()
    with pytest.raises(InputError, match=r"^/.*/image_00003\.jpg cannot be used: "):
        image_set("flowers102", "test", root=tmp_path)


@pytest.mark.parametrize("damage", [b"", b"\0\0", "cut"], ids=["empty", "header", "pixels"])
def test_damaged_digits_are_named(tmp_path, damage):
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw, 12)
    file = raw / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-10] if damage == "cut" else damage)
    with pytest.raises(InputError, match=r"^mnist \(test\) below .* is damaged") as caught:
        image_set("mnist", "test", root=tmp_path)
    assert not isinstance(caught.value, MissingData)
    assert len(image_set("mnist", "train", root=tmp_path).ids) == 12
