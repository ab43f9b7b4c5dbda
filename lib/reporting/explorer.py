"""The explorer: widgets that choose images, a network, a path and rules, and show maps, curves and numbers.

What is computed is computed in a thread, so that the kernel answers meanwhile, and Cancel is heard.
"""

import contextlib
import io
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from html import escape
from pathlib import Path

import ipywidgets as widgets
from PIL import Image, ImageOps

from lib import InputError
from lib.attribution.gate import OBJECTIVES
from lib.data.image_files import BYTES, decode
from lib.data.imagenet import class_name, load_image, photographs
from lib.data.readability import readable
from lib.experiments.cross_paths import PATHS
from lib.experiments.exploration import EVERY, Choice, Explored, explored, subject_of
from lib.experiments.subjects import Subject, network_named
from lib.models.recipes import NETWORKS
from lib.models.zoo import Network
from lib.reporting import plots
from lib.reporting.explorer_figures import curves_figure, effort, maps_figure, numbers_table

RULES = ("riemann", "idgi", "recalibrated_point", "recalibrated_reference", "squared_gradient")
PACKAGED = tuple(name for name, recipe in NETWORKS.items() if not recipe.weights.startswith("https:"))
REFERENCES = ("black", "white", "blurred")
SHOWN = 40  # photographs of a folder, evenly spaced
SMALL, MANY = 88, 12  # pixels a side of the small pictures of what is chosen, and how many of them
NATURAL = {"max_width": "100%", "align_self": "flex-start", "flex": "none"}  # of pictures, which are not stretched
ANSWERS = ("first", "second", "third", "fourth", "fifth")


class Cancelled(Exception):
    """Raised inside of a computation that is no longer wanted."""


