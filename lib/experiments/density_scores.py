"""What a network of the density study does on test images: leakage, insertion, robustness, accuracy by group."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from lib.attacks.noise import random_sign, uniform_start
from lib.attacks.pgd import pgd, robust_answers
from lib.attribution import Riemann, Straight, attribute
from lib.attribution.gradients import input_gradient
from lib.data.blockmnist import Blocks
from lib.data.spurious import Grouped
from lib.experiments.density import BLOCKS, SHAPES, Training, answered_right, density_network, images_of, worst_group
from lib.metrics.insertion import insertion
from lib.metrics.leakage import insertion_pixels, leakage
from lib.models.zoo import best_device
from lib.seeds import image_generator
from lib.training.density import log_density
from lib.training.fit import Diverged

EXPLAINED = (
    "logit",
    "log_probability",
)  # f_y, and f_y - logsumexp f, which adding one number to all logits leaves alone
BLANK = {"map": "none", "explained": "none", "epsilon": 0.0}


def scored(
    name: str,
    penalty: str,
    strength: float,
    seed: int,
    *,
    how: Training,
    limit: int,
    attacked: int,
    noise: Sequence[float],
    epsilons: Sequence[float],
    iterations: int,
    steps: int,
    root: str | Path = "",
    cache: Path,
) -> pd.DataFrame:
    """The scores of one trained network on the first `limit` test images, one row for each image and metric.

    right, minority_right (of images whose attribute contradicts their class); worst_group, one row whose image is the
    training and whose seed is -1, because trainings are its units; of BlockMNIST also what `leaked` gives and, of the
    first `attacked` images, what `perturbed` does. steps: of IG.
    A training that diverged has a single row, diverged = 1. Raises InputError as `density_network`.
    """
    grey = SHAPES[name][0] == 1
    about = {"set": name, "data": "digits" if grey else "image sets", "model": "strided CNN" if grey else "RAR network"}
    training = f"training-{seed:02d}"
    try:
        model = density_network(name, penalty, strength, seed, how=how, root=root, cache=cache)
    except Diverged:
        rows = _rows([training], {("diverged",): torch.ones(1)})
        return pd.DataFrame(rows).assign(**about, penalty=penalty, seed=seed)
    of = images_of(name, "test", root=root, limit=limit)
    right = answered_right(model, of)
    rows = _rows(of.ids, {("right",): right})
    if isinstance(of, Grouped):
        contradicts = of.attribute != of.y
        rare = [image for image, is_one in zip(of.ids, contradicts.tolist(), strict=True) if is_one]
        rows += _rows(rare, {("minority_right",): right[contradicts]})
        worst = torch.tensor([worst_group(right, of.groups)])
        rows += [row | {"seed": -1} for row in _rows([training], {("worst_group",): worst})]
    else:
        rows += _rows(of.ids, leaked(model, of, steps=steps))
        few = images_of(name, "test", limit=min(filter(None, (attacked, limit)), default=0))
        rows += _rows(few.ids, perturbed(model, few, noise=noise, epsilons=epsilons, iterations=iterations))
    found = pd.DataFrame([{"seed": seed} | row for row in rows])
    return found.assign(**about, penalty=penalty)


def leaked(model: nn.Module, of: Blocks, *, steps: int) -> dict[tuple, Tensor]:
    """{(metric, map, explained): (N,)} of the gradient and of IG from black, of the label's logit and log probability:

    leakage_sum and leakage_share of the null block; insertion_pixels and insertion (area under the probability), both
    by the size of the scores.
    """
    device = best_device()
    x, y = of.x.to(device), of.y.to(device)
    found = {}
    for explained in EXPLAINED:
        path, rules = Straight(steps, grid="midpoint"), {"map": Riemann("midpoint")}
        made = {
            "gradient": input_gradient(model, x, y, objective=explained),
            "integrated_gradients": attribute(model, x, y, path=path, rules=rules, objective=explained)["map"],
        }
        maps = torch.cat(list(made.values()), 1)  # one channel each
        scores = dict(zip(("leakage_sum", "leakage_share"), leakage(maps, of.null), strict=True))
        scores["insertion_pixels"] = insertion_pixels(model, x, maps.abs(), y)
        scores["insertion"] = insertion(model, x, maps.abs(), y, steps=10).probability
        for metric, values in scores.items():
            found |= {(metric, each, explained): values[:, place].cpu() for place, each in enumerate(made)}
    return found


def perturbed(
    model: nn.Module, of: Blocks, *, noise: Sequence[float], epsilons: Sequence[float], iterations: int
) -> dict[tuple, Tensor]:
    """{(metric, map, explained, epsilon): (N,)} under perturbations of at most epsilon a pixel.

    The paper's are unknown.

    noise_right      right under Gaussian noise of this deviation, clipped to [0, 1]
    pgd_right        right under PGD that climbs the cross-entropy, steps of 2.5 epsilon / iterations
    gradient_change  ||grad F(x') - grad F(x)|| / ||grad F(x)|| at x' = x + epsilon random signs
    density_change   |log p(x') - log p(x)|, in nats, at the end of PGD that climbs it; density_right: right there
    """
    device = best_device()
    x, y, found = of.x.to(device), of.y.to(device), {}
    for sigma in noise:
        draws = [torch.randn(x.shape[1:], generator=image_generator(0, each, "gaussian")) for each in of.ids]
        noisy = (x + sigma * torch.stack(draws).to(x)).clamp(0, 1)
        found["noise_right", "none", "none", sigma] = _right(model, noisy, y)
    clean = {each: input_gradient(model, x, y, objective=each) for each in EXPLAINED}
    for epsilon in epsilons:
        ball = {"epsilon": epsilon, "step": 2.5 * epsilon / iterations, "iterations": iterations}
        found["pgd_right", "none", "none", epsilon] = robust_answers(model, x, y, images=of.ids, **ball)[:, 1].cpu()
        signs = random_sign(x, epsilon=epsilon, images=of.ids)
        for each, before in clean.items():
            moved = (input_gradient(model, signs, y, objective=each) - before).flatten(1).norm(dim=1)
            found["gradient_change", "gradient", each, epsilon] = (moved / before.flatten(1).norm(dim=1)).cpu()
        there, change = _denser(model, x, y, of.ids, ball)
        found["density_change", "none", "none", epsilon] = change.cpu()
        found["density_right", "none", "none", epsilon] = _right(model, there, y)
    return found


def _denser(model: nn.Module, x: Tensor, y: Tensor, images: list[str], ball: dict) -> tuple[Tensor, Tensor]:
    """Where PGD has changed the log density most, and by how much."""
    with torch.no_grad():
        before = log_density(model(x), y, "marginal")

    def change(point: Tensor) -> Tensor:
        return (log_density(model(point), y, "marginal") - before).abs()

    start = uniform_start(x, epsilon=ball["epsilon"], images=images)
    there = pgd(lambda point: change(point).sum(), x, start=start, **ball)
    with torch.no_grad():
        return there, change(there)


@torch.no_grad()
def _right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (model(x).argmax(1) == y).double().cpu()


def _rows(images: Sequence[str], found: dict[tuple, Tensor]) -> list[dict]:
    names = ("metric", *BLANK)
    return [
        {"image": image, **BLANK, **dict(zip(names, key, strict=False)), "value": value}
        for key, values in found.items()
        for image, value in zip(images, values.double().tolist(), strict=True)
    ]


def with_costs(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores, and `accuracy_cost` of each penalty: right by plain training - right, image by image and seed."""
    right = scores[scores["metric"] == "right"]
    keys = ["set", "seed", "image"]
    plain = right[right["penalty"] == "plain"].set_index(keys)["value"].rename("plain")
    others = right[right["penalty"] != "plain"].join(plain, on=keys)
    costs = others.assign(metric="accuracy_cost", value=others["plain"] - others["value"]).drop(columns="plain")
    return pd.concat([scores, costs], ignore_index=True)


def study_table(scores: pd.DataFrame, costs: pd.DataFrame, exact: pd.DataFrame) -> pd.DataFrame:
    """The table of the study: scores with the costs in accuracy, costs of updates, exact properties, in one shape."""
    costs = costs.assign(set=BLOCKS, data="digits", model="strided CNN", seed=0, **BLANK)
    exact = exact.assign(set="none", data="made-up inputs", model="made up", seed=0, **BLANK)
    return pd.concat([with_costs(scores), costs, exact], ignore_index=True)
