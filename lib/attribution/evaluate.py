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

    Raises InputError for an unknown objective.
    """
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


def default_budget(device: torch.device) -> int:
    """Images per pass: few on a CPU (its caches are small), many on a GPU (halved if they do not fit)."""
    return 8 if device.type == "cpu" else 256


def values(model, x: Tensor, target: Tensor, *, objective: str = "probability", budget: int | None = None) -> Tensor:
    """f at each point without gradients: x (N, C, H, W), target (N,) -> (N,)."""
    budget = budget or default_budget(x.device)
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
) -> tuple[Tensor, Tensor]:
    """f and its gradient at each point: x (N, C, H, W), target (N,) -> values (N,), gradients (N, C, H, W).

    One forward and one backward pass over at most `budget` points at a time; where they do not fit into the
    accelerator's memory, half as many. The points are independent (the network must be in eval mode), so the
    gradient of the sum holds each point's own gradient.

    Raises InputError where a value or gradient is not finite, naming the rows.
    """
    budget = budget or default_budget(x.device)
    parts = []
    start = 0
    while start < len(x):
        rows = slice(start, start + budget)
        try:
            parts.append(_one_pass(model, x[rows], target[rows], objective, create_graph))
        except torch.OutOfMemoryError:
            if budget == 1:
                raise
            budget = budget // 2
            continue
        start += budget
    value, gradient = parts[0] if len(parts) == 1 else (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    _refuse_non_finite(value, gradient)
    return value, gradient


def _one_pass(model, x: Tensor, target: Tensor, objective: str, create_graph: bool) -> tuple[Tensor, Tensor]:
    points = x if create_graph and x.requires_grad else x.detach().requires_grad_()
    with torch.enable_grad():
        value = scalar(model(points), target, objective)
        (gradient,) = torch.autograd.grad(value.sum(), points, create_graph=create_graph)
    return (value, gradient) if create_graph else (value.detach(), gradient)


def _refuse_non_finite(value: Tensor, gradient: Tensor) -> None:
    # One reduction over the gradient: a NaN or infinity anywhere makes the sum of its row non-finite.
    finite = gradient.detach().flatten(1).sum(1).isfinite() & value.detach().isfinite()
    if not finite.all():
        rows = (~finite).nonzero().flatten().tolist()
        raise InputError(
            f"the network's value or gradient is not finite at {len(rows)} of {len(value)} points (rows "
            f"{rows[:8]}); check the weights for NaN and that images lie in [0, 1]"
        )
