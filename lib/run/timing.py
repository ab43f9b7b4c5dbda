"""What a benchmark compares: a case, its two sides timed in turns, and the networks and images it is about."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

from lib.data.digits import digits
from lib.data.imagenet import photographs
from lib.experiments import subjects, xdnn
from lib.models.fold import prepare
from lib.models.layers import Normalize
from lib.models.recipes import IMAGENET
from lib.models.zoo import best_device, load_network
from lib.training.fit import digit_cnn

FEWEST, ENOUGH = 3, 60  # pairs of a case that takes long; seconds after which no more are asked for
Sides = tuple[Callable[[], object], Callable[[], object]]  # what is timed in turns: ours, the peer


@dataclass(frozen=True)
class Case:
    """Something to measure: measure(runs) -> pairs (ours, peer) of seconds, or of MB where the name says so.

    most: the goal for ours / peer; least: the goal for peer / ours, how many times as fast; needs: a package of a peer
    """

    name: str
    measure: Callable[[int], list[tuple[float, float]]]
    most: float | None = None
    least: float | None = None
    needs: str = ""

    def row(self, pairs: list[tuple[float, float]]) -> dict:
        """One row of results/bench.csv: medians of both sides and of the goal's ratio, with the ratio's quartiles."""
        ours, peer = np.array(pairs).T
        low, middle, high = np.percentile(ours / peer if self.least is None else peer / ours, (25, 50, 75))
        found = {"case": self.name, "measured_in": "MB" if " in MB " in self.name else "seconds"}
        found |= {"ours": np.median(ours), "peer": np.median(peer)}
        found |= {"ratio_median": middle, "ratio_low": low, "ratio_high": high, "runs": len(pairs)}
        found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        if self.most is None and self.least is None:
            return found | {"goal": "", "met": ""}
        if self.least is None:
            return found | {"goal": f"<= {self.most:g}", "met": bool(middle <= self.most)}
        return found | {"goal": f">= {self.least:g}", "met": bool(middle >= self.least)}


def timed(sides: Callable[[], Sides], runs: int) -> list[tuple[float, float]]:
    """Seconds of both sides, run in turns after one warm-up of each: `runs` times, or fewer, but
    FEWEST at least, where that takes longer than ENOUGH seconds.
    """
    ours, peer = sides()
    ours(), peer()
    pairs = []
    while len(pairs) < min(runs, FEWEST) or (len(pairs) < runs and sum(map(sum, pairs)) < ENOUGH):
        pairs.append((seconds(ours), seconds(peer)))
    return pairs


def seconds(action: Callable[[], object]) -> float:
    start = perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter() - start


@cache
def photographed(
    images: int, name: str = "EfficientNet-Lite0", prepared: bool = True
) -> tuple[nn.Module, Tensor, Tensor]:
    """A network with `images` of the packaged photographs and their classes, on the best device.

    EfficientNet-Lite0 is trained, SqueezeNet as it is initialised; prepared=False: as a user of another library has it.
    """
    network = load_network("efficientnet_lite0", prepared=prepared)
    x, target = subjects.batch(network, photographs(limit=images))
    if name == "EfficientNet-Lite0":
        return network.model, x, target
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = nn.Sequential(Normalize(*IMAGENET), squeezenet1_1()).eval()
    return (prepare(fresh) if prepared else fresh).to(best_device()), x, target


@cache
def untrained(name: str, images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """X-AlexNet with photographs, or the digit network without biases with digits, both as they are initialised."""
    if name == "X-AlexNet":
        units = xdnn.untrained_units("alexnet", images="packaged", limit=images, group=images)["x"]
        of = next(iter(units.values()))()
        return of.model, of.x, of.target
    test, device = digits("test").take(slice(images)), best_device()
    return digit_cnn(bias=False).eval().requires_grad_(False).to(device), test.x.to(device), test.y.to(device)


def random_map(x: Tensor) -> Tensor:
    """A signed map of each image, (B, 1, H, W)."""
    return torch.randn(len(x), 1, *x.shape[2:], generator=torch.Generator().manual_seed(0)).to(x)


def step_counts(steps: int) -> list[int]:
    """Up to five step counts whose grids lie on that of `steps`, each twice the one before."""
    return [steps >> halvings for halvings in reversed(range(5)) if steps % (1 << halvings) == 0]
