"""Tables of the prior study: strengths chosen on validation digits, scores at these, and what holds exactly."""

from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn

from lib.experiments.prior import ATTRIBUTIONS
from lib.experiments.subjects import DIGITS
from lib.seeds import seeded
from lib.training.priors import batch_draws, smooth_loss

KEYS = ["prior", "schedule", "seed", "level"]
ALWAYS = ["image", "label", *KEYS, "metric", "value"]


def validation(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy under noise on validation digits, over levels and seeds: a row each prior, strengths ascending.

    By the joint schedule. NaN for a strength at which some training diverged: it cannot be chosen. rows: of `judged`.
    """
    here = rows[(rows["part"] == "valid") & (rows["schedule"] == "joint") & (rows["metric"] == "accuracy_under_noise")]
    means = here.groupby(["prior", "strength"], sort=False)["value"].agg(lambda values: values.mean(skipna=False))
    return means.reset_index().sort_values("strength", kind="stable").reset_index(drop=True)


def best_strengths(rows: pd.DataFrame) -> dict[str, float]:
    """{prior: its strength with the best `validation`}, of equal ones the smallest; none where all have diverged."""
    means = validation(rows).dropna(subset="value")
    best = means.loc[means.groupby("prior", sort=False)["value"].idxmax()]
    return dict(zip(best["prior"], best["strength"], strict=True))


def diverged(rows: pd.DataFrame) -> pd.DataFrame:
    """The trainings, prior, strength, seed and schedule, that have no result."""
    keys = ["prior", "strength", "seed", "schedule"]
    lost = rows.groupby(keys, sort=False)["value"].agg(lambda values: values.isna().all())
    return lost[lost].reset_index()[keys]


def at_chosen_strengths(rows: pd.DataFrame) -> pd.DataFrame:
    """The test rows of each prior at its chosen strength, by the joint schedule."""
    chosen = best_strengths(rows)
    here = (rows["part"] == "test") & (rows["schedule"] == "joint")
    return rows[here & (rows["strength"] == rows["prior"].map(chosen))]


def strength_effects(rows: pd.DataFrame, low: float, high: float) -> pd.DataFrame:
    """For each test digit, prior, schedule, level of noise and seed: right at the strength `high` minus right at `low`.

    Of the seed that both schedules have.
    """
    here = rows[(rows["part"] == "test") & (rows["metric"] == "accuracy_under_noise")]
    here = here[here["prior"].isin(ATTRIBUTIONS) & here["strength"].isin([low, high])]
    here = here[here["seed"].isin(here.loc[here["schedule"] == "separate", "seed"])]
    wide = here.pivot(index=["image", "label", *KEYS], columns="strength", values="value").reset_index()
    return wide.assign(metric="strength_effect", value=wide[high] - wide[low])[ALWAYS]


def prior_table(rows: pd.DataFrame, exact: pd.DataFrame, low: float, high: float) -> pd.DataFrame:
    """The table that the claims are judged by: scores at chosen strengths, effects of strength, exact checks."""
    parts = [at_chosen_strengths(rows)[ALWAYS], strength_effects(rows, low, high), exact]
    return pd.concat(parts, ignore_index=True).assign(model=DIGITS)


def exact_checks(seed: int = 0) -> pd.DataFrame:
    """Two exact properties of both priors, in double precision on a small random network.

    finite_difference_error  derivative of the loss along a random direction of all weights, against central
                             differences, relative
    extra_evaluations        images that go through the network for a loss, beyond those for plain Expected Gradients
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(6, 1, 5, 5, generator=generator, dtype=torch.float64)
    y, passed, rows = torch.arange(6) % 3, {}, []
    for prior, attribution in ATTRIBUTIONS.items():
        draws = batch_draws(x, y, 3, [torch.Generator().manual_seed(seed)])
        network = _smooth_network(seed)
        loss = partial(smooth_loss, x=x, y=y, attribution=attribution, strength=0.5, draws=draws)
        rows.append(("finite_difference_error", prior, _finite_difference_error(network, loss, seed)))
        passed[prior] = 0

        def counted(points: Tensor, prior: str = prior, network: nn.Module = network) -> Tensor:
            passed[prior] += len(points)
            return network(points)

        loss(counted)
        rows.append(("extra_evaluations", prior, float(passed[prior] - passed["plain"])))
    table = pd.DataFrame(rows, columns=["metric", "prior", "value"])
    return table.assign(image=f"network-{seed}", label=-1, schedule="joint", seed=seed, level=0.0)[ALWAYS]


def _smooth_network(seed: int) -> nn.Module:
    """Of sigmoids, because a rectifier's kink within the step of a difference would count as an error of ours."""
    with seeded(seed):
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(36, 3)).double()


def _finite_difference_error(network: nn.Module, loss, seed: int, step: float = 1e-5) -> float:
    weights = list(network.parameters())
    generator = torch.Generator().manual_seed(seed)
    direction = [torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in weights]
    found = torch.autograd.grad(loss(network)[0], weights, allow_unused=True)
    exact = sum((g * d).sum().item() for g, d in zip(found, direction, strict=True) if g is not None)
    values = []
    for distance in (step, -2 * step, step):  # there, beyond, and back
        with torch.no_grad():
            for each, towards in zip(weights, direction, strict=True):
                each += distance * towards
        values.append(loss(network)[0].item())
    return abs((exact - (values[0] - values[1]) / (2 * step)) / exact)
