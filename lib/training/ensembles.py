"""Many small networks trained together: multilayer perceptrons whose weights have a leading dimension of networks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from lib import InputError
from lib.training.priors import Logits

Layers = list[tuple[Tensor, Tensor | None]]  # weights (M, in, out) and biases (M, 1, out) or None


def initial_layers(sizes: Sequence[int], generators: Sequence[torch.Generator], *, bias: bool = True) -> Layers:
    """M networks in PyTorch's default initialisation, U(-1/sqrt(in), 1/sqrt(in)), one from each generator.

    sizes: units of every layer, inputs first. All weights are drawn before the first bias, so that a network has
    the same weights with biases and without.
    """
    edges = list(pairwise(sizes))
    shapes = [(a, b) for a, b in edges] + [(1, b) for _, b in edges if bias]
    bounds = [a**-0.5 for a, _ in edges] * 2
    networks = [
        [torch.empty(shape).uniform_(-r, r, generator=each) for shape, r in zip(shapes, bounds, strict=False)]
        for each in generators
    ]
    stacked = [torch.stack(tensors) for tensors in zip(*networks, strict=True)]
    biases = stacked[len(edges) :] if bias else [None] * len(edges)
    return list(zip(stacked[: len(edges)], biases, strict=True))


def perceptron(layers: Layers, x: Tensor) -> Tensor:
    """Logits (M, N) of M perceptrons with ReLUs between their layers; x (M, N, inputs)."""
    for number, (weight, bias) in enumerate(layers):
        if number:
            # ReLU. Its mask is a constant to autograd, which spares second derivatives a pass of zeros through f.
            x = x * (x > 0).to(x.dtype)
        x = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)
    return x.squeeze(-1)


def roc_auc(scores: Tensor, y: Tensor) -> Tensor:
    """Area under the ROC curve of each network: (M, N) scores and labels 0 or 1 -> (M,), in [0, 1], float64.

    The Mann-Whitney statistic: (sum of the positives' ranks - P (P + 1)/2) / (P (N - P)), ties having their mean rank.
    Raises InputError where one of the labels is missing, and for a score that is not a number.
    """
    positives = y.sum(-1).double()
    if scores.isnan().any() or ((positives == 0) | (positives == y.shape[-1])).any():
        raise InputError("ROC-AUC needs rows of both labels, 0 and 1, and scores that are numbers.")
    ordered = scores.sort(-1).values
    below, upto = (torch.searchsorted(ordered, scores.contiguous(), right=right) for right in (False, True))
    ranks = ((below + upto + 1) / 2).double()
    return ((ranks * y).sum(-1) - positives * (positives + 1) / 2) / (positives * (y.shape[-1] - positives))


@dataclass(frozen=True)
class Selected:
    """For each of M networks the epoch with the best validation ROC-AUC: (M,) each, and the layers of that epoch."""

    layers: Layers
    epoch: Tensor
    valid_auc: Tensor
    loss: Tensor
    sparsity: Tensor

    @property
    def f(self) -> Logits:
        return partial(perceptron, self.layers)


def train_together(
    layers: Layers,
    loss: Callable[[Logits], tuple[Tensor, Tensor]],
    valid: tuple[Tensor, Tensor],
    *,
    epochs: int = 100,
    learning_rate: float = 1e-3,
) -> Selected:
    """Adam on the full batch, for M networks at once; the released protocol of selection.

    loss(f) is the loss and the Gini of each network, (M,) each, drawing anew each time what it draws. In each epoch it
    is taken first, then the validation ROC-AUC, then the step: epoch 0 is the initialisation, and the last
    step is never validated. Of equal epochs the first is kept.
    valid: x (M, V, inputs), y (M, V)
    Raises InputError for a loss that is not finite.
    """
    layers = [tuple(None if t is None else t.detach().clone().requires_grad_() for t in layer) for layer in layers]
    parameters = [tensor for layer in layers for tensor in layer if tensor is not None]
    optimiser = torch.optim.Adam(parameters, lr=learning_rate, fused=True)
    f = partial(perceptron, layers)
    count, device = len(parameters[0]), parameters[0].device
    best = torch.full((count,), -torch.inf, dtype=torch.float64, device=device)
    kept = [tensor.detach().clone() for tensor in parameters]
    noted = torch.zeros(3, count, dtype=torch.float64, device=device)
    for epoch in range(epochs):
        value, sparsity = loss(f)
        if not value.isfinite().all():
            raise InputError(f"A loss became {value.sum().item()} in epoch {epoch}; lower the prior's strength.")
        with torch.no_grad():
            auc = roc_auc(f(valid[0]), valid[1])
            better = (auc > best).nonzero().flatten()
            best[better] = auc[better]
            now = torch.stack([torch.full_like(best, epoch), value.double(), sparsity.double()])
            noted[:, better] = now[:, better]
            for old, new in zip(kept, parameters, strict=True):
                old[better] = new[better]
        optimiser.zero_grad()
        value.sum().backward(inputs=parameters)  # not those of the inputs that a prior differentiates by
        optimiser.step()
    rest = iter(kept)
    chosen = [tuple(None if tensor is None else next(rest) for tensor in layer) for layer in layers]
    return Selected(chosen, noted[0].long(), best, noted[1], noted[2])
