"""The LPI study on digits: references from the training set, near or anywhere, at equal numbers of evaluations."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from time import perf_counter

import pandas as pd
import torch
from torch import Tensor

from lib.attribution import Adversarial, Lines, Node, Recalibrated, Riemann, attribute, walk
from lib.attribution.adversarial import other_classes
from lib.attribution.gradients import random_maps
from lib.attribution.local import LocalReferences, cached_local_references, logits_of, random_densities
from lib.attribution.nodes import share_of
from lib.attribution.references import FromPool, Single
from lib.experiments.recalibration import BY_POINT, removal_rows
from lib.experiments.subjects import Key, Subject, content_of
from lib.models.zoo import Network
from lib.store.digest import content_key

REFERENCES = 20  # of each image; one point on each is 20 evaluations, as in the paper
ROUNDS = 3  # of timing
OTHER_DENSITIES = ("random_density", "equal_density")  # LPI with these has the references that it has with its own


def local_set(network: Network, pool: Tensor, *, clusters: int, cache: Path, seed: int = 0) -> LocalReferences:
    """The offline stage for a pool, computed once for each content and order of it, weights, clusters and seed."""
    key = content_key(f"local-{network.name}", local_set, network.name, content_of(network, pool))
    asked = {"cache": cache, "key": key, "clusters": clusters, "references": REFERENCES, "seed": seed}
    return cached_local_references(lambda: logits_of(network.model, pool), **asked)


def sets(of: Subject, *, clusters: int, cache: Path, seed: int = 0) -> dict[tuple[str, str], FromPool]:
    """The reference sets of the data: {(path, rule): references}; LPI with its densities, random ones, equal ones."""
    logits = of.answers()[0].cpu()
    found = {("dataset", "riemann_abs"): of.drawn(REFERENCES, seed=seed)}
    near = local_set(of.network, of.pool, clusters=clusters, cache=cache, seed=seed)
    members, densities = (each.to(of.pool.device) for each in near.of(logits))
    drawn = random_densities(near.densities, seed=seed)[near.nearest(logits)].to(of.pool)
    densities = densities.to(of.pool)
    found["local", "density"] = FromPool(of.pool, members, densities)
    found["local", "random_density"] = FromPool(of.pool, members, drawn)
    found["local", "equal_density"] = FromPool(of.pool, members)
    one = local_set(of.network, of.pool, clusters=1, cache=cache, seed=seed)
    members, densities = (each.to(of.pool.device) for each in one.of(logits))
    found["local", "one_cluster"] = FromPool(of.pool, members, densities.to(of.pool))
    return found


def walk_of(of: Subject, path: str, points: int, *, references: FromPool | None = None, seed: int = 0):
    """The path of a method that spends 20 `points` evaluations on an image."""
    if path == "straight":
        return Lines(Single("black"), REFERENCES * points)
    if path == "adversarial":
        classes = of.answers()[0].shape[1]
        return Adversarial(other_classes(of.target, classes, points, images=of.images, seed=seed), REFERENCES)
    return Lines(references, points, "uniform", images=of.images, seed=seed)


def ig_maps(of: Subject, sweep: list[int]) -> dict[Key, Tensor]:
    """{(path, rule, points, mode): sums of absolute values (B, H, W)} of IG, in which nothing is drawn."""
    asked = {"rules": {"a": Riemann("mean")}, "objective": "logit"}
    found = {
        points: attribute(of.model, of.x, of.target, path=walk_of(of, "straight", points), **asked) for points in sweep
    }
    return {("straight", "riemann_abs", points, "corrected"): each["a"].abs().sum(1) for points, each in found.items()}


def maps_at(of: Subject, sweep: list[int], *, clusters: int, cache: Path, seed: int = 0) -> dict[Key, Tensor]:
    """The same of every other method at every number of points."""
    maps = {("adversarial", "riemann_abs", points, "corrected"): each for points, each in _agi(of, sweep, seed)}
    found = sets(of, clusters=clusters, cache=cache, seed=seed)
    near = {name: references.weights for (path, name), references in found.items() if name in OTHER_DENSITIES}
    for path, name in (("dataset", "riemann_abs"), ("local", "density"), ("local", "one_cluster")):
        rules = {name: Riemann("mean")} | ({BY_POINT: Recalibrated()} if name != "one_cluster" else {})
        if name == "density":
            rules |= {other: _reweighted(weights) for other, weights in near.items()}
        way = walk_of(of, path, max(sweep), references=found[path, name], seed=seed)
        result = attribute(of.model, of.x, of.target, path=way, rules=rules, steps=sweep, objective="logit")
        for rule, points in result.sums:
            maps[path, rule, points, "corrected"] = result[rule, points].abs().sum(1)
    return maps


def _agi(of: Subject, sweep: list[int], seed: int) -> Iterator[tuple[int, Tensor]]:
    """AGI at every number of target classes from one walk: the classes of few are the first of many."""
    way = walk_of(of, "adversarial", max(sweep), seed=seed)
    total = torch.zeros_like(of.x)
    for node in walk(of.model, way, of.x, of.target, objective="logit"):
        total = total + node.grad * node.dx
        points = node.line + 1
        if points in sweep and node.index == REFERENCES - 1:
            yield points, total.abs().sum(1) * max(sweep) / points


def _reweighted(weights: Tensor | None) -> Callable:
    """LPI's rule with other densities (B, R) than its walk has, None for equal ones: the gradients are the same."""

    def rule(node: Node, following: Node | None) -> Tensor:
        density = 1 / REFERENCES if weights is None else weights[:, node.line]
        return node.grad * node.dx * share_of(density / node.weight)

    return rule


