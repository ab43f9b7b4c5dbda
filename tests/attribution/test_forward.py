"""How a network is run over many points: out of memory, budgets, objectives, and second derivatives."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from walks import GRADIENT_MAPS, paths, rules

from lib import InputError
from lib.attribution import IDGI, Guided, Lines, Riemann, Straight, attribute, parts
from lib.attribution.forward import values, values_and_gradients
from lib.attribution.parts import in_parts, rows_at_once
from lib.attribution.references import UniformNoise

MESSAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("MPS backend out of memory"),
]


class Small(nn.Module):
    """A network for which more than `fits` images are out of memory; counts what it was given."""

    def __init__(self, fits: int, error: Exception = MESSAGES[0]):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)]
        self.net, self.fits, self.error, self.given, self.failed = nn.Sequential(*layers), fits, error, [], 0
        self.eval()

    def forward(self, x):
        if len(x) > self.fits:
            self.failed += 1
            raise type(self.error)(str(self.error))
        self.given.append(len(x))
        return self.net(x)


def batch(count: int = 2):
    x = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(count) % 5


@pytest.mark.parametrize("error", MESSAGES, ids=lambda error: str(error)[:20])
def test_a_walk_runs_out_of_memory_once_and_a_second_one_never(error):
    x, target = batch()
    model, roomy = Small(64, error), Small(10**9)
    rules = {"ig": Riemann(), "idgi": IDGI()}
    found = attribute(model, x, target, path=Straight(300), rules=rules)
    assert model.failed == 3  # 512, 256, 128
    assert max(model.given) == 64 and sum(model.given) == 602
    expected = attribute(roomy, x, target, path=Straight(300), rules=rules)
    assert roomy.given[0] == 512
    for key in rules:
        torch.testing.assert_close(found[key], expected[key])
    attribute(model, x, target, path=Straight(300), rules=rules)
    values_and_gradients(model, *batch(300))
    attribute(lambda x: model(x), x, target, path=Straight(8), rules=rules)
    assert model.failed == 3


@pytest.mark.parametrize("name", paths(torch.zeros(2, 3, 8, 8)))
def test_every_path_halves(name):
    x, target = batch()
    path = paths(x)[name]
    model = Small(1)
    found = attribute(model, x, target, path=path, rules=rules(path))
    expected = attribute(Small(10**9), x, target, path=path, rules=rules(path))
    assert set(model.given) == {1} and model.failed <= 3
    for key in found.sums:
        torch.testing.assert_close(found[key], expected[key])


@pytest.mark.parametrize("name", GRADIENT_MAPS)
def test_every_map_of_gradients_halves(name):
    x, target = batch()
    model = Small(1)
    torch.testing.assert_close(GRADIENT_MAPS[name](model, x, target), GRADIENT_MAPS[name](Small(99), x, target))
    failed = model.failed
    assert failed
    GRADIENT_MAPS[name](model, x, target)
    assert model.failed == failed


def test_one_image_that_does_not_fit_is_named():
    with pytest.raises(InputError, match=r"one image of shape \(3, 8, 8\) does not fit into the memory of cpu"):
        values(Small(0), *batch())


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def broken(x):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        values(broken, *batch())


def test_budget_binds_and_what_fitted_is_kept_by_network_shape_and_precision():
    model = Small(16)
    values_and_gradients(model, *batch(40), budget=5)
    assert set(model.given) == {5} and model.failed == 0
    x, target = batch(40)
    values_and_gradients(model, x, target, budget=40)
    assert model.failed == 2 and rows_at_once(model, x) == 10
    values_and_gradients(model, x, target, budget=3)
    assert model.given[-1] == 1 and max(model.given[-13:]) == 3
    model.double()
    values_and_gradients(model, x.double(), target, budget=40)
    assert model.failed == 4
    assert rows_at_once(Small(16), x) == 512


def test_a_network_that_was_run_can_be_forgotten():
    model = Small(4)
    values(model, *batch(8))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_a_first_part_on_a_gpu_shows_how_many_fit(monkeypatch):
    """As on a GPU of 1000 bytes of which a row of a pass takes 10, whatever its size here."""

    class Elsewhere(torch.Tensor):
        is_cuda = True

    x = torch.rand(1, 3, 224, 224).as_subclass(Elsewhere)
    peak = {"rows": 0}
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 150)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 100 + 10 * peak["rows"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (850, 1000))

    def run(part):
        peak["rows"] = max(peak["rows"], len(part))
        sizes.append(len(part))
        return part

    sizes, rows = [], torch.arange(200)
    assert torch.equal(in_parts(run, run, x, rows), rows)
    assert sizes == [16, 72, 72, 40]  # the first guess, then .8 (850 + 50) / 10
    assert rows_at_once(run, x) == 72
    assert torch.equal(in_parts(run, run, x, rows, budget=50), rows)
    assert sizes[4:] == [50] * 4


def test_a_walk_grows_with_what_fits():
    x, target = batch()
    model = Small(10**9)
    parts._fitted[model] = {}

    def watched(self, points):
        result = type(self).forward(self, points)
        parts._fitted[model][x.shape[1:], x.dtype, x.device, 1, True] = 100
        return result

    model.forward = watched.__get__(model)
    attribute(model, x, target, path=Straight(400), rules={"ig": Riemann()}, budget=None)
    assert model.given[0] == 512 and set(model.given[1:-1]) == {100}


# Second derivatives


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.qkv, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 5)
        self.double().eval()

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens)[:, None].chunk(3, -1)
        return self.head((tokens + scaled_dot_product_attention(q, k, v)[:, 0]).mean(1))


@pytest.mark.parametrize("path", [Straight(3), Guided(2), Lines(UniformNoise(["a"], 2), 2, "closed")], ids=str)
@pytest.mark.parametrize("rule", [Riemann(), Riemann("left")], ids=str)
def test_maps_through_fused_attention_can_be_differentiated(path, rule):
    model, x, target = Attention(), batch(1)[0].double(), torch.tensor([2])

    def total(x):
        asked = {"path": path, "rules": {"m": rule}, "create_graph": True, "objective": "logit"}
        return attribute(model, x, target, **asked)["m"].square().sum()

    x = x.requires_grad_()
    value = total(x)
    slope, weight = torch.autograd.grad(value, [x, model.qkv.weight])
    assert weight.abs().max() > 0
    if not isinstance(path, Straight):  # the way of the others depends on x in jumps, or on noise
        return
    step = torch.zeros_like(x)
    step[0, 1, 2, 3] = 1e-5
    measured = (total(x + step) - total(x - step)) / 2e-5
    assert slope[0, 1, 2, 3].item() == pytest.approx(measured.item(), rel=1e-4)


def test_maps_without_a_graph_go_through_the_fused_attention_itself():
    model, x, target = Attention(), batch(1)[0].double(), torch.tensor([2])
    seen = []

    def backend(tokens):
        seen.append(torch.backends.cuda.flash_sdp_enabled())
        return model(tokens)

    for create_graph in (False, True):
        values_and_gradients(backend, x, target, create_graph=create_graph)
    assert seen == [True, False]


def test_an_operation_without_a_second_derivative_is_named():
    class NoSecond(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise NotImplementedError("derivative for mine is not implemented")

    with pytest.raises(InputError, match=r"no second derivative \(derivative for mine.*sdpa_kernel"):
        values_and_gradients(lambda x: NoSecond.apply(x).flatten(1), *batch(), create_graph=True)
