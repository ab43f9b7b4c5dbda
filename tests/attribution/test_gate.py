"""The gate: what may come in, what may not, and what each refusal says; at every public entry."""

import functools

import numpy as np
import pytest
import torch
from torch import nn
from walks import GRADIENT_MAPS, IDS, paths, rules

from lib import InputError
from lib.attribution import Adversarial, Guided, Lines, RandomMask, Riemann, Straight, attribute, walk
from lib.attribution.adversarial import other_classes
from lib.attribution.forward import values, values_and_gradients
from lib.attribution.gate import Gated, gate, image_batch
from lib.attribution.gradients import completeness_error, input_gradient, random_maps, smoothgrad
from lib.attribution.layerwise import full_gradients
from lib.attribution.local import LocalReferences, local_references, logits_of
from lib.attribution.references import FromPool, NoisyCopies, Single, UniformNoise, drawn_from, reference_image

IG = {"ig": Riemann()}
ENTRIES = {
    **GRADIENT_MAPS,
    "full_gradients": full_gradients,
    "attribute": lambda model, x, target: attribute(model, x, target, path=Straight(2), rules=IG)["ig"],
    "guided": lambda model, x, target: attribute(model, x, target, path=Guided(2), rules=IG)["ig"],
    "walk": lambda model, x, target: [node.grad for node in walk(model, Straight(2), x, target)][-1],
    "values": values,
    "values_and_gradients": lambda model, x, target: values_and_gradients(model, x, target)[1],
    "completeness_error": lambda model, x, target: completeness_error(model, x, target, torch.zeros(2, 3, 8, 8)),
}
LABELLED = pytest.mark.parametrize("entry", ENTRIES)


def network(*, out: int = 5):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, out)]
    return nn.Sequential(*layers).eval()


def batch():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 4])


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


# Images


@LABELLED
@pytest.mark.parametrize(
    ("images", "said"),
    [
        (lambda x: x[0], r"unsqueeze\(0\)"),
        (lambda x: (255 * x).byte(), r"/ 255"),
        (lambda x: 255 * x, r"give images in \[0, 1\]"),
        (lambda x: (x - 0.5) / 0.25, r"give images in \[0, 1\]"),
        (lambda x: x.where(x < 0.9, torch.nan), r"nan"),
        (lambda x: x[:0], "at least one image"),
        (lambda x: x[..., :0], "at least one image"),
        (lambda x: "cat.png", "is a str"),
        (lambda x: None, "is a NoneType"),
        (lambda x: [x[0], x[:, 0]], "is a list"),
        (lambda x: x.to(torch.complex64), "complex64.* are real"),
        (lambda x: x.to_sparse(), r"kind sparse_coo.*\.to_dense\(\)"),
        (lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged), "kind nested"),
        (lambda x: x.numpy().astype(np.longdouble), f"an array of {np.dtype(np.longdouble)}"),
        (lambda x: x.numpy().astype(object), "an array of object"),
    ],
)
def test_what_is_no_image_is_refused(entry, images, said):
    x, target = batch()
    with pytest.raises(InputError, match=said):
        ENTRIES[entry](network(), images(x), target)


@LABELLED
@pytest.mark.parametrize(
    "images",
    [
        lambda x: x.numpy(),
        lambda x: np.ascontiguousarray(x.numpy()[..., ::-1])[..., ::-1],  # of negative strides
        lambda x: x.numpy().astype(">f4"),
        lambda x: x.numpy().astype("<f4"),
        lambda x: list(x),
        lambda x: x.clone().requires_grad_(),
        lambda x: x.clone().requires_grad_() * 1,
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: nn.Parameter(x),
    ],
)
def test_images_in_other_forms_give_the_same_maps_without_a_graph(entry, images):
    x, target = batch()
    found, expected = (ENTRIES[entry](network(), given, target) for given in (images(x), x))
    if entry == "full_gradients":
        found, expected = found[0], expected[0]
    same(found, expected)
    assert not found.requires_grad


@LABELLED
def test_images_of_inference_mode(entry):
    x, target = batch()
    with torch.inference_mode():
        made = x.clone()
    found, expected = (ENTRIES[entry](network(), given, target) for given in (made, x))
    same(found, expected)


@pytest.mark.parametrize("entry", sorted(ENTRIES.keys() - {"values", "completeness_error"}))
def test_inference_mode_itself_and_networks_made_in_it_are_refused(entry):
    x, target = batch()
    with torch.inference_mode(), pytest.raises(InputError, match="inference_mode"):
        ENTRIES[entry](network(), x, target)
    with torch.inference_mode():
        made = network()
    with pytest.raises(InputError, match="inference_mode"):
        ENTRIES[entry](made, x, target)


