"""Attribution methods that can be attacked: their maps, and the gradient of any objective of a map."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lib import InputError, nearest
from lib.attacks.curvature import hessian_product
from lib.attribution.arguments import whole_fields, whole_number
from lib.attribution.forward import is_finite, passes
from lib.attribution.gate import Gated, gate
from lib.attribution.parts import in_parts
from lib.metrics.ranking import map_batch

NAMES = ("gradient", "input_x_gradient", "integrated_gradients")


@dataclass(frozen=True)
class Method:
    """m(x) * (1/n) sum_i grad f_y(alpha_i x), f_y the logit, per channel and signed: three methods by one formula.

    name   gradient: m = 1, alpha = 1. input_x_gradient: m = x, alpha = 1. integrated_gradients: m = x, with `steps` = n
           points on the line from black.
    grid   "midpoint": alpha_i = (i - 1/2)/n. "right": alpha_i = i/n, as the released codes of Ghorbani et al. (2019)
           and Chen et al. (2019), with n = 100 there.

    Raises InputError for another name, grid or number of steps.

    >>> Method("integrated_gradients", 2).alphas
    [0.25, 0.75]
    """

    name: str = "gradient"
    steps: int = 1
    grid: str = "midpoint"

    def __post_init__(self):
        if self.name not in NAMES:
            raise InputError(f"there is no attack on {self.name!r}; {nearest(self.name, NAMES)}")
        if self.grid not in ("midpoint", "right"):
            raise InputError(f"grid {self.grid!r} is unknown; choose midpoint or right")
        whole_fields(self, "steps")
        if self.steps > 1 and self.name != "integrated_gradients":
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

    Raises InputError as `lib.attribution.gate.gate`, and where a gradient is not finite.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)).eval()
    >>> raw_maps(network, torch.rand(2, 1, 2, 2), 0, Method("input_x_gradient")).shape
    torch.Size([2, 1, 2, 2])
    """
    maps, finite = maps_and_finite(*admitted(model, x, target, method, budget))
    require_finite(finite)
    return maps


def normalised(raw: Tensor) -> Tensor:
    """a = HW sum_c |raw_c| / (its sum over pixels), the map that is attacked and compared; a map of zeros stays one.

    raw (B, C, H, W) -> (B, H, W), >= 0, mean 1 (RAR MNIST/model.py:111-112).
    Raises InputError for another shape, and for NaN or infinite values. Can be differentiated.

    >>> normalised(torch.tensor([[[[1.0, -3.0]]]]))
    tensor([[[0.5000, 1.5000]]])
    """
    map_batch(raw, "raw", "B, C, H, W")
    return mean_one(raw.float() if raw.dtype.itemsize < 4 else raw)


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
    costs about three gradients, and the network sees no more points at once than `budget` allows, whatever n.
    model must be twice differentiable: see `lib.models.softplus.softplus_twin` and `hessian_product`.
    Raises InputError as `raw_maps`, and where the network or the objective cannot be differentiated so.

    >>> def network(x):  # f_0 = sum x^2 / 2
    ...     return torch.stack([x.square().flatten(1).sum(1) / 2, x.flatten(1).sum(1)], 1)
    >>> pullback(network, torch.rand(1, 1, 1, 2), 0, Method(), lambda raw: raw.sum((1, 2, 3)))
    tensor([[[[1., 1.]]]])
    """
    found = pulled_back(*admitted(model, x, target, method, budget), objective)
    require_finite(found.flatten(1).sum(1).isfinite())
    return found


# Behind the gate, for a loop in which nobody waits for the device


def admitted(model, x, target, method, budget, objective: str = "logit") -> tuple:
    """What the functions below start with, each argument looked at; raises InputError as `raw_maps`.

    >>> admitted(lambda x: x.flatten(1), torch.rand(2, 1, 2, 2), 0, Method(), None)[2:]
    (tensor([0, 0]), Method(name='gradient', steps=1, grid='midpoint'), None)
    """
    if not isinstance(method, Method):
        raise InputError(f"method is {method!r}; give a lib.attacks.Method, such as Method({NAMES[1]!r})")
    budget = None if budget is None else whole_number(budget, "budget")
    return *gate(model, x, target, objective=objective), method, budget


def maps_and_finite(
    model: Gated, x: Tensor, target: Tensor, method: Method, budget: int | None
) -> tuple[Tensor, Tensor]:
    """`raw_maps`, and for which images they and the network's answers are finite: (B,).

    >>> maps_and_finite(*admitted(lambda x: x.flatten(1), torch.rand(2, 1, 1, 2), 0, Method(), None))[1]
    tensor([True, True])
    """
    gradient, finite = _mean_gradient(model, x, target, method, budget)
    return method.multiplicand(x) * gradient, finite


def mean_one(raw: Tensor) -> Tensor:
    """`normalised`, where NaN stays NaN.

    >>> mean_one(torch.tensor([[[[1.0, -3.0]]]]))
    tensor([[[0.5000, 1.5000]]])
    """
    a = raw.abs().sum(1)
    total = a.mean((1, 2), keepdim=True)
    return a / total.where(total > 0, 1)


def pulled_back(model: Gated, x: Tensor, target: Tensor, method: Method, budget: int | None, objective) -> Tensor:
    """`pullback`, NaN where a derivative is.

    >>> asked = admitted(lambda x: x.square().flatten(1), torch.rand(1, 1, 1, 2), 0, Method(), None)
    >>> pulled_back(*asked, lambda raw: raw.sum((1, 2, 3)))
    tensor([[[[2., 0.]]]])
    """
    m, (gradient, _) = method.multiplicand(x), _mean_gradient(model, x, target, method, budget)
    raw = (m * gradient).requires_grad_()
    with torch.enable_grad():
        value = objective(raw)
        if not (isinstance(value, Tensor) and value.requires_grad):
            raise InputError("the objective is not a function of the map by way of autograd; see lib.attacks.goal")
        (u,) = torch.autograd.grad(value.sum(), raw)
    alphas = torch.tensor(method.alphas, dtype=x.dtype, device=x.device).view(-1, 1, 1, 1, 1)
    n = len(alphas)
    rows = (alphas * x).flatten(0, 1), target.repeat(n), (m * u).repeat(n, 1, 1, 1)
    products = in_parts(partial(hessian_product, model), model, x, *rows, budget=budget, cost=2)  # points and tangents
    curved = (alphas * products.unflatten(0, (n, -1))).mean(0)
    return curved if method.name == "gradient" else curved + u * gradient


def require_finite(finite: Tensor, where: str = "") -> None:
    """Raise InputError unless all of (B,) hold, naming those that do not.

    >>> require_finite(torch.tensor([True, True]))
    """
    if not finite.all():
        raise InputError(
            f"the network's value or gradient is not finite for images {(~finite).nonzero().flatten().tolist()[:8]} of "
            f"the batch{where}: check its weights for NaN"
        )


def _mean_gradient(model: Gated, x: Tensor, target: Tensor, method: Method, budget: int | None):
    n = len(method.alphas)
    points = torch.cat([alpha * x for alpha in method.alphas])
    value, gradients = passes(model, points, target.repeat(n), objective="logit", budget=budget)
    return gradients.unflatten(0, (n, -1)).mean(0), is_finite(value, gradients).unflatten(0, (n, -1)).all(0)
