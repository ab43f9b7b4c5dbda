"""What every entry accepts and refuses, and how all of them go on where memory does not suffice."""

from functools import partial

import numpy as np
import pytest
import torch
from tagged import is_tagged, tagged_device
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lib import InputError
from lib.attacks import (
    Attack,
    Method,
    attack,
    pgd,
    pullback,
    random_sign,
    random_walk,
    raw_maps,
    robust_answers,
    uniform_start,
)

HOW = Attack("top_k", epsilon=0.1, step=0.05, iterations=3, k=4, restarts=2)
IG = Method("integrated_gradients", 3)
BALL = {"epsilon": 0.1, "step": 0.05, "iterations": 3}
IDS = ["a", "b", "c"]
aten = torch.ops.aten
ASKING = (aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default)


def energy(raw):
    return raw.square().sum((1, 2, 3))


ENTRIES = {  # by what they take: a network with labels, ids, a budget
    "attack": lambda model, x, y, ids, **more: attack(model, x, y, IG, HOW, images=ids, **more).x,
    "random attack": lambda model, x, y, ids, **more: (
        attack(model, x, y, IG, Attack("random", 0.1, 0.05, 3, 4), images=ids, **more).x
    ),
    "robust_answers": lambda model, x, y, ids, **more: robust_answers(model, x, y, images=ids, **BALL, **more),
    "raw_maps": lambda model, x, y, ids, **more: raw_maps(model, x, y, IG, **more),
    "pullback": lambda model, x, y, ids, **more: pullback(model, x, y, IG, energy, **more),
    "random_sign": lambda model, x, y, ids: random_sign(x, epsilon=0.1, images=ids),
    "uniform_start": lambda model, x, y, ids: uniform_start(x, epsilon=0.1, images=ids, restart=1),
    "random_walk": lambda model, x, y, ids: next(random_walk(x, images=ids)),
    "pgd": lambda model, x, y, ids: pgd(lambda point: model(point)[:, 0].sum(), x, start=x, **BALL),
}
NETWORKS = ("attack", "random attack", "robust_answers", "raw_maps", "pullback")
CLASSES = NETWORKS[:3]  # those that ask which class is first
NAMED = ("attack", "random attack", "robust_answers", "random_sign", "uniform_start", "random_walk")


def made(activation=nn.ReLU, outputs=3):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 3), activation(), nn.Flatten(), nn.Linear(12, 5), activation(), nn.Linear(5, outputs)
    return nn.Sequential(*layers).eval().requires_grad_(False)


class Smooth(nn.Module):
    """Twice differentiable, with a module that `softplus_twin` finds."""

    def __init__(self, limit=None, error=torch.OutOfMemoryError):
        super().__init__()
        self.layers, self.limit, self.error, self.seen = made(), limit, error, []
        self.layers[1] = self.layers[4] = nn.Softplus()
        self.also = nn.ReLU()
        self.eval()

    def forward(self, x):
        self.seen.append(len(x))
        if self.limit is not None and len(x) > self.limit:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.layers(x) + self.also(x.flatten(1).sum(1, keepdim=True))


@pytest.fixture(scope="module")
def model():
    return Smooth()


@pytest.fixture(scope="module")
def x():
    return torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1


@pytest.fixture(scope="module")
def y(model, x):
    return model(x).argmax(1)


def switched(model):
    model = made()
    model[3].train()
    return model


BAD_IMAGES = {
    "normalised": (lambda x: (x - 0.45) / 0.225, r"spans \[.*give images in \[0, 1\]"),
    "0 to 255": (lambda x: x * 255, r"give images in \[0, 1\]"),
    "bytes": (lambda x: (x * 255).byte(), r"\.float\(\) / 255"),
    "half": (lambda x: x.half(), r"half precision|the network torch\.float32"),
    "one image": (lambda x: x[0], "unsqueeze"),
    "no image": (lambda x: x[:0], "at least one image"),
    "NaN": (lambda x: x * torch.nan, "nan"),
    "a file's name": (lambda x: "cat.png", "is a str"),
}
BAD_LABELS = {
    "-1": (lambda y: torch.tensor([0, -1, 1]), "-1"),
    "K": (lambda y: torch.tensor([0, 3, 1]), "label 3"),
    "one-hot": (lambda y: nn.functional.one_hot(y, 3), "argmax"),
    "truth values": (lambda y: y > 0, "bool"),
    "floating-point": (lambda y: y.float(), "float32"),
    "too few": (lambda y: y[:2], r"\(3,\)"),
    "text": (lambda y: "cat", "is a str"),
    "none": (lambda y: None, "None"),
}
BAD_NETWORKS = {
    "training": (lambda model: made().train(), "training mode"),
    "one layer in training": (switched, "layer 3"),
    "a tuple": (lambda model: lambda x: (model(x), x), r"model\(x\)\[0\]"),
    "features": (lambda model: lambda x: x, "classes"),
    "one label a batch": (lambda model: lambda x: model(x)[:1], "for 3|for 9"),
    "no network": (lambda model: "resnet", "is a str"),
}
BAD_IDS = {"too few": (lambda ids: ids[:2], "2 ids"), "one text": (lambda ids: "abc", "'abc'")}


