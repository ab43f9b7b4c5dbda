import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFile
from torchvision import datasets

from lib import ROOT, InputError
from lib.data.image_files import rgb
from lib.data.imagenet import Photograph, class_name, explained_and_pool, load_image, photographs, wnid
from lib.store import provenance
from lib.store.files import package_folder

TENCH, GOLDFISH, MASTIFF = "n01440764", "n01443537", "n02108422"


@pytest.fixture
def write(tmp_path):
    """Writes an 8x6 JPEG at a path below the test's folder."""

    def write(path, color=(200, 100, 50)):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), color).save(file, "JPEG")
        return file

    return write


def test_class_index_is_the_place_in_the_sorted_wnids():
    assert (wnid(0), wnid(1), wnid(243)) == (TENCH, GOLDFISH, MASTIFF)
    assert (class_name(0), class_name(243), class_name(999)) == ("tench", "bull mastiff", "toilet tissue")
    wnids = [wnid(label) for label in range(1000)]
    assert wnids == sorted(set(wnids))


@pytest.mark.parametrize("label", [-1, 1000])
def test_class_index_out_of_range(label):
    with pytest.raises(InputError, match=rf"{label} .*from 0 to 999"):
        class_name(label)


def test_packaged_photographs():
    found = photographs()
    assert len(found) == 20
    assert {photo.label for photo in found} >= {22, 99, 129, 243, 251, 949, 990}
    assert [photo.label for photo in found] == sorted(photo.label for photo in found)
    (mastiff,) = (photo for photo in found if photo.id == "imagenet_00_243")
    assert class_name(mastiff.label) == "bull mastiff"
    image = load_image(mastiff)
    assert image.mode == "RGB" and min(image.size) > 100