@LABELLED
def test_no_grad_around_a_call_changes_nothing(entry):
    x, target = batch()
    with torch.no_grad():
        found = ENTRIES[entry](network(), x, target)
    torch.testing.assert_close(found, ENTRIES[entry](network(), x, target))


@LABELLED
def test_double_stays_double(entry):
    x, target = batch()
    found = ENTRIES[entry](network().double(), x.double(), target)
    assert (found[0] if entry == "full_gradients" else found).dtype == torch.float64


@LABELLED
def test_half_precision_is_computed_with_in_single(entry):
    x, target = batch()
    found = ENTRIES[entry](network().bfloat16(), x.bfloat16(), target)
    found = found[0] if entry == "full_gradients" else found
    assert found.dtype == (torch.float64 if entry == "completeness_error" else torch.float32)
    assert found.isfinite().all() and found.abs().max() > 0
    with pytest.raises(InputError, match=r"\.float\(\)"):
        image_batch(x.half())


@LABELLED
def test_another_precision_than_the_network_s_is_named(entry):
    x, target = batch()
    with pytest.raises(InputError, match=r"x is torch.float64, the network torch.float32"):
        ENTRIES[entry](network(), x.double(), target)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match="autocast"):
        ENTRIES[entry](network(), x, target)


class InPlace(nn.Module):
    """Normalises its input in place, as many preprocessing layers do."""

    def __init__(self, inplace: bool):
        super().__init__()
        self.inplace, self.net = inplace, nn.Sequential(nn.ReLU(inplace), network())

    def forward(self, x):
        return self.net(x.sub_(0.5).div_(0.25) if self.inplace else (x - 0.5) / 0.25)


@LABELLED
@pytest.mark.parametrize("first", [InPlace, lambda inplace: nn.Sequential(nn.ReLU(inplace), network())])
def test_a_network_that_works_in_place_spoils_nothing(entry, first):
    x, target = batch()
    before = x.clone()
    found = ENTRIES[entry](first(True).eval(), x, target)
    assert torch.equal(x, before)
    torch.testing.assert_close(found, ENTRIES[entry](first(False).eval(), x, target))


# Labels


@LABELLED
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16])
def test_labels_of_any_integer_type(entry, dtype):
    x, target = batch()
    torch.testing.assert_close(
        ENTRIES[entry](network(), x, target.to(dtype)), ENTRIES[entry](network(), x, target), rtol=0, atol=0
    )


@LABELLED
@pytest.mark.parametrize("label", [4, [4, 4], (4, 4), np.array([4, 4]), np.int32(4), np.uint8(4), torch.tensor(4)])
def test_one_label_lists_and_arrays(entry, label):
    x, _ = batch()
    torch.testing.assert_close(
        ENTRIES[entry](network(), x, label), ENTRIES[entry](network(), x, torch.tensor([4, 4])), rtol=0, atol=0
    )


@LABELLED
@pytest.mark.parametrize(
    ("label", "said"),
    [
        (-1, "holds -1"),
        ([0, -7], "holds -7"),
        (5, "label 5 is beyond the network's 5 classes"),
        ([1, 1000], "label 1000"),
        (torch.tensor([True, False]), "bool"),
        (torch.eye(5)[:2], r"argmax\(1\) of one-hot rows"),
        (torch.eye(5).long()[:2], r"argmax\(1\) of one-hot rows"),
        (torch.tensor([[1], [4]]), r"flatten\(\)"),
        (torch.tensor([1.0, 4.0]), "float32"),
        (torch.tensor([1, 2, 3]), r"\(2,\)"),
        ([], r"\(2,\)"),
        (None, "is a NoneType"),
        ("cat", "is a str"),
        ([[1, 2], [3]], "is a list"),
    ],
)
def test_what_is_no_label_is_refused(entry, label, said):
    with pytest.raises(InputError, match=said):
        ENTRIES[entry](network(), batch()[0], label)


# Networks


def hidden(model):
    """Ways to call a network that hide whether it is in training mode."""
    return [lambda x: model(x), functools.partial(model), model.forward, lambda x: model(x) * 1.0]


