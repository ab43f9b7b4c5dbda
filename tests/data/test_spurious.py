"""Sets with a spurious attribute: the packaged one, and others on small made-up files in their published layouts."""

import pandas as pd
import pytest
import torch
from PIL import Image

from lib import InputError, MissingData
from lib.data import spurious
from lib.data.digits import digits
from lib.data.spurious import BANDS, PHOTOGRAPHS, spurious_set

PACKAGED = "digits_on_photographs"


def waterbirds(root, rows=((0, 0, 0), (1, 1, 0), (1, 0, 1), (0, 1, 2))):
    folder = root / "waterbird_complete95_forest2water2"
    (folder / "a").mkdir(parents=True)
    names = [f"a/bird_{number}.jpg" for number in range(len(rows))]
    for number, name in enumerate(names):
        Image.new("RGB", (30, 20), (50 * number, 0, 0)).save(folder / name, quality=95)
    table = pd.DataFrame(rows, columns=["y", "place", "split"]).assign(img_filename=names, img_id=range(len(rows)))
    table.to_csv(folder / "metadata.csv", index=False)
    return folder


def celeba(root, *, kaggle=False):
    folder = root / "celeba"
    images = folder / "img_align_celeba" / ("img_align_celeba" if kaggle else "")
    images.mkdir(parents=True)
    names = [f"{number:06d}.jpg" for number in (1, 2, 3)]
    for number, name in enumerate(names):
        Image.new("RGB", (18, 22), (0, 80 * number, 0)).save(images / name, quality=95)
    blond, male, split = [1, -1, 1], [-1, -1, 1], [0, 0, 2]
    if kaggle:
        attributes = {"image_id": names, "Bald": [-1] * 3, "Blond_Hair": blond, "Male": male}
        pd.DataFrame(attributes).to_csv(folder / "list_attr_celeba.csv", index=False)
        partition = pd.DataFrame({"image_id": names, "partition": split})
        partition.to_csv(folder / "list_eval_partition.csv", index=False)
    else:
        lines = [f"{name} -1  {b}  {m} " for name, b, m in zip(names, blond, male, strict=True)]
        text = "\n".join(["3", "Bald Blond_Hair Male ", *lines])
        (folder / "list_attr_celeba.txt").write_text(text + "\n", encoding="utf-8")
        lines = [f"{name} {part}" for name, part in zip(names, split, strict=True)]
        (folder / "list_eval_partition.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


# -- digits on photographs -----------------------------------------------------------------------------------------


def test_digits_lie_on_photographs_that_agree_with_their_class_in_training_only():
    for part, low, high in (("train", 0.93, 0.97), ("valid", 0.45, 0.55), ("test", 0.45, 0.55)):
        found = spurious_set(PACKAGED, part)
        agree = (found.y == found.attribute).double().mean().item()
        assert low < agree < high
        assert found.x.min() >= 0 and found.x.max() <= 1
        assert sum(found.counts) == len(found.y) and min(found.counts) > 50
    of = digits("test")
    assert found.y.tolist() == (of.y >= 5).long().tolist()
    assert (found.x[of.x == 1] == 1).all()  # a digit's full white covers what is behind it
    behind = found.x[(of.x == 0)]
    assert behind.max() <= 0.8 and behind.std() > 0.1


def test_parts_see_other_bands_of_the_photographs():
    edges = [edge for part in ("train", "valid", "test") for edge in BANDS[part]]
    assert edges == sorted(edges) and edges[0] == 0 and edges[-1] == 1
    found = spurious_set(PACKAGED, "test", limit=20)
    for row, of in enumerate(digits("test").take(slice(20)).x):
        picture = spurious._photograph(PHOTOGRAPHS[found.attribute[row]])
        band = picture[:, round(0.8 * picture.shape[1]) :]
        windows = band.unfold(0, 28, 1).unfold(1, 28, 1)
        mine = torch.where(of[0] == 0, found.x[row, 0] / 0.8, torch.nan)
        assert ((windows - mine).abs().nan_to_num(0).amax((2, 3)) < 1e-5).any()


def test_a_prefix_is_a_prefix():
    few, all_ = spurious_set(PACKAGED, "valid", limit=12), spurious_set(PACKAGED, "valid")
    assert few.ids == all_.ids[:12]
    torch.testing.assert_close(few.x, all_.x[:12])
    assert few.attribute.tolist() == all_.attribute[:12].tolist()


def test_groups_are_class_plus_twice_the_attribute():
    of = spurious.Grouped(torch.zeros(4, 1, 1, 1), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1]), list("abcd"))
    assert of.groups.tolist() == [0, 1, 2, 3]
    assert of.counts == [1, 1, 1, 1]


