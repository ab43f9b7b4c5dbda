"""The LPI study: references out of a pool of images, near or anywhere, at equal numbers of evaluations."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
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
FEWER, NEAR = "samples", "neighbourhoods"  # in place of a mode: DiffID against the number of these, not of points


def local_set(
    network: Network, pool: Tensor, *, clusters: int, cache: Path, references: int = REFERENCES, seed: int = 0
) -> LocalReferences:
    """The offline stage for a pool, computed once for each content and order of it, weights, numbers and seed.

    Neighbourhoods with fewer than 20 members join the nearest ones, so that a small pool has fewer of them.
    """
    key = content_key(f"local-{network.name}", local_set, network.name, content_of(network, pool))
    asked = {"cache": cache, "key": key, "clusters": clusters, "references": references, "seed": seed}
    return cached_local_references(lambda: logits_of(network.model, pool), fewest=REFERENCES, **asked)


def weighted_references(of: Subject, near: LocalReferences, logits: Tensor) -> FromPool:
    """The references of each image's neighbourhood, weighted by their densities; logits (B, K) of the images."""
    members, densities = (each.to(of.pool.device) for each in near.of(logits))
    return FromPool(of.pool, members, densities.to(of.pool))


def sets(of: Subject, *, clusters: int, cache: Path, seed: int = 0) -> dict[tuple[str, str], FromPool]:
    """The reference sets of the data: {(path, rule): references}; LPI with its densities, random ones, equal ones."""
    logits = of.answers()[0].cpu()
    near, one = (local_set(of.network, of.pool, clusters=n, cache=cache, seed=seed) for n in (clusters, 1))
    own = weighted_references(of, near, logits)
    drawn = random_densities(near.densities, seed=seed)[near.nearest(logits)].to(of.pool)
    return {
        ("dataset", "riemann_abs"): of.drawn(REFERENCES, seed=seed),
        ("local", "density"): own,
        ("local", "random_density"): FromPool(of.pool, own.index, drawn),
        ("local", "equal_density"): FromPool(of.pool, own.index),
        ("local", "one_cluster"): weighted_references(of, one, logits),
    }


def walk_of(of: Subject, path: str, points: int, *, references: FromPool | None = None, seed: int = 0):
    """The path of a method that spends 20 `points` evaluations on an image."""
    if path == "straight":
        return Lines(Single("black"), REFERENCES * points)
    if path == "adversarial":
        classes = of.answers()[0].shape[1]
        return Adversarial(other_classes(of.target, classes, points, images=of.images, seed=seed), REFERENCES)
    return Lines(references, points, "uniform", images=of.images, seed=seed)


def ig_maps(of: Subject, sweep: list[int], samples: Sequence[int] = ()) -> dict[Key, Tensor]:
    """{(path, rule, points, mode): sums of absolute values (B, H, W)} of IG, in which nothing is drawn."""
    asked = {("straight", "riemann_abs", points, "corrected"): walk_of(of, "straight", points) for points in sweep}
    for count in samples:
        asked["straight", "riemann_abs", count, FEWER] = Lines(Single("black"), count * min(sweep))
    return {key: _plain(of, path) for key, path in asked.items()}


def _plain(of: Subject, path: Lines) -> Tensor:
    found = attribute(of.model, of.x, of.target, path=path, rules={"a": Riemann("mean")}, objective="logit")
    return found["a"].abs().sum(1)


