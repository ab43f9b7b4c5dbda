"""A table of numbers as colours."""

from collections.abc import Collection
from textwrap import fill

import matplotlib.pyplot as plt
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lib.reporting.plots.house import house
from lib.reporting.plots.names import named


def heat_map(
    table: pd.DataFrame, *, label: str, span: tuple[float, float], marked: Collection[tuple] = (), form: str = ".2f"
) -> Figure:
    """Each cell's number and its colour, under the names of the columns; what is not defined stays white.

    Red is below the middle of the span, blue above it.

    table: numbers; the levels of its index are joined into the names of rows, and a line parts rows whose first level
    differs;  label: of the colour bar;  span: its ends
    marked: (row, column) of the table whose cells get a frame
    """
    rows = [row if isinstance(row, tuple) else (row,) for row in table.index]
    columns = [fill(named(column), 18) for column in table.columns]
    with house():
        longest = max(len(line) for column in columns for line in column.splitlines())
        size = (2.3 + 0.37 * len(columns), 0.4 + 0.135 * len(rows) + 0.06 * longest)
        fig, axis = plt.subplots(figsize=size)
        seaborn.heatmap(
            table.astype(float),
            ax=axis,
            vmin=span[0],
            vmax=span[1],
            cmap="RdBu",
            annot=True,
            fmt=form,
            annot_kws={"fontsize": 5.5},
            linewidths=0.3,
            cbar_kws={"label": label, "shrink": min(1.0, 20 / len(rows)), "aspect": 20},
            xticklabels=columns,
            yticklabels=[", ".join(filter(None, map(named, row))) for row in rows],
        )
        for place in range(1, len(rows)):
            if len(rows[place]) > 1 and rows[place][0] != rows[place - 1][0]:
                axis.axhline(place, color="black", linewidth=0.8)
        for row, column in marked:
            corner = table.columns.get_loc(column), table.index.get_loc(row)
            axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=1.6))
        axis.set(xlabel="", ylabel="")
        axis.tick_params(length=0)
        axis.tick_params(axis="x", labelrotation=90)
        axis.tick_params(axis="y", labelrotation=0)
    return fig
