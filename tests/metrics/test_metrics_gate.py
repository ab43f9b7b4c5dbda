"""Every metric at its entry: what is refused, what is accepted in other spellings, small memory, another device."""

from functools import partial

import numpy as np
import pytest
import torch
from tagged import tagged_device
from torch import Tensor, nn

from lib import InputError
from lib.metrics.chance import chance, with_chance
from lib.metrics.diffid import diffid
from lib.metrics.information import information_curves
from lib.metrics.insertion import insertion
from lib.metrics.lens import locality
from lib.metrics.masks import masks
from lib.metrics.sanity import similarities
from lib.metrics.selection import diverse_top_k, pixel_map, top_k
from lib.metrics.sensitivity_n import FILLS, sensitivity_n
from lib.metrics.stability import mse_l1, mse_signed, spearman, topk_overlap

CLASSES, SHAPE = 4, (3, 8, 8)
SOFT = torch.full((3, *SHAPE), 0.25)
NETWORKED = {
    "insertion": lambda model, x, maps, target, **how: insertion(model, x, maps, target, steps=5, **how).probabilities,
    "diffid": lambda model, x, maps, target, **how: _stacked(
        diffid(model, x, maps, target, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25), **how)
    ),
    "diffid_pixels": lambda model, x, maps, target, **how: _stacked(
        diffid(model, x, maps, target, remove="pixels", **how)
    ),
    "masks": lambda model, x, maps, target, **how: _stacked(masks(model, x, maps, target, **how)),
    "information_curves": lambda model, x, maps, target, **how: torch.stack(
        [
            (found := information_curves(model, x, SOFT, maps, target, points=5, measures="png", **how)).correct,
            found.probability,
            found.information["png"],
        ]
    ),
    **{
        f"sensitivity_n_{fill}": lambda model, x, maps, target, fill=fill, **how: sensitivity_n(
            model, x, maps, target, images=["a", "b", "c"][: len(x)], draws=9, fill=fill, fractions=(0.3, 0.6), **how
        )
        for fill in FILLS
    },
}
COMPARED = {  # of two stacks of maps
    "mse_signed": mse_signed,
    "mse_l1": mse_l1,
    "spearman": spearman,
    "topk_overlap": partial(topk_overlap, k=5),
    "similarities": lambda a, b: torch.stack(list(similarities(a, b).values())),
    "locality": lambda a, b: torch.stack(list(locality(a, b, k=5, radii=[1], kendall=True).values())),
    "chance": lambda a, b: torch.stack(list(chance(a, b, k=5, radii=[1]).values())),
    "with_chance": lambda a, b: torch.stack(list(with_chance(a, b, k=5, radii=[1]).values())),
}
SELECTED = {  # of one stack of maps
    "top_k": lambda maps: top_k(maps, 5)[0],
    "diverse_top_k": lambda maps: diverse_top_k(maps, 5, 1)[0],
}


def _stacked(result) -> Tensor:
    fields = [value for value in vars(result).values() if isinstance(value, Tensor) and value.ndim > 1]
    return torch.stack(fields)


class Weighted(nn.Module):
    """Four logits, each a weighted sum of an image's values, row by row; an out-of-memory error above `room` rows."""

    def __init__(self, room: int = 10**6):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.Parameter(torch.randn(CLASSES, *SHAPE, generator=generator, dtype=torch.float64))
        self.room, self.sizes, self.failures = room, [], 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.room:
            self.failures += 1
            raise torch.OutOfMemoryError("pretended")
        self.sizes.append(len(x))
        return (x[:, None] * self.weights.to(x.dtype)).flatten(2).sum(2)


class InPlace(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.5).div_(0.25))


class OutOfPlace(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - 0.5) / 0.25)


