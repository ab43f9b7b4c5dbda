"""The implementations of the marginal penalty beside each other: value, derivative, time, memory; exact identities."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lib.experiments.density import BLOCKS, Training, density_network, images_of
from lib.models.zoo import best_device
from lib.seeds import seeded
from lib.training.density import (
    DENSITIES,
    PENALTIES,
    density_loss,
    density_penalty,
    log_density,
    penalised,
    saved_bytes,
)

MARGINAL = [name for name in PENALTIES if name.startswith("marginal")]
STEPS = (1e-6, 1e-3, 1e-2, 1e-1)  # of the finite steps, in pixel values
DRAWS = 100  # of a random direction


def exact_properties(networks: int = 3) -> pd.DataFrame:
    """Identities of the three densities and of the four implementations, in double precision on small random networks.

    sum_of_gradients         joint gradient against conditional + marginal, relative
    sum_of_penalties         mean joint penalty over the network's own labels against conditional + marginal, relative
    recentred_penalty        marginal penalty of log softmax f; recentred_probabilities: how far its probabilities are
                             from those of f
    value_error, derivative_error  of each implementation against the exact one, relative; finite steps of 1e-6. Random
                             directions are left out: they agree in the mean only
    finite_difference_error  derivative of each exact penalty by the weights along a random direction, against central
                             differences, relative
    """
    rows = []
    for number in range(networks):
        model, x, y = _small(number)
        found = [*_identities(model, x, y), *_derivatives(model, x, y)]
        rows += [
            {"metric": name, "penalty": of, "value": value, "image": f"network-{number}"} for name, of, value in found
        ]
    return pd.DataFrame(rows)


def implementations(
    seed: int, *, how: Training, images: int, repeats: int, strength: float, cache: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each implementation on the trained plain network of BlockMNIST: errors at several steps, and cost of an update.

    Errors against the exact penalty on `images` validation images: of the value, relative, and of the derivative by all
    weights, relative in norm; for random directions of the mean over DRAWS draws, and of one draw (`one_draw_error`).
    Costs: seconds of one update (loss and backward pass, `repeats` times, in turns), and memory_mb, what autograd holds
    for it, which is the same each time.
    """
    model = density_network(BLOCKS, "plain", 0.0, seed, how=how, cache=cache).requires_grad_(True)
    of, device = images_of(BLOCKS, "valid", limit=images), best_device()
    x, y = of.x.to(device), of.y.to(device)
    exact = _value_and_derivative(model, x, y, "marginal", 1.0)
    rows = []
    for name in MARGINAL[1:]:
        for step in STEPS[1:] if name != "marginal_detached" else (0.0,):
            draws = DRAWS if name.endswith("random_direction") else 1
            with seeded(seed):
                errors = _errors(exact, (_value_and_derivative(model, x, y, name, step or 1.0) for _ in range(draws)))
            rows += [
                {"penalty": name, "step": step, "metric": metric, "value": value} for metric, value in errors.items()
            ]
    return pd.DataFrame(rows), pd.DataFrame(_costs(model, x, y, repeats, strength, how.step))


