"""The LENS study's attacks: perturb a few images, and compare their maps before and after, beside chance."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from lib import InputError
from lib.attacks import Attack, Method, attack, normalised, random_sign, raw_maps, robust_answers
from lib.data.digits import Digits
from lib.data.imagesets import image_set
from lib.experiments import subjects
from lib.experiments.subjects import Subject
from lib.metrics.chance import with_chance
from lib.metrics.lens import locality
from lib.models.rar_resnet import rar_network
from lib.models.softplus import softplus_twin
from lib.models.zoo import Network, best_device
from lib.store.digest import digest
from lib.training.robust import Schedule, trained_network

ATTACKS = ("random1", "random_walk", "top_k", "mass_centre")
AIMS = {"random_walk": "random"}  # attacks whose name in the tables is not that of `Attack.aim`


def small_group(name: str, group: int) -> int:
    """The `group` of `subjects.subject_units` for images that are each other's chance level: of digits, eight.

    Scores that are adjusted by chance are resampled by such groups, so that there must be many of them.

    >>> small_group("squeezenet1_1", 5), small_group("mnist_cnn", 5)
    (5, 1)
    """
    return 1 if name == subjects.DIGITS else group


def attack_units(name: str, *, group: int, cache: Path, **chosen) -> dict[str, Callable[[], Subject]]:
    """`subjects.subject_units`, in groups as `small_group`, for attacks, which draw no references."""
    return subjects.subject_units(name, group=small_group(name, group), cache=cache, pool=1, **chosen)


def set_units(
    data: str, training: str, *, root: str, limit: int, group: int, cache: Path, how: Schedule | None = None
) -> dict[str, Callable[[], Subject]]:
    """{unit name: what loads its subject}: `group` test images of an image set, with its network so trained.

    data, root, limit: see `lib.data.imagesets.image_set`; training, how: see `lib.training.robust.trained_network`.
    Raises InputError as they do, and for a group below 1.
    """
    if group < 1:
        raise InputError(f"group is {group}; give the number of images computed together, at least 1")
    count = len(_test(data, root, limit, digest(root)).ids)
    parts = [slice(start, min(start + group, count)) for start in range(0, count, group)]
    chosen = data, training, root, limit, cache, how
    return {f"{data}-{training}-{part.start}-{part.stop}": partial(_of_set, part, *chosen) for part in parts}


def attacked(
    load: Callable[[], Subject],
    *,
    methods: Sequence[str],
    attacks: Sequence[str],
    epsilons: Sequence[float],
    level: float,
    k: int,
    radii: Sequence[int],
    iterations: int,
    steps: int,
    step: float = 0.0,
    measure: str = "spearman",
    seed: int = 0,
) -> pd.DataFrame:
    """Every score of every method, attack and epsilon for the images of one unit, with chance level and adjusted score.

    epsilons: in multiples of `level`, 1/255 or 1 of a pixel value. iterations, step: of each attack, the step in the
    same multiples, 0 for 2.5 epsilon / iterations; measure: by which the iterate is kept. The released attack on
    photographs has 300 iterations, steps of 0.5 of 255, and keeps that of least "top_k" (GAZ:utils.py, by default).
    These three are columns of the table.
    steps: points of integrated gradients. k, radii: of the scores; the LENS-aware attack uses the first radius.
    Images that the network gets wrong are not attacked; they and constant maps are NaN. `flipped`: whether the class
    has changed, which only one-shot noise can do. `amplitude`: mean change of a pixel value, in the same multiples.
    """
    of = load()
    right = of.answers()[1]
    alone = right.sum() < 2  # nothing to take a chance level from
    smooth = softplus_twin(of.model)
    parts = []
    for name in methods:
        method = Method(name, steps if name == "integrated_gradients" else 1)
        clean = normalised(raw_maps(of.model, of.x, of.target, method))
        for aim in attacks:
            for epsilon in epsilons:
                size, each = epsilon * level, step or 2.5 * epsilon / iterations
                how = _attack(aim, size, each * level, iterations, k, measure, radii[0])
                x = of.x if alone else _perturbed(of, right, method, aim, size, how, smooth, seed)
                scores = _scores(of, right, method, clean, x, k, radii)
                scores["amplitude"] = ((x - of.x).abs().flatten(1).mean(1) / level).where(right & ~alone, torch.nan)
                parts.append(_rows(of, scores).assign(method=name, attack=aim, epsilon=epsilon, step=each))
    about = {"model": of.network.name, "k": k, "data": _data(of), "iterations": iterations, "measure": measure}
    return pd.concat(parts, ignore_index=True).assign(**about)


def aware(
    load: Callable[[], Subject],
    *,
    methods: Sequence[str],
    epsilon: float,
    level: float,
    k: int,
    radii: Sequence[int],
    iterations: int,
    steps: int,
    measure: str = "top_k",
    seed: int = 0,
) -> pd.DataFrame:
    """The LENS-aware attack of each radius beside the top-k attack, scored at that radius: column `radius`.

    Both at equal epsilon, from the image, and by the same measure. Scores have no radius in their names.
    """
    parts = []
    options = {"methods": methods, "epsilons": [epsilon], "level": level, "k": k, "iterations": iterations}
    options |= {"steps": steps, "measure": measure, "seed": seed}
    plain = attacked(load, attacks=["random1", "top_k"], radii=radii, **options)
    for radius in radii:
        lens = attacked(load, attacks=["lens_top_k"], radii=[radius], **options)
        for table in (plain, lens):
            parts.append(_of_radius(table, radius))
    return pd.concat(parts, ignore_index=True)


def clean_and_pgd(
    load: Callable[[], Subject], *, epsilon: float, iterations: int, steps: int = 1, seed: int = 0
) -> pd.DataFrame:
    """Clean and PGD accuracy of a unit: rows of metric `clean_right` and `pgd_right`, 1 where the network is right."""
    of = load()
    ball = {"epsilon": epsilon, "step": 2.5 * epsilon / iterations, "iterations": iterations}
    found = robust_answers(of.model, of.x, of.target, images=of.images, seed=seed, **ball)
    rows = _rows(of, {"clean_right": found[:, 0], "pgd_right": found[:, 1]})
    return rows.assign(model=of.network.name, epsilon=epsilon, data=_data(of))


def scale_invariance(load: Callable[[], Subject], *, steps: int, k: int, iterations: int = 100) -> pd.DataFrame:
    """IG against input x gradient on the network of Chen et al. for Flower, random weights, its own class explained.

    Rows of metric spearman and top_k (1 where the two maps agree), and `evaluations_saved`: evaluations of the released
    attack on IG (three restarts of `iterations`, which repeat each other) over ours on input x gradient.
    """
    of = _standardised(load())
    ig, ixg = Method("integrated_gradients", steps), Method("input_x_gradient")
    maps = [normalised(raw_maps(of.model, of.x, of.target, method)) for method in (ig, ixg)]
    found = locality(*maps, k=k, radii=())
    released, ours = 3 * iterations * (5 * steps + 1), iterations * (5 + 1)  # and one prediction an iteration
    saved = torch.full((len(of.x),), released / ours)
    scores = {"spearman": found["spearman"], "top_k": found["top_k"], "evaluations_saved": saved}
    about = {"model": of.network.name, "k": k, "data": _data(of), "method": "integrated_gradients"}
    about |= {"attack": "none", "epsilon": 0.0, "iterations": 0, "step": 0.0, "measure": "none"}
    return _rows(of, scores).assign(**about)


def _attack(aim: str, epsilon: float, step: float, iterations: int, k: int, measure: str, radius: int) -> Attack | None:
    if aim == "random1":
        return None
    return Attack(AIMS.get(aim, aim), epsilon, step, iterations, k, measure=measure, radius=radius)


def _perturbed(of: Subject, right: Tensor, method, aim: str, epsilon: float, how, smooth, seed: int) -> Tensor:
    """The images, of which those that the network gets right are attacked."""
    x, target = of.x[right], of.target[right]
    images = [image for image, known in zip(of.images, right.tolist(), strict=True) if known]
    if how is None:
        found = random_sign(x, epsilon=epsilon, images=images, seed=seed)
    else:
        found = attack(of.model, x, target, method, how, images=images, surrogate=smooth, seed=seed).x
    return of.x.index_put((right,), found)


def _scores(of: Subject, right: Tensor, method, clean: Tensor, x: Tensor, k: int, radii: Sequence[int]) -> dict:
    """{metric: (B,)} with NaN for images that are left out: the network is wrong, or a map is constant."""
    after = normalised(raw_maps(of.model, x, of.target, method))
    constant = [maps.flatten(1).amax(1) == maps.flatten(1).amin(1) for maps in (clean, after)]
    usable = right & ~constant[0] & ~constant[1]
    if usable.sum() < 2:
        return {"top_k": torch.full((len(x),), torch.nan)}
    found = with_chance(clean[usable], after[usable], k=k, radii=radii)
    scores = {}
    for name, values in found.items():
        scores[name] = torch.full((len(x),), torch.nan, dtype=torch.float64)
        scores[name][usable.cpu()] = values
    with torch.no_grad():
        scores["flipped"] = (of.model(x).argmax(1) != of.target).double().where(usable, torch.nan)
    return scores


def _of_radius(table: pd.DataFrame, radius: int) -> pd.DataFrame:
    """The scores of one radius, without it in their names, and those that have none."""
    free = ["top_k", "top_k_chance", "top_k_adjusted", "spearman", "flipped"]
    suffix = f"_{radius}"
    names = {name: name for name in free}
    for name in table["metric"].unique():
        if name.startswith("lens_") and "spearman" not in name and suffix in name:
            names[name] = name.replace(suffix, "")
    rows = table[table["metric"].isin(list(names))]
    return rows.assign(metric=rows["metric"].map(names), radius=radius)


def _rows(of: Subject, scores: dict[str, Tensor]) -> pd.DataFrame:
    ids, labels = zip(*of.items, strict=True)
    about = {"image": ids, "label": labels, "group": of.images[0]}  # whose images are each other's chance level
    parts = [
        pd.DataFrame({**about, "metric": name, "value": values.double().cpu().numpy()})
        for name, values in scores.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _data(of: Subject) -> str:
    return "digits" if of.network.family == "small-cnn" else "photographs"


def _of_set(part: slice, data: str, training: str, root: str, limit: int, cache: Path, how) -> Subject:
    content = digest(root)
    chosen, device = _test(data, root, limit, content).take(part), best_device()
    x, target = chosen.x.to(device), chosen.y.to(device)
    network = _trained(training, data, root, cache, how, content)
    return Subject(network, x, target, chosen.ids, x[:1], [-1] * len(x))


# `content` is the digest of `root`: an image set that was replaced is read, and trained with, again.
@lru_cache(maxsize=1)
def _test(data: str, root: str, limit: int, content: str) -> Digits:
    return image_set(data, "test", root=root, limit=limit)


@lru_cache(maxsize=1)
def _trained(training: str, data: str, root: str, cache: Path, how: Schedule | None, content: str) -> Network:
    return trained_network(training, data, root=root, cache=cache, how=how)


def _standardised(of: Subject) -> Subject:
    """The subject's photographs at 128 pixels with the untrained Flower network, and the classes it gives them."""
    model = rar_network(classes=17, blocks=1).to(best_device())
    x = torch.nn.functional.interpolate(of.x, size=128, mode="bilinear", antialias=True).clamp(0, 1)
    with torch.no_grad():
        target = model(x).argmax(1)
    network = Network("rar_flower", model, 128, 128, "bilinear", (0.0,) * 3, (1.0,) * 3, "rar")
    return replace(of, network=network, x=x, target=target)
