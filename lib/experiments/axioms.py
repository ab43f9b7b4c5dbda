"""The axioms of attribution, checked on functions of a few features and step by step on a network."""

import inspect
from collections.abc import Callable, Mapping
from itertools import pairwise

import pandas as pd
import torch
from torch import Tensor

from lib.attribution import attribute, walk
from lib.attribution.forward import values
from lib.attribution.gate import Gated, gate


def explain(function: Callable, features: tuple[float, ...], *, path, rules: Mapping[str, Callable]) -> pd.DataFrame:
    """The attributions of function(a, b, ...) at `features`: one row per rule, in float64.

    Columns: the function's arguments, sum (of attributions), change (of the function along the path) and lost
    (change that a rule could not assign).
    """
    x = torch.tensor(features, dtype=torch.float64).view(1, 1, 1, -1)
    zero = torch.zeros(1, dtype=torch.long)
    result = attribute(
        Gated(lambda x: function(*x.flatten(1).unbind(1))[:, None], "logit"),  # features are no pixels in [0, 1]
        x,
        zero,
        path=path,
        rules=rules,
        objective="logit",
    )
    names = list(inspect.signature(function).parameters)
    table = pd.DataFrame({rule: result[rule].flatten().tolist() for rule in rules}, index=names).T
    table["sum"] = table.sum(axis=1)
    table["change"] = float(result.value - result.reference_value)
    table["lost"] = [float(result.sums[rule].get("lost", torch.zeros(1))) for rule in rules]
    return table.rename_axis("rule")


def rows(axiom: str, quantity: str, by_rule: Mapping[str, float], *, path: str = "straight") -> list[dict]:
    """One tidy row per rule of what was found about an axiom."""
    return [
        {"axiom": axiom, "path": path, "rule": rule, "quantity": quantity, "value": float(value)}
        for rule, value in by_rule.items()
    ]


def steps_of(model, path, x: Tensor, target: Tensor) -> pd.DataFrame:
    """What IDGI keeps of each step of a walk: one row per image and step.

    kept   |cos(g, x_{j+1} - x_j)|: to first order, the length of the projected step over that of the step
    missed |f(x_j + g d / |g|^2) - f(x_{j+1})| / |d|, d = f(x_{j+1}) - f(x_j): how far the point that IDGI's derivation
           puts on the next level set is from it; NaN where d or g is zero
    """
    found = []
    model, x, target = gate(model, x, target, objective="probability")  # projected points may leave [0, 1]
    for node, following in pairwise(walk(model, path, x, target)):
        change = (following.value - node.value)[:, None, None, None]
        square = node.grad.square().sum((1, 2, 3), keepdim=True)
        length = node.dx.square().sum((1, 2, 3), keepdim=True)
        cosine = (node.grad * node.dx).sum((1, 2, 3), keepdim=True) / (square * length).sqrt()
        projected = node.x + node.grad * change / square
        usable = projected.isfinite().flatten(1).all(1)
        reached = values(model, projected.nan_to_num(0), target)
        missed = ((reached - following.value).abs() / change.flatten().abs()).where(usable, torch.nan)
        for image in range(len(x)):
            found.append((image, node.index, float(cosine[image].abs()), float(missed[image])))
    return pd.DataFrame(found, columns=["image", "step", "kept", "missed"])


def distance(a: Tensor, b: Tensor) -> float:
    """Mean over images of the relative L1 distance of two maps (B, C, H, W), |a - b| / |b|."""
    return float(((a - b).abs().flatten(1).sum(1) / b.abs().flatten(1).sum(1)).mean())
