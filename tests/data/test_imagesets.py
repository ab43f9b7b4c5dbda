"""Image sets that the user has, on small made-up files in their published layouts."""

import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from lib import InputError
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
    with pytest.raises(InputError, match=f"^{name} is not below .*download=True"):
        image_set(name, "test", root=tmp_path)


def test_names_parts_and_incomplete_flowers(tmp_path):
    with pytest.raises(InputError, match="did you mean 'gtsrb'"):
        image_set("gtsrbs", "test", root=tmp_path)
    with pytest.raises(InputError, match="did you mean 'test'"):
        image_set("mnist", "tests", root=tmp_path)
    with pytest.raises(InputError, match="holds 0 of the 1360"):
        image_set("flowers17", "test", root=tmp_path)


def test_a_damaged_image_is_named_and_a_negative_limit_refused(tmp_path):
    write = tmp_path / "gtsrb" / "GTSRB" / "Training" / "00000"
    write.mkdir(parents=True)
    (write / "00000_00000.ppm").write_bytes(b"P6 cut")
    with pytest.raises(InputError, match=r"image 0 of gtsrb \(train\) below .* cannot be read"):
        image_set("gtsrb", "train", root=tmp_path)
    with pytest.raises(InputError, match="limit=-1 selects no image"):
        image_set("mnist_5k", "test", limit=-1)
