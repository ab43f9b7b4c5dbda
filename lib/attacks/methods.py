"""Attribution methods that can be attacked: their maps, and the gradient of any objective of a map."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as forward
from torch import Tensor

from lib import InputError, nearest
from lib.attribution.forward import default_budget, scalar, values_and_gradients

NAMES = ("gradient", "input_x_gradient", "integrated_gradients")


@dataclass(frozen=True)
class Method:
    """m(x) * (1/n) sum_i grad f_y(alpha_i x), f_y the logit, per channel and signed: three methods by one formula.

    name   gradient: m = 1, alpha = 1. input_x_gradient: m = x, alpha = 1. integrated_gradients: m = x, with `steps` = n
           points on the line from black.
    grid   "midpoint": alpha_i = (i - 1/2)/n. "right": alpha_i = i/n, as the released codes of Ghorbani et al. (2019)
           and Chen et al. (2019), with n = 100 there.
    """

    name: str = "gradient"
    steps: int = 1
    grid: str = "midpoint"

    def __post_init__(self):
        if self.name not in NAMES:
            raise InputError(f"there is no attack on {self.name!r}; {nearest(self.name, NAMES)}")
        if self.grid not in ("midpoint", "right"):
            raise InputError(f"grid {self.grid!r} is unknown; choose midpoint or right")
        if self.steps < 1 or (self.steps > 1 and self.name != "integrated_gradients"):
            raise InputError(
                f"{self.name} was given {self.steps} steps; integrated_gradients takes 1 or more, the others 1"
            )

    @property
    def alphas(self) -> list[float]:
        if self.name != "integrated_gradients":
            return [1.0]
        shift = 0.5 if self.grid == "midpoint" else 1.0
        return [(i + shift) / self.steps for i in range(self.steps)]

    def multiplicand(self, x: Tensor) -> Tensor:
        return torch.ones_like(x) if self.name == "gradient" else x


def raw_maps(model, x: Tensor, target: Tensor, method: Method, *, budget: int | None = None) -> Tensor:
    """The maps of a method for images x (B, C, H, W) in [0, 1] and classes target (B,): (B, C, H, W), signed.

    Raises InputError where a gradient is not finite.
    """
    return method.multiplicand(x) * _mean_gradient(model, x, target, method, budget)


def normalised(raw: Tensor) -> Tensor:
    """a = HW sum_c |raw_c| / (its sum over pixels), the map that is attacked and compared; a map of zeros stays one.

    raw (B, C, H, W) -> (B, H, W), >= 0, mean 1 (RAR MNIST/model.py:111-112).
    """
    a = raw.abs().sum(1)
    total = a.mean((1, 2), keepdim=True)
    return a / total.where(total > 0, 1)


def pullback(
    model,
    x: Tensor,
    target: Tensor,
    method: Method,
    objective: Callable[[Tensor], Tensor],
    *,
    budget: int | None = None,
) -> Tensor:
    """The gradient with respect to x of objective(raw map) (B,), through the map: (B, C, H, W).

    With u = dJ/d(map) and g the mean gradient, it is m'(x) u g + (1/n) sum_i alpha_i H(alpha_i x) (m(x) u), exact
    because the reference is constant: the points alpha_i x are treated as independent inputs, as in the released code.
    H v is the gradient of the derivative along v, which forward mode gives without a graph of the gradient: each point
    costs about three gradients, and no more points are in memory than `budget` allows, whatever n.
    model must be twice differentiable: see `lib.models.softplus.softplus_twin`.
    """
    m, gradient = method.multiplicand(x), _mean_gradient(model, x, target, method, budget)
    raw = (m * gradient).requires_grad_()
    with torch.enable_grad():
        (u,) = torch.autograd.grad(objective(raw).sum(), raw)
    alphas = torch.tensor(method.alphas, dtype=x.dtype, device=x.device)
    products = _over_points(
        lambda points, classes, v: _hessian_product(model, points, classes, v), x, target, alphas, m * u, budget
    )
    curved = (alphas.view(-1, 1, 1, 1, 1) * products).mean(0)
    return curved if method.name == "gradient" else curved + u * gradient


def _mean_gradient(model, x: Tensor, target: Tensor, method: Method, budget: int | None) -> Tensor:
    points = torch.cat([alpha * x for alpha in method.alphas])
    classes = target.repeat(len(method.alphas))
    gradients = values_and_gradients(model, points, classes, objective="logit", budget=budget)[1]
    return gradients.unflatten(0, (-1, len(x))).mean(0)


def _over_points(f, x: Tensor, target: Tensor, alphas: Tensor, v: Tensor, budget: int | None) -> Tensor:
    """f at alpha_i x for all i and images, `budget` of them a pass: (n, B, C, H, W)."""
    n, budget = len(alphas), budget or max(1, default_budget(x) // 2)  # points and their tangents
    points = (alphas.view(-1, 1, 1, 1, 1) * x).flatten(0, 1)
    parts = zip(points.split(budget), target.repeat(n).split(budget), v.repeat(n, 1, 1, 1).split(budget), strict=True)
    return torch.cat([f(*part) for part in parts]).unflatten(0, (n, len(x)))


def _hessian_product(model, points: Tensor, target: Tensor, v: Tensor) -> Tensor:
    points = points.detach().requires_grad_()
    with torch.enable_grad(), forward.dual_level():
        value = scalar(model(forward.make_dual(points, v)), target, "logit")
        along = forward.unpack_dual(value).tangent
        if along is None:  # a network that does not depend on its input
            return torch.zeros_like(points)
        along = along.sum()
    if not along.requires_grad:  # a linear network: its gradient is the same everywhere
        return torch.zeros_like(points)
    (product,) = torch.autograd.grad(along, points, allow_unused=True)
    return torch.zeros_like(points) if product is None else product
