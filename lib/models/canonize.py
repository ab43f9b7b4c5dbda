"""A network written out so that hooks see all of it: every operation a module of its own, used once."""

from copy import deepcopy
from operator import add, iadd

import torch
from captum.attr._utils.custom_modules import Addition_Module
from timm.layers import Conv2dSame
from torch import Tensor, fx, nn

from lib import InputError
from lib.models.layers import Normalize

LINEAR = (nn.Conv2d, Conv2dSame, nn.Linear, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, Normalize)
RECTIFIERS = (nn.ReLU, nn.ReLU6)
KNOWN = (*LINEAR, *RECTIFIERS, nn.MaxPool2d)
NEUTRAL = (nn.Identity, nn.Dropout)  # in eval mode


class Clipped(nn.Module):
    """min(max(x, 0), 6) as 6 - relu(6 - relu(x)), from the rectifiers that Captum's methods know.

    Both of their rules pass a chain of elementwise steps as they would pass the whole: DeepLIFT multiplies the ratios
    of differences along it, LRP hands relevance through. A ReLU6 itself would be left as it is by DeepLIFT, silently,
    and refused by LRP.
    """

    def __init__(self):
        super().__init__()
        self.below, self.above = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return 6 - self.above(6 - self.below(x))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return isinstance(module, KNOWN) or super().is_leaf_module(module, path)


def modular(model: nn.Module) -> nn.Module:
    """A copy of a network of convolutions, rectifiers, poolings and additions, the same function, ready for hooks.

    Captum's DeepLIFT and LRP work on the modules of a network. Whatever is not a module, or is one that runs twice,
    they miss or mistake: LRP passes relevance through a functional addition to both sides in full, DeepLIFT refuses a
    shared ReLU. Here additions become modules, a module that runs again gets its own copy, ReLU6 becomes `Clipped`,
    and nothing is done in place.
    Raises InputError for a network with any other operation, such as SiLU, an attention or a functional pooling.
    """
    model = deepcopy(model).eval()
    graph = _Tracer().trace(model)
    written = fx.GraphModule(model, graph)
    seen = set()
    for node in list(graph.nodes):
        if node.op == "call_module":
            _one_module(written, graph, node, seen)
        elif node.op == "call_function" and node.target in (add, iadd, torch.add):
            path = f"addition_{node.name}"
            written.add_submodule(path, Addition_Module())
            _replace(graph, node, path)
        elif node.op in ("call_function", "call_method") and node.target not in (torch.flatten, "flatten"):
            name = node.target if isinstance(node.target, str) else node.target.__name__
            raise InputError(f"The network calls {name}, which is not a module; {_ALLOWED}")
    written.delete_all_unused_submodules()
    graph.lint()
    written.recompile()
    return written.eval().requires_grad_(False)


_ALLOWED = (
    "DeepLIFT and LRP are defined here for networks of convolutions, linear layers, batch norms, ReLU or ReLU6, "
    "poolings and additions only: give such a network, or leave these methods out."
)


def _one_module(written: fx.GraphModule, graph: fx.Graph, node: fx.Node, seen: set) -> None:
    module = written.get_submodule(node.target)
    if isinstance(module, NEUTRAL):
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    elif isinstance(module, nn.Flatten):
        with graph.inserting_after(node):
            flat = graph.call_function(torch.flatten, (node.args[0], module.start_dim, module.end_dim))
        node.replace_all_uses_with(flat)
        graph.erase_node(node)
    elif type(module) not in KNOWN:
        raise InputError(f"The network has a {type(module).__name__}; {_ALLOWED}")
    elif isinstance(module, RECTIFIERS) or node.target in seen:
        path = f"own_{node.name}"
        own = Clipped() if type(module) is nn.ReLU6 else nn.ReLU() if type(module) is nn.ReLU else deepcopy(module)
        written.add_submodule(path, own)
        _replace(graph, node, path)
    seen.add(node.target)


def _replace(graph: fx.Graph, node: fx.Node, path: str) -> None:
    """The same inputs through the module at `path` instead."""
    with graph.inserting_after(node):
        new = graph.call_module(path, tuple(arg for arg in node.args if isinstance(arg, fx.Node)))
    node.replace_all_uses_with(new)
    graph.erase_node(node)
