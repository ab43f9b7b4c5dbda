"""What an evaluation buys: maps from few nodes, placed in several ways, against the map of very many even ones."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib import InputError
from lib.attribution import IDGI, Adaptive, Attribution, Node, Path, Riemann, Straight, TrapezoidError, attribute, walk
from lib.attribution.forward import values, values_and_gradients
from lib.attribution.nodes import Probe, Stop, prescribed
from lib.attribution.paths import between
from lib.attribution.references import reference_image
from lib.experiments.subjects import Subject, relative_difference
from lib.metrics.diffid import area, diffid
from lib.metrics.insertion import insertion
from lib.metrics.stability import spearman

FORWARD = 1 / 3  # what a forward pass alone counts, in evaluations: a forward and a backward pass
SCAN = 12  # forward passes of "placed by a scan"
CLOSED = {"riemann": TrapezoidError(), "left": IDGI(), "right": IDGI("right")}
EVEN = "even"
MapKey = tuple[str, str, int]  # path, rule, steps of a map


@dataclass(frozen=True)
class Placed(Path):
    """The straight line from black with nodes at given alphas, from 0 to 1, the same for all images."""

    alphas: tuple[float, ...]

    @property
    def steps(self) -> int:
        return len(self.alphas) - 1

    def ends(self, x: Tensor) -> Iterator[tuple[float, Tensor]]:
        yield 1.0, reference_image("black", x)

    def nodes(self, x: Tensor, probe: Probe) -> Iterator[Node]:
        start, shares = reference_image("black", x), [*np.diff(self.alphas).tolist(), 0.0]
        stops = [
            Stop(k, partial(between, start, x, alpha), k, share, lambda: start)
            for k, (alpha, share) in enumerate(zip(self.alphas, shares, strict=True))
        ]
        return prescribed(probe, x, stops)


def explained(of: Subject) -> Tensor:
    """The class that is explained: the network's own answer, right or wrong, (B,)."""
    return of.answers()[0].argmax(1)


def roughness(load: Callable[[], Subject], objective: str, *, steps: int) -> pd.DataFrame:
    """How much each image's gradient changes over each step of an even grid, as a share of all its change.

    Returns one row per image and step: image, alpha (the step's middle) and value.
    """
    of = load()
    nodes = walk(of.model, Straight(steps), of.x, explained(of), objective=objective)
    turns = [((b.grad - a.grad) * (of.x - a.reference)).abs().flatten(1).sum(1) for a, b in pairwise(nodes)]
    shares = torch.stack(turns, 1).double()
    shares = (shares / shares.sum(1, keepdim=True)).cpu().numpy()
    table = pd.DataFrame(shares, index=of.images, columns=(np.arange(steps) + 0.5) / steps)
    return table.rename_axis("image").reset_index().melt("image", var_name="alpha").astype({"alpha": float})


def common_nodes(rough: Sequence[float], steps: int) -> tuple[float, ...]:
    """Nodes for a network, placed once, from the mean `roughness` over some images in equal steps of alpha.

    In the manner of RiemannOpt (Swain & Singhi, NeurIPS 2024 workshop, arXiv:2410.04118): it averages |g'| over images
    and minimises the bound 1/2 sum |g'| (width of a step)^2 of the left sum's error by Powell's method. Over many steps
    the bound is least at a density of nodes in proportion to |g'|^(1/2), which is used here as it stands.
    Differs from the released code (riemann_opt.py): every image has the same weight.

    >>> common_nodes([4.0, 1.0], 3)  # twice as dense in the first half
    (0.0, 0.25, 0.5, 1.0)
    """
    reached = np.concatenate([[0.0], np.cumsum(np.sqrt(rough))])
    inner = np.interp(np.arange(1, steps) / steps * reached[-1], reached, np.linspace(0, 1, len(reached)))
    return (0.0, *inner.tolist(), 1.0)