@pytest.mark.parametrize("part", [None, 0, 1, 4])
def test_training_mode_is_refused_in_any_part_and_behind_any_function(part):
    x, target = batch()
    model = network()
    (model if part is None else model[part]).train()
    before = model[1].running_mean.clone()
    for entry, call in ENTRIES.items():
        with pytest.raises(InputError, match="training mode"):
            call(model, x, target)
        if "grad" not in entry or entry in ("input_gradient", "values_and_gradients"):
            for function in hidden(model):
                with pytest.raises(InputError, match="training mode"):
                    call(function, x, target)
    assert torch.equal(model[1].running_mean, before)


def test_a_norm_that_goes_by_the_batch_is_refused():
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(192, 5)).eval()
    with pytest.raises(InputError, match=r"layer 0 .* no running statistics"):
        input_gradient(model, *batch())


def test_functions_written_as_modules_have_no_modes():
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    assert input_gradient(nn.Sequential(Mean(), nn.Identity()).eval(), *[batch()[0], 1]).abs().sum() > 0
    assert input_gradient(Mean(), batch()[0], 1).abs().sum() > 0


class Answer(dict):
    """As transformers' ModelOutput: a dict with attributes."""

    __getattr__ = dict.__getitem__


WRAPPERS = {
    "lambda x: model(x).logits": lambda logits: Answer(logits=logits, hidden=None),
    'lambda x: model(x)["logits"]': lambda logits: {"logits": logits},
    'lambda x: model(x)["out"]': lambda logits: {"out": logits},
    "lambda x: model(x)[0]": lambda logits: (logits, None),
}


@LABELLED
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_answers_that_are_no_tensor_name_the_wrapper_that_cures_them(entry, wrapper):
    x, target = batch()
    inner = network()

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return WRAPPERS[wrapper](self.inner(x))

    model = Model().eval()
    with pytest.raises(InputError) as refusal:
        ENTRIES[entry](model, x, target)
    assert str(refusal.value).endswith("wrap it: " + wrapper.replace('"out"', "'out'").replace('"logits"', "'logits'"))
    if entry not in ("gradcam", "fullgrad", "full_gradients", "x_gradient", "completeness_error"):
        wrapped = eval(wrapper, {"model": model})
        torch.testing.assert_close(ENTRIES[entry](wrapped, x, target), ENTRIES[entry](inner, x, target))


@LABELLED
def test_answers_that_are_arrays_are_refused(entry):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            return self.inner(x).detach().numpy()

    with pytest.raises(InputError, match="answers with a ndarray; give one that computes with torch"):
        ENTRIES[entry](Model().eval(), *batch())


NO_MAPS = {
    "a number": (lambda node, following: node.grad.sum(), r"a map \(\); give .* \(2, 3, 8, 8\)"),
    "a number an image": (lambda node, following: node.value, r"a map \(2,\)"),
    "a pixel map": (lambda node, following: node.grad.sum(1), r"a map \(2, 8, 8\)"),
    "one channel": (lambda node, following: node.grad.sum(1, keepdim=True), r"a map \(2, 1, 8, 8\)"),
    "nothing": (lambda node, following: None, "answers with a NoneType"),
    "an array": (lambda node, following: node.grad.numpy(), "answers with a ndarray"),
    "no map": (lambda node, following: {"maps": node.grad}, "sums up maps and no 'map'"),
    "a list in a dict": (lambda node, following: {"map": [node.grad]}, "answers with a list"),
}


@pytest.mark.parametrize("steps", [None, [1, 2]])
@pytest.mark.parametrize(("rule", "said"), NO_MAPS.values(), ids=NO_MAPS)
def test_a_rule_that_makes_no_map_is_named(rule, said, steps):
    with pytest.raises(InputError, match=f"rule 'own' .*{said}"):
        attribute(network(), *batch(), path=Straight(2), rules={**IG, "own": rule}, steps=steps)


def test_a_map_that_was_not_asked_for_names_those_that_were():
    found = attribute(network(), *batch(), path=Straight(2), rules=IG, steps=[1, 2])
    for key in ("ig", "idgi", ("ig", 3)):
        with pytest.raises(InputError, match=r"no map .*\('ig', 2\)|did you mean"):
            found[key]