# -- Waterbirds and CelebA -----------------------------------------------------------------------------------------


def test_waterbirds(tmp_path):
    waterbirds(tmp_path)
    train = spurious_set("waterbirds", "train", root=tmp_path)
    assert train.x.shape == (2, 3, 64, 64)
    assert (train.y.tolist(), train.attribute.tolist()) == ([0, 1], [0, 1])
    assert train.ids == ["waterbirds-bird_0", "waterbirds-bird_1"]
    assert train.x[1, 0].mean() == pytest.approx(50 / 255, abs=0.02)
    test = spurious_set("waterbirds", "test", root=str(tmp_path))
    assert (test.y.tolist(), test.attribute.tolist(), test.groups.tolist()) == ([0], [1], [2])


@pytest.mark.parametrize("kaggle", [False, True])
def test_celeba_in_both_layouts(tmp_path, kaggle):
    celeba(tmp_path, kaggle=kaggle)
    train = spurious_set("celeba_hair", "train", root=tmp_path)
    assert (train.y.tolist(), train.attribute.tolist()) == ([1, 0], [0, 0])
    assert train.ids[0].startswith("celeba-000001")
    assert train.x[1, 1].mean() == pytest.approx(80 / 255, abs=0.02)
    test = spurious_set("celeba_hair", "test", root=tmp_path)
    assert (test.y.tolist(), test.attribute.tolist()) == ([1], [1])


def test_a_limit_takes_images_evenly(tmp_path):
    waterbirds(tmp_path, rows=[(0, 0, 0)] * 9)
    assert spurious_set("waterbirds", "train", root=tmp_path, limit=3).ids == [
        f"waterbirds-bird_{n}" for n in (0, 3, 6)
    ]


@pytest.mark.parametrize("name", ["waterbirds", "celeba_hair"])
def test_what_is_absent_is_one_sentence(tmp_path, name):
    with pytest.raises(MissingData, match=f"^This needs {name}, which is not packaged: give DATASETS=<"):
        spurious_set(name, "train")
    with pytest.raises(MissingData, match=f"^This needs {name}, of which .* is not there: give DATASETS=<"):
        spurious_set(name, "train", root=tmp_path)


def test_damaged_sets_are_named(tmp_path):
    folder = waterbirds(tmp_path)
    rows = pd.read_csv(folder / "metadata.csv").query("split != 1")
    rows.to_csv(folder / "metadata.csv", index=False)
    with pytest.raises(InputError, match="no images for part 'valid'"):
        spurious_set("waterbirds", "valid", root=tmp_path)
    (folder / "a" / "bird_0.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"bird_0\.jpg cannot be used"):
        spurious_set("waterbirds", "train", root=tmp_path)
    rows.assign(y=2).to_csv(folder / "metadata.csv", index=False)
    with pytest.raises(InputError, match="labels other than 0 and 1"):
        spurious_set("waterbirds", "train", root=tmp_path)
    rows.drop(columns="place").to_csv(folder / "metadata.csv", index=False)
    with pytest.raises(InputError, match=r"lacks the columns \['place'\]"):
        spurious_set("waterbirds", "train", root=tmp_path)
    (folder / "metadata.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as a table"):
        spurious_set("waterbirds", "train", root=tmp_path)


def test_what_is_refused():
    with pytest.raises(InputError, match="no set 'waterbird'; did you mean 'waterbirds'"):
        spurious_set("waterbird", "train")
    with pytest.raises(InputError, match="no part 'validation'"):
        spurious_set(PACKAGED, "validation")
    with pytest.raises(InputError, match="limit=-3"):
        spurious_set(PACKAGED, "test", limit=-3)