def test_packaged_photographs_need_no_import_of_the_package():
    code = (
        "import sys, lib.data.imagenet as d; d.photographs(); print('foolbox' in sys.modules, 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


def test_missing_package_says_what_to_install():
    with pytest.raises(InputError, match=r"`pip install no-such-package`"):
        package_folder("no_such_package")


@pytest.mark.parametrize("given", ["", "val"])
def test_class_folders_directly_or_in_val(write, tmp_path, given):
    write(f"val/{MASTIFF}/b.JPEG"), write(f"val/{TENCH}/z.jpg"), write(f"val/{TENCH}/c.PNG")
    write(f"train/{GOLDFISH}/not_me.JPEG")
    (tmp_path / "val" / GOLDFISH).mkdir()  # a class without images is skipped
    (tmp_path / "val" / TENCH / "._z.jpg").write_bytes(b"macOS leaves such files")
    (tmp_path / "val" / TENCH / "notes.txt").write_text("not an image")
    found = photographs(str(tmp_path / given))
    assert [(photo.label, photo.id) for photo in found] == [(0, "c"), (0, "z"), (243, "b")]
    assert found[2].path == tmp_path / "val" / MASTIFF / "b.JPEG"


def test_flat_files_with_wnid_in_the_name(write, tmp_path):
    (
        write(f"{MASTIFF}_bull_mastiff.JPEG"),
        write(f"ILSVRC2012_val_00000007_{TENCH}.JPEG"),
        write("montage.png"),
    )
    found = photographs(str(tmp_path))
    assert [(photo.label, photo.id) for photo in found] == [
        (0, f"ILSVRC2012_val_00000007_{TENCH}"),
        (243, f"{MASTIFF}_bull_mastiff"),
    ]


@pytest.mark.parametrize(
    "images, labels, text",
    [
        (".", "val_annotations.txt", "ILSVRC2012_val_0000000{}.JPEG\t{}\n"),
        ("val/images", "val_annotations.txt", "ILSVRC2012_val_0000000{}.JPEG\t{}\t0\t0\t62\t62\n"),
        ("val", "val/val_annotations.txt", "ILSVRC2012_val_0000000{}.JPEG {}\n"),
        (
            "ILSVRC/Data/CLS-LOC/val",
            "LOC_val_solution.csv",
            "ILSVRC2012_val_0000000{},{} 1 2 3 4 n9 5 6 7 8 \n",
        ),
    ],
)
def test_validation_files_with_labels(write, tmp_path, images, labels, text):
    for number in (1, 2):
        write(f"{images}/ILSVRC2012_val_0000000{number}.JPEG")
    header = "ImageId,PredictionString\n" if labels.endswith("csv") else ""
    (tmp_path / labels).write_text(header + text.format(1, MASTIFF) + text.format(2, TENCH))
    found = photographs(str(tmp_path))
    assert [(photo.label, photo.id[-1]) for photo in found] == [(0, "2"), (243, "1")]


def test_validation_files_without_labels_say_what_to_put_where(write, tmp_path):
    write("a/b/c/d/e/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(InputError, match=r"e carry no labels: put val_annotations.txt .* LOC_val_solution.csv"):
        photographs(str(tmp_path / "a/b/c/d/e"))


def test_validation_file_missing_from_the_labels(write, tmp_path):
    write("ILSVRC2012_val_00000001.JPEG"), write("ILSVRC2012_val_00000002.JPEG")
    (tmp_path / "val_annotations.txt").write_text(f"ILSVRC2012_val_00000001.JPEG\t{TENCH}\n")
    with pytest.raises(InputError, match=r"00000002.JPEG is missing from the validation labels"):
        photographs(str(tmp_path))


@pytest.mark.parametrize("path", ["n99999999/a.JPEG", "n99999999_a.JPEG"])
def test_unknown_wnid(write, tmp_path, path):
    write(path)
    with pytest.raises(InputError, match=r"'n99999999' .* not one of ImageNet's 1000 classes"):
        photographs(str(tmp_path))


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match=r"no folder .*nowhere"):
        photographs(str(tmp_path / "nowhere"))


def test_a_file_is_not_a_folder(write):
    with pytest.raises(InputError, match=r"There is no folder"):
        photographs(str(write("a.JPEG")))


def test_folder_of_something_else_names_the_layouts(write, tmp_path):
    write("holiday.jpg"), write("cats/tom.jpg")
    with pytest.raises(InputError, match=r"no ImageNet images.*val/<wnid>/\*.JPEG.*ILSVRC2012_val_\*"):
        photographs(str(tmp_path))


def test_class_folders_all_empty(tmp_path):
    (tmp_path / TENCH).mkdir()
    with pytest.raises(InputError, match=r"holds no ImageNet images"):
        photographs(str(tmp_path))


def test_duplicate_ids(write, tmp_path):
    write(f"{TENCH}/same.JPEG"), write(f"{TENCH}/same.png")
    with pytest.raises(InputError, match=rf"{TENCH}/same.JPEG and .*{TENCH}/same.png share the id 'same'"):
        photographs(str(tmp_path))


def test_stems_that_repeat_across_classes_get_their_wnid(write, tmp_path):
    for name in ("art_0.jpg", "art_1.jpg"):
        write(f"val/{TENCH}/{name}"), write(f"val/{MASTIFF}/{name}")
    write(f"val/{TENCH}/ILSVRC2012_val_00000007.JPEG"), write(f"val/{MASTIFF}/{MASTIFF}_1.JPEG")
    for junk in (".DS_Store", "._art_0.jpg", "Thumbs.db"):
        (tmp_path / "val" / TENCH / junk).write_bytes(b"x")
    (tmp_path / "val" / TENCH / "linked.jpg").symlink_to(tmp_path / "val" / MASTIFF / "art_1.jpg")
    assert [photo.id for photo in photographs(str(tmp_path))] == [
        "ILSVRC2012_val_00000007",
        "linked",
        f"{TENCH}_art_0",
        f"{TENCH}_art_1",
        f"{MASTIFF}_1",
        f"{MASTIFF}_art_0",
        f"{MASTIFF}_art_1",
    ]


def test_a_folder_that_cannot_be_read_is_one_sentence(write, tmp_path, monkeypatch):
    write(f"val/{TENCH}/a.jpg")

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        photographs(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("ILSVRC2012_val_00000001.JPEG\tn01440764\n".encode("utf-16"), "UTF-16"),
        (b"# 1: \xe9\nILSVRC2012_val_00000001.JPEG\tn01440764\n", "UTF-8"),
        (b"ILSVRC2012_val_00000001.JPEG\tn01440764\nILSVRC2012_val_00000001.JPEG\tn01443537\n", "two labels"),
    ],
    ids=["UTF-16", "Latin-1", "contradiction"],
)
def test_labels_that_cannot_be_used(write, tmp_path, content, said):
    write("ILSVRC2012_val_00000001.JPEG")
    (tmp_path / "val_annotations.txt").write_bytes(content)
    with pytest.raises(InputError, match=f"val_annotations.txt .*{said}"):
        photographs(str(tmp_path))


