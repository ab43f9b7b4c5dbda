"""A network written out so that hooks see all of it: every rectifier and pooling a module of its own, used once."""

import operator
from copy import deepcopy

import torch
from timm.layers import Conv2dSame
from torch import Tensor, fx, nn

from lib import InputError
from lib.models.layers import Normalize, require_eval, tensor_answer

LINEAR = (nn.Conv2d, Conv2dSame, nn.Linear, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, Normalize)
RECTIFIERS = (nn.ReLU, nn.ReLU6)
KNOWN = (*LINEAR, *RECTIFIERS, nn.MaxPool2d)
NEUTRAL = (nn.Identity, nn.Dropout)  # in eval mode
SUMS = {operator.add, operator.iadd, torch.add, "add", operator.sub, operator.isub, torch.sub, "sub"}
PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul"}
QUOTIENTS = {operator.truediv, operator.itruediv, torch.div, "div"}
VIEWS = {torch.flatten, "flatten", torch.cat}  # they put values elsewhere and leave them as they are
OUT_OF_PLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
ALLOWED = (
    "DeepLIFT and LRP are defined here for networks of convolutions, linear layers, batch norms, ReLU or ReLU6, "
    "poolings, additions and concatenations only: give such a network, or leave these methods out."
)


class Clipped(nn.Module):
    """min(max(x, 0), 6) as 6 - relu(6 - relu(x)), from the rectifiers that Captum's DeepLIFT knows.

    DeepLIFT multiplies the ratios of differences along a chain of elementwise steps, and so passes it as it would pass
    the whole. A ReLU6 itself would be left as it is, silently.
    """

    def __init__(self):
        super().__init__()
        self.below, self.above = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return 6 - self.above(6 - self.below(x))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return isinstance(module, KNOWN) or super().is_leaf_module(module, path)


def modular(model: nn.Module, probe: Tensor | None = None) -> fx.GraphModule:
    """A frozen copy of a network of convolutions, rectifiers, poolings, additions and concatenations, as a graph.

    It is the same function. A module that runs again gets its own copy, ReLU6 becomes `Clipped`, and nothing is done in
    place, because methods that change how modules pass back what they are given miss or mistake all else: Captum's
    DeepLIFT refuses a shared ReLU. Sums, with or without `alpha`, and products with constants stay functions.
    probe (B, C, H, W): images on which the copy must answer as the network does.
    Raises InputError for a network with any other operation, such as SiLU, an attention or a functional pooling, for a
    forward method that branches on values, and where the copy answers differently, naming the operation.

    >>> written = modular(nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True)).eval(), torch.ones(1, 2))
    >>> [node.op for node in written.graph.nodes], written.get_submodule("own__1")
    (['placeholder', 'call_module', 'call_module', 'output'], ReLU())
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"The network is a {type(model).__name__}, not an nn.Module; {ALLOWED}")
    require_eval(model)
    copy = deepcopy(model).requires_grad_(False)
    try:
        graph = _Tracer().trace(copy)
    except Exception as error:  # whatever the forward method does with a stand-in for its input
        raise InputError(
            f"The network's forward method cannot be read ({type(error).__name__}: {error}); {ALLOWED}"
        ) from error
    written = fx.GraphModule(copy, graph)
    seen, constants = set(), set()
    for node in list(graph.nodes):
        if node.op == "call_module":
            _one_module(written, node, seen)
        elif node.op in ("call_function", "call_method"):
            _one_function(node, constants)
        elif node.op == "get_attr":
            constants.add(node)
    written.delete_all_unused_submodules()
    graph.lint()
    written.recompile()
    written.eval()
    if probe is not None:
        _compare(model, written, probe)
    return written


def _one_module(written: fx.GraphModule, node: fx.Node, seen: set) -> None:
    path, module = str(node.target), written.get_submodule(node.target)
    if isinstance(module, NEUTRAL):
        node.replace_all_uses_with(node.args[0])
        written.graph.erase_node(node)
    elif isinstance(module, nn.Flatten):
        with written.graph.inserting_after(node):
            flat = written.graph.call_function(torch.flatten, (node.args[0], module.start_dim, module.end_dim))
        node.replace_all_uses_with(flat)
        written.graph.erase_node(node)
    elif type(module) not in KNOWN:
        raise InputError(f"The network has a {type(module).__name__} ({path}); {ALLOWED}")
    elif isinstance(module, RECTIFIERS) or path in seen:
        own = Clipped() if type(module) is nn.ReLU6 else nn.ReLU() if type(module) is nn.ReLU else deepcopy(module)
        node.target = f"own_{node.name}"
        written.add_submodule(node.target, own)
    seen.add(path)


def _one_function(node: fx.Node, constants: set) -> None:
    """Keep a function that is linear in what depends on the image, out of place; refuse any other."""
    what = node.target.removesuffix("_") if isinstance(node.target, str) else node.target
    given: list[fx.Node] = []  # as often as they go in: x * x is no product with a constant
    fx.node.map_arg((node.args, node.kwargs), given.append)
    varying = [each for each in given if each not in constants]
    linear = what in VIEWS or (what in SUMS and not node.kwargs.keys() - {"input", "other", "alpha"})
    if what in PRODUCTS | QUOTIENTS and not node.kwargs.keys() - {"input", "other"}:
        above = node.args[0] if node.args else node.kwargs["input"]
        linear = len(varying) < 2 and (what in PRODUCTS or not varying or varying[0] is above)
    if not linear:
        name = what if isinstance(what, str) else what.__name__
        raise InputError(f"The network calls {name} ({node.name}), which is not a module; {ALLOWED}")
    node.target = OUT_OF_PLACE.get(what, what)
    if not varying:
        constants.add(node)


@torch.no_grad()
def _compare(model: nn.Module, written: fx.GraphModule, probe: Tensor) -> None:
    """Refuse a copy that answers differently: hooks of a container, or changes in place that others see, are lost."""
    answers = [tensor_answer(network, probe.clone()) for network in (model, written)]
    if not answers[0].isfinite().all():
        raise InputError("The network's answers are not finite; check its weights for NaN.")
    if _close(*answers):
        return
    first: dict[str, Tensor] = {}  # what each module of the network says when it first runs

    def note(path: str, output: Tensor) -> None:
        if isinstance(output, Tensor):
            first.setdefault(path, output.clone())

    hooks = [
        layer.register_forward_hook(lambda layer, args, output, path=path: note(path, output))
        for path, layer in model.named_modules()
    ]
    model(probe.clone())
    for hook in hooks:
        hook.remove()
    interpreter = fx.Interpreter(written, garbage_collect_values=False)
    interpreter.run(probe.clone())
    paths = {node: str(node.target) for node in written.graph.nodes if node.op == "call_module"}
    wrong = (
        node.name for node, path in paths.items() if path in first and not _close(first[path], interpreter.env[node])
    )
    raise InputError(
        f"Written out as a graph, the network answers differently, from {next(wrong, 'its output')} on: a hook, or a "
        f"change in place, is lost; {ALLOWED}"
    )


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= 1e-4 * one.abs().max())
