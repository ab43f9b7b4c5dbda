"""The degree of homogeneity that a network's layers prove, read from its graph without running it.

Every value of the graph gets a degree: the input 1, a layer without constants that of what goes in, a product the sum
of its factors', a sum that of its terms if they agree. What has no degree, such as a bias or a GELU, is a reason why
not.
"""

import operator
from dataclasses import dataclass, field

import torch
from torch import fx, nn
from torch.nn import functional as F

from lib.models.layers import BATCH_NORMS, Normalize

CONVOLUTIONS = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear
)
NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
# max(0, ·) and its leaky kinds, pooling, rearranging, and dropout in eval mode multiply with what multiplies their
# input
LAYERS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.Upsample)
LAYERS += (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
LAYERS += (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
LAYERS += (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ReflectionPad2d)
FUNCTIONS = {torch.relu, F.relu, F.leaky_relu, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d}
FUNCTIONS |= {F.dropout, F.interpolate, torch.flatten, torch.abs, torch.neg, operator.neg, operator.getitem}
FUNCTIONS |= {torch.sum, torch.mean, torch.amax, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze}
METHODS = {"relu", "flatten", "view", "reshape", "permute", "transpose", "contiguous", "mean", "sum", "amax", "clone"}
METHODS |= {"abs", "neg", "squeeze", "unsqueeze", "expand", "expand_as", "repeat", "to", "float", "double"}
SUMS = {operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub, "add", "add_", "sub"}
SUMS |= {torch.maximum, torch.minimum, "maximum", "minimum"}
PRODUCTS = {operator.mul, operator.imul, torch.mul, torch.matmul, torch.bmm, operator.matmul, "mul", "mul_", "matmul"}
QUOTIENTS = {operator.truediv, torch.div, torch.true_divide, "div"}
SIZES = {"size", "dim", "numel"}
CONSTANT = object()  # a parameter, a number, a size: what does not change with the input


def degree(model: nn.Module) -> int | float:
    """The degree k of F(c x) = c^k F(x), c > 0, that the layers of `model` prove.

    About the origin of its Normalize, where it begins with one. Raises ValueError where they prove none: see `broken`.
    """
    found = _read(model)
    if found.reasons:
        raise ValueError("; ".join(found.reasons))
    return found.result


def broken(model: nn.Module) -> list[str]:
    """Why the layers prove no degree of at least 1, layer by layer in the order of running; empty where they do.

    A layer is named by its path in the model. A graph that cannot be read, because the forward method branches on
    values, proves nothing.
    """
    return _read(model).reasons


@dataclass
class _Reading:
    degrees: dict[fx.Node, object] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    result: int | float = 0


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        # Layers of timm are torch's own with a forward method that cannot be traced.
        return isinstance(module, (Normalize, CONVOLUTIONS, *NORMS)) or super().is_leaf_module(module, name)


def _read(model: nn.Module) -> _Reading:
    found = _Reading()
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # whatever the forward method does with a stand-in for its input
        found.reasons.append(f"its forward method cannot be read ({type(error).__name__}: {error})")
        return found
    modules = dict(model.named_modules())
    pixels = any(isinstance(modules.get(str(node.target)), Normalize) for node in graph.nodes)
    for node in graph.nodes:
        if node.op == "placeholder":
            found.degrees[node] = "pixels" if pixels else 1
        elif node.op == "get_attr":
            found.degrees[node] = CONSTANT
        elif node.op == "output":
            (found.result,) = _known(node, found) or (0,)
        else:
            value = _of_node(node, found, modules)
            if isinstance(value, str) and value != "pixels":
                found.reasons.append(value)
                value = 1  # go on as if mended, so that all reasons are told
            found.degrees[node] = value
    if not found.reasons and not (isinstance(found.result, int | float) and found.result >= 1):
        found.reasons.append(f"its output is of degree {found.result}, not of at least 1")
    return found


def _known(node: fx.Node, found: _Reading) -> list:
    """The degrees of everything that goes into a node and is not constant."""
    inputs: list[fx.Node] = []  # as often as they go in: x * x is of degree 2
    fx.node.map_arg((node.args, node.kwargs), inputs.append)
    return [found.degrees[each] for each in inputs if found.degrees[each] is not CONSTANT]


def _of_node(node: fx.Node, found: _Reading, modules: dict[str, nn.Module]) -> object:
    """The degree of a node's value, or the reason why it has none."""
    given = _known(node, found)
    if node.op == "call_module":
        return _of_layer(str(node.target), modules[str(node.target)], given)
    what, name = node.target, node.name
    if what is getattr or what in SIZES or not given:
        return CONSTANT
    if "pixels" in given:
        return f"{name} uses pixels that are not normalised"
    if what in SUMS:
        return _of_sum(node, given, name)
    if what in PRODUCTS:
        return sum(given)
    if what in QUOTIENTS:
        above, below = (found.degrees.get(each, CONSTANT) for each in node.args[:2])
        return (0 if above is CONSTANT else above) - (0 if below is CONSTANT else below)
    if what in (torch.square, "square"):
        return 2 * given[0]
    if what in (operator.pow, torch.pow, "pow") and isinstance(node.args[1], int | float):
        return node.args[1] * given[0]
    if what in (F.conv2d, F.linear):
        biased = (node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")) is not None
        return f"{name} adds a bias" if biased else given[0]
    if what in (torch.cat, torch.stack):
        return given[0] if len(set(given)) == 1 else f"{name} joins values of degrees {sorted(set(given))}"
    if what in FUNCTIONS or what in METHODS:
        return given[0]
    return f"{name} ({getattr(what, '__name__', what)}) is not known to keep the degree"


def _of_sum(node: fx.Node, given: list, name: str) -> object:
    terms = [each for each in node.args if not (isinstance(each, int | float) and each == 0)]
    if len(given) < len(terms):
        added = next((str(each.target) for each in node.all_input_nodes if each.op == "get_attr"), name)
        return f"{added} is added, a constant"
    return given[0] if len(set(given)) == 1 else f"{name} adds values of degrees {sorted(set(given))}"


def _of_layer(path: str, layer: nn.Module, given: list) -> object:
    kind = type(layer).__name__
    if isinstance(layer, Normalize):
        return 1 if given == ["pixels"] else f"{path} (Normalize) is not the first layer"
    if "pixels" in given:
        return f"{path} ({kind}) sees pixels that are not normalised"
    if isinstance(layer, CONVOLUTIONS):
        if getattr(layer, "padding_mode", "zeros") in ("zeros", "reflect", "replicate", "circular"):
            return given[0] if layer.bias is None else f"{path} ({kind}) has a bias"
    elif isinstance(layer, NORMS):
        return f"{path} ({kind}) subtracts a mean or adds a constant"
    elif type(layer) in LAYERS:
        return given[0]
    return f"{path} ({kind}) is not homogeneous"