def cases(bad, entries):
    return [pytest.param(entry, *bad[kind], id=f"{entry}-{kind}") for kind in bad for entry in entries]


@pytest.mark.parametrize(("entry", "spoil", "message"), cases(BAD_IMAGES, ENTRIES))
def test_bad_images_are_refused_by_every_entry(model, x, y, entry, spoil, message):
    with pytest.raises(InputError, match=message):
        ENTRIES[entry](model, spoil(x), y, IDS)


@pytest.mark.parametrize(("entry", "spoil", "message"), cases(BAD_LABELS, NETWORKS))
def test_bad_labels_are_refused_by_every_entry_with_a_network(model, x, y, entry, spoil, message):
    with pytest.raises(InputError, match=message):
        ENTRIES[entry](model, x, spoil(y), IDS)


@pytest.mark.parametrize(("entry", "spoil", "message"), cases(BAD_NETWORKS, NETWORKS))
def test_bad_networks_are_refused_by_every_entry_with_a_network(model, x, y, entry, spoil, message):
    with pytest.raises(InputError, match=message):
        ENTRIES[entry](spoil(model), x, y, IDS)


@pytest.mark.parametrize("entry", CLASSES)
def test_a_network_of_one_class_is_always_right_and_refused(x, entry):
    with pytest.raises(InputError, match="two or more classes"):
        ENTRIES[entry](made(outputs=1), x, 0, IDS)


@pytest.mark.parametrize(("entry", "spoil", "message"), cases(BAD_IDS, NAMED))
def test_ids_that_do_not_match_are_refused(model, x, y, entry, spoil, message):
    with pytest.raises(InputError, match=message):
        ENTRIES[entry](model, x, y, spoil(IDS))


@pytest.mark.parametrize("budget", [0, -1, 2.5, True])
@pytest.mark.parametrize("entry", NETWORKS)
def test_a_budget_is_a_whole_number_of_rows(model, x, y, entry, budget):
    with pytest.raises(InputError, match="budget is"):
        ENTRIES[entry](model, x, y, IDS, budget=budget)


@pytest.mark.parametrize("spoil", [lambda m: "gradient", lambda m: HOW])
def test_methods_and_attacks_are_not_mistaken_for_one_another(model, x, y, spoil):
    for call in (
        partial(attack, how=HOW, images=IDS),
        raw_maps,
        partial(pullback, objective=energy),
    ):
        with pytest.raises(InputError, match="method is"):
            call(model, x, y, spoil(IG))
    with pytest.raises(InputError, match="how is"):
        attack(model, x, y, IG, IG, images=IDS)


@pytest.mark.parametrize("change", [{"training": True}, {"one": True}])
def test_the_surrogate_passes_the_gate_too(model, x, y, change):
    bad = made(nn.Softplus).train() if "training" in change else lambda p: (model(p),)
    with pytest.raises(InputError):
        attack(model, x, y, IG, HOW, images=IDS, surrogate=bad)


@pytest.mark.parametrize("entry", ENTRIES)
def test_spellings_that_leave_no_doubt_are_accepted(model, x, y, entry):
    wanted = ENTRIES[entry](model, x, y, IDS)
    spellings = [(x.numpy(), y, IDS)]
    spellings += [(x, y.tolist(), tuple(IDS)), (x, y.numpy().astype(np.int32), np.array(IDS))]
    spellings += [(x, y.to(torch.uint8), IDS)]
    if entry in NETWORKS:
        assert torch.equal(ENTRIES[entry](model, x, 1, IDS), ENTRIES[entry](model, x, [1, 1, 1], IDS))
        spellings.append((x.clone().requires_grad_(), y, IDS))
    for spelt in spellings:
        found = ENTRIES[entry](model, *spelt)
        assert torch.equal(found, wanted) and found.dtype == wanted.dtype and not found.requires_grad


