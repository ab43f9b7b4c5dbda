"""The pixel sets behind a LENS score, drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from lib.metrics.selection import dilate, top_k
from lib.reporting.plots.house import COLOURS, house

KINDS = {  # what a pixel of the lower row is, and its colour
    "neither": "#ffffff",
    "within w of the top k before": "#dcdcdc",
    "top k after, far from all before": COLOURS["idgi"],
    "top k after, near one before": COLOURS["riemann_abs"],
    "top k after and before": "#004c80",
}


def neighbourhoods(image: Tensor, maps: dict[str, Tensor], *, k: int, w: int, notes: dict[str, str]) -> Figure:
    """An image and its maps above; below each perturbed map, which of its top k pixels LENS counts as found.

    image: (C, H, W) in [0, 1];  maps: {title: (H, W)}, the first before the perturbation;  w: radius in pixels
    notes: {title: text below}. All maps share one scale up to the 99th percentile of the first.
    """
    first = next(iter(maps))
    before = top_k(maps[first][None], k)[0]
    near = dilate(before, w)[0].numpy()
    sets = {title: top_k(each[None], k)[0][0].numpy() for title, each in maps.items()}
    maps = {title: each.numpy() for title, each in maps.items()}
    image = image.permute(1, 2, 0).squeeze().cpu().numpy()
    limit = np.quantile(maps[first], 0.99) or 1
    with house():
        size = (0.5 + 1.7 * (1 + len(maps)), 4.3)
        fig, axes = plt.subplots(2, 1 + len(maps), figsize=size, layout="compressed")
        axes[0, 0].imshow(image, cmap="gray", vmin=0, vmax=1)
        axes[0, 0].set_title("image")
        axes[1, 0].axis("off")
        colours = ListedColormap(list(KINDS.values()))
        for column, (title, scores) in enumerate(maps.items(), start=1):
            drawn = axes[0, column].imshow(scores, cmap="magma", vmin=0, vmax=limit)
            axes[0, column].set_title(title)
            own = sets[title]
            kind = np.where(own, np.where(sets[first], 4, np.where(near, 3, 2)), np.where(near, 1, 0))
            axes[1, column].imshow(kind, cmap=colours, vmin=0, vmax=len(KINDS) - 1, interpolation="nearest")
            axes[1, column].set_xlabel(notes.get(title, ""), fontsize=7)
        bar = fig.colorbar(drawn, ax=list(axes[0, 1:]), location="right", shrink=0.8, aspect=18, pad=0.02)
        bar.set_ticks([0, limit], labels=["0", "99 %"])
        bar.ax.tick_params(labelsize=6)
        bar.outline.set_visible(False)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
        handles = [
            Patch(facecolor=colour, edgecolor="#999999", label=label) for label, colour in list(KINDS.items())[1:]
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig


def scores_below(scores: pd.DataFrame, image: str, w: int) -> dict[str, str]:
    """{attack: the scores of an image's map, each with its chance level, line by line}, as notes of `neighbourhoods`.

    scores: columns image, attack, metric, value, of metrics and of their chance levels "<metric>_chance"
    """
    own = scores[scores["image"] == image].set_index(["attack", "metric"])["value"]
    names = {"top-k": "top_k", f"recall, w = {w}": f"lens_recall_{w}", "recall-div": f"lens_recall_div_{w}"}
    return {
        attack: "\n".join(
            f"{name} {own[attack, metric]:.2f} (chance {own[attack, f'{metric}_chance']:.2f})"
            for name, metric in names.items()
        )
        for attack in scores["attack"].unique()
    }
