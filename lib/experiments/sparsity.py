"""The sparsity prior (Hesse et al., NeurIPS 2021, Sec. 4.3): on which attribution, and from how many references?

The protocol is that of the released code (run_sparsity_experiments.py): 100 rows to train on, a perceptron, full
batches, the epoch with the best validation ROC-AUC, the strength of the prior with the best mean over repetitions.
Added: initial weights and references are seeded, for each (seed, repetition), so that all methods start alike, and a
result does not depend on what is trained beside it. The loss that the released code logs (cross-entropy minus strength
times Gini, under the name of the cross-entropy) decides nothing and is not kept.
"""

from collections.abc import Sequence
from functools import partial
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib.data.tabular import FriedmanTable, Table, splits
from lib.models.zoo import best_device
from lib.seeds import image_generator
from lib.training import priors
from lib.training.ensembles import Layers, initial_layers, perceptron, roc_auc, train_together
from lib.training.priors import Draws, Logits, batch_draws, cross_entropy, sparse_loss, sparsity

HIDDEN = (512, 128, 32)
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)  # lambda; the released grid
CURVE = 1.0  # the strength of the study's second experiment, on the number of references
METHODS = {  # attribution of the prior, biases
    "x_gradient": (priors.trainable_x_gradient, False),
    "expected_gradients": (priors.expected_gradients, True),
    "gradient": (priors.trainable_gradient, True),
    "rrr": (priors.log_probability_gradient, True),
    "input_x_gradient": (priors.trainable_x_gradient, True),  # a control: the same formula where it is not IG
    "unregularised": (None, True),
    "unregularised_no_bias": (None, False),
    "real_columns": (None, True),  # no prior, and none of the columns that know nothing: what a prior could gain
}
TOGETHER = 40  # passes of a network's batch held in memory at a time: networks x references
KEYS = ["data", "image", "method", "references", "strength", "seed", "metric", "value"]


