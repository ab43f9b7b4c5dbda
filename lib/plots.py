"""The figures' house style: one look, one colour per rule, and files that are the same byte for byte."""

import io
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image as Picture
from matplotlib.figure import Figure

from lib import ROOT
from lib.statistics import band

# Okabe and Ito's palette, which colour-blind readers can tell apart
COLOURS = {
    "riemann": "#0072B2",
    "idgi": "#D55E00",
    "riemann_abs": "#56B4E9",
    "squared_gradient": "#009E73",
    "random": "#999999",
}
UNDECIDED = "#777777"
RULES = {
    "riemann": "base",
    "idgi": "base + IDGI",
    "riemann_abs": "|base|",
    "squared_gradient": "Σ gradient²",
    "random": "random",
}
PATHS = {"straight": "IG", "guided": "Guided IG", "blur": "Blur IG"}
METRICS = {
    "insertion": "insertion",
    "insertion_ratio": "insertion ratio",
    "aic_png": "AIC, entropy",
    "sic_png": "SIC, entropy",
    "aic_webp": "AIC, entropy (WebP)",
    "sic_webp": "SIC, entropy (WebP)",
    "aic_msssim": "AIC, MS-SSIM",
    "sic_msssim": "SIC, MS-SSIM",
    "mse_signed": "MSE, signed sum",
    "mse_l1": "MSE, absolute sum",
    "spearman": "rank correlation",
    "topk": "top-k overlap",
}
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "savefig.bbox": "tight",
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
}


@contextmanager
def house():
    """Figures made and saved inside this context have the house style."""
    with plt.rc_context(STYLE):
        yield


def save(fig: Figure, name: str, profile: str, output: str | Path) -> Picture:
    """Write <output>/figures/<profile>/<name>.png and .pdf, without dates or versions, and show it.

    name: <notebook>-<what>; output counts from the project's root. The figure is closed.
    """
    folder = ROOT / output / "figures" / profile
    folder.mkdir(parents=True, exist_ok=True)
    with house():
        fig.savefig(folder / f"{name}.png", metadata={"Software": None})
        fig.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return show(fig)


def show(fig: Figure) -> Picture:
    """The figure as a notebook shows it, at the screen's resolution and whatever its plotting backend; it is closed."""
    buffer = io.BytesIO()
    with house():
        fig.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    plt.close(fig)
    return Picture(buffer.getvalue())


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
    with house():
        fig, axes = plt.subplots(
            len(images),
            1 + len(maps),
            figsize=(1.25 * (1 + len(maps)) + 0.4, 1.3 * len(images) + 0.5),
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


def _colour_bar(fig: Figure, drawn, axes, where: str) -> None:
    bar = fig.colorbar(drawn, ax=list(axes), location=where, shrink=0.8, aspect=18, pad=0.02)
    low, high = drawn.get_clim()
    bar.set_ticks([low, high] if low == 0 else [low, 0, high])
    bar.ax.tick_params(labelsize=6, length=2)
    bar.set_ticklabels([f"{tick:.2g}" for tick in bar.get_ticks()])
    bar.outline.set_visible(False)


def curves(x, values: dict[str, np.ndarray], *, xlabel: str, ylabel: str, axis=None) -> Figure:
    """Mean curves over images with pointwise 95 % bootstrap bands.

    x: (points,);  values: {label: (images, points)}, a rule's name giving its colour;  axis: one to draw on
    """
    with house():
        axis = axis or plt.subplots(figsize=(3.3, 2.5))[1]
        for position, (label, each) in enumerate(values.items()):
            mean, low, high = band(each)
            colour = COLOURS.get(label, f"C{position}")
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
        axes[0, 0].set_yticks(
            lines["y"], [f"{PATHS.get(line.path, line.path)}, {line.model}" for line in lines.itertuples()]
        )
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
        named = {
            label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        fig.legend(named.values(), named, loc="outside upper center", ncols=2)
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


def photographs(images: dict) -> Figure:
    """Images side by side under their titles, {title: PIL image or array}."""
    with house():
        fig, axes = plt.subplots(1, len(images), figsize=(2.2 * len(images), 2.4), squeeze=False)
        for axis, (title, image) in zip(axes[0], images.items(), strict=True):
            axis.imshow(image)
            axis.set_title(title)
            axis.set_axis_off()
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
