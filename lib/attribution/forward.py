"""The scalar being explained, its value and input gradient, and how a network is run over many points."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lib import InputError
from lib.attribution.gate import Gated, gate

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

# The network -> {what it is run on: rows that fitted}. A budget decides speed only, so that a network may change.
_fitted: WeakKeyDictionary = WeakKeyDictionary()


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


def default_budget(x: Tensor) -> int:
    """Rows per pass for images like x (N, C, H, W) before anything is known: as many elements as 8 of 3 x 224 x 224,
    which suits a CPU's caches; at most 64 times as many rows.

    >>> default_budget(torch.zeros(1, 3, 224, 224)), default_budget(torch.zeros(1, 1, 28, 28))
    (8, 512)
    """
    return 8 * min(max(3 * 224 * 224 // x[0].numel(), 1), 64)


def rows_at_once(model, x: Tensor, *, cost: int = 1) -> int:
    """How many rows like x (N, C, H, W) `in_parts` will run together: what fitted before, or `default_budget`."""
    return _sizes(model).get(_kind(x, cost)) or _first_guess(x, cost)


def in_parts(
    run: Callable[..., Tensor | tuple[Tensor, ...]],
    model,
    x: Tensor,
    *rows: Tensor,
    budget: int | None = None,
    cost: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """run(*parts of rows) on few rows at a time, the results joined: how a network is run over many points.

    model: the network that `run` calls; x: images like those it gives it, of which shape, precision and device count;
    rows: tensors of equal length; budget: at most so many rows at a time; cost: how many times the memory of a forward
    and backward pass a row takes.
    Where rows do not fit into memory, half as many are tried, and the number that fitted is remembered for the network.
    On a GPU a first part of `default_budget` rows shows how many will fit.
    Raises InputError where a single row does not fit.

    >>> double = lambda part: 2 * part
    >>> in_parts(double, double, torch.zeros(1, 3, 8, 8), torch.arange(5), budget=2)
    tensor([0, 2, 4, 6, 8])
    """
    known, kind = _sizes(model), _kind(x, cost)
    start, found = 0, []
    while start < len(rows[0]):
        size = known.get(kind) or budget or _first_guess(x, cost)
        size = min(size, budget or size)
        part = [each[start : start + size] for each in rows]
        before = torch.cuda.memory_allocated(x.device) if x.is_cuda else 0
        try:
            found.append(run(*part))
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not _out_of_memory(error):
                raise
            if len(part[0]) == 1:
                raise InputError(
                    f"one image of shape {tuple(x.shape[1:])} does not fit into the memory of {x.device}: give smaller "
                    "images, a smaller network or a device with more memory"
                ) from error
            known[kind] = len(part[0]) // 2
            continue
        if x.is_cuda and kind not in known:
            known[kind] = _that_will_fit(x.device, before, len(part[0]))
        start += size
    if isinstance(found[0], Tensor):
        return found[0] if len(found) == 1 else torch.cat(found)
    return found[0] if len(found) == 1 else tuple(torch.cat(each) for each in zip(*found, strict=True))


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
    """Whether values (N,) and gradients (N, ...) are finite, (N,): a NaN or infinity anywhere shows in a row's sum."""
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


def _sizes(model) -> dict:
    try:
        return _fitted.setdefault(model.module if isinstance(model, Gated) else model, {})
    except TypeError:  # of something built in, which cannot be remembered
        return {}


def _first_guess(x: Tensor, cost: int) -> int:
    return max(1, default_budget(x) // cost)


def _kind(x: Tensor, cost: int) -> tuple:
    return x.shape[1:], x.dtype, x.device, cost, torch.is_grad_enabled()


def _that_will_fit(device: torch.device, before: int, rows: int) -> int:
    """Rows for which four fifths of the free memory suffice, judged by a part of so many rows that has just run."""
    each = max(1, (torch.cuda.max_memory_allocated(device) - before) // rows)  # or more, if the peak was an earlier one
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(rows, int(0.8 * free / each))


def _out_of_memory(error: RuntimeError) -> bool:
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in said for words in ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    )