def test_one_logit_is_for_the_objective_logit_or_the_wrapper_of_two():
    x, target = batch()[0], [0, 1]
    model = network(out=1)
    for answer in (model, nn.Sequential(model, nn.Flatten(0)).eval()):
        with pytest.raises(InputError, match=r"torch\.cat") as refusal:
            attribute(answer, x, target, path=Straight(2), rules=IG)
        two = eval(str(refusal.value).split("wrap it: ")[1], {"torch": torch, "model": answer})
        torch.testing.assert_close(two(x).softmax(1)[:, 1], model(x).sigmoid()[:, 0])
        assert attribute(two, x, target, path=Straight(2), rules=IG)["ig"].abs().max() > 0
    assert attribute(model, x, 0, path=Straight(2), rules=IG, objective="logit")["ig"].abs().max() > 0
    with pytest.raises(InputError, match="label 1 is beyond"):
        attribute(model, x, target, path=Straight(2), rules=IG, objective="logit")


@pytest.mark.parametrize("answer", [lambda z: z[:, :, None], lambda z: z.T, lambda z: z[:1], lambda z: z.sum()])
def test_answers_of_another_shape_are_refused(answer):
    model = network()
    with pytest.raises(InputError, match="the network answers with"):
        input_gradient(lambda x: answer(model(x)), *batch())


def test_what_cannot_be_differentiated_is_named():
    x, target = batch()
    model = network()
    for severed in (lambda x: model(x).detach(), lambda x: model(x.detach()), lambda x: model(x.round().detach())):
        with pytest.raises(InputError, match="does not depend on its input"):
            input_gradient(severed, x, target)
    with pytest.raises(InputError, match="the network is a str"):
        input_gradient("resnet50", x, target)


@pytest.mark.parametrize("name", GRADIENT_MAPS)
def test_a_network_of_nan_is_named(name):
    model = network()
    nn.init.constant_(model[0].bias, torch.nan)
    with pytest.raises(InputError, match="not finite"):
        GRADIENT_MAPS[name](model, *batch())


@pytest.mark.parametrize("name", paths(torch.zeros(2, 3, 8, 8)))
def test_a_node_of_nan_is_named_on_every_path(name):
    x, target = batch()
    model = network()
    path = paths(x)[name]
    with pytest.raises(InputError, match=r"not finite at node \d+ of line 0, .*images \[1\]"):
        attribute(
            lambda z: model(z).masked_fill((torch.arange(len(z)) % 2 == 1)[:, None], torch.nan),
            x,
            target,
            path=path,
            rules=rules(path),
            budget=2,
        )


def test_the_node_is_counted_from_the_reference():
    def cosine(x):
        z = x.flatten(1)
        return z[:, :5] / z.norm(dim=1, keepdim=True)

    with pytest.raises(InputError, match=r"node 0 of line 0, counted from the reference \(images \[0, 1\]"):
        attribute(cosine, *batch(), path=Straight(3), rules=IG)


def test_a_network_behind_the_gate_may_be_given_what_is_no_image():
    gated = Gated(lambda x: x.flatten(1) ** 2, "logit")
    x, target = torch.tensor([[[[-3.0, 5.0]]]]), torch.tensor([1])
    assert attribute(gated, x, target, path=Straight(64), rules=IG, objective="logit")["ig"].tolist() == [[[[0, 25]]]]
    assert gate(gated, x, target)[0] is gated


# References, ids, weights, targets


