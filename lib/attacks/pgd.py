"""Projected gradient ascent in an l_inf ball (Madry et al., 2018), of the loss or of any other objective."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lib import InputError
from lib.attacks.methods import require_finite
from lib.attacks.noise import require_radius, uniform_start
from lib.attribution.arguments import as_tensor, whole_number
from lib.attribution.gate import gate, image_batch
from lib.attribution.parts import in_parts


def pgd(
    objective: Callable[[Tensor], Tensor], x: Tensor, *, epsilon: float, step: float, iterations: int, start: Tensor
) -> Tensor:
    """x' within epsilon of x and within [0, 1], from `start` by sign steps that raise objective(x'), a scalar.

    x' <- clip(x + clip(x' + step sign(grad objective(x')) - x, -epsilon, epsilon), 0, 1), `iterations` times. The last
    iterate is returned, without a graph. The objective must be a sum over images, so that each climbs its own.
    x (B, C, H, W) in [0, 1]; start, of the same shape, is projected into the ball first. Nobody waits for the device
    between the iterations.
    Raises InputError as `lib.attribution.gate.image_batch`, for another start, ball or number of iterations, for an
    objective that is no scalar or has no gradient, and where its gradient was not finite.

    >>> x = torch.full((1, 1, 1, 2), 0.5)
    >>> pgd(lambda p: (p * torch.tensor([1.0, -1.0])).sum(), x, epsilon=0.25, step=0.2, iterations=2, start=x)
    tensor([[[[0.7500, 0.2500]]]])
    """
    x, iterations = image_batch(x), whole_number(iterations, "iterations")
    require_radius(epsilon, step)
    start = as_tensor(start, "start", "images")
    if start.shape != x.shape:
        raise InputError(f"start is {tuple(start.shape)}; give the shape of the images, {tuple(x.shape)}")
    point, finite = _ascent(objective, x, start.to(x), epsilon, step, iterations)
    require_finite(finite, ", in the start or in the objective")
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
    budget: int | None = None,
) -> Tensor:
    """Whether the network is right about x (N, C, H, W) with labels y (N,) before and after PGD on its loss: (N, 2).

    Random start, drawn for each image id and seed; the mean of the columns is clean and PGD accuracy. budget: at most
    so many images at a time (automatic by default).
    Raises InputError as `lib.attribution.gate.gate`, `uniform_start` and `pgd`.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    >>> ball = {"epsilon": 0.1, "step": 0.05, "iterations": 2}
    >>> robust_answers(network, torch.rand(2, 1, 2, 2), [0, 1], images=["a", "b"], **ball).shape
    torch.Size([2, 2])
    """
    model, x, y = gate(model, x, y, objective="probability")
    budget = None if budget is None else whole_number(budget, "budget")
    iterations = whole_number(iterations, "iterations")
    require_radius(epsilon, step)
    start = uniform_start(x, epsilon=epsilon, images=images, seed=seed)

    def run(here: Tensor, labels: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
        attacked, finite = _ascent(
            lambda point: cross_entropy(model(point), labels, reduction="sum"), here, noisy, epsilon, step, iterations
        )
        with torch.no_grad():
            right = [model(each).argmax(1) == labels for each in (here, attacked)]
        return torch.stack(right, 1), finite

    right, finite = in_parts(run, model, x, x, y, start, budget=budget)
    require_finite(finite, ", in its loss")
    return right


def _ascent(objective, x: Tensor, start: Tensor, epsilon: float, step: float, iterations: int):
    """`pgd` behind the gate, and for which images start and gradients were finite: (B,)."""
    low, high = (x - epsilon).clamp(min=0), (x + epsilon).clamp(max=1)
    point = torch.minimum(torch.maximum(start, low), high).detach()
    finite = point.isfinite().flatten(1).all(1)
    for _ in range(iterations):
        point.requires_grad_()
        with torch.enable_grad():
            value = objective(point)
            if not (isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad):
                raise InputError(
                    "the objective is not one number with a gradient; give a function of the images that ends in .sum()"
                )
            (gradient,) = torch.autograd.grad(value, point)
        finite &= gradient.isfinite().flatten(1).all(1)  # the sign of NaN is 0
        point = torch.minimum(torch.maximum(point.detach() + step * gradient.sign(), low), high)
    return point, finite