@pytest.fixture
def case():
    """Images, maps and labels for `NETWORKED`."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(3, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.randn(3, 2, *SHAPE[1:], generator=generator), torch.tensor([0, 3, 1])


@pytest.fixture
def stacks():
    """Two stacks of maps for `COMPARED`."""
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(2, 3, 8, 8, generator=generator))


def same(one: Tensor, other: Tensor, exact: bool = True) -> bool:
    slack = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-5, "atol": 1e-5}
    return torch.allclose(one, other.to(one), equal_nan=True, **slack)


networked = pytest.mark.parametrize("call", NETWORKED.values(), ids=NETWORKED)
compared = pytest.mark.parametrize("call", COMPARED.values(), ids=COMPARED)


def _answering(answer):
    model = Weighted()
    return lambda x: answer(model(x))


BAD = {
    "training mode": ("model", lambda _: nn.Sequential(Weighted(), nn.Dropout().train()).eval().train(), "training"),
    "part in training": ("model", lambda _: _trained_part(), "its layer 1 .Dropout. is in training mode"),
    "no network": ("model", lambda _: "resnet", "the network is a str"),
    "tuple": ("model", lambda _: _answering(lambda z: (z, z)), r"lambda x: model\(x\)\[0\]"),
    "dict": ("model", lambda _: _answering(lambda z: {"logits": z}), r"model\(x\)\['logits'\]"),
    "one number an image": ("model", lambda _: _answering(lambda z: z[:, 0]), "answers with .* two or more classes"),
    "a map of logits": ("model", lambda _: _answering(lambda z: z[:, :, None]), "answers with"),
    "NaN": ("model", lambda _: _answering(lambda z: z * torch.nan), "not finite"),
    "label K": ("target", lambda _: [0, CLASSES, 1], f"label {CLASSES} is beyond the network's {CLASSES} classes"),
    "label -1": ("target", lambda _: [0, -1, 1], "target holds -1"),
    "one-hot": ("target", lambda y: torch.eye(CLASSES)[y], "argmax"),
    "truth values": ("target", lambda y: y > 0, "one whole class index an image"),
    "floats": ("target", lambda y: y.float(), "one whole class index an image"),
    "too few labels": ("target", lambda y: y[:2], "one whole class index an image"),
    "no label": ("target", lambda _: None, "target is a NoneType"),
    "normalised": ("x", lambda x: (x - 0.45) / 0.225, r"images in \[0, 1\]"),
    "bytes": ("x", lambda x: (x * 255).byte(), "255"),
    "NaN pixels": ("x", lambda x: x * torch.nan, "spans"),
    "one image": ("x", lambda x: x[0], "unsqueeze"),
    "no tensor": ("x", lambda _: "photographs", "x is "),
    "no images": ("x", lambda x: x[:0], "at least one"),
    "unsummed maps": ("maps", lambda maps: maps[:, :, None], "sum an attribution over its channels"),
    "maps of two images": ("maps", lambda maps: maps[:2], "ranking has shape"),
    "maps of another size": ("maps", lambda maps: maps[..., :7], "ranking has shape"),
    "no maps": ("maps", lambda maps: maps[:, :0], "none of them 0"),
    "whole numbers": ("maps", lambda maps: maps.long(), "give scores as floats"),
    "no tensor of maps": ("maps", lambda _: None, "ranking is a NoneType; give maps"),
    "sparse maps": ("maps", lambda maps: maps.to_sparse(), r"kind sparse_coo.*\.to_dense\(\)"),
    "infinite score": ("maps", lambda maps: _spoiled(maps, (2, 1)), "image 2, map 1 is NaN or infinite at 1 of 64"),
    "batch 0": ("batch", lambda _: 0, "batch is 0"),
    "batch of a half": ("batch", lambda _: 0.5, "batch is 0.5"),
}


def _trained_part():
    model = nn.Sequential(Weighted(), nn.Dropout()).eval()
    model[1].train()
    return model


def _spoiled(maps: Tensor, where: tuple[int, ...]) -> Tensor:
    maps = maps.clone()
    maps[(*where, 3, 3)] = torch.inf
    return maps


@networked
@pytest.mark.parametrize(("which", "make", "message"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_one_sentence(call, case, which, make, message):
    x, maps, target = case
    given = {"model": Weighted(), "x": x, "maps": maps, "target": target}
    given[which] = make(given.get(which))
    with pytest.raises(InputError, match=message):
        call(**given)


SPELLINGS = {
    "uint8 labels": ("target", Tensor.byte),
    "int32 labels": ("target", Tensor.int),
    "list of labels": ("target", Tensor.tolist),
    "array of labels": ("target", lambda y: y.numpy().astype(np.int16)),
    "array of images": ("x", Tensor.numpy),
    "images that require a gradient": ("x", lambda x: x.clone().requires_grad_()),
    "array of maps": ("maps", Tensor.numpy),
    "array of maps in another order of bytes": ("maps", lambda maps: maps.numpy().astype(">f4")),
    "array of maps backwards": ("maps", lambda maps: maps.flip(-1).numpy()[..., ::-1]),
    "list of maps": ("maps", Tensor.tolist),
    "double maps": ("maps", Tensor.double),
    "maps with a graph": ("maps", lambda maps: maps.clone().requires_grad_() * 1),
    "batch of NumPy": ("batch", lambda _: np.int64(5)),
    "a plain function": ("model", lambda model: lambda x: model(x)),
}


@networked
@pytest.mark.parametrize(("which", "make"), SPELLINGS.values(), ids=SPELLINGS)
def test_other_spellings_give_the_same_numbers(call, case, which, make):
    x, maps, target = case
    given = {"model": Weighted(), "x": x, "maps": maps, "target": target}
    expected = call(**given)
    found = call(**(given | {which: make(given.get(which))}))
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, equal_nan=True)  # sums of scores round


@networked
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maps_of_half_precision_are_those_of_the_same_numbers(call, case, dtype):
    x, maps, target = case
    maps = maps.to(dtype)
    assert same(call(Weighted(), x, maps, target), call(Weighted(), x, maps.float(), target))


@networked
def test_one_label_serves_all_images(call, case):
    x, maps, _ = case
    assert same(call(Weighted(), x, maps, 2), call(Weighted(), x, maps, torch.tensor([2, 2, 2])))


@networked
def test_a_network_that_works_in_place_is_as_any_other_and_the_images_stay(call, case):
    x, maps, target = case
    before = x.clone()
    assert same(call(InPlace(), x, maps, target), call(OutOfPlace(), x, maps, target))
    assert torch.equal(x, before)


@networked
@pytest.mark.parametrize("room", [1, 5])
def test_what_does_not_fit_into_memory_is_halved_remembered_and_the_same(call, case, room):
    x, maps, target = case
    roomy, narrow = Weighted(), Weighted(room)
    expected = call(roomy, x, maps, target)
    found = call(narrow, x, maps, target)
    # To the bit, but for sums of scores, which a matrix product rounds by its size.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, equal_nan=True)
    assert 1 <= narrow.failures <= 10 and max(narrow.sizes) <= room  # from 512 rows at most
    assert sum(narrow.sizes) == sum(roomy.sizes)  # nothing is computed twice
    failures = narrow.failures
    call(narrow, x, maps, target)
    assert narrow.failures == failures


@networked
def test_an_image_that_does_not_fit_alone_is_one_sentence(call, case):
    with pytest.raises(InputError, match="does not fit into the memory"):
        call(Weighted(room=0), *case)


@pytest.mark.parametrize("call", [NETWORKED[f"sensitivity_n_{fill}"] for fill in FILLS], ids=FILLS)
def test_masks_are_drawn_once_whatever_fails(call, case):
    """The images that a network with little memory sees are those that one with enough sees.

    But for the last bit of the mean fill: some processors sum the pixels that stay in another order for fewer masks.
    """
    shown = {}
    for room in (10**6, 3):

        class Noting(Weighted):
            def forward(self, x: Tensor, room=room) -> Tensor:
                answer = super().forward(x)
                shown.setdefault(room, []).append(x)
                return answer

        call(Noting(room), *case)
    torch.testing.assert_close(*(torch.cat(images) for images in shown.values()), rtol=0, atol=1e-15)


@pytest.mark.parametrize("call", [NETWORKED["insertion"], NETWORKED["diffid"], NETWORKED["masks"]])
def test_one_output_is_refused_with_its_cure(call, case):
    x, maps, _ = case
    model = _answering(lambda z: z[:, :1])
    with pytest.raises(InputError, match=r"wrap it: lambda x: torch.cat"):
        call(model, x, maps, 0)
    wrapped = lambda x: torch.cat([torch.zeros_like(z := model(x).reshape(-1, 1)), z], 1)  # noqa: E731
    assert call(wrapped, x, maps, 1).isfinite().any()


def test_sensitivity_reads_a_logit_and_takes_a_network_of_one(case):
    x, maps, _ = case
    one, four = _answering(lambda z: z[:, :1]), Weighted()
    call = NETWORKED["sensitivity_n_zero"]
    assert same(call(one, x, maps, 0), call(four, x, maps, 0))


@networked
def test_nothing_meets_on_another_device(call, case):
    x, maps, target = case
    single = Weighted().float()
    expected = call(single, x.float(), maps, target)
    with tagged_device() as on:
        found = call(on(single), on(x.float()), on(maps), on(target))
        labels_of_the_host = call(on(single), on(x.float()), maps, target)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(labels_of_the_host, found, rtol=0, atol=0, equal_nan=True)


# Maps alone


BAD_MAPS = {
    "nothing": (lambda _: None, "is a NoneType; give maps"),
    "one map": (lambda maps: maps[0], r"give \(N, H, W\)"),
    "channels": (lambda maps: maps[:, None], "pixel_map"),
    "none": (lambda maps: maps[:0], "none of them 0"),
    "no pixels": (lambda maps: maps[:, :, :0], "none of them 0"),
    "whole numbers": (lambda maps: maps.long(), "give scores as floats"),
    "NaN": (lambda maps: _spoiled(maps, (1,)), "map 1 is NaN or infinite at 1 of 64 pixels"),
}


@compared
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(("make", "message"), BAD_MAPS.values(), ids=BAD_MAPS)
def test_maps_that_do_not_fit_are_one_sentence(call, stacks, place, make, message):
    given = list(stacks)
    given[place] = make(given[place])
    with pytest.raises(InputError, match=message):
        call(*given)


@pytest.mark.parametrize("call", SELECTED.values(), ids=SELECTED)
@pytest.mark.parametrize(("make", "message"), BAD_MAPS.values(), ids=BAD_MAPS)
def test_maps_that_cannot_be_selected_from_are_one_sentence(call, stacks, make, message):
    with pytest.raises(InputError, match=message):
        call(make(stacks[0]))


@compared
def test_maps_of_two_shapes_are_refused(call, stacks):
    with pytest.raises(InputError, match="give two equal shapes"):
        call(stacks[0], stacks[1][:, :7])


@compared
@pytest.mark.parametrize(
    "make",
    [Tensor.numpy, Tensor.tolist, Tensor.double, lambda maps: maps.clone().requires_grad_()],
    ids=["array", "list", "double", "graph"],
)
def test_maps_in_other_spellings_give_the_same_numbers(call, stacks, make):
    found = call(*map(make, stacks))
    assert not found.requires_grad
    torch.testing.assert_close(found, call(*stacks), rtol=1e-12, atol=1e-6, equal_nan=True)  # local means round


@compared
def test_stacks_of_another_device_are_compared_on_the_host(call, stacks):
    expected = call(*stacks)
    with tagged_device() as on:
        found = call(*map(on, stacks))
    assert same(found, expected)


@pytest.mark.parametrize("call", SELECTED.values(), ids=SELECTED)
def test_a_stack_of_another_device_is_selected_from_on_the_host(call, stacks):
    with tagged_device() as on:
        found = call(on(stacks[0]))
    assert torch.equal(found, call(stacks[0]))


def test_pixel_maps_stay_where_they_are_without_a_graph():
    maps = torch.randn(2, 3, 4, 4, requires_grad=True)
    assert not pixel_map(maps).requires_grad
    with tagged_device() as on:
        found = pixel_map(on(maps))
        assert found.device == on(maps).device
    assert torch.equal(found.cpu(), maps.detach().abs().sum(1))
    with pytest.raises(InputError, match="image 1, channel 2 is NaN or infinite at 1 of 16"):
        pixel_map(_spoiled(maps.detach(), (1, 2)))
