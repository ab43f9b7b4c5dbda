"""Scores beside their chance levels."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib.reporting.plots.curves import curve_panels
from lib.reporting.plots.house import UNDECIDED, house, palette
from lib.reporting.plots.names import ATTACKS, named
from lib.reporting.statistics import summary


def beside_chance(table: pd.DataFrame, *, rows: str, panels: str, xlabel: str) -> Figure:
    """Means with 95 % intervals as dots, and the chance level of each as an open ring, joined by a line.

    table: columns metric, mean, low, high, as `statistics.summary` returns them, and the columns named by rows and
        panels. A metric "<name>_chance" is the chance level of "<name>". Rows run down, metrics within them.
    """
    level = table["metric"].str.endswith("_chance")
    chances = table[level].assign(metric=table.loc[level, "metric"].str.removesuffix("_chance"))
    keys = [rows, panels, "metric"]
    both = table[~level].merge(chances[[*keys, "mean"]], on=keys, how="left", suffixes=("", "_chance"))
    looks = palette(both["metric"])
    groups = list(dict.fromkeys(both[rows]))
    place = {(row, name): i * (len(looks) + 1) + k for i, row in enumerate(groups) for k, name in enumerate(looks)}
    titles = list(dict.fromkeys(both[panels]))
    height = 0.9 + 0.13 * len(groups) * (len(looks) + 1)
    with house():
        size = (min(7.0, 1.6 + 2.7 * len(titles)), height)
        fig, axes = plt.subplots(1, len(titles), figsize=size, sharex=True, sharey=True, squeeze=False)
        for axis, title in zip(axes[0], titles, strict=True):
            for name, here in both[both[panels] == title].groupby("metric", sort=False):
                y = [place[row, name] for row in here[rows]]
                axis.hlines(y, here["mean_chance"], here["mean"], color=looks[name], linewidth=0.5)
                axis.hlines(y, here["low"], here["high"], color=looks[name], linewidth=1.8)
                axis.plot(here["mean"], y, "o", color=looks[name], label=named(name))
                axis.plot(here["mean_chance"], y, "o", color=looks[name], markerfacecolor="white", markersize=3)
            axis.set_title(named(title))
            axis.grid(axis="x", color="#dddddd", linewidth=0.5)
            axis.set_axisbelow(True)
            axis.tick_params(axis="y", length=0)
            axis.spines["left"].set_visible(False)
        axes[0, 0].set_yticks(
            [place[row, next(iter(looks))] + (len(looks) - 1) / 2 for row in groups], map(named, groups)
        )
        axes[0, 0].set_ylim(len(groups) * (len(looks) + 1) - 1, -1)
        axes[0, 0].set_xlim(-0.02, 1.02)
        handles = {
            label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        ring = plt.Line2D([], [], marker="o", linestyle="", color=UNDECIDED, markerfacecolor="white", markersize=3)
        fig.legend([*handles.values(), ring], [*handles, "chance level"], loc="outside upper center", ncols=3)
        fig.supxlabel(xlabel, fontsize=8)
    return fig


def chance_as_line(scores: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The rows of some metrics, chance levels among them as those of an attack "chance", the mean over attacks.

    A column `panel` names method and metric; rows are sorted by it, in the order of `metrics` within a method.
    """
    level = scores["metric"].str.endswith("_chance")
    metric = scores["metric"].str.removesuffix("_chance")
    rows = scores.assign(metric=metric, attack=scores["attack"].mask(level, "chance"))
    rows = rows[rows["metric"].isin(list(metrics))]
    known = [column for column in ("image", "method", "metric", "attack", "epsilon") if column in rows]
    rows = rows.groupby(known, sort=False)["value"].mean().reset_index()
    place = rows["method"].map(named) + ", " + rows["metric"].map(named)
    rows = rows.assign(
        panel=place, attack=rows["attack"].replace(ATTACKS), order=rows["metric"].map(list(metrics).index)
    )
    return rows.sort_values(["method", "order"], kind="stable", ignore_index=True)


def attack_panels(
    scores: pd.DataFrame, metrics: Sequence[str], *, xlabel: str, published: pd.DataFrame | None = None
) -> Figure:
    """Scores against the size of a perturbation: a panel per method and metric, a line per attack, chance dotted.

    scores, published: columns image (ours alone), method, metric, attack, epsilon, value
    """
    table = summary(chance_as_line(scores, metrics), ["panel", "attack", "epsilon"], resamples=2_000)
    return curve_panels(
        table,
        x="epsilon",
        panels="panel",
        lines="attack",
        xlabel=xlabel,
        ylabel="mean over images",
        styles={"chance": {"linestyle": ":"}},
        published=None if published is None else chance_as_line(published, metrics),
    )
