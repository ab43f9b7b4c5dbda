"""How sure a ranking is: who leads in which share of resampled photographs, and whether two rankings agree."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from lib.reporting.claims.evidence import fewest_units
from lib.reporting.statistics import resampled_means

CERTAIN = 0.95  # share of resamples in which a winner is first
ENOUGH = fewest_units(1)  # images below which nobody is named
AT_ONCE = 2**22  # means of the bootstrap


@dataclass(frozen=True)
class Ranked:
    """Mean scores of C contestants by M metrics, higher is better, as they are and in R resamples of the images.

    contestants: C rows of what tells them apart; metrics: M names; images: how many there are
    means (M, C), drawn (R, M, C); NaN where nothing is defined
    """

    contestants: pd.DataFrame
    metrics: list[str]
    images: int
    means: np.ndarray
    drawn: np.ndarray


def resampled_ranking(table: pd.DataFrame, by: list[str], *, resamples: int = 2_000, seed: int = 0) -> Ranked:
    """The mean score of each contestant by each metric, and what it would be on other images.

    table: columns image, model, metric, value and those of `by`, which tell contestants apart; higher is better.
    Networks count alike; an image's rows are resampled together, those of all networks, metrics and contestants.

    >>> rows = [(image, "net", "m", rule, value) for image in "abc" for rule, value in (("x", 1.0), ("y", 0.0))]
    >>> resampled_ranking(pd.DataFrame(rows, columns=["image", "model", "metric", "rule", "value"]), ["rule"]).means
    array([[1., 0.]])
    """
    contestants = table[by].drop_duplicates(ignore_index=True)
    metrics, models = list(dict.fromkeys(table["metric"])), list(dict.fromkeys(table["model"]))
    place = pd.MultiIndex.from_frame(contestants).get_indexer(pd.MultiIndex.from_frame(table[by]))
    wide = table.assign(place=place).pivot(index="image", columns=["model", "metric", "place"], values="value")
    columns = pd.MultiIndex.from_product([models, metrics, range(len(contestants))])
    matrix = wide.reindex(columns=columns).to_numpy(float)
    shape = len(models), len(metrics), len(contestants)

    def means_of(units: np.ndarray) -> np.ndarray:
        values = resampled_means(matrix, units).reshape(*units.shape[:-1], *shape)
        there = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            return np.where(there, values, 0).sum(-3) / there.sum(-3)

    generator, count = np.random.default_rng(seed), len(matrix)
    batch = max(1, AT_ONCE // matrix.shape[1])
    sizes = [min(batch, resamples - start) for start in range(0, resamples, batch)]
    drawn = np.concatenate([means_of(generator.integers(0, count, (size, count))) for size in sizes])
    return Ranked(contestants, metrics, count, means_of(np.arange(count)), drawn)


def leaders(of: Ranked) -> pd.DataFrame:
    """Each contestant's place by each metric, and how sure it is.

    Returns the contestants' columns, metric, mean (score), rank (1 is best, equal ones share the mean of their ranks),
    low and high (its 95 % percentile interval), first and top_three (shares of the resamples in which nobody, or fewer
    than three, are better) and winner: first, and alone there, in at least 95 % of them, where there are images enough
    to decide at all. The share of each metric stands for itself: it is not corrected for the number of metrics.
    """
    parts = []
    for number, metric in enumerate(of.metrics):
        drawn = of.drawn[:, number]
        drawn = drawn[~np.isnan(drawn).any(1)]
        better = rankdata(-drawn, method="min", axis=1) if len(drawn) else np.full((1, len(of.contestants)), np.nan)
        ranks = rankdata(-drawn, axis=1) if len(drawn) else better
        first, low_high = (better == 1).mean(0), np.quantile(ranks, [0.025, 0.975], axis=0)
        part = of.contestants.assign(metric=metric, mean=of.means[number])
        part = part.assign(rank=part["mean"].rank(ascending=False), low=low_high[0], high=low_high[1])
        winner = ((ranks == 1).mean(0) >= CERTAIN) & (of.images >= ENOUGH)  # equal ones share the mean of their ranks
        parts.append(part.assign(first=first, top_three=(better <= 3).mean(0), winner=winner))
    return pd.concat(parts, ignore_index=True)


def taus(of: Ranked) -> pd.DataFrame:
    """Kendall's tau-b between the rankings of each two metrics: columns one, other, mean, low, high.

    mean: of the rankings by all images; low, high: the 95 % percentile interval over resamples. Chance in a mean score
    pulls tau towards 0, and resampling adds to it, so that an interval lies below rather than above the truth.
    """
    here, drawn = _correlations(of.means[None])[0], []
    pairs = max(1, of.means.shape[1] * (of.means.shape[1] - 1) // 2)
    batch = max(1, AT_ONCE // (pairs * len(of.metrics)))
    for start in range(0, len(of.drawn), batch):
        drawn.append(_correlations(of.drawn[start : start + batch]))
    drawn = np.concatenate(drawn)
    rows = []
    for i, j in zip(*np.triu_indices(len(of.metrics), 1), strict=True):
        values = drawn[:, i, j][~np.isnan(drawn[:, i, j])]
        low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (np.nan, np.nan)
        rows.append((of.metrics[i], of.metrics[j], here[i, j], low, high))
    return pd.DataFrame(rows, columns=["one", "other", "mean", "low", "high"])


def _correlations(means: np.ndarray) -> np.ndarray:
    """Tau-b of every two rows: (R, M, C) -> (R, M, M). Of all pairs of contestants, the signs of their differences.

    scipy.stats.kendalltau gives the same number, of one pair of rows at a time.
    """
    i, j = np.triu_indices(means.shape[-1], 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        signs = np.sign(means[..., i] - means[..., j])  # (R, M, pairs)
        products = signs @ signs.swapaxes(-1, -2)
        untied = np.einsum("rmm->rm", products)
        return products / np.sqrt(untied[:, :, None] * untied[:, None, :])