def _errors(exact: tuple[Tensor, Tensor], draws: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Relative errors of the mean over draws of a value and a derivative, and the mean error of one derivative."""
    value, derivative, alone = torch.zeros_like(exact[0]), torch.zeros_like(exact[1]), []
    for one in draws:
        value, derivative = value + one[0], derivative + one[1]
        alone.append(_relative(one[1], exact[1]))
    mean = value / len(alone), derivative / len(alone)
    errors = dict(zip(("value_error", "derivative_error"), map(_relative, mean, exact), strict=True))
    return errors | {"one_draw_error": sum(alone) / len(alone)}


def _costs(model: nn.Module, x: Tensor, y: Tensor, repeats: int, strength: float, step: float) -> Iterator[dict]:
    losses = {name: partial(density_loss, model, x, y, **penalised(name, strength, step)) for name in MARGINAL}
    memory = {name: saved_bytes(loss) / 1e6 for name, loss in losses.items()}
    for repeat in range(-1, repeats):  # the first one warms up
        for name, loss in losses.items():
            seconds = _seconds(loss, x.device)
            if repeat >= 0:
                for metric, value in (("seconds", seconds), ("memory_mb", memory[name])):
                    yield {"image": f"update-{repeat:02d}", "penalty": name, "metric": metric, "value": value}


def _seconds(loss: Callable[[], Tensor], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = perf_counter()
    loss().backward()
    wait()
    return perf_counter() - start


def _small(number: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A random perceptron of five classes, twelve random images (12, 1, 6, 6), and labels; float64."""
    with seeded(number):
        layers = [nn.Flatten(), nn.Linear(36, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 5)]
        return nn.Sequential(*layers).double(), torch.rand(12, 1, 6, 6).double(), torch.arange(12) % 5


def _identities(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[tuple[str, str, float]]:
    own = model(x).softmax(1).detach()  # (B, K)
    labels = range(own.shape[1])
    gradients = {
        each: torch.stack([_density_gradient(model, x, torch.full_like(y, label), each) for label in labels], 1)
        for each in DENSITIES
    }  # (B, K, C, H, W)
    total = gradients["conditional"] + gradients["marginal"]
    yield "sum_of_gradients", "none", _relative(total, gradients["joint"])
    joint, conditional, marginal = ((own * gradients[each].flatten(2).square().sum(2)).sum(1) for each in DENSITIES)
    yield "sum_of_penalties", "none", _relative(conditional + marginal, joint)
    recentred = nn.Sequential(model, nn.LogSoftmax(1))
    yield "recentred_penalty", "none", density_penalty(recentred, x, y)[1].max().item()
    difference = recentred(x).softmax(1) - own
    yield "recentred_probabilities", "none", difference.abs().max().item()


def _density_gradient(model: nn.Module, x: Tensor, y: Tensor, density: str) -> Tensor:
    points = x.clone().requires_grad_()
    return torch.autograd.grad(log_density(model(points), y, density).sum(), points)[0]


def _derivatives(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[tuple[str, str, float]]:
    exact = _value_and_derivative(model, x, y, "marginal", 1.0)
    for name in ("marginal_detached", "marginal_finite_difference"):
        found = _value_and_derivative(model, x, y, name, STEPS[0])
        yield "value_error", name, _relative(found[0], exact[0])
        yield "derivative_error", name, _relative(found[1], exact[1])
    for density in DENSITIES:
        yield "finite_difference_error", density, _central_difference_error(model, x, y, density)


def _value_and_derivative(model: nn.Module, x: Tensor, y: Tensor, name: str, step: float) -> tuple[Tensor, Tensor]:
    """The mean penalty, and its derivative by all weights in one vector."""
    density, by = PENALTIES[name]
    value = density_penalty(model, x, y, density=density, by=by, step=step)[1].mean()
    weights = [each for each in model.parameters() if each.requires_grad]
    found = torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True)
    return value.detach(), torch.cat([each.flatten() for each in found])


def _central_difference_error(model: nn.Module, x: Tensor, y: Tensor, density: str, step: float = 1e-7) -> float:
    weights = {name: each.detach() for name, each in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    along = {name: torch.randn(each.shape, generator=generator, dtype=each.dtype) for name, each in weights.items()}

    def value(distance: Tensor | float) -> Tensor:
        moved = {name: each + distance * along[name] for name, each in weights.items()}
        return density_penalty(partial(functional_call, model, moved), x, y, density=density)[1].mean()

    at = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(value(at), at)
    return _relative((value(step) - value(-step)).detach() / (2 * step), exact)


def _relative(found: Tensor, exact: Tensor) -> float:
    return ((found - exact).norm() / exact.norm()).item()