def test_limit_is_spread_evenly_over_the_classes(write, tmp_path):
    for label in range(4):
        for number in range(5):
            write(f"{wnid(label)}_{number}.JPEG")
    whole = photographs(str(tmp_path))
    assert [photo.label for photo in photographs(str(tmp_path), 4)] == [0, 1, 2, 3]
    assert [whole.index(photo) for photo in photographs(str(tmp_path), 3)] == [0, 6, 13]
    assert photographs(str(tmp_path), 20) == photographs(str(tmp_path), 99) == whole
    assert len({photo.id for photo in photographs(str(tmp_path), 19)}) == 19


# -- a collection of one photograph a class: what is explained, and what references come from --------------------------


def collection(folder, classes):
    """Empty files as they are named in such a collection, which listing does not open."""
    folder.mkdir()
    for label in classes:
        (folder / f"{wnid(label)}_{class_name(label).replace(' ', '_').replace('/', '')}.JPEG").touch()
    return folder


SIX_HUNDRED = [label for label in range(1000) if label % 5 in (0, 1, 3)]


@pytest.fixture(scope="module")
def collections(tmp_path_factory):
    """A thousand files, and six hundred of them."""
    folder = tmp_path_factory.mktemp("collections")
    return collection(folder / "whole", range(1000)), collection(folder / "part", SIX_HUNDRED)


def labels(photos):
    return [photo.label for photo in photos]


def test_the_same_photographs_are_chosen_from_a_collection_and_from_a_part_that_has_them(collections):
    for folder in collections:
        explained, pool = explained_and_pool(str(folder), limit=200, pool=400)
        assert labels(explained) == list(range(0, 1000, 5))
        assert labels(pool) == [label for label in range(1000) if label % 5 in (1, 3)]
        assert photographs(str(folder), 200) == explained