class Explorer(widgets.VBox):
    """Choices above, results below; the last line of a cell, or display(Explorer(...)), shows it.

    networks  {name: network} of one's own, beside the packaged ones
    images    "packaged", or a folder of ImageNet photographs
    cache     a folder for what is made once
    chosen    what is chosen at first: fields of `lib.experiments.exploration.Choice`

    `start` does what the button Compute does, and returns the thread that computes; `found` holds the last results.
    """

    def __init__(
        self, networks: Mapping[str, Network] | None = None, *, images: str = "packaged", cache: Path, **chosen
    ):
        self.own, self.cache, self.first = dict(networks or {}), cache, Choice(**chosen)
        self.images: dict[str, Callable[[], Image.Image]] = {
            f"{class_name(photo.label)} ({photo.id})": partial(load_image, photo)
            for photo in readable(photographs(images, SHOWN), cache=cache)
        }
        self.packaged = dict(self.images)
        self.pools: dict[str, Subject] = {}  # of each network, the photographs that references are drawn from
        self.found: Explored | None = None
        self.thread: threading.Thread | None = None
        self.stop = threading.Event()
        super().__init__(self._choices() + self._results())

    def _choices(self) -> list[widgets.Widget]:
        first, names = self.first, [*self.own, *PACKAGED]
        wide, style = widgets.Layout(width="22em"), {"description_width": "6em"}
        rows = widgets.Layout(width="30em", height="9em")
        look = {"layout": wide, "style": style}

        def dropdown(label: str, options, value) -> widgets.Dropdown:
            return widgets.Dropdown(description=label, options=options, value=value, **look)

        listed = list(self.images)
        picked = {"options": listed, "value": listed[:1], "description": "images", "layout": rows, "style": style}
        self.picked = widgets.SelectMultiple(**picked)
        self.upload = widgets.FileUpload(accept="image/*", multiple=True, description="Upload images")
        self.network = dropdown("network", [(plots.named(name), name) for name in names], names[0])
        self.path = dropdown("path", [(plots.named(name), name) for name in PATHS], first.path)
        self.reference = dropdown("reference", REFERENCES, first.reference)
        self.objective = dropdown("objective", OBJECTIVES, first.objective)
        self.answer = dropdown("explains", [(f"the {w} answer", n) for n, w in enumerate(ANSWERS, 1)], first.answer)
        listed = {"options": [(plots.named(rule), rule) for rule in RULES], "value": first.rules}
        self.rules = widgets.SelectMultiple(description="rules", **listed, layout=rows, style=style)
        ends = {"min": 2 * EVERY, "max": 256, "step": EVERY, "value": first.steps, "continuous_update": False}
        self.steps = widgets.IntSlider(description="steps", **ends, **look)
        self.small = widgets.Image(format="png", layout=widgets.Layout(**NATURAL))
        self.picked.observe(self._preview, "value")
        self.upload.observe(self._take, "value")
        self._preview()
        sides = [[self.network, self.path, self.reference], [self.steps, self.objective, self.answer]]
        settings = [widgets.VBox(side) for side in sides]
        return [widgets.HBox([self.picked, self.rules]), self.small, self.upload, widgets.HBox(settings)]

    def _results(self) -> list[widgets.Widget]:
        self.compute = widgets.Button(description="Compute", button_style="primary")
        self.cancel = widgets.Button(description="Cancel", disabled=True)
        self.bar = widgets.FloatProgress(min=0, max=1)
        self.left, self.said = widgets.Label(), widgets.HTML("Choose, then press <b>Compute</b>.")
        self.maps, self.curves, self.numbers = widgets.Image(), widgets.Image(), widgets.HTML()
        for picture in (self.maps, self.curves):
            picture.layout = widgets.Layout(**NATURAL, display="none")
        self.compute.on_click(self.start)
        self.cancel.on_click(lambda _: self.stop.set())
        buttons = widgets.HBox([self.compute, self.cancel, self.bar, self.left])
        return [buttons, self.said, self.maps, self.numbers, self.curves]

    def say(self, sentence: str) -> None:
        """Show a sentence below the buttons, as it is."""
        self.said.value = escape(sentence)

    def choice(self) -> Choice:
        """What is chosen now."""
        names = ("path", "steps", "objective", "reference", "answer")
        chosen = {name: getattr(self, name).value for name in names}
        return Choice(rules=tuple(self.rules.value), curve=self.first.curve, **chosen)

    def start(self, _=None) -> threading.Thread:
        """Compute what is chosen, in a thread of its own; while one computes, no other is begun."""
        if self.thread is not None and self.thread.is_alive():
            return self.thread
        self.stop.clear()
        self.compute.disabled, self.cancel.disabled, self.bar.value, self.left.value = True, False, 0.0, ""
        self.say("Computing …")
        asked = self.network.value, tuple(self.picked.value), self.choice()
        self.thread = threading.Thread(target=self._compute, args=asked, daemon=True)
        self.thread.start()
        return self.thread

    def _compute(self, network: str, picked: tuple[str, ...], choice: Choice) -> None:
        begun = time.monotonic()
        try:
            of = self._subject(network, {name: self.images[name] for name in picked})
            found = explored(of, choice, partial(self._announce, begun), cache=self.cache)
            self._announce(begun, 1.0)
            self._show(found)
            self.found = found
            self.say(f"Done in {time.monotonic() - begun:.1f} s.")
        except Cancelled:
            before = "The results below are the last complete ones." if self.found else "There are no results yet."
            self.say(f"Cancelled at {self.bar.value:.0%}. {before}")
        except InputError as error:
            self.say(str(error))
        except Exception as error:  # nobody else would see it: it is raised in a thread
            self.say(f"This failed: {type(error).__name__}: {error}")
        finally:
            self.left.value = ""
            self.compute.disabled, self.cancel.disabled = False, True

    def _subject(self, name: str, images: Mapping[str, Callable[[], Image.Image]]) -> Subject:
        network = self.own.get(name) or network_named(name, "")
        if name not in self.pools:
            self.pools[name] = subject_of(network, self.packaged)
        return subject_of(network, images, self.pools[name])

    def _announce(self, begun: float, share: float) -> None:
        """Show how far it is; raise Cancelled where it is no longer wanted."""
        if self.stop.is_set():
            raise Cancelled
        self.bar.value = share
        spent = time.monotonic() - begun
        self.left.value = f"{share:.0%}, {spent * (1 - share) / share:.0f} s left" if share > 0.05 else f"{share:.0%}"

    def _show(self, found: Explored) -> None:
        for widget, figure in ((self.maps, maps_figure(found)), (self.curves, curves_figure(found))):
            shown = plots.show(figure)
            widget.format, widget.value, widget.layout.display = shown.format, shown.data, None
        table = numbers_table(found).to_html(border=0)
        self.numbers.value = f'<div class="jp-RenderedHTMLCommon"><p>{effort(found)}</p>{table}</div>'

    def _preview(self, _=None) -> None:
        """Show small pictures of the images that are chosen."""
        chosen, content = self.picked.value[:MANY], io.BytesIO()
        sheet = Image.new("RGB", (max(1, len(chosen)) * (SMALL + 4), SMALL), "white")
        for place, name in enumerate(chosen):
            sheet.paste(ImageOps.fit(self.images[name]().convert("RGB"), (SMALL, SMALL)), (place * (SMALL + 4), 0))
        sheet.save(content, "PNG")
        self.small.value, self.small.layout.display = content.getvalue(), None if chosen else "none"

    def _take(self, change: Mapping) -> None:
        """Add the images that were uploaded to those that can be chosen, and choose them; refuse the others."""
        if not change["new"]:
            return
        taken, refused, before = [], [], self.picked.value
        for file in change["new"]:
            try:
                image = uploaded(bytes(file["content"]))
                self.images[file["name"]] = partial(Image.Image.copy, image)
                taken.append(file["name"])
            except InputError as error:
                refused.append(f"{file['name']} cannot be used: {error}.")
        self.picked.options = list(self.images)
        self.picked.value = taken or before
        said = f"Added and chosen: {', '.join(taken)}." if taken else ""
        self.say(" ".join([*refused, said]).strip())
        self.upload.value = ()


def uploaded(content: bytes) -> Image.Image:
    """The image in a file of one's own, in RGB, turned upright as the camera that took it says.

    Raises InputError, with the reason alone, for what `lib.data.image_files.decode` refuses, and for too many bytes.

    >>> uploaded(b"a text")
    Traceback (most recent call last):
    lib.InputError: it is not an image in any of JPEG, PNG, WEBP, GIF, BMP
    """
    if len(content) > BYTES:
        raise InputError(f"it has {len(content):,} bytes, and {BYTES:,} are allowed")
    try:
        image = decode(content)
    except MemoryError as error:
        raise InputError("it does not fit into memory") from error
    with contextlib.suppress(Exception):  # an orientation that is damaged; Pillow raises several kinds
        image = ImageOps.exif_transpose(image)
    return image
