"""The house style: one look, one colour per rule, one name per method, and files that are the same byte for byte."""

import io
import os
from collections.abc import Iterable
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image as Picture
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from lib import ROOT, InputError, nearest
from lib.store.files import write_atomically

# Okabe and Ito's palette, which colour-blind readers can tell apart; its yellow is darkened for print
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#B8A800", "#000000")
COLOURS = {
    "riemann": "#0072B2",
    "idgi": "#D55E00",
    "riemann_abs": "#56B4E9",
    "squared_gradient": "#009E73",
    "random": "#999999",
    "chance": "#000000",
    "recalibrated_point": "#D55E00",
    "recalibrated_reference": "#CC79A7",
    "relu": "#009E73",
    "point_abs": "#B8A800",
    "random_mask": "#666666",
    "masked": "#E69F00",
    "weighted": "#000000",
    "weighted_abs": "#8B5A2B",
}
UNDECIDED = "#777777"
PRINTED = {  # format: metadata without which a file holds dates or versions
    "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
    "png": {"Software": None},
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
    "savefig.dpi": 100,
    "savefig.bbox": "tight",
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
}


@contextmanager
def house():
    """Figures made and saved inside this context have the house style."""
    with plt.rc_context(STYLE):
        yield


def palette(values: Iterable) -> dict:
    """A colour for each of `values`: a rule's own, else the palette's next one that none of their rules has."""
    values = dict.fromkeys(values)
    taken = {COLOURS[value] for value in values if value in COLOURS}
    free = cycle([colour for colour in PALETTE if colour not in taken] or PALETTE)
    return {value: COLOURS.get(value) or next(free) for value in values}


def legend_above(fig: Figure, axes: Iterable, *, columns: int) -> None:
    """One legend of everything that `axes` show, each label once."""
    entries = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    fig.legend(entries.values(), entries, loc="outside upper center", ncols=columns)


def paler(colour: str) -> tuple[float, ...]:
    """A colour half way to grey."""
    return tuple(np.mean([to_rgb(colour), to_rgb(UNDECIDED)], axis=0))


def save(fig: Figure, name: str, profile: str, output: str | Path) -> Picture:
    """Write the figure as `show` compresses it to <output>/figures/<profile>/<name>.png or .jpeg, and show it.

    `make figures FORMAT=pdf` has it written for print instead: the notebooks' kernels find the format in the
    environment variable FIGURE_FORMAT. The figure is closed.

    name: <notebook>-<what>; output counts from the project's root
    Raises InputError for a FORMAT other than pdf and png (which keeps every colour).
    """
    kind, content = os.environ.get("FIGURE_FORMAT"), io.BytesIO()
    if kind:
        if kind not in PRINTED:
            raise InputError(f"FORMAT {kind!r} is unknown; {nearest(kind, PRINTED)}.")
        with house():
            fig.savefig(content, format=kind, metadata=PRINTED[kind])
    shown = show(fig)
    path = ROOT / output / "figures" / profile / f"{name}.{kind or shown.format}"
    write_atomically(path, content.getvalue() if kind else shown.data)
    return shown


def show(fig: Figure) -> Picture:
    """The figure as a notebook shows it, whatever its plotting backend, in as few bytes as look the same; it is closed.

    A drawing is a PNG of 64 colours, chosen so that the colour of a few points stays too. A palette makes bands of a
    photograph, and of a map's colours, so a figure that holds images is a JPEG.
    """
    buffer, small = io.BytesIO(), io.BytesIO()
    with house():
        fig.savefig(buffer, format="png")
    plt.close(fig)
    full = Image.open(buffer).convert("RGB")
    if any(axis.images for axis in fig.axes):
        full.save(small, "JPEG", quality=75, optimize=True, progressive=True, subsampling=2)
    else:
        full.quantize(64, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return Picture(small.getvalue())
