"""Scores: curves, differences and distributions, with their intervals."""

import math
from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lib.reporting.plots.house import COLOURS, METRICS, PATHS, RULES, UNDECIDED, house, named, palette
from lib.reporting.statistics import band


def curves(x, values: dict[str, np.ndarray], *, xlabel: str, ylabel: str, axis=None) -> Figure:
    """Mean curves over images with pointwise 95 % bootstrap bands.

    x: (points,);  values: {label: (images, points)}, a rule's name giving its colour;  axis: one to draw on
    """
    with house():
        axis = axis or plt.subplots(figsize=(3.3, 2.5))[1]
        for (label, each), colour in zip(values.items(), palette(values).values(), strict=True):
            mean, low, high = band(each)
            axis.plot(x, mean, color=colour, label=RULES.get(label, label))
            axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.set(xlabel=xlabel, ylabel=ylabel)
        axis.legend()
    return axis.figure


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
            axis.set_title(METRICS.get(metric, metric))
            axis.tick_params(axis="y", length=0)
            axis.margins(x=0.1)
            axis.locator_params(axis="x", nbins=3)
            axis.grid(axis="x", color="#dddddd", linewidth=0.5)
            axis.set_axisbelow(True)
            axis.spines["left"].set_visible(False)
        labels = [", ".join(filter(None, [named(line.path), line.model])) for line in lines.itertuples()]
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


def steps(table: pd.DataFrame, *, published: pd.DataFrame | None = None, ylabel: str = "mean over images") -> Figure:
    """Score against the number of steps with 95 % bands: one row of panels per metric, one column per path.

    table: columns path, rule, steps, metric, mean, low, high, as `statistics.summary` returns them, and
        optionally mode (corrected is drawn solid, released dashed)
    published: rows of params/published.csv, drawn grey with hollow markers where path and metric match
    """
    modes = {"corrected": "-", "released": "--"}
    metrics, paths = table["metric"].unique(), table["path"].unique()
    table = table if "mode" in table else table.assign(mode="corrected")
    with house():
        fig, axes = plt.subplots(
            len(metrics),
            len(paths),
            figsize=(0.6 + 2.3 * len(paths), 0.7 + 1.8 * len(metrics)),
            sharex=True,
            sharey="row",
            squeeze=False,
        )
        for (metric, path), axis in zip([(m, p) for m in metrics for p in paths], axes.flat, strict=True):
            here = table[(table["metric"] == metric) & (table["path"] == path)]
            for (rule, mode), line in here.groupby(["rule", "mode"], sort=False):
                line, colour = line.sort_values("steps"), COLOURS.get(rule, "black")
                label = RULES.get(rule, rule) + (f", {mode}" if table["mode"].nunique() > 1 else "")
                axis.plot(line["steps"], line["mean"], modes[mode], color=colour, marker=".", label=label)
                axis.fill_between(line["steps"], line["low"], line["high"], color=colour, alpha=0.15, linewidth=0)
            if published is not None:
                _draw_published(axis, published[(published["metric"] == metric) & (published["path"] == path)])
            axis.set_xscale("log", base=2)
            ticks = sorted(table["steps"].unique())
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
        for axis, path in zip(axes[0], paths, strict=True):
            axis.set_title(PATHS.get(path, path))
        for axis, metric in zip(axes[:, 0], metrics, strict=True):
            axis.set_ylabel(f"{METRICS.get(metric, metric)}\n{ylabel}")
        for axis in axes[-1]:
            axis.set_xlabel("number of steps")
        _legend_above(fig, axes.flat, columns=2)
    return fig


def _draw_published(axis, rows: pd.DataFrame) -> None:
    for rule, line in rows.groupby("rule", sort=False):
        axis.plot(
            line["steps"],
            line["value"],
            linestyle=":",
            color=UNDECIDED,
            marker="o" if rule == "riemann" else "s",
            markerfacecolor="white",
            label=f"{RULES.get(rule, rule)}, logged by the authors (model unknown)",
        )


def _legend_above(fig: Figure, axes: Iterable, *, columns: int) -> None:
    """One legend of everything that `axes` show, each label once."""
    entries = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    fig.legend(entries.values(), entries, loc="outside upper center", ncols=columns)


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
                tick_labels=[PATHS.get(name, name) for name in groups],
                whis=(5, 95),
                showfliers=False,
                widths=0.6,
                medianprops={"color": COLOURS["idgi"]},
            )
            axis.set_xscale("log")
            axis.set_xlabel(label)
        axes[0, 0].invert_yaxis()
    return fig


