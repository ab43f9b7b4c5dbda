"""Attribution priors: losses on a network's attributions, differentiable with respect to its weights.

Everything here is a function of a logit function f, so that one network (`lib.training.fit.fit`) and a stack of
networks (`lib.training.ensembles`) are trained by the same lines. With y (..., N), f maps x (..., N, features...) to
logits (..., N) of a binary classifier, or (..., N, K) of one with K classes; the leading dimensions are independent
networks, there are none for an ordinary one. An attribution returns (logits, attributions like x), with their graph.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lib import InputError

Logits = Callable[[Tensor], Tensor]


class Draws(NamedTuple):
    """k references for each row, references (..., k, N, features...), and where between: alphas (..., k, N)."""

    references: Tensor
    alphas: Tensor


def log_probabilities(logits: Tensor, y: Tensor) -> Tensor:
    """log p of each class, (..., N, K); of the two classes 0 and 1 where the network has a single logit.

    Raises InputError unless there is one logit a row, of the shape of y, or a last dimension of two or more classes.
    """
    if _binary(logits, y):
        return torch.stack([logsigmoid(-logits), logsigmoid(logits)], -1)
    return logits.log_softmax(-1)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over rows of -log p_y, one for each network (...,); y (..., N) whole numbers."""
    return -log_probabilities(logits, y).gather(-1, y[..., None]).squeeze(-1).mean(-1)


