"""The explorer without a browser: choose, compute, change, upload what is no image, cancel."""

import io
import re
import struct
import threading
import zlib
from datetime import UTC, datetime

import pytest
import torch
from PIL import Image
from torch import nn

from lib import InputError
from lib.data import image_files
from lib.experiments.cross_paths import PATHS
from lib.experiments.exploration import Choice, explored, subject_of
from lib.models.own_network import own_network
from lib.reporting import explorer as module
from lib.reporting.explorer import Explorer, uploaded

SIDE = 8
PLAIN = {"size": SIDE, "resize": SIDE, "mean": (0.0,) * 3, "std": (1.0,) * 3}
WAIT = 60  # seconds


class Linear(nn.Module):
    """Logits (w · x, 0), which wait for `go`."""

    def __init__(self):
        super().__init__()
        weight = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        self.register_buffer("weight", weight / 10)

    def forward(self, x):
        asked.set()
        assert go.wait(WAIT)
        score = (x * self.weight).flatten(1).sum(1)
        return torch.stack([score, torch.zeros_like(score)], 1)


asked, go = threading.Event(), threading.Event()


@pytest.fixture(autouse=True)
def ready():
    go.set()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def network():
    go.set()
    return own_network(Linear().eval(), name="linear", **PLAIN)


@pytest.fixture(scope="module")
def pools():
    return {}


@pytest.fixture
def explorer(network, cache, pools):
    made = Explorer({"linear": network}, cache=cache, steps=16, objective="logit", curve=4)
    made.pools = pools  # the packaged photographs are decoded once
    return made


def saved(kind="PNG", size=(SIDE, SIDE), **options) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(stream, kind, **options)
    return stream.getvalue()