@pytest.mark.parametrize("entry", NETWORKS)
def test_networks_in_half_precision_are_attacked_in_single(x, y, entry):
    half = Smooth().half()
    found = ENTRIES[entry](half, x.half(), y, IDS, **({"surrogate": half} if entry == "attack" else {}))
    assert found.dtype == (torch.bool if entry == "robust_answers" else torch.float32)
    if entry in ("raw_maps", "pullback"):
        torch.testing.assert_close(found, ENTRIES[entry](Smooth(), x, y, IDS), rtol=0.05, atol=1e-2)
    if "attack" in entry:
        assert (found - x).abs().max() <= 0.1 + 1e-3 and not torch.equal(found, x.half().float())


def test_numbers_of_numpy_are_numbers(x):
    whole, part = np.int64(2), np.float64(0.1)
    Attack("top_k", part, np.float32(0.05), whole, whole, attack_k=whole, restarts=whole, radius=whole, levels=whole)
    assert Method("integrated_gradients", whole) == Method("integrated_gradients", 2)
    assert torch.equal(random_sign(x, epsilon=part, images=IDS), random_sign(x, epsilon=0.1, images=IDS))
    options = {"step": np.float64(0.05), "iterations": whole, "start": x}
    assert pgd(lambda p: p.sum(), x, epsilon=part, **options).dtype == torch.float32


@pytest.mark.parametrize("entry", NETWORKS)
def test_a_network_that_works_in_place_leaves_the_images_alone(model, x, y, entry):
    def run(network, images):
        return ENTRIES[entry](network, images, y, IDS, **({"surrogate": network} if entry == "attack" else {}))

    given = x.clone()
    found = run(lambda p: model(p.sub_(0.3)), given)
    assert torch.equal(given, x) and torch.equal(found, run(lambda p: model(p - 0.3), x))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
@pytest.mark.parametrize("entry", NETWORKS)
def test_where_memory_does_not_suffice_fewer_rows_are_run_and_the_number_is_remembered(model, x, y, entry, error):
    tight = Smooth(limit=2, error=error)
    model.seen.clear()
    wanted = ENTRIES[entry](model, x, y, IDS)
    expected = sum(model.seen)
    torch.testing.assert_close(ENTRIES[entry](tight, x, y, IDS), wanted)
    failed = [rows for rows in tight.seen if rows > 2]
    assert 0 < len(failed) <= 4  # 9 points are halved to 4 and to 2: once for gradients and once for tangents
    tight.seen.clear()
    ENTRIES[entry](tight, x, y, IDS)
    assert max(tight.seen) <= 2
    assert sum(tight.seen) == expected  # nothing is run twice


@pytest.mark.parametrize("entry", NETWORKS)
def test_an_image_that_does_not_fit_alone_is_refused(x, y, entry):
    with pytest.raises(InputError, match="does not fit into the memory"):
        ENTRIES[entry](Smooth(limit=0), x, y, IDS)


class Root(nn.Module):
    """f_0 = sum sqrt(x - edge), its gradient infinite at the edge and NaN below it; f_1 = -1 keeps the class."""

    def __init__(self, edge, steep=1.0):
        super().__init__()
        self.edge, self.steep = edge, steep
        self.eval()

    def forward(self, x):
        value = (self.steep * (x - self.edge).sqrt()).flatten(1).sum(1)
        return torch.stack([value, torch.full_like(value, -1)], 1)


class Pushed(nn.Module):
    """A smooth network that any attack moves, of a finite gradient everywhere."""

    def forward(self, x):
        value = (x.square() * torch.arange(1.0, 17.0).view(1, 1, 4, 4)).flatten(1).sum(1)
        return torch.stack([value, torch.full_like(value, -1)], 1)


