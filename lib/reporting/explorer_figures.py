"""What an explorer shows of its results: maps on one scale, curves, and a table of numbers."""

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from lib.data.imagenet import CLASSES, class_name
from lib.experiments.exploration import Explored
from lib.reporting import plots
from lib.reporting.rivals import method_name

LARGER, LETTERS = 1.7, 1.3  # figure and letters, in their sizes in a notebook that is read
COMPLETE = ("riemann", "idgi")  # rules whose maps are meant to sum to f(x) - f(x')
LONGEST = 30  # letters of an image's name


def maps_figure(found: Explored) -> Figure:
    """The images, and beside each its maps on one colour scale.

    Rules have units of their own, so that each map is divided by its mean |score|: 1 is an average pixel.
    """
    sizes = {rule: each.abs().mean((1, 2), keepdim=True) for rule, each in found.maps.items()}
    shares = {rule: each / torch.where(sizes[rule] > 0, sizes[rule], 1) for rule, each in found.maps.items()}
    columns = {name: list(each.numpy()) for name, each in zip(_names(found), shares.values(), strict=True)}
    names = zip(found.of.images, explained_classes(found), strict=True)
    rows = [f"{_title(image)}\n{_title(answer)}" for image, answer in names]
    figure = plots.maps_grid([_picture(x) for x in found.of.x.cpu()], columns, rows=rows, share="row")
    for bar in figure.axes[len(rows) * (1 + len(columns)) :]:
        bar.set_ylabel("score / mean |score|", fontsize=7)
    return _enlarged(figure)


def curves_figure(found: Explored) -> Figure:
    """The probability as pixels appear on black, highest score first, and as they go; means over the images."""
    games = {"insertion": found.curves.probabilities, "deletion": found.deleted}
    names = _names(found)
    panels = {game: dict(zip(names, curves.numpy().swapaxes(0, 1), strict=True)) for game, curves in games.items()}
    several = f", mean of {len(found.of.images)} images" if len(found.of.images) > 1 else ""
    words = {"xlabel": "share of the pixels", "ylabel": f"probability{several}"}
    return _enlarged(plots.curves(found.curves.fractions.numpy(), panels, **words))


def numbers_table(found: Explored) -> pd.DataFrame:
    """A row for each image and rule: areas, and what the map sums to beside f(x) - f(x')."""
    inserted = found.curves.probability
    deleted = torch.trapezoid(found.deleted, found.curves.fractions)
    rows = []
    for place, (image, answer) in enumerate(zip(found.of.images, explained_classes(found), strict=True)):
        for column, (name, rule) in enumerate(zip(_names(found), found.maps, strict=True)):
            row = {"image": image, "explains": answer, "method": name}
            row |= {"insertion": f"{inserted[place, column]:.3f}", "deletion": f"{deleted[place, column]:.3f}"}
            rise = None if found.rise is None else found.rise[place]
            rows.append(row | _completeness(found.sums[rule][place], rise, promised=rule in COMPLETE))
    return pd.DataFrame(rows).set_index(["image", "explains", "method"])


def effort(found: Explored) -> str:
    """A sentence about what the walk took that all rules share."""
    images, rules = len(found.of.images), len(found.maps)
    shared = "" if rules == 1 else f", shared by {rules} rules"
    many = "1 image" if images == 1 else f"{images} images"
    return f"The walk{shared}: {found.evaluations:.0f} evaluations for each image, {found.seconds:.1f} s for {many}."


def explained_classes(found: Explored) -> list[str]:
    """The class explained of each image, with its probability."""
    named = class_name if found.classes == CLASSES else "class {}".format
    both = zip(found.of.target.tolist(), found.probability.tolist(), strict=True)
    return [f"{named(label)}, {probability:.2f}" for label, probability in both]


def _completeness(total: Tensor, rise: Tensor | None, *, promised: bool) -> dict[str, str]:
    error = "" if rise is None or rise == 0 else f"{abs(total - rise) / abs(rise):.1%}"
    return {
        "sum of the map": f"{total:.3g}",
        "f(x) − f(x′)": "not known" if rise is None else f"{rise:.3g}",
        "completeness error": error if promised else "not promised",
    }


def _enlarged(figure: Figure) -> Figure:
    """A figure for a screen, on which it is looked at from further away than on paper."""
    figure.set_size_inches(LARGER * figure.get_size_inches())
    for text in figure.findobj(Text):
        text.set_fontsize(LETTERS * text.get_fontsize())
    return figure


def _names(found: Explored) -> list[str]:
    return [method_name(found.choice.path, rule) for rule in found.maps]


def _picture(x: Tensor) -> np.ndarray:
    """An image (C, H, W) as (H, W, 3), in [0, 1]; of other numbers of channels their mean."""
    x = x if len(x) == 3 else x.mean(0, keepdim=True).expand(3, -1, -1)
    return x.permute(1, 2, 0).numpy()


def _title(text: str) -> str:
    """A text as a figure may have it: not too long, and without formulas."""
    short = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return short.replace("$", r"\$")