def curve_panels(
    table: pd.DataFrame,
    *,
    x: str,
    panels: str,
    lines: str,
    ylabel: str,
    xlabel: str,
    styles: dict[str, dict] | None = None,
    published: pd.DataFrame | None = None,
    one_scale: bool = True,
) -> Figure:
    """Curves with 95 % bands as small multiples, under a legend; published curves beside ours.

    table: columns mean, low, high, as `statistics.summary` returns them, and the columns named by
        x (numbers, or texts, which are drawn at equal distances in their order of appearance),
        panels and lines (one panel and one line per value, in their order of appearance)
    styles: {value of `lines`: keywords of `Axes.plot`}, e.g. {"riemann_abs": {"linestyle": "--"}}
    published: columns x, panels, lines and value, drawn dotted and paler with hollow markers
    one_scale: one vertical scale for all panels; False for values that only trends of can be compared
    """
    published = table.iloc[:0].assign(value=[]) if published is None else published
    texts = [] if pd.api.types.is_numeric_dtype(table[x]) else list(dict.fromkeys([*table[x], *published[x]]))
    place = texts.index if texts else float
    colours = palette([*table[lines], *published[lines]])
    with house():
        fig, axes = _small_multiples(table[panels].unique(), widest=3 if texts else 4, one_scale=one_scale)
        for title, axis in axes.items():
            for name in colours:
                ours, theirs = (
                    rows[(rows[panels] == title) & (rows[lines] == name)].sort_values(x, key=lambda at: at.map(place))
                    for rows in (table, published)
                )
                if len(ours):
                    look = {"color": colours[name], "marker": ".", **(styles or {}).get(name, {})}
                    at = ours[x].map(place)
                    axis.plot(at, ours["mean"], label=named(name), **look)
                    axis.fill_between(at, ours["low"], ours["high"], color=look["color"], alpha=0.15, linewidth=0)
                if len(theirs):
                    axis.plot(
                        theirs[x].map(place),
                        theirs["value"],
                        linestyle=":",
                        color=_paler(colours[name]),
                        marker="o",
                        markerfacecolor="white",
                        label=f"{named(name)}, published",
                    )
            axis.grid(axis="y", color="#dddddd", linewidth=0.5)
            if texts:
                axis.set_xticks(range(len(texts)), texts, rotation=90, fontsize=6)
        fig.supxlabel(xlabel, fontsize=8)
        fig.supylabel(ylabel, fontsize=8)
        _legend_above(fig, axes.values(), columns=4)
    return fig


def _small_multiples(titles: Iterable, *, widest: int, one_scale: bool) -> tuple[Figure, dict]:
    """A page's width of panels that share their scales, {title: axis}, in rows of equal length but for the last."""
    titles = list(titles)
    rows = math.ceil(len(titles) / widest)
    columns = math.ceil(len(titles) / rows)
    width = min(7.0, 2.0 + 2.5 * columns)
    size = (width, 0.9 + 1.7 * rows)
    fig, axes = plt.subplots(rows, columns, figsize=size, sharex=True, sharey=one_scale, squeeze=False)
    for axis in axes.flat[len(titles) :]:
        axis.remove()
    for axis in axes.flat[len(titles) - columns : len(titles)]:
        axis.tick_params(labelbottom=True)  # also above a place left empty
    panels = dict(zip(titles, axes.flat, strict=False))
    for title, axis in panels.items():
        axis.set_title(named(title))
    return fig, panels


def _paler(colour: str) -> tuple[float, ...]:
    return tuple(np.mean([to_rgb(colour), to_rgb(UNDECIDED)], axis=0))


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
                    look = {"marker": "s", "color": _paler(looks[name]), "markerfacecolor": "white", "linestyle": ""}
                    axis.plot(theirs["value"], y, **look, label=f"{named(name)}, published")
            axis.set_title(named(title))
            axis.grid(axis="x", color="#dddddd", linewidth=0.5)
            axis.set_axisbelow(True)
            axis.locator_params(axis="x", nbins=4)
            axis.tick_params(axis="y", length=0)
            axis.spines["left"].set_visible(False)
        axes[0, 0].set_yticks(list(centres.values()), [named(row) for row in centres])
        axes[0, 0].set_ylim(bottom - 1, -1)
        fig.supxlabel(xlabel, fontsize=8)
        _legend_above(fig, axes[0], columns=4)
    return fig
