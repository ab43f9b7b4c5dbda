"""A network run over many points, in parts that fit into memory."""

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lib import InputError
from lib.attribution.arguments import whole_number
from lib.attribution.gate import Gated

# The network -> {what it is run on: rows that fitted}. A budget decides speed only, so that a network may change.
_fitted: WeakKeyDictionary = WeakKeyDictionary()
HEAVY = 2**24  # weights, 67 MB: those of AlexNet's and VGG's first layer after the convolutions are more


def default_budget(x: Tensor) -> int:
    """Rows per pass for images like x (N, C, H, W) before anything is known: as many elements as 16 of 3 x 224 x 224,
    from which on torch gives every convolution of a CPU to oneDNN; at most 32 times as many rows.

    >>> default_budget(torch.zeros(1, 3, 224, 224)), default_budget(torch.zeros(1, 1, 28, 28))
    (16, 512)
    """
    return 16 * min(max(3 * 224 * 224 // x[0].numel(), 1), 32)


def rows_at_once(model, x: Tensor, *, cost: int = 1) -> int:
    """How many rows like x (N, C, H, W) `in_parts` will run together: what fitted before, or `default_budget`.

    Without gradients four times as many, where a layer has so many weights that reading them is most of its time.

    >>> rows_at_once(torch.nn.Flatten(), torch.zeros(1, 3, 224, 224), cost=2)
    8
    """
    return _sizes(model).get(_kind(x, cost)) or _first_guess(model, x, cost)


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
    budget = budget and whole_number(budget, "budget")
    start, found = 0, []
    while start < len(rows[0]):
        size = known.get(kind) or budget or _first_guess(model, x, cost)
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


def _sizes(model) -> dict:
    try:
        return _fitted.setdefault(model.module if isinstance(model, Gated) else model, {})
    except TypeError:  # of something built in, which cannot be remembered
        return {}


def _first_guess(model, x: Tensor, cost: int) -> int:
    share = 1 if torch.is_grad_enabled() or _largest_layer(model) < HEAVY else 4
    return max(1, share * default_budget(x) // cost)


def _largest_layer(model) -> int:
    """Weights of the largest fully connected layer; each pass reads them all, for however few rows."""
    layers = model.modules() if isinstance(model, nn.Module) else ()
    return max((layer.weight.numel() for layer in layers if isinstance(layer, nn.Linear)), default=0)


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
