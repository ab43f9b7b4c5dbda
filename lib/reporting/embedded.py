"""Figures inside the page: as base64 of a WebP, with what their notebooks say of them."""

import base64
import io
from functools import lru_cache

from markupsafe import Markup
from PIL import Image

from lib.reporting.plots.names import NAMES, named
from lib.reporting.rendered import Caption


def figure_entry(name: str, content: bytes, caption: Caption | None) -> dict:
    """A figure with its image and caption; where its notebook says nothing of it, its name serves.

    name: <notebook>-<what>; content: of its PNG or JPEG
    """
    notebook, _, what = name.partition("-")
    what = ", ".join(in_plain_words(part) for part in what.split("-"))
    said = {"title": caption.title, "text": Markup(caption.text), "cell": caption.cell} if caption else {"title": what}
    return {"name": name, "notebook": notebook, "what": what, **said, "image": embedded(content)}


def in_plain_words(part: str) -> str:
    """A part of a figure's name, with the key of a network, metric or data set at its end spelled out.

    >>> in_plain_words("curves_squeezenet1_1"), in_plain_words("table2")
    ('curves, SqueezeNet', 'table2')
    """
    ends = [key for key in NAMES if part.endswith(f"_{key}") or part == key]
    key = max(ends, key=len, default="")
    return ", ".join(filter(None, [part.removesuffix(key).strip("_").replace("_", " "), named(key)]))


@lru_cache(maxsize=256)
def embedded(picture: bytes, crop: tuple[int, ...] = ()) -> dict:
    """A figure as base64 of a WebP, which takes less room; kept, because the next page has it again.

    A drawing, which is a PNG, loses nothing; a figure with photographs is a JPEG, which has lost something before.

    crop: the part that is shown, (left, top, right, bottom) in pixels; the whole figure where it is not given
    returns: data, and width and height in pixels
    """
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as figure:
        box = (*crop[:2], min(crop[2], figure.width), min(crop[3], figure.height)) if crop else None
        shown, drawn = figure.convert("RGB").crop(box), figure.format == "PNG"
        shown.save(buffer, "WEBP", quality=75, lossless=drawn, method=6)
    return {"data": base64.b64encode(buffer.getvalue()).decode(), "width": shown.width, "height": shown.height}