def bomb(side: int) -> bytes:
    """A PNG that says it has so many pixels a side, of which there are none."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def animation() -> bytes:
    frames, stream = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (0, 200)], io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def upload(explorer: Explorer, **files: bytes) -> None:
    about = {"type": "image/jpeg", "last_modified": datetime.now(UTC)}
    named = [(name.replace("_", "."), content) for name, content in files.items()]
    explorer.upload.value = [
        {"name": name, "size": len(content), "content": memoryview(content), **about} for name, content in named
    ]


def computed(explorer: Explorer) -> str:
    explorer.start().join(WAIT)
    return explorer.said.value


def test_maps_of_a_linear_network_are_its_weights_times_the_image(explorer, network):
    computed(explorer)
    explorer.answer.value = 1 + int(explorer.found.of.target)  # class 0, whether it is the first answer or the second
    assert computed(explorer).startswith("Done")
    found = explorer.found
    assert found.of.target.tolist() == [0]
    expected = (found.of.x * network.model[1].weight).sum(1).cpu()
    assert torch.allclose(found.maps["riemann"], expected, atol=1e-6)
    assert torch.allclose(found.rise.float(), expected.sum((1, 2)), atol=1e-5)
    assert found.evaluations == 17
    assert torch.allclose(found.sums["riemann"], found.rise, atol=1e-5)


def test_curves_begin_and_end_at_black_and_at_the_image(explorer):
    computed(explorer)
    shown, gone = explorer.found.curves.probabilities, explorer.found.deleted
    assert shown.shape == gone.shape == (1, 3, 5)
    assert torch.allclose(shown[..., 0], torch.full((1, 3), 0.5).double())  # black has the logits 0 and 0
    assert torch.allclose(shown[..., -1], explorer.found.probability.double().expand(1, 3), atol=1e-6)
    assert torch.equal(shown[..., 0], gone[..., -1])
    assert torch.equal(shown[..., -1], gone[..., 0])


def test_results_are_shown_and_the_buttons_are_ready_again(explorer):
    assert explorer.maps.layout.display == "none"
    computed(explorer)
    for picture in (explorer.maps, explorer.curves):
        assert Image.open(io.BytesIO(picture.value)).size > (100, 100)
        assert picture.layout.display is None
    assert explorer.numbers.value.partition("<tbody>")[2].count("<tr") == len(explorer.found.maps)
    assert "The walk, shared by 3 rules: 17 evaluations for each image" in explorer.numbers.value
    assert (explorer.bar.value, explorer.compute.disabled, explorer.cancel.disabled) == (1, False, True)


def test_what_is_chosen_is_seen_before_it_is_computed(explorer):
    def width() -> int:
        return Image.open(io.BytesIO(explorer.small.value)).width

    one = width()
    explorer.picked.value = explorer.picked.options[:3]
    assert width() == 3 * one
    explorer.picked.value = ()
    assert explorer.small.layout.display == "none"
    explorer.picked.value = explorer.picked.options
    assert (width(), explorer.small.layout.display) == (module.MANY * one, None)


def test_what_is_changed_is_computed(explorer):
    computed(explorer)
    explorer.path.value, explorer.rules.value, explorer.steps.value = "guided", ("idgi",), 24
    explorer.reference.value, explorer.answer.value = "white", 2
    explorer.picked.value = explorer.picked.options[3:6]
    first = explorer.found.of.target
    assert computed(explorer).startswith("Done")
    assert explorer.found.choice == Choice("guided", ("idgi",), 24, "logit", "white", 2, 4)
    assert [*explorer.found.maps] == ["idgi"]
    assert explorer.found.of.images == [*explorer.picked.options[3:6]]
    assert explorer.found.of.target.shape == (3,)
    assert first.shape == (1,)


def test_every_path_and_rule_that_can_be_chosen(network, cache):
    images = {f"image {n}": lambda n=n: Image.effect_noise((SIDE, SIDE), 10.0 * n) for n in range(1, 7)}
    pool = subject_of(network, images)
    of = subject_of(network, dict(list(images.items())[:2]), pool)
    for path in PATHS:
        rules = [rule for rule in module.RULES if rule != "recalibrated_reference" or path not in PATHS[:3]]
        shares = []
        found = explored(of, Choice(path, tuple(rules), 16, curve=4), shares.append, cache=cache)
        assert all(each.isfinite().all() and each.shape == (2, SIDE, SIDE) for each in found.maps.values())
        assert shares == sorted(shares)
        assert 0 == shares[0] < shares[-1] <= 1
        assert (found.rise is None) == (path == "adversarial")
    assert of.own == [0, 1]


def test_a_choice_that_does_not_fit_is_a_sentence(explorer):
    computed(explorer)
    before = explorer.found
    explorer.rules.value = ("recalibrated_reference",)
    assert "is not for path" in computed(explorer)
    explorer.rules.value = ()
    assert "no rule is chosen" in computed(explorer)
    explorer.rules.value, explorer.picked.value = ("riemann",), ()
    assert "no image is chosen" in computed(explorer)
    explorer.picked.value, explorer.answer.value = explorer.picked.options[:1], 3
    assert "the network has 2" in computed(explorer)
    assert explorer.found is before
    assert not explorer.compute.disabled


def test_an_error_in_a_network_is_told(network, cache):
    def broken(x):
        if torch.is_grad_enabled():
            raise ZeroDivisionError("of <its> own")
        return network.model(x)

    own = own_network(broken, name="broken", **PLAIN)
    explorer = Explorer({"broken": own}, cache=cache, steps=16)
    assert computed(explorer) == "This failed: ZeroDivisionError: of &lt;its&gt; own"
    assert not explorer.compute.disabled


def test_an_image_of_ones_own_is_added_chosen_and_explained(explorer):
    upload(explorer, mine_png=saved(size=(40, 30)))
    assert explorer.picked.value == ("mine.png",)
    assert explorer.said.value == "Added and chosen: mine.png."
    assert len(explorer.upload.value) == 0
    assert computed(explorer).startswith("Done")
    assert explorer.found.of.images == ["mine.png"]
    assert "mine.png" in explorer.numbers.value


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"This is no image.", "not an image"),
        (b"", "not an image"),
        (bomb(10_000), "89,478,485 in all are allowed"),
        (bomb(100_000), "decompression bomb"),
        (saved("JPEG", (200, 200))[:900], "cannot be decoded"),
        (animation(), "animation"),
        (saved(size=(300, 2)), "no side may be longer"),
    ],
    ids=["text", "empty", "bomb", "larger bomb", "truncated", "animation", "strip"],
)
def test_what_is_no_image_is_refused_in_a_sentence(explorer, content, reason):
    options, chosen = explorer.picked.options, explorer.picked.value
    upload(explorer, holiday_jpg=content)
    said = explorer.said.value
    assert said.startswith("holiday.jpg cannot be used: ")
    assert reason in said
    assert said.endswith(".")
    assert (explorer.picked.options, explorer.picked.value) == (options, chosen)
    assert computed(explorer).startswith("Done")


def test_good_files_among_bad_ones_are_taken(explorer):
    upload(explorer, bad_jpg=b"no", good_png=saved(), worse_jpg=b"no")
    assert explorer.picked.value == ("good.png",)
    assert re.fullmatch(
        r"bad\.jpg cannot .*\. worse\.jpg cannot .*\. Added and chosen: good\.png\.", explorer.said.value
    )


def test_a_name_is_shown_as_it_is(explorer):
    upload(explorer, **{"$a <b>^_$_png": saved()})
    assert "&lt;b&gt;" in explorer.said.value
    assert computed(explorer).startswith("Done")
    assert "<b>" not in explorer.numbers.value


def test_a_photograph_is_turned_as_the_camera_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    assert uploaded(saved("JPEG", (40, 20), exif=exif)).size == (20, 40)
    assert uploaded(saved("JPEG", (40, 20))).size == (40, 20)
    assert uploaded(saved("JPEG", (40, 20), exif=b"Exif\0\0damaged")).size == (40, 20)


def test_files_of_too_many_bytes_are_refused(monkeypatch):
    monkeypatch.setattr(module, "BYTES", 100)
    with pytest.raises(InputError, match="100 are allowed"):
        uploaded(saved("BMP"))
    assert image_files.BYTES > 100


def test_cancel_ends_a_computation_and_leaves_the_last_results(explorer):
    computed(explorer)
    before, shown = explorer.found, explorer.maps.value
    go.clear()
    asked.clear()
    explorer.steps.value = 64
    thread = explorer.start()
    assert asked.wait(WAIT)  # the network computes, and this thread, the kernel's, is free
    assert (explorer.compute.disabled, explorer.cancel.disabled) == (True, False)
    assert explorer.start() is thread  # a second click begins nothing
    explorer.cancel.click()
    go.set()
    thread.join(WAIT)
    assert explorer.said.value.startswith("Cancelled at ")
    assert explorer.said.value.endswith("The results below are the last complete ones.")
    assert (explorer.found, explorer.maps.value) == (before, shown)
    assert (explorer.compute.disabled, explorer.cancel.disabled) == (False, True)
    assert computed(explorer).startswith("Done")
    assert explorer.found.choice.steps == 64


def test_a_first_computation_that_is_cancelled_says_that_nothing_is_there(explorer):
    go.clear()
    thread = explorer.start()
    explorer.cancel.click()
    go.set()
    thread.join(WAIT)
    assert explorer.said.value == "Cancelled at 0%. There are no results yet."
    assert explorer.found is None
