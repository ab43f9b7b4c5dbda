"""Sanity checks: does a map change when the network it explains is taken apart? (Adebayo et al., 2018)"""

from copy import deepcopy
from dataclasses import dataclass

import torch
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from lib import InputError, nearest
from lib.metrics.ranking import map_batch, map_pair, rank_correlation, ranks
from lib.seeds import image_generator

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
AUXILIARY = "AuxLogits"
SMALLEST = 7  # pixels: the window of the structural similarity


def similarities(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """The measures of Adebayo et al. between the maps of two networks: (N, H, W) twice -> name: (N,), float64.

    spearman      rank correlation of the signed maps
    spearman_abs  of their absolute values
    ssim          structural similarity of |map|, each scaled to [0, 1]; windows of 7 x 7 pixels
    hog           Pearson correlation of the histograms of oriented gradients of the same scaled maps; cells of
                  16 x 16 pixels, of a quarter of the shorter side where that is less

    Each is at most 1, for identical maps; NaN where a map it compares is constant.
    Raises InputError as `map_pair`, and for maps under 7 x 7 pixels.
    Differs from the released code: there is none; it stores the maps (AR:main.py:328).

    >>> maps = torch.rand(1, 8, 8)
    >>> [round(value.item(), 9) for value in similarities(maps, 2 * maps).values()]
    [1.0, 1.0, 1.0, 1.0]
    """
    return likeness(*map(appearance, map_pair(a, b)))


@dataclass(frozen=True)
class Appearance:
    """What `similarities` needs to know of maps (N, H, W): made once, whatever they are compared with.

    ranks, ranks_abs (N, HW): `ranks` of scores and of |scores|; scaled (N, H, W): |scores| in [0, 1]; edges
    (N, F): histograms of oriented gradients of these. Rows are NaN where a map is constant.

    >>> appearance(torch.rand(2, 8, 8)).ranks.shape
    torch.Size([2, 64])
    """

    ranks: Tensor
    ranks_abs: Tensor
    scaled: Tensor
    edges: Tensor


def appearance(maps: Tensor) -> Appearance:
    """`Appearance` of maps (N, H, W). Raises InputError as `similarities` does.

    >>> appearance(torch.rand(2, 8, 8)).scaled.amax((1, 2))
    tensor([1., 1.], dtype=torch.float64)
    """
    maps = map_batch(maps).cpu()
    if min(maps.shape[1:]) < SMALLEST:
        size = f"{maps.shape[1]} x {maps.shape[2]}"
        raise InputError(f"the maps have {size} pixels; give at least {SMALLEST} x {SMALLEST}")
    rows = maps.flatten(1)
    signed = ranks(rows)
    scaled = torch.stack([_scaled(each) for each in maps.double().abs()])
    edges = torch.stack([_edges(each) for each in scaled])
    return Appearance(signed, signed if (rows >= 0).all() else ranks(rows.abs()), scaled, edges)


def likeness(a: Appearance, b: Appearance) -> dict[str, Tensor]:
    """The `similarities` of two stacks of maps that are described already.

    >>> one = appearance(torch.rand(2, 8, 8))
    >>> likeness(one, one)["hog"].round(decimals=9)
    tensor([1., 1.], dtype=torch.float64)
    """
    defined = ~(a.edges.isnan().any(1) | b.edges.isnan().any(1))
    ssim, hogs = torch.full((2, len(defined)), torch.nan, dtype=torch.float64)
    for row in defined.nonzero().flatten().tolist():
        p, q = a.scaled[row].numpy(), b.scaled[row].numpy()
        ssim[row] = structural_similarity(p, q, win_size=SMALLEST, data_range=1.0)
        hogs[row] = torch.corrcoef(torch.stack([a.edges[row], b.edges[row]]))[0, 1]
    return {
        "spearman": rank_correlation(a.ranks, b.ranks),
        "spearman_abs": rank_correlation(a.ranks_abs, b.ranks_abs),
        "ssim": ssim,
        "hog": hogs,
    }


def stages(model: nn.Module) -> list[str]:
    """The stages of a network in the order of cascading randomisation, from the output backwards.

    A stage is a child, with parameters, of the innermost module that holds more than one such; a Sequential
    among them counts by its own children; a batch norm belongs to the stage before it. Order of definition is
    taken for order of running. Parameters that belong to no such child, as a vision transformer's class token and
    position embedding, are used beside the image: they belong to the last stage, the one nearest to it. Inception's
    auxiliary classifier, which only training uses, is no stage.
    Raises InputError for a network without parameters in its layers.

    >>> stages(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)))
    ['4', '0']
    """
    return list(_stages(model))


@torch.no_grad()
def randomised(model: nn.Module, upto: str, *, seed: int, scale: float = 1.0) -> nn.Module:
    """A copy of the network whose stages from the output down to and including `upto` are drawn anew.

    W <- N(mean(W), (scale std(W))^2) for each weight and bias; the weights and running statistics of batch
    norms stay. A tensor of one number, or of equal ones, keeps them. A draw depends on seed and name only: networks of
    one seed that go further down share what was drawn above. Give the network before `lib.models.fold.prepare`: batch
    norms that are folded into weights would be drawn with them.
    Raises InputError for an unknown stage.
    Differs from the released code (AR:main.py:299-308): draws are seeded and nested, where each depth drew all
    of its stages again; stages are matched whole, where 'fc' also hit AuxLogits.fc.

    >>> network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    >>> drawn = randomised(network, "2", seed=0)
    >>> torch.equal(drawn[0].weight, network[0].weight), torch.equal(drawn[2].weight, network[2].weight)
    (True, False)
    """
    order = stages(model)
    if upto not in order:
        raise InputError(f"the network has no stage {upto!r}: {nearest(upto, order)}")
    model = deepcopy(model)
    drawn = set().union(*list(_stages(model).values())[: order.index(upto) + 1])
    for path, layer in model.named_modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if layer not in drawn or (isinstance(layer, NORMS) and name == "weight"):
                continue
            std, mean = torch.std_mean(parameter) if parameter.numel() > 1 else (0.0, parameter.item())
            generator = image_generator(seed, f"{path}.{name}", "randomise")
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(mean + scale * std * noise.to(parameter))
    return model


def _stages(model: nn.Module) -> dict[str, set[nn.Module]]:
    """Each stage's layers by its name, from the output backwards: each layer of the network is in one of them."""
    if not isinstance(model, nn.Module):
        raise InputError(f"the network is a {type(model).__name__}; give an nn.Module, whose layers can be drawn anew")
    children = _holding(model)
    while len(children) == 1 and _holding(children[0][1]):
        children = _holding(children[0][1])
    if not children:
        raise InputError("the network has no layer with parameters; give one that was trained")
    parts = []
    for name, child in children:
        inner = _holding(child) if isinstance(child, nn.Sequential) else []
        parts += [(f"{name}.{number}", part) for number, part in inner] or [(name, child)]
    found: dict[str, set[nn.Module]] = {}
    for name, part in parts:
        stage = next(reversed(found)) if isinstance(part, NORMS) and found else name
        found.setdefault(stage, set()).update(part.modules())
    unused = {layer for path, layer in model.named_modules() if AUXILIARY in path.split(".")}
    found[parts[0][0]] |= set(model.modules()) - unused.union(*found.values())
    return dict(reversed(found.items()))


def _holding(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children that have parameters, without Inception's auxiliary classifier."""
    named = module.named_children()
    return [(name, child) for name, child in named if name != AUXILIARY and any(True for _ in child.parameters())]


def _scaled(scores: Tensor) -> Tensor:
    """Scaled to [0, 1]; NaN if constant."""
    low, high = scores.aminmax()
    return (scores - low) / (high - low)


def _edges(scaled: Tensor) -> Tensor:
    """Histograms of oriented gradients of a map (H, W) as one row."""
    cell = min(16, min(scaled.shape) // 4)
    return torch.from_numpy(hog(scaled.numpy(), pixels_per_cell=(cell, cell)))