def maps_at(
    of: Subject,
    sweep: list[int],
    *,
    clusters: int,
    cache: Path,
    seed: int = 0,
    samples: Sequence[int] = (),
    neighbourhoods: Sequence[int] = (),
) -> dict[Key, Tensor]:
    """The same of every other method at every number of points.

    At the fewest points also with fewer `samples`: references of EG and LPI, steps of AGI; and LPI's with other numbers
    of `neighbourhoods`. Their keys have these numbers in place of points, and FEWER or NEAR in place of the mode.
    """
    maps, few = dict(_agi(of, sweep, samples, seed)), min(sweep)
    found = sets(of, clusters=clusters, cache=cache, seed=seed)
    weighted = {name: references.weights for (path, name), references in found.items() if name in OTHER_DENSITIES}
    for path, name in (("dataset", "riemann_abs"), ("local", "density"), ("local", "one_cluster")):
        rules = {name: Riemann("mean")} | ({BY_POINT: Recalibrated()} if name != "one_cluster" else {})
        if name == "density":
            rules |= {other: _reweighted(weights) for other, weights in weighted.items()}
        fewer = {f"{count} lines": _of_the_first(count) for count in samples if path == "dataset"}
        way = walk_of(of, path, max(sweep), references=found[path, name], seed=seed)
        result = attribute(of.model, of.x, of.target, path=way, rules=rules | fewer, steps=sweep, objective="logit")
        for rule, points in result.sums:
            if rule in rules:
                maps[path, rule, points, "corrected"] = result[rule, points].abs().sum(1)
        for rule, count in zip(fewer, samples, strict=False):
            maps[path, name, count, FEWER] = result[rule, few].abs().sum(1)
    logits, other = of.answers()[0].cpu(), [(count, REFERENCES, NEAR) for count in neighbourhoods]
    for number, references, study in [(clusters, count, FEWER) for count in samples] + other:
        near = local_set(of.network, of.pool, clusters=number, references=references, cache=cache, seed=seed)
        way = walk_of(of, "local", few, references=weighted_references(of, near, logits), seed=seed)
        maps["local", "density", number if study == NEAR else references, study] = _plain(of, way)
    return maps


def _agi(of: Subject, sweep: list[int], samples: Sequence[int], seed: int) -> Iterator[tuple[Key, Tensor]]:
    """AGI at every number of target classes from one walk: the classes, and the steps, of few are the first of many."""
    way = walk_of(of, "adversarial", max(sweep), seed=seed)
    total, fewer = torch.zeros_like(of.x), {count: torch.zeros_like(of.x) for count in samples}
    for node in walk(of.model, way, of.x, of.target, objective="logit"):
        step = node.grad * node.dx
        total = total + step
        for count, part in fewer.items():
            if node.index < count and node.line < min(sweep):
                part += step
        points = node.line + 1
        if points in sweep and node.index == REFERENCES - 1:
            yield ("adversarial", "riemann_abs", points, "corrected"), total.abs().sum(1) * max(sweep) / points
    for count, part in fewer.items():
        yield ("adversarial", "riemann_abs", count, FEWER), part.abs().sum(1)


def _of_the_first(lines: int) -> Callable:
    """The plain rule on the first lines alone."""
    return lambda node, following: node.grad * node.dx * (node.line < lines)


def _reweighted(weights: Tensor | None) -> Callable:
    """LPI's rule with other densities (B, R) than its walk has, None for equal ones: the gradients are the same."""

    def rule(node: Node, following: Node | None) -> Tensor:
        density = 1 / REFERENCES if weights is None else weights[:, node.line]
        return node.grad * node.dx * share_of(density / node.weight)

    return rule


