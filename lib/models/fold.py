"""A network made ready for attribution: frozen, in eval mode, its batch norms folded into its convolutions."""

from collections import Counter
from copy import deepcopy

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from lib.models.layers import require_autograd, tensor_answer

# Only layers whose forward pass is known: a subclass may standardise its weights or normalise otherwise.
CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
NORMS = (nn.BatchNorm2d, BatchNormAct2d)


@torch.inference_mode(False)  # that what it makes can be differentiated
def prepare(module: nn.Module, *, shape: tuple = (3, 224, 224)) -> nn.Module:
    """A copy of `module` for attribution: eval, frozen, batch norms folded into convolutions, in the fastest layout.

    A batch norm y = γ(x - μ)/√(σ² + ε) + β after a convolution x = w*u + b is one convolution, with weights
    γw/√(σ² + ε) and bias γ(b - μ)/√(σ² + ε) + β. Which follows which is seen by running the module once on
    an input of `shape` (C, H, W), because layers need not run in the order of their definition. Batch norms
    that follow something else, such as those ahead of DenseNet's convolutions, stay.
    Convolutions that pad at run time (`Conv2dSame`) are given the padding that images of `shape` ask for, to which the
    result is thus bound.
    Raises InputError for a network whose weights were made inside torch.inference_mode, or whose answer, where it has
    batch norms, is not a tensor.
    """
    require_autograd(module)
    module = deepcopy(module).eval().requires_grad_(False)
    folded = {}
    for conv, norm in _pairs(module, shape):
        affine = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *affine)
        folded[norm] = norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
    for path, layer in list(module.named_modules(remove_duplicate=False)):
        if layer in folded:
            module.set_submodule(path, folded[layer])
    _pad_ahead(module, shape)
    module.requires_grad_(False)
    if torch.cuda.is_available():
        # Channels last would take depthwise convolutions of single precision away from torch's own kernels, to cuDNN's.
        return module.to(memory_format=torch.contiguous_format)
    return _for_one_thread(module).to(memory_format=torch.channels_last)


def _for_one_thread(module: nn.Module) -> nn.Module:
    """`module` with dilated 1 x 1 convolutions, which a kernel of one pixel does not notice.

    With one thread and fewer than 16 images torch would not give others to oneDNN, whose passes through the packaged
    networks take two thirds to three quarters of the time.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
            layer.dilation = (2, 2)
    return module


@torch.no_grad()
def _pad_ahead(module: nn.Module, shape: tuple) -> None:
    """Replace each Conv2dSame by a convolution that need not copy its input to pad it: a tenth of a network's time.

    Where it pads a row more at the end than at the start, the kernel gets a row of zeros ahead and the padding is even:
    the same sums.
    """
    layers = [layer for layer in module.modules() if type(layer) is Conv2dSame and layer.dilation == (1, 1)]
    if not layers:
        return
    sizes = {layer: set() for layer in layers}
    hooks = [layer.register_forward_pre_hook(lambda of, args: sizes[of].add(args[0].shape[2:])) for layer in layers]
    module(next(module.parameters()).new_zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    for path, layer in list(module.named_modules(remove_duplicate=False)):
        if len(sizes.get(layer, ())) == 1:  # else unused, or used for inputs of several sizes
            module.set_submodule(path, _padded(layer, *sizes[layer]))


def _padded(layer: Conv2dSame, size: torch.Size) -> nn.Conv2d:
    sides = zip(size, layer.kernel_size, layer.stride, strict=True)
    total = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side, kernel, stride in sides]
    down, right = (each % 2 for each in total)
    weight = nn.functional.pad(layer.weight, (right, 0, down, 0))
    options = {"stride": layer.stride, "padding": tuple(-(-each // 2) for each in total), "groups": layer.groups}
    conv = nn.Conv2d(layer.in_channels, layer.out_channels, weight.shape[2:], bias=layer.bias is not None, **options)
    conv.weight, conv.bias = nn.Parameter(weight), layer.bias
    return conv.train(layer.training)


@torch.enable_grad()
def _pairs(module: nn.Module, shape: tuple) -> list[tuple[nn.Module, nn.Module]]:
    """Convolutions whose output goes into one batch norm and nowhere else, each of the two running once."""
    convs = [layer for layer in module.modules() if type(layer) in CONVOLUTIONS]
    norms = [layer for layer in module.modules() if type(layer) in NORMS and layer.running_mean is not None]
    if not norms:
        return []
    made, taken, runs = {}, {}, Counter()

    def after(conv, args, output):
        made[output.grad_fn] = conv
        runs[conv] += 1

    def before(norm, args):
        taken[norm] = args[0].grad_fn
        runs[norm] += 1

    hooks = [conv.register_forward_hook(after) for conv in convs]
    hooks += [norm.register_forward_pre_hook(before) for norm in norms]
    example = next(module.parameters()).new_zeros(1, *shape).requires_grad_()
    uses = _uses(tensor_answer(module, example).grad_fn)
    for hook in hooks:
        hook.remove()
    pairs = [(made[node], norm) for norm, node in taken.items() if node in made and uses[node] == 1]
    return [(conv, norm) for conv, norm in pairs if runs[conv] == runs[norm] == 1]


def _uses(root: torch.autograd.graph.Node) -> Counter:
    """How many operations take the output of each node in the autograd graph that ends in `root`.

    Unlike the identity of tensors, nodes also tell an output that was changed in place before its use.
    """
    count, stack = Counter(), [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                count[node] += 1
                if count[node] == 1:
                    stack.append(node)
    return count
