"""Numbers, ids and arrays of a call: accepted where they are unambiguous."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lib import InputError


def image_ids(images: Sequence[str], x: Sequence | None = None) -> list[str]:
    """The ids of a batch, by which random numbers are drawn: one for each image of x, where it is given.

    Raises InputError for another number of them, none, or a single text.

    >>> image_ids(["a", "b"], torch.zeros(2, 3, 4, 4))
    ['a', 'b']
    """
    try:
        ids = [] if isinstance(images, str) else list(images)
    except TypeError:
        ids = []
    if not ids or (x is not None and len(ids) != len(x)):
        given = f"{len(ids)} ids" if ids else repr(images)
        wanted = "" if x is None else f" for {len(x)} images"
        raise InputError(f"images is {given}{wanted}; give a list with one id an image, to draw by")
    return ids


def whole_number(given, name: str, least: int = 1) -> int:
    """A whole number of at least `least`, as Python's own int; NumPy's are accepted, truth values are not.

    Raises InputError otherwise.

    >>> whole_number(np.int64(8), "steps")
    8
    """
    if isinstance(given, bool | np.bool_) or not isinstance(given, int | np.integer) or given < least:
        raise InputError(f"{name} is {given!r}; give a whole number of at least {least}")
    return int(given)


def whole_fields(options, *names: str) -> None:
    """Make Python's own int of these fields of a frozen dataclass; InputError unless they are whole numbers above 0.

    >>> from lib.attribution import Straight
    >>> Straight(np.int64(8)).steps
    8
    """
    for name in names:
        object.__setattr__(options, name, whole_number(getattr(options, name), name))


def as_tensor(given, name: str, wanted: str) -> Tensor:
    """A dense tensor of what can be one: an array of any strides and byte order, a list of numbers.

    Raises InputError for anything else, sparse and nested tensors among it.

    >>> as_tensor(np.zeros((2, 3), ">f4")[:, ::-1], "x", "rows").dtype
    torch.float32
    """
    if isinstance(given, Tensor):
        if given.layout == torch.strided and not given.is_nested:
            return given
        kind = "nested" if given.is_nested else str(given.layout).removeprefix("torch.")
        raise InputError(f"{name} is a tensor of the kind {kind}; give {wanted}, a dense tensor: .to_dense() makes one")
    try:
        array = np.array(given)
        return torch.as_tensor(array.astype(array.dtype.newbyteorder("="), copy=False))
    except (TypeError, ValueError, RuntimeError) as error:
        kind = f"an array of {given.dtype}" if isinstance(given, np.ndarray) else f"a {type(given).__name__}"
        raise InputError(f"{name} is {kind}; give {wanted}, a tensor or an array of numbers") from error
