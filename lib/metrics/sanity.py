"""Sanity checks: does a map change when the network it explains is taken apart? (Adebayo et al., 2018)"""

from copy import deepcopy

import torch
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from lib import InputError, nearest
from lib.attribution.seeds import image_generator
from lib.metrics.stability import spearman

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
SMALLEST = 7  # pixels: the window of the structural similarity


def similarities(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """The measures of Adebayo et al. between the maps of two networks: (N, H, W) twice -> name: (N,), float64.

    spearman      rank correlation of the signed maps
    spearman_abs  of their absolute values
    ssim          structural similarity of |map|, each scaled to [0, 1]; windows of 7 x 7 pixels
    hog           Pearson correlation of the histograms of oriented gradients of the same scaled maps; cells of
                  16 x 16 pixels, of a quarter of the shorter side where that is less

    Each is at most 1, for identical maps; NaN where a map it compares is constant.
    Raises InputError for shapes that differ, maps under 7 x 7 pixels and scores that are not finite.
    Differs from the released code: there is none; it stores the maps (AR:main.py:328).
    """
    signed = spearman(a, b)
    if min(a.shape[1:]) < SMALLEST:
        raise InputError(f"the maps have {a.shape[1]} x {a.shape[2]} pixels; give at least {SMALLEST} x {SMALLEST}")
    a, b = (maps.detach().cpu().double().abs() for maps in (a, b))
    pairs = [(_unit(p), _unit(q)) for p, q in zip(a, b, strict=True)]
    return {
        "spearman": signed,
        "spearman_abs": spearman(a, b),
        "ssim": _each(_ssim, pairs),
        "hog": _each(_hog, pairs),
    }


def stages(model: nn.Module) -> list[str]:
    """The stages of a network in the order of cascading randomisation, from the output backwards.

    A stage is a child, with parameters, of the innermost module that holds more than one such; a Sequential
    among them counts by its own children; a batch norm belongs to the stage before it. Order of definition is
    taken for order of running. Inception's auxiliary classifier, which only training uses, is no stage.
    Raises InputError for a network without parameters in its layers.
    """
    return list(_stages(model))


@torch.no_grad()
def randomised(model: nn.Module, upto: str, *, seed: int, scale: float = 1.0) -> nn.Module:
    """A copy of the network whose stages from the output down to and including `upto` are drawn anew.

    W <- N(mean(W), (scale std(W))^2) for each weight and bias; the weights and running statistics of batch
    norms stay. A tensor of one number keeps it. Its draw depends on seed and name only: networks of one seed
    that go further down share what was drawn above. Give the network before `lib.folding.prepare`: batch norms
    that are folded into weights would be drawn with them.
    Raises InputError for an unknown stage.
    Differs from the released code (AR:main.py:299-308): draws are seeded and nested, where each depth drew all
    of its stages again; stages are matched whole, where 'fc' also hit AuxLogits.fc.
    """
    order = stages(model)
    if upto not in order:
        raise InputError(f"the network has no stage {upto!r}: {nearest(upto, order)}")
    model = deepcopy(model)
    chosen = list(_stages(model).values())[: order.index(upto) + 1]
    drawn = {layer for stage in chosen for part in stage for layer in part.modules()}
    for path, layer in model.named_modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if layer not in drawn or (isinstance(layer, NORMS) and name == "weight"):
                continue
            std, mean = torch.std_mean(parameter) if parameter.numel() > 1 else (0.0, parameter.item())
            generator = image_generator(seed, f"{path}.{name}", "randomise")
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(mean + scale * std * noise.to(parameter))
    return model


def _stages(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Each stage's modules by its name, from the output backwards."""
    children = _holding(model)
    while len(children) == 1 and _holding(children[0][1]):
        children = _holding(children[0][1])
    if not children:
        raise InputError("the network has no layer with parameters; give one that was trained")
    parts = []
    for name, child in children:
        inner = _holding(child) if isinstance(child, nn.Sequential) else []
        parts += [(f"{name}.{number}", part) for number, part in inner] or [(name, child)]
    found = {}
    for name, part in parts:
        if isinstance(part, NORMS) and found:
            found[next(reversed(found))].append(part)
        else:
            found[name] = [part]
    return dict(reversed(found.items()))


def _holding(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children that have parameters, without Inception's auxiliary classifier."""
    named = module.named_children()
    return [(name, child) for name, child in named if name != "AuxLogits" and any(True for _ in child.parameters())]


def _unit(scores: Tensor) -> Tensor:
    """Scaled to [0, 1]; NaN if constant."""
    low, high = scores.aminmax()
    return (scores - low) / (high - low)


def _each(measure, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    constant = [p.isnan().any() or q.isnan().any() for p, q in pairs]
    values = [torch.nan if skip else measure(p, q) for skip, (p, q) in zip(constant, pairs, strict=True)]
    return torch.tensor(values, dtype=torch.float64)


def _ssim(p: Tensor, q: Tensor) -> float:
    return structural_similarity(p.numpy(), q.numpy(), win_size=SMALLEST, data_range=1.0)


def _hog(p: Tensor, q: Tensor) -> float:
    cell = min(16, min(p.shape) // 4)
    features = [torch.from_numpy(hog(scores.numpy(), pixels_per_cell=(cell, cell))) for scores in (p, q)]
    return torch.corrcoef(torch.stack(features))[0, 1].item()
