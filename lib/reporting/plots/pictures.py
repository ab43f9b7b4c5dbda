"""Pictures: photographs and attribution maps, with their scales."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from PIL import Image

from lib.reporting.plots.house import house


def photographs_row(images: dict, *, columns: int | None = None, **look) -> Figure:
    """Images side by side under their titles, {title: PIL image or array}, in rows of `columns`.

    look: keywords of `Axes.imshow`, e.g. cmap="gray_r"
    """
    columns = columns or len(images)
    rows, width = -(-len(images) // columns), min(2.2, 7 / columns)
    with house():
        fig, axes = plt.subplots(rows, columns, figsize=(width * columns, (width + 0.2) * rows), squeeze=False)
        for axis, (title, image) in zip(axes.flat, images.items(), strict=False):
            axis.imshow(image, **look)
            axis.set_title(title)
        for axis in axes.flat:
            axis.set_axis_off()
    return fig


def maps_grid(images: list, maps: dict[str, list], *, rows: list[str] | None = None, share: str = "column") -> Figure:
    """Photographs on the left, one column of attribution maps per method.

    Signed maps are drawn diverging around 0, magnitudes sequentially, up to the 99.5th percentile of |map|.

    images: R arrays (H, W, 3) in [0, 1]
    maps: {column title: R arrays (H, W)}
    rows: R titles
    share: "column" (one scale, with one colour bar, per method) or "row" (one scale per image)
    """
    signed = any(np.min(grid) < 0 for column in maps.values() for grid in column)
    limits = np.array([[np.quantile(np.abs(grid), 0.995) for grid in column] for column in maps.values()])
    limits = np.broadcast_to(limits.max(axis=1 if share == "column" else 0, keepdims=True), limits.shape)
    cell = min(1.25, 6.5 / (1 + len(maps)))  # inches; the grid is no wider than a page
    with house():
        fig, axes = plt.subplots(
            len(images),
            1 + len(maps),
            figsize=(cell * (1 + len(maps)) + 0.4, (cell + 0.05) * len(images) + 0.5),
            squeeze=False,
            layout="compressed",
        )
        for row, image in enumerate(images):
            axes[row, 0].imshow(image)
            axes[row, 0].set_ylabel(rows[row] if rows else "", rotation=90, fontsize=7)
            for column, grids in enumerate(maps.values()):
                limit = limits[column, row] or 1
                drawn = axes[row, column + 1].imshow(
                    grids[row], cmap="RdBu_r" if signed else "magma", vmin=-limit if signed else 0, vmax=limit
                )
                if share == "row" and column == len(maps) - 1:
                    _colour_bar(fig, drawn, axes[row, 1:], "right")
                if share == "column" and row == len(images) - 1:
                    _colour_bar(fig, drawn, axes[:, column + 1], "bottom")
        for axis, title in zip(axes[0], ["image", *maps], strict=True):
            axis.set_title(title)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    return fig


def _colour_bar(fig: Figure, drawn, axes, where: str) -> Colorbar:
    bar = fig.colorbar(drawn, ax=list(axes), location=where, shrink=0.8, aspect=18, pad=0.02)
    low, high = drawn.get_clim()
    bar.set_ticks([low, high] if low == 0 else [low, 0, high])
    bar.ax.tick_params(labelsize=6, length=2)
    bar.set_ticklabels([f"{tick:.2g}" for tick in bar.get_ticks()])
    bar.outline.set_visible(False)
    return bar


def maps_table(
    image,
    maps: list[list],
    *,
    rows: list[str],
    columns: list[str],
    notes: list[list[str]],
    bold: list[list[bool]] | None = None,
) -> Figure:
    """One photograph, and beside it a grid of its maps, variants down and methods across, a note below each.

    In the manner of Fig. 1 of Yang et al. (ICLR 2023). Each map is drawn up to the 99th percentile of its own |map|,
    so colours compare within a map only and one bar stands for all maps of a kind: a row with a negative score
    diverges around 0, the others are sequential from 0. Differs from the released code
    (AR:utils/visual_inspection.py), which scales signed maps by the 99th percentile of the map itself.

    image: (H, W, 3) in [0, 1]
    maps: R lists of C arrays (H, W);  rows: R titles;  columns: C titles
    notes: R lists of C texts;  bold: R lists of C, which notes to emphasise
    """
    kinds = ["signed" if min(map(np.min, grids)) < 0 else "magnitude" for grids in maps]
    cell = min(1.5, 7 / (len(columns) + 1.7))  # inches; 1.7 for the photograph and the bars
    with house():
        fig, axes = plt.subplots(
            len(rows),
            1 + len(columns),
            figsize=(cell * (len(columns) + 1.7), (cell + 0.25) * len(rows) + 0.2),
            squeeze=False,
            layout="compressed",
        )
        for axis in axes[1:, 0]:
            axis.remove()
        photograph, axes = axes[0, 0], axes[:, 1:]
        photograph.imshow(image)
        photograph.set_title("image")
        drawn = {}
        for row, (kind, grids) in enumerate(zip(kinds, maps, strict=True)):
            low, colours = (-1, "RdBu_r") if kind == "signed" else (0, "magma")
            for axis, grid, note in zip(axes[row], grids, notes[row], strict=True):
                limit = np.quantile(np.abs(grid), 0.99) or 1
                drawn[kind] = axis.imshow(grid / limit, cmap=colours, vmin=low, vmax=1)
                axis.set_xlabel(note, labelpad=2, fontsize=7)
            axes[row, 0].set_ylabel(rows[row])
        for kind, picture in drawn.items():
            beside = axes[[each == kind for each in kinds]]
            bar = _colour_bar(fig, picture, beside.flat, "right")
            bar.set_ticklabels(["−max", "0", "max"] if kind == "signed" else ["0", "max"])
            bar.set_label("max: 99th percentile\nof |map|", fontsize=6)
        for axis, column in zip(axes[0], columns, strict=True):
            axis.set_title(column)
        for axis, strong in zip(axes.flat, np.ravel(bold) if bold is not None else [], strict=bold is not None):
            axis.xaxis.label.set_fontweight("bold" if strong else "normal")
        for axis in (photograph, *axes.flat):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    return fig


def enlarged(image: Image.Image, other: Image.Image, factor: float) -> np.ndarray:
    """The difference of two images, `factor` times enlarged about mid-grey, (H, W, 3) in [0, 1]."""
    difference = (np.asarray(other, dtype=float) - np.asarray(image, dtype=float)) / 255
    return np.clip(0.5 + factor * difference, 0, 1)
