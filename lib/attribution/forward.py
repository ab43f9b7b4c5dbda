"""The scalar being explained, its value and input gradient, and how a network is run over many points."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lib import InputError
from lib.attribution.gate import Gated, gate
from lib.attribution.parts import in_parts

# What autograd says where it has no derivative, and what is said instead.
_SEVERED = (
    "the network's answer does not depend on its input by way of autograd; leave torch.no_grad, .detach() and rounding "
    "out of its forward method, and torch.inference_mode out of the call"
)
_UNDERIVED = {
    "does not require grad": _SEVERED,
    "not have been used": _SEVERED,
    "nference tensor": "the network or the images were made in torch.inference_mode, where nothing can be "
    "differentiated; make them outside of it",
    "is not implemented": "an operation of the network has no second derivative ({said}); give another, for fused "
    "attention torch.nn.attention.sdpa_kernel(SDPBackend.MATH)",
}


def scalar(logits: Tensor, target: Tensor, objective: str) -> Tensor:
    """The explained scalar of each row: logits (B, K), target (B,) -> (B,).

    probability      softmax_y(f)                                    (IDGI and its study)
    logit            f_y
    log_probability  log softmax_y(f)
    contrast         f_y - sum_{c != y} w_c f_c, w = softmax over the classes other than y
                     (the re-calibration code's objective; the gradient flows through w too)

    >>> scalar(torch.tensor([[1.0, 3.0]]), torch.tensor([1]), "logit")
    tensor([3.])
    """
    rows = torch.arange(len(logits), device=logits.device)
    chosen = logits[rows, target]
    if objective == "logit":
        return chosen
    if objective == "probability":
        return logits.softmax(1)[rows, target]
    if objective == "log_probability":
        return logits.log_softmax(1)[rows, target]
    is_target = torch.zeros_like(logits, dtype=torch.bool)
    is_target[rows, target] = True
    weights = logits.masked_fill(is_target, -torch.inf).softmax(1)
    return chosen - (weights * logits).sum(1)


def values(model, x: Tensor, target: Tensor, *, objective: str = "probability", budget: int | None = None) -> Tensor:
    """f at each point without gradients: x (N, C, H, W) in [0, 1], target (N,) -> (N,).

    Raises InputError as `lib.attribution.gate.gate`.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
    >>> values(network, torch.rand(3, 1, 2, 2), 0).shape
    torch.Size([3])
    """
    model, x, target = gate(model, x, target, objective=objective)
    with torch.no_grad():
        return in_parts(
            lambda points, classes: scalar(model(points), classes, objective), model, x, x, target, budget=budget
        )


def values_and_gradients(
    model,
    x: Tensor,
    target: Tensor,
    *,
    objective: str = "probability",
    budget: int | None = None,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor]:
    """f and its gradient at each point: x (N, C, H, W) in [0, 1], target (N,) -> values (N,), gradients (N, C, H, W).

    One forward and one backward pass over at most `budget` points at a time. The points are independent (the network
    is in eval mode), so that the gradient of the sum holds each point's own gradient.
    Raises InputError as `lib.attribution.gate.gate`, and where a value or gradient is not finite, naming the rows.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
    >>> value, gradient = values_and_gradients(network, torch.rand(3, 1, 2, 2), [0, 1, 1], objective="logit")
    >>> gradient.shape
    torch.Size([3, 1, 2, 2])
    """
    model, x, target = gate(model, x, target, objective=objective, differentiable=create_graph)
    found = passes(model, x, target, objective=objective, budget=budget, create_graph=create_graph)
    finite = is_finite(*found)
    if not finite.all():
        rows = (~finite).nonzero().flatten().tolist()
        raise InputError(
            f"the network's value or gradient is not finite at {len(rows)} of {len(x)} points (rows {rows[:8]}); check "
            "its weights for NaN"
        )
    return found


def passes(
    model: Gated,
    x: Tensor,
    target: Tensor,
    *,
    objective: str,
    budget: int | None = None,
    create_graph: bool = False,
    towards: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """`values_and_gradients` behind the gate, where nobody waits for the device: not looked at, whether finite.

    With `towards`, other classes (N,), a third tensor: the gradients of their scalars, from the same forward pass.

    >>> network = Gated(lambda x: x.flatten(1), "logit")
    >>> passes(network, torch.ones(1, 1, 1, 2), torch.tensor([1]), objective="logit")
    (tensor([1.]), tensor([[[[0., 1.]]]]))
    """

    def run(points: Tensor, classes: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        points = points if create_graph and points.requires_grad else points.detach().requires_grad_()
        with derivatives(2 if create_graph else 1):
            logits = model(points)
            scalars = [scalar(logits, each, objective) for each in (classes, *others)]
            gradients = []
            for each in scalars:
                keep = create_graph or each is not scalars[-1]
                gradients += torch.autograd.grad(each.sum(), points, create_graph=create_graph, retain_graph=keep)
        return (scalars[0] if create_graph else scalars[0].detach(), *gradients)

    others = () if towards is None else (towards,)
    return in_parts(run, model, x, x, target, *others, budget=budget)


def is_finite(value: Tensor, gradient: Tensor) -> Tensor:
    """Whether values (N,) and gradients (N, ...) are finite, (N,): a NaN or infinity anywhere shows in a row's sum.

    >>> is_finite(torch.tensor([1.0, torch.nan]), torch.zeros(2, 3))
    tensor([ True, False])
    """
    return gradient.detach().flatten(1).sum(1).isfinite() & value.detach().isfinite()


@contextmanager
def derivatives(order: int = 1) -> Iterator[None]:
    """A block in which autograd records, and what has no derivative is an InputError.

    order 2: what is recorded can be differentiated again, fused attention included, for which PyTorch's plain formula
    stands in.

    >>> x = torch.rand(2, requires_grad=True)
    >>> with torch.no_grad(), derivatives():
    ...     torch.autograd.grad(x.sum(), x)[0].tolist()
    [1.0, 1.0]
    """
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH) if order > 1 else nullcontext():
        try:
            yield
        except RuntimeError as error:
            for words, meaning in _UNDERIVED.items():
                if words in str(error):
                    raise InputError(meaning.format(said=str(error).splitlines()[0])) from error
            raise
