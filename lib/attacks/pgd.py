"""Projected gradient ascent in an l_inf ball (Madry et al., 2018), of the loss or of any other objective."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lib.attacks.noise import uniform_start


def pgd(
    objective: Callable[[Tensor], Tensor], x: Tensor, *, epsilon: float, step: float, iterations: int, start: Tensor
) -> Tensor:
    """x' within epsilon of x and within [0, 1], from `start` by sign steps that raise objective(x'), a scalar.

    x' <- clip(x + clip(x' + step sign(grad objective(x')) - x, -epsilon, epsilon), 0, 1), `iterations` times. The last
    iterate is returned, without a graph. The objective must be a sum over images, so that each climbs its own.
    """
    low, high = (x - epsilon).clamp(min=0), (x + epsilon).clamp(max=1)
    point = torch.minimum(torch.maximum(start, low), high).detach()
    for _ in range(iterations):
        point.requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(objective(point), point)
        point = torch.minimum(torch.maximum(point.detach() + step * gradient.sign(), low), high)
    return point


def robust_answers(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    step: float,
    iterations: int,
    images: Sequence[str],
    seed: int = 0,
    batch: int = 256,
) -> Tensor:
    """Whether the network is right about x (N, C, H, W) with labels y (N,) before and after PGD on its loss: (N, 2).

    Random start, drawn for each image id and seed; the mean of the columns is clean and PGD accuracy.
    """
    found = []
    for start in range(0, len(x), batch):
        rows = slice(start, start + batch)
        images_here, labels = x[rows], y[rows]

        def loss(point, labels=labels):
            return cross_entropy(model(point), labels, reduction="sum")

        noisy = uniform_start(images_here, epsilon=epsilon, images=images[rows], seed=seed)
        attacked = pgd(loss, images_here, epsilon=epsilon, step=step, iterations=iterations, start=noisy)
        with torch.no_grad():
            found.append(torch.stack([model(each).argmax(1) == labels for each in (images_here, attacked)], 1))
    return torch.cat(found)
