"""Scores side by side: differences, means and distributions with their intervals."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib.reporting.plots.house import COLOURS, UNDECIDED, house, legend_above, paler, palette
from lib.reporting.plots.names import named

SHORT = "{x:g}"  # 0, not 0.000: labels of narrow panels must not touch


def forest(table: pd.DataFrame, *, xlabel: str, favours: tuple[str, str] = ("base", "IDGI")) -> Figure:
    """Paired differences with 95 % intervals: one panel per metric, one line per path and model.

    Filled markers: the interval excludes 0.

    table: columns path, model, metric, mean, low, high, n, as `statistics.contrasts` returns them
    favours: what a difference below and above 0 speaks for
    """
    metrics = table["metric"].unique()
    lines = table[["path", "model"]].drop_duplicates()
    lines = lines.sort_values("path", key=lambda path: path.factorize()[0], kind="stable", ignore_index=True)
    lines["y"] = -lines.index - 0.7 * lines["path"].factorize()[0]  # a gap between paths
    table = table.merge(lines, on=["path", "model"])
    with house():
        fig, axes = plt.subplots(
            1,
            len(metrics),
            figsize=(1.1 + 1.2 * len(metrics), 1.1 + 0.19 * len(lines)),
            sharey=True,
            squeeze=False,
        )
        for axis, metric in zip(axes[0], metrics, strict=True):
            axis.axvline(0, color="black", linewidth=0.7)
            for row in table[table["metric"] == metric].itertuples():
                colour = COLOURS["idgi"] if row.low > 0 else COLOURS["riemann"] if row.high < 0 else UNDECIDED
                axis.plot([row.low, row.high], [row.y, row.y], color=colour)
                inside = "white" if colour == UNDECIDED else colour
                axis.plot(row.mean, row.y, "o", color=colour, markerfacecolor=inside)
            axis.set_title(named(metric))
            axis.tick_params(axis="y", length=0)
            axis.margins(x=0.1)
            axis.locator_params(axis="x", nbins=3)
            axis.xaxis.set_major_formatter(SHORT)
            axis.grid(axis="x", color="#dddddd", linewidth=0.5)
            axis.set_axisbelow(True)
            axis.spines["left"].set_visible(False)
        labels = [", ".join(filter(None, [named(line.path), named(line.model)])) for line in lines.itertuples()]
        axes[0, 0].set_yticks(lines["y"], labels)
        fig.supxlabel(xlabel, fontsize=8)
        looks = {
            f"favours {favours[0]}": {"color": COLOURS["riemann"]},
            f"favours {favours[1]}": {"color": COLOURS["idgi"]},
            "undecided": {"color": UNDECIDED, "markerfacecolor": "white"},
        }
        handles = [plt.Line2D([], [], marker="o", label=label, **look) for label, look in looks.items()]
        fig.legend(handles=handles, loc="outside upper center", ncols=3)
    return fig


def dots(
    table: pd.DataFrame,
    *,
    rows: str,
    colours: str,
    panels: str,
    xlabel: str,
    zero: bool = False,
    published: pd.DataFrame | None = None,
) -> Figure:
    """Means with 95 % intervals as dots: methods down, a colour per rule within them, one panel per metric.

    table: columns mean, low, high, as `statistics.summary` returns them, and the columns named by rows, colours
        and panels, each value of which has its place in the order of appearance
    zero: a line at 0
    published: columns rows, colours, panels and value, drawn as paler hollow squares beside ours
    """
    looks = palette(table[colours])
    published = table.iloc[:0].assign(value=[]) if published is None else published
    places, centres, bottom = {}, {}, 0.0
    for row, group in table.groupby(rows, sort=False):
        here = [name for name in looks if name in set(group[colours])]
        places |= {(row, name): bottom + k for k, name in enumerate(here)}
        centres[row] = bottom + (len(here) - 1) / 2
        bottom += len(here) + 1  # a gap between methods
    titles = table[panels].unique()
    with house():
        fig, axes = plt.subplots(
            1,
            len(titles),
            figsize=(min(7.0, 2.6 + 1.5 * len(titles)), 0.9 + 0.12 * bottom),
            sharey=True,
            squeeze=False,
        )
        for axis, title in zip(axes[0], titles, strict=True):
            if zero:
                axis.axvline(0, color="black", linewidth=0.7)
            here = table[table[panels] == title]
            for name, group in here.groupby(colours, sort=False):
                y = [places[row, name] for row in group[rows]]
                axis.hlines(y, group["low"], group["high"], color=looks[name])
                axis.plot(group["mean"], y, "o", color=looks[name], label=named(name))
                theirs = published[(published[panels] == title) & (published[colours] == name)]
                theirs = theirs[[(row, name) in places for row in theirs[rows]]]
                if len(theirs):
                    y = [places[row, name] for row in theirs[rows]]
                    look = {"marker": "s", "color": paler(looks[name]), "markerfacecolor": "white", "linestyle": ""}
                    axis.plot(theirs["value"], y, **look, label=f"{named(name)}, published")
            axis.set_title(named(title))
            axis.grid(axis="x", color="#dddddd", linewidth=0.5)
            axis.set_axisbelow(True)
            axis.locator_params(axis="x", nbins=4)
            axis.xaxis.set_major_formatter(SHORT)
            axis.tick_params(axis="y", length=0)
            axis.spines["left"].set_visible(False)
        axes[0, 0].set_yticks(list(centres.values()), [named(row) for row in centres])
        axes[0, 0].set_ylim(bottom - 1, -1)
        fig.supxlabel(xlabel, fontsize=8)
        legend_above(fig, axes[0], columns=4)
    return fig


def distributions(table: pd.DataFrame, columns: dict[str, str], *, by: str) -> Figure:
    """The distribution of each column, on a logarithmic axis, one box (quartiles, 5th to 95th percentile) per group.

    columns: {column: axis label}; by: the column that names the groups
    """
    with house():
        fig, axes = plt.subplots(1, len(columns), figsize=(3.3 * len(columns), 2.2), sharey=True, squeeze=False)
        groups = dict(list(table.groupby(by, sort=False)))
        for axis, (column, label) in zip(axes[0], columns.items(), strict=True):
            axis.boxplot(
                [rows[column].dropna() for rows in groups.values()],
                orientation="horizontal",
                tick_labels=list(map(named, groups)),
                whis=(5, 95),
                showfliers=False,
                widths=0.6,
                medianprops={"color": COLOURS["idgi"]},
            )
            axis.set_xscale("log")
            axis.set_xlabel(label)
        axes[0, 0].invert_yaxis()
    return fig
