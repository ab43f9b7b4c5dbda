"""The scalar being explained, and its value and input gradient for a batch of points."""

import torch
from torch import Tensor

from lib import InputError

OBJECTIVES = ("probability", "logit", "log_probability", "contrast")


def scalar(logits: Tensor, target: Tensor, objective: str) -> Tensor:
    """The explained scalar of each row: logits (B, K), target (B,) -> (B,).

    probability      softmax_y(f)                                    (IDGI and its study)
    logit            f_y
    log_probability  log softmax_y(f)
    contrast         f_y - sum_{c != y} w_c f_c, w = softmax over the classes other than y
                     (the re-calibration code's objective; the gradient flows through w too)

    Raises InputError for an unknown objective and for a class that the network does not have.
    """
    if target.amax() >= logits.shape[1] or target.amin() < 0:
        raise InputError(
            f"target class {int(target.amax())} is beyond the network's {logits.shape[1]} classes: give whole numbers "
            f"from 0 to {logits.shape[1] - 1}"
        )
    rows = torch.arange(len(logits), device=logits.device)
    chosen = logits[rows, target]
    if objective == "logit":
        return chosen
    if objective == "probability":
        return logits.softmax(1)[rows, target]
    if objective == "log_probability":
        return logits.log_softmax(1)[rows, target]
    if objective == "contrast":
        is_target = torch.zeros_like(logits, dtype=torch.bool)
        is_target[rows, target] = True
        weights = logits.masked_fill(is_target, -torch.inf).softmax(1)
        return chosen - (weights * logits).sum(1)
    raise InputError(f"objective {objective!r} is unknown; choose one of {', '.join(OBJECTIVES)}")


def default_budget(x: Tensor) -> int:
    """Images per pass for images like x (N, C, H, W): as many elements as 8 of 3 x 224 x 224 on a CPU, whose caches
    are small, and as 256 of them on a GPU (halved if they do not fit); at most 64 times these numbers."""
    base = 8 if x.device.type == "cpu" else 256
    return base * min(max(3 * 224 * 224 // x[0].numel(), 1), 64)


def values(model, x: Tensor, target: Tensor, *, objective: str = "probability", budget: int | None = None) -> Tensor:
    """f at each point without gradients: x (N, C, H, W), target (N,) -> (N,)."""
    budget = budget or default_budget(x)
    with torch.no_grad():
        parts = [
            scalar(model(points), classes, objective)
            for points, classes in zip(x.split(budget), target.split(budget), strict=True)
        ]
    return torch.cat(parts)


def values_and_gradients(
    model,
    x: Tensor,
    target: Tensor,
    *,
    objective: str = "probability",
    budget: int | None = None,
    create_graph: bool = False,
    towards: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """f and its gradient at each point: x (N, C, H, W), target (N,) -> values (N,), gradients (N, C, H, W).

    With `towards`, other classes (N,), a third tensor: the gradients of their scalars, from the same forward pass.
    One forward and one backward pass over at most `budget` points at a time; where they do not fit into the
    accelerator's memory, half as many. The points are independent (the network must be in eval mode), so the
    gradient of the sum holds each point's own gradient.

    Raises InputError where a value or gradient is not finite, naming the rows.
    """
    budget = budget or default_budget(x)
    parts = []
    start = 0
    while start < len(x):
        rows = slice(start, start + budget)
        others = None if towards is None else towards[rows]
        try:
            parts.append(_one_pass(model, x[rows], target[rows], objective, create_graph, others))
        except torch.OutOfMemoryError:
            if budget == 1:
                raise
            budget = budget // 2
            continue
        start += budget
    found = parts[0] if len(parts) == 1 else tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
    for gradient in found[1:]:
        _refuse_non_finite(found[0], gradient)
    return found


def _one_pass(model, x: Tensor, target: Tensor, objective: str, create_graph: bool, towards: Tensor | None):
    points = x if create_graph and x.requires_grad else x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(points)
        value = scalar(logits, target, objective)
        scalars = [value] if towards is None else [value, scalar(logits, towards, objective)]
        gradients = []
        for each in scalars:
            keep = create_graph or each is not scalars[-1]
            gradients += torch.autograd.grad(each.sum(), points, create_graph=create_graph, retain_graph=keep)
    return (value if create_graph else value.detach(), *gradients)


def _refuse_non_finite(value: Tensor, gradient: Tensor) -> None:
    # One reduction over the gradient: a NaN or infinity anywhere makes the sum of its row non-finite.
    finite = gradient.detach().flatten(1).sum(1).isfinite() & value.detach().isfinite()
    if not finite.all():
        rows = (~finite).nonzero().flatten().tolist()
        raise InputError(
            f"the network's value or gradient is not finite at {len(rows)} of {len(value)} points (rows "
            f"{rows[:8]}); check the weights for NaN and that images lie in [0, 1]"
        )