def lpi_benchmark(
    load: Callable[[], Subject], *, sweep: list[int], clusters: int, seeds: list[int], cache: Path
) -> pd.DataFrame:
    """DiffID and pixel perturbation of every method, number of points and seed, for one unit; IG's gain from points."""
    of = load()
    right = of.answers()[1]
    parts = []
    plain = ig_maps(of, sweep)
    for seed in seeds:
        maps = plain | maps_at(of, sweep, clusters=clusters, cache=cache, seed=seed)
        maps["none", "random", 0, "corrected"] = random_maps(of.images, of.x.shape[2:], seed=seed).to(of.x)
        rows = pd.DataFrame(removal_rows(of, maps, remove="elements", right=right))
        parts.append(rows.assign(seed=seed))
    table = pd.concat(parts, ignore_index=True).assign(model=of.network.name)
    ig = table[(table["path"] == "straight") & (table["metric"] == "diffid_logit") & (table["seed"] == seeds[0])]
    few, many = (ig[ig["steps"] == steps].set_index("image")["value"] for steps in (min(sweep), max(sweep)))
    gain = ig[ig["steps"] == max(sweep)].assign(metric="diffid_gain", curve=None)
    gain["value"] = gain["image"].map(many - few)
    return pd.concat([table, gain], ignore_index=True)


def cost(load: Callable[[], Subject], *, sweep: list[int], clusters: int, cache: Path) -> pd.DataFrame:
    """Seconds and evaluations for each image of a unit; a method's own references drawn, the offline stage not.

    Methods take turns, three rounds of them, and a method's shortest time counts: other work on the machine adds to it.
    """
    of = load()
    near = local_set(of.network, of.pool, clusters=clusters, cache=cache)

    def looked_up() -> FromPool:
        return FromPool(of.pool, *(each.to(of.pool.device) for each in near.of(of.answers()[0].cpu())))

    referenced = {"dataset": lambda: of.drawn(REFERENCES), "local": looked_up}
    warm = {"rules": {"a": Riemann("mean")}, "objective": "logit"}
    attribute(of.model, of.x, of.target, path=walk_of(of, "straight", 1), **warm)  # a first pass takes longer
    names = {"straight": "riemann_abs", "dataset": "riemann_abs", "local": "density", "adversarial": "riemann_abs"}
    seconds, spent = defaultdict(list), {}
    for _, points, path in product(range(ROUNDS), sweep, names):
        start = perf_counter()
        references = referenced[path]() if path in referenced else None
        way = walk_of(of, path, points, references=references)
        rule = Riemann("left" if path == "adversarial" else "mean")
        result = attribute(of.model, of.x, of.target, path=way, rules={"a": rule}, objective="logit")
        result["a"].cpu()  # waits for the device
        seconds[path, points].append(perf_counter() - start)
        spent[path, points] = result.evaluations
    rows = []
    for (path, points), each in seconds.items():
        key = {"image": of.images[0], "label": -1, "path": path, "rule": names[path], "steps": points}
        rows.append(key | {"metric": "seconds", "value": min(each) / len(of.images)})
        rows.append(key | {"metric": "evaluations", "value": spent[path, points] / len(of.images)})
    return pd.DataFrame(rows).assign(mode="corrected", model=of.network.name, seed=0)
