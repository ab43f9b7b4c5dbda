"""Scores against a number: curves with their bands."""

import math
from collections.abc import Iterable
from numbers import Real

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.reporting.bands import band
from lib.reporting.plots.house import COLOURS, UNDECIDED, house, legend_above, paler, palette
from lib.reporting.plots.names import named
from lib.reporting.statistics import select, summary

APART = 1.4  # how many times the one before a labelled tick of a logarithmic axis is at least


def curves(x, panels: dict[str, dict[str, np.ndarray]], *, xlabel: str, ylabel: str) -> Figure:
    """Mean curves over images with pointwise 95 % bootstrap bands, a panel beside the other, under one legend.

    x: (points,);  panels: {title: {label: (images, points)}}, a rule's name giving its colour
    """
    with house():
        size = (max(3.3, 2.4 * len(panels)), 2.5)
        fig, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
        for axis, (title, values) in zip(axes[0], panels.items(), strict=True):
            for (label, each), colour in zip(values.items(), palette(values).values(), strict=True):
                mean, low, high = band(each)
                axis.plot(x, mean, color=colour, label=named(label))
                axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            axis.set(xlabel=xlabel, ylabel=ylabel, title=named(title))
        legend_above(fig, axes.flat, columns=3)
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
                label = named(rule) + (f", {mode}" if table["mode"].nunique() > 1 else "")
                axis.plot(line["steps"], line["mean"], modes[mode], color=colour, marker=".", label=label)
                axis.fill_between(line["steps"], line["low"], line["high"], color=colour, alpha=0.15, linewidth=0)
            if published is not None:
                _draw_published(axis, published[(published["metric"] == metric) & (published["path"] == path)])
            axis.set_xscale("log", base=2)
            _label(axis, table["steps"])
        for axis, path in zip(axes[0], paths, strict=True):
            axis.set_title(named(path))
        for axis, metric in zip(axes[:, 0], metrics, strict=True):
            axis.set_ylabel(f"{named(metric)}\n{ylabel}")
        for axis in axes[-1]:
            axis.set_xlabel("number of steps")
        legend_above(fig, axes.flat, columns=2)
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
            label=f"{named(rule)}, logged by the authors (model unknown)",
        )


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
    level: float | None = None,
    logarithmic: bool = False,
) -> Figure:
    """Curves with 95 % bands as small multiples, under a legend; published curves beside ours.

    table: columns mean, low, high, as `statistics.summary` returns them, and the columns named by
        x (numbers, or texts, which are drawn at equal distances in their order of appearance; a single one: points
        beside each other with their intervals, beside published curves too),
        panels and lines (one panel and one line per value, in their order of appearance)
    styles: {value of `lines`: keywords of `Axes.plot`}, e.g. {"riemann_abs": {"linestyle": "--"}}
    published: columns x, panels, lines and value, drawn dotted and paler with hollow markers
    one_scale: one vertical scale for all panels; False where only the trends of the panels can be compared
    level: a horizontal line at this value
    logarithmic: both axes
    """
    published = table.iloc[:0].assign(value=[]) if published is None else published
    at_all = list(dict.fromkeys([*table[x], *published[x]]))
    alone = len(at_all) == 1  # no curves, then: points side by side, with their intervals
    texts = [] if pd.api.types.is_numeric_dtype(table[x]) and not alone else at_all
    place = texts.index if texts else float
    colours = palette([*table[lines], *published[lines]])
    apart = 0.3 if texts else 0.05 * np.ptp(at_all or [0])
    beside = dict(zip(colours, np.linspace(-apart, apart, len(colours)), strict=True))
    with house():
        fig, axes = _small_multiples(table[panels].unique(), widest=3 if texts else 4, one_scale=one_scale)
        for title, axis in axes.items():
            points = table.loc[table[panels] == title, x].nunique() == 1
            for name in colours:
                ours, theirs = (
                    rows[(rows[panels] == title) & (rows[lines] == name)].sort_values(x, key=lambda at: at.map(place))
                    for rows in (table, published)
                )
                if len(ours):
                    look = {"color": colours[name], "marker": ".", **(styles or {}).get(name, {})}
                    at = ours[x].map(place) + beside[name] * points
                    axis.plot(at, ours["mean"], label=named(name), **look)
                    if points:
                        axis.vlines(at, ours["low"], ours["high"], color=look["color"], linewidth=1)
                    else:
                        axis.fill_between(at, ours["low"], ours["high"], color=look["color"], alpha=0.15, linewidth=0)
                if len(theirs):
                    axis.plot(
                        theirs[x].map(place) + beside[name] * alone,
                        theirs["value"],
                        linestyle=":",
                        color=paler(colours[name]),
                        marker="o",
                        markerfacecolor="white",
                        label=f"{named(name)}, published",
                    )
            axis.grid(axis="y", color="#dddddd", linewidth=0.5)
            if level is not None:
                axis.axhline(level, color="black", linewidth=0.7)
            if logarithmic:
                axis.set_yscale("log")
            if logarithmic and not alone:
                axis.set_xscale("log")
                _label(axis, table[x])
            if alone:
                axis.set_xticks([0], [f"{texts[0]:g}" if isinstance(texts[0], Real) else texts[0]])
                axis.set_xlim(-0.6, 0.6)
            elif texts:
                axis.set_xticks(range(len(texts)), texts, rotation=90, fontsize=6)
        fig.supxlabel(xlabel, fontsize=8)
        fig.supylabel(ylabel, fontsize=8)
        legend_above(fig, axes.values(), columns=4)
    return fig


def score_panels(scores: pd.DataFrame, where: dict, *, x: str, panels: str, lines: str, **options) -> Figure:
    """`curve_panels` of the means and 95 % intervals of the scores that `where` selects.

    scores: a tidy table;  where: as `statistics.select` reads it;  options: those of `curve_panels`
    """
    table = summary(select(scores, where), [panels, lines, x], resamples=2_000)
    return curve_panels(table, x=x, panels=panels, lines=lines, **options)


def _small_multiples(titles: Iterable, *, widest: int, one_scale: bool) -> tuple[Figure, dict]:
    """A page's width of panels that share their scales, {title: axis}, in rows of equal length but for the last.

    One panel that says so where there is nothing to draw.
    """
    titles = list(titles) or ["no scores"]
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


def _label(axis: Axes, values: pd.Series) -> None:
    """A tick at each value of a logarithmic x axis, without the numbers that would touch the one before."""
    ticks, labels, last = sorted(set(values)), [], 0.0
    for tick in ticks:
        labels.append(f"{tick:g}" if tick >= APART * last else "")
        last = tick if labels[-1] else last
    axis.set_xticks(ticks, labels)
    axis.minorticks_off()