@pytest.mark.parametrize("limit", [4, 5, 10, 20, 25, 40, 50, 100])
def test_an_experiment_that_explains_fewer_has_some_of_these_photographs_and_the_same_pool(collections, limit):
    found = [explained_and_pool(str(folder), limit=limit, pool=400) for folder in collections]
    assert [labels(explained) for explained, _ in found] == [list(range(0, 1000, 1000 // limit))] * 2
    assert [labels(pool) for _, pool in found] == [[label for label in range(1000) if label % 5 in (1, 3)]] * 2


def test_what_a_collection_lacks_or_has_twice_is_named_counted_and_moves_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(provenance, "excluded", {})
    provenance._say.cache_clear()
    folder = collection(tmp_path / "set", [label for label in SIX_HUNDRED if label not in (10, 23)])
    renamed = next(folder.glob(f"{wnid(30)}_*"))
    renamed.rename(folder / "photo 30.JPEG")
    for extra in ("notes.txt", f"{wnid(40)}_zz_again.JPEG", "cat.png"):
        (folder / extra).touch()
    explained, pool = explained_and_pool(str(folder), limit=200, pool=400)
    assert labels(explained) == [label for label in range(0, 1000, 5) if label not in (10, 30)]
    assert labels(pool) == [label for label in range(1000) if label % 5 in (1, 3) and label != 23]
    absent, unnamed = "there is no photograph of this class", "its name holds no wnid"
    assert provenance.footprint()["excluded"] == {
        **dict.fromkeys([wnid(10), wnid(23), wnid(30)], absent),
        **dict.fromkeys(["photo 30.JPEG", "cat.png"], unnamed),
        f"{wnid(40)}_zz_again": "another photograph of its class is taken",
    }
    said = capsys.readouterr().out
    assert "3 of 600 photographs were excluded: " in said and "2 of 600 photographs were excluded: cat.png (" in said


def test_a_folder_that_is_no_such_collection_is_chosen_from_by_place(write, tmp_path, capsys):
    for label in (3, 7, 500, 501, 900, 999):
        write(f"{wnid(label)}_a.JPEG")
    explained, pool = explained_and_pool(str(tmp_path), limit=2, pool=3)
    assert labels(explained) == [3, 501] and not set(pool) & set(explained)
    assert labels(explained_and_pool(str(tmp_path), limit=2, pool=6)[1]) == [3, 7, 500, 501, 900, 999]  # too few others
    assert labels(explained_and_pool(str(tmp_path), limit=0, pool=3)[1]) == [3, 500, 900]  # all are explained
    assert capsys.readouterr().out == ""


def test_images_beside_the_folders_of_classes_are_named(write, tmp_path, capsys):
    provenance._say.cache_clear()
    write(f"{TENCH}/one.JPEG")
    write("stray.JPEG")
    assert len(photographs(str(tmp_path))) == 1
    assert "1 of 1 photographs were excluded: stray.JPEG (it lies beside" in capsys.readouterr().out


@pytest.mark.parametrize("limit", [0, -3])
def test_limit_below_one(limit):
    with pytest.raises(InputError, match=rf"limit={limit} "):
        photographs(limit=limit)


def test_a_negative_limit_is_refused_where_0_means_all():
    with pytest.raises(InputError, match="limit=-3 selects no image"):
        explained_and_pool("packaged", limit=-3, pool=1)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (8, 6), (102, 102, 102)).convert(mode).save(file)
    image = load_image(Photograph(file, 0, "a"))
    assert (image.mode, image.size) == ("RGB", (8, 6))
    assert all(abs(value - 102) <= 3 for value in image.getpixel((3, 3)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "progressive JPEG"])
def test_truncated_image_is_refused_even_where_pil_was_told_to_accept_it(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    stream = io.BytesIO()
    noise = Image.effect_noise((200, 200), 90).convert("RGB")
    noise.save(stream, kind.split()[-1], progressive="progressive" in kind)
    file = tmp_path / "cut.JPEG"
    file.write_bytes(stream.getvalue()[: stream.tell() // 2])
    with pytest.raises(InputError, match=r"cut.JPEG cannot be used: it cannot be decoded"):
        load_image(Photograph(file, 0, "cut"))


def made(mode: str, size=(4, 3)) -> Image.Image:
    """Grey 102 of 255, or 40 %, in a mode; opaque."""
    if mode == "I;16":
        return Image.fromarray(np.full(size[::-1], round(0.4 * 65535), np.uint16))
    return Image.new("RGB", size, (102, 102, 102)).convert(mode)


@pytest.mark.parametrize(
    ("mode", "name"),
    [("I;16", "a.png"), ("LA", "a.png"), ("L", "a.jpg"), ("CMYK", "a.jpg"), ("YCbCr", "a.jpg")],
)
def test_modes_keep_their_grey(tmp_path, mode, name):
    made(mode).save(tmp_path / name)
    found = load_image(Photograph(tmp_path / name, 0, "a"))
    assert found.mode == "RGB" and all(abs(level - 102) <= 3 for level in found.getpixel((2, 1)))


def test_sixteen_bits_are_scaled_evenly(tmp_path):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    found = np.asarray(load_image(Photograph(tmp_path / "deep.png", 0, "deep")))
    assert (found == np.arange(256).reshape(16, 16, 1)).all()


def test_one_bit_is_black_and_white(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert np.asarray(load_image(Photograph(tmp_path / "a.png", 0, "a")))[0].tolist() == [[255] * 3, [0] * 3]


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_is_laid_on_white(tmp_path, kind):
    file = tmp_path / "a.png"
    if kind in ("RGBA", "LA"):
        image = Image.new(kind, (2, 1), (200, 0, 0, 255) if kind == "RGBA" else (50, 255))
        image.putpixel((1, 0), (0, 0, 0, 0) if kind == "RGBA" else (0, 0))
        image.save(file)
    else:  # one colour is declared transparent
        image = Image.new("RGB", (2, 1), (200, 0, 0))
        image.putpixel((1, 0), (0, 0, 0))
        image = image if kind == "RGB" else image.quantize(2)
        image.save(file, transparency=(0, 0, 0) if kind == "RGB" else image.getpixel((1, 0)))
    opaque, clear = (load_image(Photograph(file, 0, "a")).getpixel((column, 0)) for column in (0, 1))
    assert clear == (255, 255, 255) and opaque == ((50, 50, 50) if kind == "LA" else (200, 0, 0))


def test_an_orientation_is_left_to_the_user_as_in_torchvision(tmp_path):
    image, exif = Image.new("RGB", (6, 4), (9, 9, 9)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert load_image(Photograph(tmp_path / "a.jpg", 0, "a")).size == (6, 4)
    assert datasets.folder.default_loader(tmp_path / "a.jpg").size == (6, 4)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animations_are_refused_by_file(tmp_path, kind):
    frames = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (0, 100, 200)]
    frames[0].save(tmp_path / "a.png", kind, save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"a\.png cannot be used: the image is an animation"):
        load_image(Photograph(tmp_path / "a.png", 0, "a"))


def test_of_a_cameras_several_pictures_the_first_is_read(tmp_path):
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (40, 200)]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert abs(load_image(Photograph(tmp_path / "a.jpg", 0, "a")).getpixel((0, 0))[0] - 40) < 3


@pytest.mark.parametrize("mode", ["I", "F"])
def test_levels_of_an_unknown_range_are_refused(mode):
    with pytest.raises(InputError, match=rf"32 bits \(mode {mode}\)"):
        rgb(Image.new(mode, (4, 4)))
