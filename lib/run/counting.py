"""Networks that only count what goes through them, and what a pass through the real ones takes on this machine."""

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor, nn

from lib.attacks.curvature import hessian_product
from lib.attribution.forward import values_and_gradients
from lib.metrics.sanity import stages
from lib.models.fold import prepare
from lib.models.layers import Normalize
from lib.models.recipes import IMAGENET, NETWORKS
from lib.models.softplus import softplus_twin
from lib.models.twins import bare_network
from lib.models.zoo import best_device, untrained_model
from lib.seeds import seeded

PATCH, WIDTH = 16, 8  # pixels a side that `Counting` averages, and its channels
ROWS, GPU_ROWS = 8, 128  # of a pass that is timed on a CPU, or GPU; two where a row takes more than SLOW seconds
SLOW, LONG = 0.15, 0.6  # seconds: of a row, and of repeated passes


@dataclass
class Tally:
    """What is counted: rows {(network, kind of pass): rows}, those in double precision twice.

    kinds: forward, backward (to the image, after a forward pass), product (with second derivatives, complete: see
    `lib.attacks.curvature.hessian_product`).
    cut: seconds of a unit's trainings that were cut short; once: seconds of trainings whose weights are kept
    """

    rows: Counter = field(default_factory=Counter)
    cut: float = 0.0
    once: float = 0.0

    def __deepcopy__(self, _) -> "Tally":
        return self  # the copy of a network counts for the same study

    def add(self, network: str, kind: str, x: Tensor) -> None:
        self.rows[network, kind] += len(x) * (2 if x.dtype == torch.float64 else 1)


class Counting(nn.Module):
    """A network with next to no cost that counts the rows of its passes: images (N, 3, side, side) -> (N, 1000).

    It has convolutions, a rectifier and a linear layer, so that what walks through layers finds them, and `depth`
    stages (see `lib.metrics.sanity.stages`). Its weights are random, and its gradient differs from pixel to pixel.

    >>> tally = Tally()
    >>> Counting("vgg16", tally, side=32)(torch.rand(2, 3, 32, 32, requires_grad=True)).sum().backward()
    >>> dict(tally.rows)
    {('vgg16', 'forward'): 2, ('vgg16', 'backward'): 2}
    """

    def __init__(self, name: str, tally: Tally, *, side: int = 224, depth: int = 2):
        super().__init__()
        self.name, self.tally = name, tally
        with seeded(0):
            self.register_buffer("weight", torch.randn(3, side, side))
            self.features = nn.Sequential(nn.AvgPool2d(PATCH), nn.Conv2d(3, WIDTH, 1), nn.ReLU())
            self.features.extend(nn.Conv2d(WIDTH, WIDTH, 1) for _ in range(depth - 2))
            self.last = nn.Linear(WIDTH, 1000)

    def forward(self, x: Tensor) -> Tensor:
        if forward_mode.unpack_dual(x).tangent is not None:
            self.tally.add(self.name, "product", x)
        else:
            self.tally.add(self.name, "forward", x)
            if x.requires_grad:
                x.register_hook(lambda gradient: self.tally.add(self.name, "backward", gradient))
        return self.last(self.features(x * self.weight).mean((2, 3)))


def counted(name: str, tally: Tally) -> Counting:
    """The `Counting` that stands for a network of `lib.models.zoo` or `lib.models.twins`: as large, as many stages."""
    return Counting(name, tally, side=side_of(name), depth=max(2, depth_of(name)))


def side_of(name: str) -> int:
    """Pixels a side of a network's images.

    >>> side_of("inception_v3"), side_of("xvgg16")
    (299, 224)
    """
    return NETWORKS[name].size if name in NETWORKS else 224


@cache
def depth_of(name: str) -> int:
    return len(stages(architecture(name)))


def architecture(name: str) -> nn.Module:
    """The bare network of a name, without weights or memory, on the device "meta".

    >>> next(architecture("mobilenet_v2").parameters()).device
    device(type='meta')
    """
    with torch.device("meta"):
        return untrained_model(name) if name in NETWORKS else bare_network(name)


def row_seconds(name: str, kinds: set[str]) -> dict[str, float]:
    """Seconds that a row of each kind of pass takes through the real network beyond what it takes through `Counting`,
    and "memory", GB of its weights and of what a pass of ROWS rows holds for its way back.

    The real one has weights of zero, is prepared as in the study, and runs on one thread of this process.
    """
    seconds, memory = _real_seconds(name, "product" in kinds)
    less = _counting_seconds(side_of(name), "product" in kinds)
    return {kind: max(0.0, seconds[kind] - less[kind]) for kind in seconds} | {"memory": memory}


def _real_seconds(name: str, product: bool) -> tuple[dict[str, float], float]:
    bare = architecture(name).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*bare.parameters(), *bare.buffers()):
            tensor.zero_()
    side = side_of(name)
    model = prepare(nn.Sequential(Normalize(*IMAGENET), bare).eval(), shape=(3, side, side)).to(best_device())
    weights = sum(tensor.nbytes for tensor in model.parameters())
    return _seconds(model, side, product), (weights + _held(model, side) * ROWS) / 1e9


@cache
def _counting_seconds(side: int, product: bool) -> dict[str, float]:
    model = nn.Sequential(Normalize(*IMAGENET), Counting("", Tally(), side=side)).eval().requires_grad_(False)
    return _seconds(model.to(best_device()), side, product)


def _seconds(model: nn.Module, side: int, product: bool) -> dict[str, float]:
    device = next(model.parameters()).device
    one, target = torch.rand(1, 3, side, side, device=device), torch.zeros(1, dtype=torch.long, device=device)
    first = _clocked(lambda: values_and_gradients(model, one, target))
    rows = GPU_ROWS if one.is_cuda else ROWS if first < SLOW else 2
    x, target = one.repeat(rows, 1, 1, 1), target.repeat(rows)
    both = _median(lambda: values_and_gradients(model, x, target)) / rows
    with torch.no_grad():
        forward = _median(lambda: model(x)) / rows
    found = {"forward": forward, "backward": max(0.0, both - forward)}
    if product:
        smooth, half = softplus_twin(model), max(1, rows // 2)  # as in lib.attacks.methods
        found["product"] = _median(lambda: hessian_product(smooth, x[:half], target[:half], x[:half])) / half
    return found


def _median(run: Callable) -> float:
    """The median seconds of a run, repeated for LONG seconds, after one that does not count: a first pass takes up to
    five times as long, for memory and for what libraries compile.
    """
    run()
    seconds = [_clocked(run)]
    while sum(seconds) < LONG and len(seconds) < 7:
        seconds.append(_clocked(run))
    return statistics.median(seconds)


def _held(model: nn.Module, side: int) -> int:
    """Bytes that autograd keeps of the pass of a row, weights apart."""
    own, held = {tensor.data_ptr() for tensor in model.parameters()}, {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            held[tensor.data_ptr()] = tensor.nbytes
        return tensor

    x = torch.rand(1, 3, side, side, device=best_device(), requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        answer = model(x)
    return sum(held.values()) + answer.nbytes


def _clocked(run: Callable) -> float:
    """Seconds of this process on a CPU, which other processes hardly change; on a GPU, of the clock on the wall."""
    clock = time.process_time
    if torch.cuda.is_available():
        clock = time.perf_counter
        torch.cuda.synchronize()
    start = clock()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start