POOL = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(3))
OTHER_BATCH = {
    "index of 3 rows": lambda: Lines(FromPool(POOL, torch.zeros(3, 2).long())),
    "index of 1 row": lambda: Lines(FromPool(POOL, torch.zeros(1, 2).long())),
    "index of no rows": lambda: Lines(FromPool(POOL, torch.zeros(0, 2).long())),
    "index beyond the pool": lambda: Lines(FromPool(POOL, [[0, 9], [0, 1]])),
    "index below 0": lambda: Lines(FromPool(POOL, [[0, -1], [0, 1]])),
    "index of floats": lambda: Lines(FromPool(POOL, torch.zeros(2, 2))),
    "index of truth values": lambda: Lines(FromPool(POOL, torch.ones(2, 2).bool())),
    "weights of 3 rows": lambda: Lines(FromPool(POOL, [[0, 1]] * 2, torch.full((3, 2), 0.5))),
    "weights that sum to 2": lambda: Lines(FromPool(POOL, [[0, 1]] * 2, torch.ones(2, 2))),
    "weights below 0": lambda: Lines(FromPool(POOL, [[0, 1]] * 2, [[-1.0, 2.0]] * 2)),
    "weights of NaN": lambda: Lines(FromPool(POOL, [[0, 1]] * 2, torch.full((2, 2), torch.nan))),
    "whole weights": lambda: Lines(FromPool(POOL, [[0, 1]] * 2, [[0, 1]] * 2)),
    "pool of another size": lambda: Lines(FromPool(POOL[..., :5], [[0, 1]] * 2)),
    "pool of grey images": lambda: Lines(FromPool(POOL[:, :1], [[0, 1]] * 2)),
    "pool of bytes": lambda: Lines(FromPool((255 * POOL).byte(), [[0, 1]] * 2)),
    "pool of 0 to 255": lambda: Lines(FromPool(255 * POOL, [[0, 1]] * 2)),
    "pool of one image": lambda: Lines(FromPool(POOL[0], [[0, 1]] * 2)),
    "1 id for drawn points": lambda: Lines(Single(), grid="uniform", images=["a"]),
    "3 ids for drawn points": lambda: Lines(Single(), grid="uniform", images=["a", "b", "c"]),
    "a text for drawn points": lambda: Lines(Single(), grid="uniform", images="ab"),
    "1 id for noise": lambda: Lines(UniformNoise(["a"])),
    "3 ids for noise": lambda: Lines(UniformNoise(["a", "b", "c"])),
    "a text for noise": lambda: Lines(UniformNoise("ab")),
    "1 id for copies": lambda: Lines(NoisyCopies(["a"])),
    "1 id for crossed copies": lambda: Lines(NoisyCopies(["a"], cross_images=True)),
    "3 ids for crossed copies": lambda: Lines(NoisyCopies(["a", "b", "c"], cross_images=True)),
    "no set": lambda: Lines(torch.zeros(2, 3, 8, 8)),
    "reference of 3 images": lambda: Lines(Single(torch.zeros(3, 3, 8, 8))),
    "straight from 3 images": lambda: Straight(2, reference=torch.zeros(3, 3, 8, 8)),
    "targets of 3 rows": lambda: Adversarial(torch.zeros(3, 1).long()),
    "targets of 1 row": lambda: Adversarial(torch.zeros(1, 1).long()),
    "targets without lines": lambda: Adversarial(torch.zeros(2).long()),
    "no targets": lambda: Adversarial(torch.zeros(2, 0).long()),
    "target 5 of 5": lambda: Adversarial([[0], [5]]),
    "target -1": lambda: Adversarial([[0], [-1]]),
    "targets of floats": lambda: Adversarial(torch.zeros(2, 1)),
}


@pytest.mark.parametrize("name", OTHER_BATCH)
def test_what_was_made_for_another_batch_is_refused(name):
    with pytest.raises(InputError):
        attribute(network(), *batch(), path=OTHER_BATCH[name](), rules={"plain": lambda node, following: node.grad})


@pytest.mark.parametrize("ids", [["a"], ["a", "b", "c"], "ab", None, []])
def test_ids_of_another_batch_are_refused(ids):
    x, target = batch()
    calls = [
        lambda: attribute(network(), x, target, path=Straight(2), rules={"mask": RandomMask(ids)}),
        lambda: smoothgrad(network(), x, target, images=ids),
        lambda: other_classes(target, 5, 1, images=ids),
        lambda: drawn_from(9, 2, images=ids, own=[0, 1]),
    ]
    for call in calls + ([lambda: random_maps(ids, (2, 2), seed=0)] if ids in ("ab", None, []) else []):
        with pytest.raises(InputError):
            call()


@pytest.mark.parametrize("images", [lambda x: 255 * x, lambda x: (x - 0.5) / 0.25, lambda x: (255 * x).byte()])
@pytest.mark.parametrize("references", [NoisyCopies(IDS), UniformNoise(IDS), Single(), FromPool(POOL, [[0], [1]])])
def test_a_set_of_references_called_alone_asks_for_images_too(references, images):
    x, _ = batch()
    assert references(0, x).shape == x.shape
    with pytest.raises(InputError):
        references(0, images(x))


@pytest.mark.parametrize(
    "reference",
    [
        [0.5, 0.25, 0.75],
        (0.5, 0.25, 0.75),
        np.array([0.5, 0.25, 0.75]),
        torch.tensor([0.5, 0.25, 0.75]),
        torch.tensor([0.5, 0.25, 0.75]).view(3, 1, 1),
        torch.tensor([0.5, 0.25, 0.75]).view(1, 3, 1, 1),
        torch.tensor([0.5, 0.25, 0.75]).view(3, 1, 1).expand(3, 8, 8).numpy(),
        torch.tensor([0.5, 0.25, 0.75]).view(3, 1, 1).expand(1, 3, 8, 8),
        torch.tensor([0.5, 0.25, 0.75]).view(3, 1, 1).expand(2, 3, 8, 8).double().requires_grad_(),
    ],
)
def test_a_colour_in_any_form_is_one_reference(reference):
    x, target = batch()
    expected = x.new_tensor([0.5, 0.25, 0.75]).view(3, 1, 1).expand_as(x)
    assert torch.equal(reference_image(reference, x), expected)
    for path in (Straight(2, reference=reference), Guided(2, reference=reference)):
        found = attribute(network(), x, target, path=path, rules=IG)["ig"]
        assert torch.equal(
            found, attribute(network(), x, target, path=type(path)(2, reference=expected), rules=IG)["ig"]
        )
        assert not found.requires_grad