def test_gradients_that_are_not_finite_are_refused_wherever_they_arise():
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.55
    edge = x.amin((1, 2, 3)).min().item()
    pushed = Pushed().eval()
    at_once, soon = Root(edge), Root(edge - 0.01)
    options = {"images": IDS[:2], "surrogate": pushed}
    how = Attack("top_k", epsilon=0.2, step=0.05, iterations=4, k=4)
    for call in (raw_maps, partial(pullback, objective=energy), partial(attack, how=how, **options)):
        with pytest.raises(InputError, match=r"not finite for images \[\d\] of the batch"):
            call(at_once, x, 0, Method())
    with pytest.raises(InputError, match="in iteration 1"):  # the image's own map is finite
        attack(soon, x, 0, Method(), how, **options)
    with pytest.raises(InputError, match="in iteration 1"):  # of the direction alone
        attack(pushed, x, 0, Method(), how, images=IDS[:2], surrogate=at_once)
    with pytest.raises(InputError, match=r"images \[0, 1\] of the batch, in its loss"):
        robust_answers(Root(2.0), x, 0, images=IDS[:2], **BALL)
    with pytest.raises(InputError, match=r"images \[0, 1\] of the batch, in the start"):
        pgd(lambda p: Root(2.0)(p).sum(), x, start=x, **BALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": torch.zeros(1, 1, 4, 4)}, "start is"),
        ({"start": None}, "start is a NoneType"),
        ({"start": torch.full((3, 1, 4, 4), torch.nan)}, "in the start"),
        ({"iterations": 0}, "iterations is 0"),
        ({"epsilon": 8}, "epsilon is 8"),
        ({"step": 0}, "step 0"),
    ],
)
def test_what_pgd_cannot_start_from(x, change, message):
    with pytest.raises(InputError, match=message):
        pgd(lambda point: point.sum(), x, **({**BALL, "start": x} | change))


@pytest.mark.parametrize("objective", [lambda p: p.sum((1, 2, 3)), lambda p: p.detach().sum(), lambda p: 1.0])
def test_an_objective_is_one_number_with_a_gradient(x, objective):
    with pytest.raises(InputError, match="one number with a gradient"):
        pgd(objective, x, start=x, **BALL)


@pytest.mark.parametrize("aim", ["lens_top_k", "mass_centre", "target"])
def test_other_aims_on_another_device_give_the_same_images(model, x, y, aim):
    how = Attack(aim, 0.1, 0.05, 3, 4, region=torch.eye(4), measure="top_k", levels=255, released=True)
    with tagged_device() as on:
        network = on(model)
        found = attack(network, on(x), on(y), IG, how, images=IDS, surrogate=network)
        assert is_tagged(found.x) and is_tagged(found.usable)
        moved = found.x.cpu()
    torch.testing.assert_close(moved, attack(model, x, y, IG, how, images=IDS, surrogate=model).x)


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_works_on_another_device_with_the_same_result(model, x, y, entry):
    with tagged_device() as on:
        found = ENTRIES[entry](on(model), on(x), y.tolist(), IDS)
        assert is_tagged(found)
        found = found.cpu()
    torch.testing.assert_close(found, ENTRIES[entry](model, x, y, IDS))


class Waits(TorchDispatchMode):
    """Counts what waits for the pretended device: numbers, places and whole tensors that the host asks for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        asks = operation in ASKING or torch.device(kwargs.get("device") or "meta").type == "cpu"
        self.count += asks and any(map(is_tagged, tree_leaves(args)))
        return operation(*args, **kwargs)


def waits(model, x, call) -> int:
    with tagged_device() as on, Waits() as found:
        call(on(model), on(x))
    return found.count


def test_the_host_waits_for_no_iteration_but_to_measure(model, x, y):
    def pushed(iterations):
        ball = BALL | {"iterations": iterations}
        return waits(model, x, lambda network, p: pgd(lambda q: network(q)[:, 0].sum(), p, start=p, **ball))

    def answered(iterations):
        ball = BALL | {"iterations": iterations}
        return waits(model, x, lambda network, p: robust_answers(network, p, 1, images=IDS, **ball))

    def attacked(iterations):
        how = Attack("top_k", 0.1, 0.05, iterations, 4)
        return waits(model, x, lambda network, p: attack(network, p, y.tolist(), IG, how, images=IDS))

    assert 0 < pushed(2) == pushed(5) and 0 < answered(2) == answered(5)
    assert attacked(5) - attacked(2) == 3 * 2  # the maps, and whether they and the answers will do