def placements(budgets: list[int], compared: list[int], rough: Sequence[float], *, tolerance: float, most: int) -> dict:
    """{(name, budget): path}: "refined by gradient" for all budgets, the others for those compared.

    A path of n steps evaluates its n + 1 nodes, "Gauss nodes" n; what a scan takes is taken off. The one `until` the
    tolerance may take up to `most` steps.
    """
    found = {("refined by gradient", n): Adaptive(n) for n in budgets}
    for n in compared:
        kept = n - round(SCAN * FORWARD)
        found |= {
            ("refined by value", n): Adaptive(n, by="value"),
            ("placed by a scan", n): Adaptive(kept, first=kept, scan=SCAN),
            ("common nodes", n): Placed(common_nodes(rough, n)),
            ("Gauss nodes", n): Straight(n, grid="gauss"),
        }
    return found | {(until(tolerance), most): Adaptive(most, tolerance=tolerance)}


def until(tolerance: float) -> str:
    """What tables call a walk that stops at a tolerance: claims name one, and are not about others."""
    return f"until {tolerance:g}"


def evaluations(
    load: Callable[[], Subject],
    objective: str,
    rough: Sequence[float],
    *,
    even: list[int],
    budgets: list[int],
    compared: list[int],
    limit: int,
    tolerance: float,
    most: int,
) -> pd.DataFrame:
    """Scores of the maps of one subject's images by every placement of nodes and number of steps.

    rough: see `common_nodes`, from other images; even: step counts of "even", divisors of `limit`, the number of even
    steps whose maps stand for the limit (half as many show how well); budgets, compared, tolerance, most: see
    `placements`. There are "even midpoints" where 2 n divides `limit`.
    Rules: "riemann" (trapezoid; midpoint and Gauss on their grids), "idgi" (left, as published), "idgi both sides" (the
    mean of IDGI's left and right maps). Maps are sums over channels.
    Metrics, one row per image, path, rule, steps and each:
        relative_convergence  |map - limit|_1 / |limit|_1; IDGI's limit is that of "idgi both sides"
        spearman              rank correlation with the limit
        completeness          |sum of the map - (f(x) - f(x'))| / |f(x) - f(x')|, of "riemann"
        error told            by the nodes themselves, see `TrapezoidError`
        told off              |log2(error told / relative_convergence)|
        evaluations           forward and backward passes; a forward pass alone counts 1/3
        insertion, diffid_logit, insertion shift, diffid_logit shift  of some maps; the distance to the limit's score
    Raises InputError for a step count that does not divide `limit`.
    """
    even = sorted({*even, limit // 2})
    if wrong := [n for n in even if limit % n]:
        raise InputError(f"step counts {wrong} do not divide {limit}: give divisors of it, or another limit")
    of = load()
    target = explained(of)
    attributed = partial(attribute, of.model, of.x, target, objective=objective)
    halves = {f"midpoint {n}": n for n in even if limit % (2 * n) == 0}
    middles = {name: partial(_middle, steps=n, limit=limit) for name, n in halves.items()}
    fine = attributed(path=Straight(limit), rules=CLOSED | middles, steps=[*even, limit])
    maps: dict[MapKey, Tensor] = {}
    rows = []
    for n in (limit, *even):
        maps |= _closed_maps(fine, EVEN, n, (n,))
        rows += _sums(of, fine, EVEN, n, n + 1, (n,))
    maps |= {("even midpoints", "riemann", n): fine[name, limit].sum(1) for name, n in halves.items()}
    for (name, n), path in placements(budgets, compared, rough, tolerance=tolerance, most=most).items():
        if "gauss" in path.rules:
            maps[name, "riemann", n] = attributed(path=path, rules={"map": Riemann("gauss")})["map"].sum(1)
            continue
        found = attributed(path=path, rules=CLOSED)
        maps |= _closed_maps(found, name, n)
        scan = FORWARD * path.scan if isinstance(path, Adaptive) else 0
        rows += _sums(of, found, name, n, found.evaluations / len(of.x) + scan)
    for key, each in maps.items():
        if (end := _limit(key, limit)) != key:
            rows += _rows(of, key, "relative_convergence", relative_difference(each, maps[end]))
            rows += _rows(of, key, "spearman", spearman(each, maps[end]))
    rows += _games(of, target, maps, limit, {limit, max(compared), max(n for n in even if 2 * n < limit)})
    table = pd.DataFrame(rows)
    return pd.concat([table, _told_off(table)], ignore_index=True).assign(model=of.network.name, objective=objective)


def seconds_of_passes(load: Callable[[], Subject], *, repeats: int, together: int = 8) -> pd.DataFrame:
    """Metric "seconds" of an image's pass, forward alone and forward and backward: medians, measured in alternation."""
    of = load()
    x, target = of.x[:1].repeat(together, 1, 1, 1), explained(of)[:1].repeat(together)
    runs = {"forward pass": values, "evaluation pass": values_and_gradients}
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            begin = time.perf_counter()
            run(of.model, x, target)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            spent[name].append((time.perf_counter() - begin) / together)
    medians = {name: torch.tensor(each[1:]).median().expand(len(of.x)) for name, each in spent.items()}  # after one
    rows = [row for name, each in medians.items() for row in _rows(of, (name, "-", 1), "seconds", each)]
    return pd.DataFrame(rows).assign(model=of.network.name, objective="probability")


def _middle(node: Node, following: Node | None, *, steps: int, limit: int) -> Tensor:
    """The midpoint rule of `steps` cells on the grid of `limit`: the nodes in the cells' middles."""
    cell = limit // steps
    return (node.input - node.reference) * node.grad * (node.index % cell == cell // 2) / steps


def _closed_maps(found: Attribution, path: str, n: int, grid: tuple[int, ...] = ()) -> dict[MapKey, Tensor]:
    """Maps (B, H, W) of the rules CLOSED; grid: (n,) where `found` is a sweep."""
    riemann, left, right = (found[(rule, *grid) if grid else rule].sum(1) for rule in CLOSED)
    return {(path, "riemann", n): riemann, (path, "idgi", n): left, (path, "idgi both sides", n): (left + right) / 2}


def _limit(key: MapKey, limit: int) -> MapKey:
    return EVEN, "riemann" if key[1] == "riemann" else "idgi both sides", limit


def _sums(of: Subject, found: Attribution, path: str, n: int, spent: float, grid: tuple[int, ...] = ()) -> list[dict]:
    key = ("riemann", *grid) if grid else "riemann"
    rise = (found.value - found.reference_value).double().abs()
    measured = {
        "completeness": found.completeness_error(key).abs() / rise,
        "error told": found.sums[key]["error"],
        "evaluations": torch.tensor(spent).expand(len(of.x)),
    }
    return [row for metric, each in measured.items() for row in _rows(of, (path, "riemann", n), metric, each)]


def _games(of: Subject, target: Tensor, maps: dict[MapKey, Tensor], limit: int, steps: set[int]) -> list[dict]:
    paths = (EVEN, "refined by gradient", "refined by value", "placed by a scan")
    ends = {_limit(key, limit) for key in maps}
    played = [
        key for key in maps if key in ends or (key[0] in paths and key[2] in steps and key[1] in ("riemann", "idgi"))
    ]
    ranking = torch.stack([maps[key] for key in played], 1)
    removal = diffid(of.model, of.x, ranking, target, mean=of.network.mean, std=of.network.std)
    games = {"insertion": insertion(of.model, of.x, ranking, target).probability}
    games["diffid_logit"] = area(removal.diffid_logit)
    rows = []
    for metric, scores in games.items():
        each = dict(zip(played, scores.unbind(1), strict=True))
        for key, score in each.items():
            rows += _rows(of, key, metric, score)
            rows += _rows(of, key, f"{metric} shift", (score - each[_limit(key, limit)]).abs())
    return rows


def _told_off(table: pd.DataFrame) -> pd.DataFrame:
    keys = ["image", "label", "path", "rule", "steps"]
    rows = (table[table["metric"] == each] for each in ("error told", "relative_convergence"))
    told, found = (each.set_index(keys)["value"] for each in rows)
    off = np.abs(np.log2(told / found)).dropna()
    return off.rename("value").reset_index().assign(metric="told off")


def _rows(of: Subject, key: MapKey, metric: str, values: Tensor) -> list[dict]:
    shared = {**dict(zip(("path", "rule", "steps"), key, strict=True)), "metric": metric}
    each = zip(of.items, values.tolist(), strict=True)
    return [{"image": item.id, "label": item.label, **shared, "value": value} for item, value in each]