def trainable_gradient(f: Logits, x: Tensor, y: Tensor, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
    """dF/dx of the explained logit F: that of class y, or the only one.

    Raises InputError for logits that do not fit the labels, as do all that follow.
    """
    return _differentiated(f, x, lambda logits: logits if _binary(logits, y) else logits.gather(-1, y[..., None]))


def trainable_x_gradient(f: Logits, x: Tensor, y: Tensor, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
    """X-Gradient, x dF/dx (Hesse et al., NeurIPS 2021, Eq. 4): IG from 0, exactly, where f has no biases.

    Differs from the released code: f is evaluated once, for the loss and for the attribution.
    """
    logits, gradient = trainable_gradient(f, x, y)
    return logits, x * gradient


def log_probability_gradient(f: Logits, x: Tensor, y: Tensor, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
    """d/dx of the sum over classes of log p ("right for the right reasons", Ross et al., 2017).

    For a single logit z that sum is 2 logsigmoid(z) - z.
    """
    return _differentiated(f, x, lambda logits: log_probabilities(logits, y).sum(-1))


def expected_gradients(f: Logits, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Expected Gradients: mean over k of (x - r) dF/dx at r + alpha (x - r) (Erion et al., 2021).

    1 + k evaluations of f and k gradients for each row, in two passes.
    Differs from the released code: all references at once, which loops over them.
    """
    rows = y.ndim - 1
    return f(x), ((x.unsqueeze(rows) - draws.references) * _at_points(f, x, y, draws)[1]).mean(rows)


def recalibrated_gradients(f: Logits, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Expected Gradients re-calibrated by point: mean over a feature's valid points of p = (x - x~) dF/dx at x~.

    x~ = r + alpha (x - r); a point is valid for a feature where p >= 0, and where none is the attribution is 0 (Yang et
    al., ICLR 2023; `lib.attribution.recalibration.Recalibrated` for maps). The mask is a constant to autograd: it is
    piecewise constant, so that its derivative is 0 wherever it has one. As many evaluations as `expected_gradients`.
    No code of the paper's priors was released.
    """
    rows = y.ndim - 1
    points, gradients = _at_points(f, x, y, draws)
    product = (x.unsqueeze(rows) - points) * gradients
    valid = product.detach() >= 0
    return f(x), torch.where(valid, product, 0).sum(rows) / valid.sum(rows).clamp(min=1)


def total_variation(attributions: Tensor, y: Tensor) -> Tensor:
    """Mean |difference| of neighbouring pixels, downwards plus sideways, of attributions standardised image by image.

    attributions (..., N, C, H, W), y (..., N): the mean over the N images, one for each network (...,); >= 0, and 0 for
    maps that are constant, with gradient 0. Standardised by mean and deviation over C, H and W, so that a map cannot
    become smooth by becoming small.
    Differs from the released code (attributionpriors, mnist_train.py): the mean over pairs of pixels instead of their
    sum, which only scales the prior; the deviation has no floor of 1/sqrt(C H W), below which maps could still shrink.

    >>> stripes = torch.tensor([[0.0, 2.0], [0.0, 2.0]]).view(1, 1, 2, 2)  # standardised: -1 and 1
    >>> total_variation(stripes, torch.tensor([0]))
    tensor(2.)
    """
    rows = y.ndim - 1
    centred = attributions - attributions.mean((-3, -2, -1), keepdim=True)
    variance = centred.square().mean((-3, -2, -1), keepdim=True)
    standard = centred / torch.where(variance > 0, variance, 1).sqrt()
    return sum(standard.diff(dim=axis).abs().mean((-3, -2, -1)) for axis in (-2, -1)).mean(rows)


def batch_draws(
    x: Tensor, y: Tensor, count: int, generators: Sequence[torch.Generator], *, replacement: bool = False
) -> Draws:
    """`count` references for each row of x, taken from these rows, and uniform alphas.

    As in the released code the batch (there: the whole training set) is tiled `count` times and shuffled, so that
    each row is a reference `count` times; with `replacement`, each reference is an independent draw, as the
    expectation in the method's definition has it.
    generators: one for each network, on the CPU; what a network is given depends on its own alone
    Raises InputError for fewer than one reference.
    """
    if count < 1:
        raise InputError(f"{count} references are asked for; Expected Gradients needs at least 1.")
    rows, n = y.ndim - 1, y.shape[-1]
    picked, alphas = [], []
    for generator in generators:
        total = count * n
        if replacement:
            picked.append(torch.randint(n, (total,), generator=generator))
        else:
            picked.append(torch.randperm(total, generator=generator) % n)
        alphas.append(torch.rand(count, n, generator=generator, dtype=x.dtype))
    index = torch.stack(picked).view(*y.shape[:-1], count * n).to(x.device)
    references = x.gather(rows, _like(index, x).expand(*index.shape, *x.shape[rows + 1 :]))
    return Draws(
        references.unflatten(rows, (count, n)),
        torch.stack(alphas).view(*y.shape[:-1], count, n).to(x.device),
    )


def gini(v: Tensor) -> Tensor:
    """Gini coefficient of v >= 0 (..., n): sum_{j,l} |v_j - v_l| / (2 n^2 mean(v)), in [0, 1 - 1/n]; (...,).

    Computed from sorted values, sum_j (2j - n - 1) v_(j) / (n sum v), which is the same and takes n log n.
    0 for v = 0, with gradient 0: attributions that are all equal are not sparse.
    Differs from the released code there only, which gives NaN.
    """
    n = v.shape[-1]
    ordered, total = v.sort(-1).values, v.sum(-1)
    ranks = torch.arange(1 - n, n, 2, device=v.device, dtype=v.dtype)  # 2j - n - 1
    return torch.where(total > 0, ordered @ ranks / (n * torch.where(total > 0, total, 1)), 0)


def sparsity(attributions: Tensor, y: Tensor) -> Tensor:
    """Gini of the features' mean |attribution| over the rows, one for each network (...,)."""
    rows = y.ndim - 1
    return gini(attributions.abs().mean(rows).flatten(rows))


def sparse_loss(
    f: Logits,
    x: Tensor,
    y: Tensor,
    *,
    attribution: Callable[..., tuple[Tensor, Tensor]],
    strength: float | Tensor = 1.0,
    draws: Draws | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy - strength * Gini (Hesse et al., 2021, Eq. 1 with Omega = -Gini), and the Gini; (...,) each.

    strength (lambda): one number, or one for each network. As a loss of `lib.training.fit.fit`:
    `lambda model, x, y: sparse_loss(model, x, y, attribution=x_gradient)[0]`.
    """
    logits, attributions = attribution(f, x, y, draws)
    found = sparsity(attributions, y)
    return cross_entropy(logits, y) - strength * found, found


def smooth_loss(
    f: Logits,
    x: Tensor,
    y: Tensor,
    *,
    attribution: Callable[..., tuple[Tensor, Tensor]],
    strength: float | Tensor,
    draws: Draws | None = None,
) -> tuple[Tensor, Tensor]:
    """(1 - strength) * cross-entropy + strength * total variation, and the total variation; (...,) each.

    strength (lambda in [0, 1)): one number, or one for each network; x (..., N, C, H, W) images (Erion et al., 2021).
    """
    logits, attributions = attribution(f, x, y, draws)
    found = total_variation(attributions, y)
    return (1 - strength) * cross_entropy(logits, y) + strength * found, found


def _at_points(f: Logits, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """The points r + alpha (x - r), (..., k, N, features...), and dF/dx there, in one pass over all of them."""
    rows, count = y.ndim - 1, draws.alphas.shape[y.ndim - 1]
    y_each = y.unsqueeze(rows).repeat_interleave(count, rows)
    displacement = x.unsqueeze(rows) - draws.references
    points = draws.references + _like(draws.alphas, displacement) * displacement
    gradients = trainable_gradient(f, points.flatten(rows, rows + 1), y_each.flatten(rows, rows + 1))[1]
    return points, gradients.view_as(points)


def _binary(logits: Tensor, y: Tensor) -> bool:
    if logits.shape == y.shape:
        return True
    if logits.shape[:-1] != y.shape or logits.shape[-1] < 2:
        raise InputError(
            f"The logits are {tuple(logits.shape)} for labels {tuple(y.shape)}; give a binary network's logits in the "
            "shape of the labels, or add a last dimension of at least two classes."
        )
    return False


def _differentiated(f: Logits, x: Tensor, scalar: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Logits, and the input gradient of a scalar of each row; rows are independent, so their sum is differentiated."""
    points = x if x.requires_grad else x.detach().requires_grad_()
    with torch.enable_grad():
        logits = f(points)
        (gradient,) = torch.autograd.grad(scalar(logits).sum(), points, create_graph=True)
    return logits, gradient


def _like(values: Tensor, x: Tensor) -> Tensor:
    """The values with dimensions of length 1 appended, to be multiplied with x."""
    return values.reshape(*values.shape, *[1] * (x.ndim - values.ndim))