def lpi_benchmark(
    load: Callable[[], Subject],
    *,
    sweep: list[int],
    clusters: int,
    seeds: list[int],
    cache: Path,
    samples: Sequence[int] = (),
    neighbourhoods: Sequence[int] = (),
) -> pd.DataFrame:
    """DiffID and pixel perturbation of every method, number of points and seed, for one unit; IG's gain from points.

    samples, neighbourhoods: smaller numbers of samples than 20, and numbers of LPI's neighbourhoods, as in the paper's
    Fig. 6. Their DiffID are the metrics "diffid_samples" and "diffid_neighbourhoods", with these numbers, 20 and
    `clusters` among them, as `steps`; "diffid_neighbourhoods_moved" is the difference from `clusters` of them.
    """
    of = load()
    right = of.answers()[1]
    parts = []
    plain = ig_maps(of, sweep, samples)
    other = [count for count in neighbourhoods if count not in (1, clusters)]
    for seed in seeds:
        asked = {"clusters": clusters, "cache": cache, "seed": seed}
        maps = plain | maps_at(of, sweep, samples=samples, neighbourhoods=other, **asked)
        maps["none", "random", 0, "corrected"] = random_maps(of.images, of.x.shape[2:], seed=seed).to(of.x)
        rows = pd.DataFrame(removal_rows(of, maps, remove="elements", right=right))
        parts.append(pd.concat(_studies(rows, min(sweep), clusters, samples, neighbourhoods)).assign(seed=seed))
    table = pd.concat(parts, ignore_index=True).assign(model=of.network.name)
    ig = table[(table["path"] == "straight") & (table["metric"] == "diffid_logit") & (table["seed"] == seeds[0])]
    few, many = (ig[ig["steps"] == steps].set_index("image")["value"] for steps in (min(sweep), max(sweep)))
    gain = ig[ig["steps"] == max(sweep)].assign(metric="diffid_gain", curve=None)
    gain["value"] = gain["image"].map(many - few)
    return pd.concat([table, gain], ignore_index=True)


def _studies(
    rows: pd.DataFrame, few: int, clusters: int, samples: Sequence[int], neighbourhoods: Sequence[int]
) -> Iterator[pd.DataFrame]:
    """The rows of one seed, those against samples and neighbourhoods under metrics of their own."""
    yield rows[rows["mode"] == "corrected"]
    diffid = rows[rows["metric"] == "diffid_logit"].assign(curve=None)
    whole = diffid[(diffid["steps"] == few) & (diffid["mode"] == "corrected")]
    if samples:
        full = whole[whole["rule"].isin(["riemann_abs", "density"])].assign(steps=REFERENCES)
        found = pd.concat([diffid[diffid["mode"] == FEWER], full])
        yield found.assign(metric="diffid_samples", mode="corrected")
    if neighbourhoods:
        ends = {"density": clusters} | ({"one_cluster": 1} if clusters > 1 else {})
        known = whole[(whole["path"] == "local") & whole["rule"].isin([*ends])]
        known = known.assign(steps=known["rule"].map(ends), rule="density")
        found = pd.concat([diffid[diffid["mode"] == NEAR], known])
        found = found.assign(metric="diffid_neighbourhoods", mode="corrected")
        yield found
        most = found[found["steps"] == clusters].set_index("image")["value"]
        moved = found[found["steps"] != clusters].assign(metric="diffid_neighbourhoods_moved")
        yield moved.assign(value=moved["value"] - moved["image"].map(most))


def cost(load: Callable[[], Subject], *, sweep: list[int], clusters: int, cache: Path) -> pd.DataFrame:
    """Seconds and evaluations for each image of a unit; a method's own references drawn, the offline stage not.

    Methods take turns, three rounds of them, and a method's shortest time counts: other work on the machine adds to it.
    """
    of = load()
    near = local_set(of.network, of.pool, clusters=clusters, cache=cache)
    looked_up = {"dataset": lambda: of.drawn(REFERENCES)}
    looked_up["local"] = lambda: weighted_references(of, near, of.answers()[0].cpu())
    warm = {"rules": {"a": Riemann("mean")}, "objective": "logit"}
    attribute(of.model, of.x, of.target, path=walk_of(of, "straight", 1), **warm)  # a first pass takes longer
    names = {"straight": "riemann_abs", "dataset": "riemann_abs", "local": "density", "adversarial": "riemann_abs"}
    seconds, spent = defaultdict(list), {}
    for _, points, path in product(range(ROUNDS), sweep, names):
        start = perf_counter()
        references = looked_up[path]() if path in looked_up else None
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
