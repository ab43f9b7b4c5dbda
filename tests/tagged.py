"""A second device, pretended: the closest to a GPU that a CPU can check.

Tensors on it compute as ever, but say that they are elsewhere, and an operation that mixes them with tensors of the
host is an error, with CUDA's exceptions: numbers without dimensions, indices, copies. What is made without `device=`
lies on the host, as do NumPy arrays.

    with tagged_device() as on:
        result = attribute(on(model), on(x), target, path=path, rules=rules)["ig"]
        assert is_tagged(result)
    result.cpu()

`on` takes a tensor or a module (a copy is moved). `.to(x)`, `.to(x.device)`, `.cpu()`, `device=x.device` work as usual.
"""

import contextlib
import copy

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("meta")  # a name that autograd knows everywhere; the numbers are there all the same
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten.copy.default, aten._to_copy.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class MixedDevices(RuntimeError):
    """Tensors of the host met tensors of the pretended device."""


class Tagged(Tensor):
    """A tensor of the pretended device around one of the host."""

    @staticmethod
    def __new__(cls, inner: Tensor):
        return Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
        )

    def __init__(self, inner: Tensor):
        self.inner = inner

    def __repr__(self):
        return f"Tagged({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What does not reach the operations on a device without numbers: making tensors of data, reading lists."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is Tensor.tolist and is_tagged(args[0]):
            return args[0].detach().cpu().tolist()
        if function is Tensor.numpy and is_tagged(args[0]):
            raise MixedDevices("numpy() of a tensor of the device: call .cpu() first")
        if function in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], _indices(args[1]), *args[2:])
        if function is Tensor.new_tensor and is_tagged(args[0]):
            function, args, kwargs = torch.tensor, args[1:], {"device": DEVICE, "dtype": args[0].dtype} | kwargs
        made = function in (torch.tensor, torch.as_tensor, torch.asarray)
        if made and kwargs.get("device") is not None and torch.device(kwargs["device"]) == DEVICE:
            return function(*args, **(kwargs | {"device": "cpu"})).to(DEVICE)
        return function(*args, **kwargs)


@contextlib.contextmanager
def tagged_device():
    """A block in which the device exists; gives the function that moves a tensor or module to it."""
    with _Functions(), _Operations():
        yield _on


def is_tagged(tensor) -> bool:
    """Whether a tensor lies on the pretended device."""
    return isinstance(tensor, Tagged)


def _on(thing: Tensor | nn.Module):
    if isinstance(thing, Tensor):
        return thing.detach().to(DEVICE).requires_grad_(thing.requires_grad)
    moved = copy.deepcopy(thing)
    for module in moved.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(_on(parameter.data), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _on(buffer)
    return moved


def _indices(index):
    """Lists as tensors, which PyTorch would make on the device without their numbers."""
    if isinstance(index, tuple):
        return tuple(map(_indices, index))
    return torch.tensor(index) if isinstance(index, list) else index


def _run(operation, args, kwargs):
    if operation is aten._efficientzerotensor.default:  # of forward mode; holds no numbers that could be wrapped
        operation = aten.zeros.default
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    tagged = any(map(is_tagged, tensors))
    asked = kwargs.get("device")
    if tagged:
        _refuse_mixing(operation, args, tensors)
    elif asked != DEVICE:
        return operation(*args, **kwargs)
    if asked == DEVICE and getattr(kwargs.get("generator"), "device", DEVICE) != DEVICE:
        raise MixedDevices(f"{operation} draws from a generator of the host")
    inner_args, inner_kwargs = tree_map_only(Tagged, lambda each: each.inner, (args, kwargs))
    if asked is not None:
        inner_kwargs = inner_kwargs | {"device": torch.device("cpu")}
    result = operation(*inner_args, **inner_kwargs)
    onto = asked == DEVICE if asked is not None else is_tagged(_decides(operation, args, tensors))
    if onto:
        if operation is aten._to_copy.default and not tagged:  # a copy, even where the host's own would do
            result = result.clone() if result is inner_args[0] else result
        result = tree_map_only(Tensor, Tagged, result)
        return return_and_correct_aliasing(operation, args, kwargs, result) if tagged else result
    return args[0] if operation is aten.copy_.default else result


def _decides(operation, args, tensors):
    """The tensor on whose device the result lies: what is copied into, or any tagged one."""
    if operation in COPIES:
        return args[0]
    return next(filter(is_tagged, tensors))


def _refuse_mixing(operation, args, tensors) -> None:
    if operation in COPIES:
        return
    if operation in INDEXED:  # indices may lie on the host, and what is put in may be a number
        tensors = [each for each in [args[0], *args[2:]] if isinstance(each, Tensor) and each.ndim] or tensors
        tensors += [index for index in args[1] if is_tagged(index)]
    elif torch.Tag.pointwise in operation.tags:
        tensors = [each for each in tensors if is_tagged(each) or each.ndim]
        if not all(each.ndim for each in tensors) and not all(map(is_tagged, tensors)):
            raise MixedDevices(f"{operation} of a number on the device with a tensor of the host")
    if not all(map(is_tagged, tensors)):
        places = ", ".join(f"{tuple(each.shape)} {'device' if is_tagged(each) else 'host'}" for each in tensors)
        raise MixedDevices(f"{operation} mixes devices: {places}")