def training_units(
    of: Table | FriedmanTable,
    *,
    repetitions: int,
    curve_repetitions: int,
    references: Sequence[int],
    seeds: Sequence[int],
) -> dict[str, tuple]:
    """{unit name: arguments of `trained` after the table}: every training of both experiments, once.

    The grid: each method at each strength, for all repetitions, with the first seed. The curve: X-Gradient and Expected
    Gradients with each number of references at strength 1, for the first `curve_repetitions` and every seed.
    `real_columns` is left out where all columns may tell about the label.
    """
    whole, few = range(repetitions), range(min(curve_repetitions, repetitions))
    wanted = []
    for method, (attribution, _) in METHODS.items():
        if method == "real_columns" and of.real.all():
            continue
        strengths = (0.0,) if attribution is None else STRENGTHS
        wanted.append((method, int(method == "expected_gradients"), strengths, seeds[0], whole))
    for seed in seeds:
        for count in (0, *references):
            method = "expected_gradients" if count else "x_gradient"
            if seed != seeds[0] or count > 1:  # or else it is in the grid
                wanted.append((method, count, (CURVE,), seed, few))
    found = {}
    for method, count, strengths, seed, rows in wanted:
        size = max(1, TOGETHER // (max(count, 1) * len(strengths)))
        for start in range(0, len(rows), size):
            block = list(rows[start : start + size])
            name = f"{method}-{count}-{len(strengths)}-seed{seed}-{block[0]}-{block[-1]}"
            found[name] = (method, count, strengths, seed, block)
    return found


def trained(
    of: Table | FriedmanTable,
    method: str,
    references: int,
    strengths: Sequence[float],
    seed: int,
    repetitions: Sequence[int],
    *,
    epochs: int = 100,
) -> pd.DataFrame:
    """One row for each training (repetition x strength) and metric, all of them trained together:

    valid_auc and test_auc, of the selected epoch; gini, of the attributions trained on, as they were in that epoch;
    gini_ixg and real_share, of input x gradient on the training rows, a measure that all methods share: Gini, and
    the share of |attribution| on columns that can tell about y; epoch; seconds of training divided by trainings.
    """
    attribution, bias = METHODS[method]
    real_only = method == "real_columns"
    data, device, each = splits(of, repetitions, real_only=real_only), best_device(), len(strengths)

    def placed(tensor: Tensor) -> Tensor:
        return tensor.to(device).repeat_interleave(each, 0)

    train_set, valid = (tuple(map(placed, part)) for part in (data.train, data.valid))
    sizes = (data.train[0].shape[-1], *HIDDEN, 1)
    start = initial_layers(sizes, _generators(data.ids, seed, "weights"), bias=bias)
    layers = [tuple(None if tensor is None else placed(tensor) for tensor in layer) for layer in start]
    drawn = _generators(data.ids, seed, f"references/{references}")
    strength = torch.tensor(strengths, device=device).repeat(len(data.ids))

    def loss(f: Logits) -> tuple[Tensor, Tensor]:
        if attribution is None:
            value = cross_entropy(f(train_set[0]), train_set[1])
            return value, torch.full_like(value, torch.nan)
        draws = batch_draws(*data.train, references, drawn) if references else None
        draws = draws and Draws(*map(placed, draws))
        return sparse_loss(f, *train_set, attribution=attribution, strength=strength, draws=draws)

    clock = perf_counter()
    selected = train_together(layers, loss, valid, epochs=epochs)
    valid_auc = selected.valid_auc.cpu()  # waits for the device
    seconds = (perf_counter() - clock) / len(valid_auc)
    scores = {"valid_auc": valid_auc, "test_auc": _test_auc(selected.layers, data.test, each)}
    scores |= {"gini": selected.sparsity, "epoch": selected.epoch, "seconds": torch.full_like(valid_auc, seconds)}
    if not real_only:
        scores |= _common(selected.f, *train_set, torch.from_numpy(of.real).to(device))
    keys = [(image, float(number)) for image in data.ids for number in strengths]
    rows = [
        {"data": of.data, "image": image, "method": method, "references": references, "strength": number, "seed": seed}
        | {"metric": metric, "value": float(value)}
        for metric, values in scores.items()
        for (image, number), value in zip(keys, values.tolist(), strict=True)
        if not np.isnan(value)
    ]
    return pd.DataFrame(rows, columns=KEYS)


def _generators(ids: Sequence[str], seed: int, what: str) -> list[torch.Generator]:
    return [image_generator(seed, image, what) for image in ids]


@torch.no_grad()
def _test_auc(layers: Layers, test: tuple[Tensor, Tensor], each: int) -> Tensor:
    """(M,), one repetition at a time: NHANES has 13,242 test rows."""
    found = []
    for number, (x, y) in enumerate(zip(*test, strict=True)):
        mine = slice(number * each, (number + 1) * each)
        part = [tuple(None if tensor is None else tensor[mine] for tensor in layer) for layer in layers]
        x, y = (tensor.to(part[0][0].device).expand(each, *tensor.shape) for tensor in (x, y))
        found.append(roc_auc(perceptron(part, x), y))
    return torch.cat(found)


def _common(f: Logits, x: Tensor, y: Tensor, real: Tensor) -> dict[str, Tensor]:
    attributions = priors.trainable_x_gradient(f, x, y)[1].detach()
    found = {"gini_ixg": sparsity(attributions, y)}
    if not real.all():
        size = attributions.abs().sum(-2)
        found["real_share"] = size[:, real].sum(-1) / size.sum(-1)
    return found


def exactness(seed: int = 0) -> pd.DataFrame:
    """Two exact properties of the losses, in double precision on small random networks (three of them).

    finite_difference_error  derivative of the loss along a random direction of all weights, against central
                             differences, relative, for each attribution
    zero_reference_error     Expected Gradients with references 0 on a network without biases, against X-Gradient,
                             relative, for several numbers of references
    """
    ids = ["a", "b", "c"]
    x, y = torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(seed)).double(), torch.arange(20) % 2
    y, rows = y.expand(3, 20), []
    for method in (name for name, (attribution, _) in METHODS.items() if attribution is not None):
        attribution, bias = METHODS[method]
        draws = batch_draws(x, y, 3, _generators(ids, seed, "references"))
        loss = partial(sparse_loss, x=x, y=y, attribution=attribution, draws=draws)
        layers = _double(initial_layers((6, 16, 8, 1), _generators(ids, seed, "weights"), bias=bias))
        rows.append(("finite_difference_error", method, 0, _finite_difference_error(loss, layers, seed)))
    layers = _double(initial_layers((6, 16, 8, 1), _generators(ids, seed, "weights"), bias=False))
    exact = priors.trainable_x_gradient(partial(perceptron, layers), x, y)[1]
    for count in (1, 2, 32):
        draws = batch_draws(torch.zeros_like(x), y, count, _generators(ids, seed, "references"))
        found = priors.expected_gradients(partial(perceptron, layers), x, y, draws)[1]
        error = ((found - exact).abs().max() / exact.abs().mean()).item()
        rows.append(("zero_reference_error", "expected_gradients", count, error))
    return pd.DataFrame(rows, columns=["metric", "method", "references", "value"]).assign(image=f"networks-{seed}")


def _double(layers: Layers) -> Layers:
    return [tuple(None if tensor is None else tensor.double() for tensor in layer) for layer in layers]


def _finite_difference_error(loss, layers: Layers, seed: int, step: float = 1e-6) -> float:
    generator = torch.Generator().manual_seed(seed)
    direction = [
        tuple(None if t is None else torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in layer)
        for layer in layers
    ]

    def along(distance: Tensor | float) -> Tensor:
        moved = [
            tuple(None if t is None else t + distance * d for t, d in zip(layer, towards, strict=True))
            for layer, towards in zip(layers, direction, strict=True)
        ]
        return loss(partial(perceptron, moved))[0].sum()

    at = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(along(at), at)
    numeric = (along(step) - along(-step)).detach() / (2 * step)
    return abs((exact - numeric) / exact).item()