@pytest.mark.parametrize(
    "number", [0.5, 1, np.float32(0.5), np.float64(0.5), np.int64(0), np.array(0.5), torch.tensor(0.5)]
)
def test_a_number_is_a_reference(number):
    x, _ = batch()
    assert torch.equal(reference_image(number, x), torch.full_like(x, float(number)))


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (255, "spans"),
        (-0.1, "spans"),
        (float("nan"), "spans"),
        ([124, 116, 104], "spans"),
        (np.array([124, 116, 104], np.uint8), "uint8"),
        (torch.full((3, 8, 8), 128, dtype=torch.uint8), "uint8"),
        (True, "bool"),
        (None, "is a NoneType"),
        ({}, "is a dict"),
        ("grey", "'black', 'white'"),
        ([0.5, 0.5], "shape"),
        (torch.zeros(8, 8), "shape"),
        (torch.zeros(1, 8, 8), "shape"),
        (torch.zeros(3, 8, 7), "shape"),
        (torch.zeros(3, 3, 8, 8), "shape"),
        (torch.zeros(2, 1, 8, 8), "shape"),
    ],
)
@pytest.mark.parametrize("path", [Straight, Guided, lambda steps, reference: Lines(Single(reference), steps)])
def test_what_is_no_reference_is_refused(reference, said, path):
    with pytest.raises(InputError, match=said):
        attribute(network(), *batch(), path=path(2, reference=reference), rules={})


def test_whole_numbers_of_numpy_and_no_others():
    x, target = batch()
    two = np.int64(2)
    made = [Straight(two), Guided(two), Lines(UniformNoise(IDS, two), two), Adversarial([[0], [1]], two)]
    for path in made:
        assert type(path.steps) is int
        attribute(network(), x, target, path=path, rules={}, budget=np.int32(3))
    sweep = attribute(network(), x, target, path=Straight(4), rules=IG, steps=np.array([2, 4]))
    same(sweep["ig", 2], attribute(network(), x, target, path=Straight(2), rules=IG)["ig"])
    assert smoothgrad(network(), x, target, images=IDS, samples=two)[0].shape == x.shape
    for wrong in (2.0, np.float64(2), "2", True, np.True_, 0, np.int64(-1), None):
        for make in (Straight, Guided, lambda n: Lines(Single(), n), lambda n: UniformNoise(IDS, n)):
            with pytest.raises(InputError, match="whole number of at least 1"):
                make(wrong)
        for call in (
            lambda n: attribute(network(), x, target, path=Straight(4), rules=IG, steps=[n]),
            lambda n: smoothgrad(network(), x, target, images=IDS, samples=n),
            lambda n: drawn_from(9, n, images=IDS, own=[0, 1]),
            lambda n: local_references(torch.rand(5, 2), clusters=n, references=1),
        ):
            with pytest.raises(InputError, match="whole number of at least 1"):
                call(wrong)


@pytest.mark.parametrize(
    ("own", "said"), [([0], "own is"), ([0, 9], "0 to 8"), ([0, -2], "or -1"), ([0.5, 1], "own is"), (3, "own is")]
)
def test_places_in_the_pool(own, said):
    with pytest.raises(InputError, match=said):
        drawn_from(9, 2, images=IDS, own=own)


def test_local_references_and_logits():
    x, _ = batch()
    with pytest.raises(InputError, match=r"give images in \[0, 1\]"):
        logits_of(network(), 255 * x)
    with pytest.raises(InputError, match="training mode"):
        logits_of(network().train(), x)
    found = LocalReferences(torch.rand(2, 5), torch.zeros(2, 1).long(), torch.ones(2, 1))
    for wrong in (torch.rand(2, 4), torch.rand(5), None):
        with pytest.raises(InputError, match="logits is"):
            found.of(wrong)
    assert local_references(np.random.default_rng(0).random((5, 2)), clusters=1, references=2).members.shape == (1, 2)
