"""This code beside other libraries: the same answer, images, network, number of evaluations and thread for both.

"as loaded": the network as a user of the other library has it, beside this code and what it makes of that network (see
`lib.models.fold.prepare`). "prepared": the other library is given the prepared network, too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from lib.attribution import Blur, Guided, Path, Riemann, Straight, attribute
from lib.metrics.information import information_curves
from lib.metrics.insertion import insertion
from lib.metrics.pic import pic
from lib.run.timing import Case, Sides, photographed, random_map, seconds, step_counts, timed

TOGETHER = (4, 8, 16, 32)  # batch sizes, of which a peer is given the one that suits it best
REVEALED = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.13, 0.21, 0.34, 0.5, 0.75)  # shares in PAIR's example
FLIPS = 21  # of 3 x 224 x 224 features; Quantus wants as many in each, and their number to divide 224 x 224


def at_its_best(theirs: Callable[[int], object]) -> Callable[[], object]:
    """`theirs` with the batch size of TOGETHER that takes it least time."""
    theirs(TOGETHER[0])  # warm-up
    taken = {size: seconds(partial(theirs, size)) for size in TOGETHER}
    return partial(theirs, min(taken, key=taken.get))


def captum_sides(*, steps: list[int], images: int, network: str, prepared: bool) -> Sides:
    """Integrated gradients for each number of steps: Gauss's, or for several those of one closed grid, and Captum's."""
    from captum.attr import IntegratedGradients

    (model, x, target), (other, *_) = photographed(images, network), photographed(images, network, prepared)
    theirs = IntegratedGradients(lambda points: other(points).softmax(1))

    def captum(together: int) -> list[Tensor]:
        asked = {"baselines": 0.0, "target": target, "internal_batch_size": together}
        return [theirs.attribute(x, n_steps=n, **asked) for n in steps]

    if len(steps) == 1:
        path, rules, sweep = Straight(steps[0], grid="gauss"), {"ig": Riemann("gauss")}, None
    else:
        path, rules, sweep = Straight(max(steps)), {"ig": Riemann()}, steps
    return partial(attribute, model, x, target, path=path, rules=rules, steps=sweep), at_its_best(captum)


def guided_sides(*, steps: int, images: int, prepared: bool) -> Sides:
    """Guided IG, and PAIR's, which takes one image at a time."""
    from saliency.core import GuidedIG

    model, x, target = photographed(images)
    asked = [_asked_by_pair(image, images, prepared) for image in range(images)]

    def theirs():
        with _numpy_as_it_was():
            return [GuidedIG().GetMask(each, call, x_steps=steps) for each, call in asked]

    return _left(model, x, target, Guided(steps, released=True)), theirs


def blur_sides(*, steps: int) -> Sides:
    """Blur IG of one image as PAIR defines it, and PAIR's."""
    from saliency.core import BlurIG

    image, call = _asked_by_pair(0, 1, prepared=False)
    path = Blur(steps, padding="zero", released=True)
    theirs = at_its_best(lambda together: BlurIG().GetMask(image, call, steps=steps, batch_size=together))
    return _left(*photographed(1), path), theirs


def _left(model, x: Tensor, target: Tensor, path: Path) -> Callable:
    return partial(attribute, model, x, target, path=path, rules={"map": Riemann("left")})


def _asked_by_pair(image: int, images: int, prepared: bool) -> tuple[np.ndarray, Callable]:
    """One of so many images as PAIR takes it, (H, W, C), and its way of asking a network for gradients."""
    model, x, target = photographed(images, prepared=prepared)

    def gradients(points, call_model_args, expected_keys):
        points = (
            torch.as_tensor(np.asarray(points), dtype=x.dtype, device=x.device).permute(0, 3, 1, 2).requires_grad_()
        )
        chosen = model(points).softmax(1)[:, target[image]]
        found = torch.autograd.grad(chosen.sum(), points)[0]
        return {name: found.permute(0, 2, 3, 1).cpu().numpy() for name in expected_keys}

    return x[image].permute(1, 2, 0).cpu().numpy(), gradients


@contextmanager
def _numpy_as_it_was() -> Iterator[None]:
    """What saliency 0.2.1 asks of NumPy and NumPy 2.4 no longer has: quantile's `interpolation`, and trapz."""
    quantile = np.quantile

    def old_quantile(values, q, interpolation="linear"):
        return quantile(values, q, method=interpolation)

    with patch.object(np, "quantile", old_quantile), patch.object(np, "trapz", np.trapezoid, create=True):
        yield


def pic_sides() -> Sides:
    """Both performance information curves of one map, of as many revealed images and WebP files, and PAIR's.

    PAIR computes a curve at a time; here both come from one measurement.
    """
    from saliency.metrics.pic import compute_pic_metric, generate_random_mask

    (model, x, target), (other, *_) = photographed(1), photographed(1, prepared=False)
    scores, (height, width) = random_map(x), x.shape[2:]
    pixels = (x[0] * 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    blurred = torch.nn.functional.avg_pool2d(x, 15, 1, 7, count_include_pad=False)

    @torch.no_grad()
    def logits(shown: np.ndarray) -> Tensor:
        return other(torch.from_numpy(shown).to(x).permute(0, 3, 1, 2) / 255)

    def sic(shown: np.ndarray) -> list[float]:
        return logits(shown).softmax(1)[:, target[0]].tolist()

    def aic(shown: np.ndarray) -> list[float]:
        return (logits(shown).argmax(1) == target[0]).double().tolist()

    def ours():
        found = information_curves(model, x, blurred, scores, target, points=len(REVEALED) + 2, measures=("webp",))
        return [pic(found, curve, "webp", min_probability=0) for curve in ("sic", "aic")]

    def theirs():
        with _numpy_as_it_was():
            np.random.seed(0)  # noqa: NPY002, PAIR's mask has no other
            asked = {"random_mask": generate_random_mask(height, width), "saliency_thresholds": REVEALED}
            given = pixels, scores[0, 0].cpu().numpy()
            return [compute_pic_metric(*given, pred_func=each, min_pred_value=0, **asked) for each in (sic, aic)]

    return ours, theirs


def torchcam_sides(*, steps: int, images: int, prepared: bool) -> Sides:
    """Insertion and deletion of one map of each image, and torch-cam's."""
    from torchcam.metrics import DeletionInsertionMetric

    (model, x, target), (other, *_) = photographed(images), photographed(images, prepared=prepared)
    scores = random_map(x)
    extractor = _Given(other, scores[:, 0])

    def theirs(together: int) -> dict:
        metric = DeletionInsertionMetric(extractor, partial(torch.softmax, dim=-1), steps=steps, batch_size=together)
        with torch.no_grad():
            metric.update(x, target.tolist())
        return metric.summary()

    # Deletion is insertion in the opposite order, read backwards.
    ours = partial(insertion, model, x, torch.cat([scores, -scores], 1), target, steps=steps)
    return ours, at_its_best(theirs)


class _Given(SimpleNamespace):
    """Known maps as one of torch-cam's extractors."""

    def __init__(self, model, maps: Tensor):
        super().__init__(model=model, maps=maps, _hooks_off=nullcontext)

    def __call__(self, class_idx, scores) -> list[Tensor]:
        return [self.maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]


def quantus_sides(*, images: int) -> Sides:
    """Deletion of one map of each image in FLIPS steps, and Quantus's pixel flipping."""
    from quantus import PixelFlipping

    (model, x, target), (other, *_) = photographed(images), photographed(images, prepared=False)
    scores = random_map(x)
    quiet = {"disable_warnings": True, "display_progressbar": False, "normalise": False}
    metric = PixelFlipping(features_in_step=x[0].numel() // FLIPS, **quiet)
    given = {"x_batch": x.cpu().numpy(), "y_batch": target.cpu().numpy(), "a_batch": scores.cpu().numpy()}
    device = "cuda" if x.is_cuda else "cpu"
    theirs = at_its_best(lambda together: metric(model=other, batch_size=together, device=device, **given))
    return partial(insertion, model, x, -scores, target, steps=FLIPS), theirs


def peer_cases(steps: int, images: int) -> list[Case]:
    """The cases of this code beside Captum, PAIR's saliency, torch-cam and Quantus."""
    found = []

    def add(name: str, needs: str, sides: Callable[..., Sides], *, least: float | None = None, **asked):
        found.append(Case(name, partial(timed, partial(sides, **asked)), least=least, needs=needs))

    for network, how, least in (
        ("EfficientNet-Lite0", "as loaded", 2.3),
        ("EfficientNet-Lite0", "prepared", 1.0),
        ("SqueezeNet", "as loaded", None),
        ("SqueezeNet", "prepared", 1.0),
    ):
        asked = {"steps": [steps // 2], "images": images, "network": network, "prepared": how == "prepared"}
        name = f"IG, {steps // 2} steps, {network}; {images} images; seconds against Captum, {how}"
        add(name, "captum", captum_sides, least=least, **asked)
    asked = {"steps": step_counts(steps), "images": images, "network": "EfficientNet-Lite0", "prepared": False}
    name = (
        f"IG, {len(asked['steps'])} step counts up to {steps}; {images} images; seconds against as many runs of Captum"
    )
    add(f"{name}, as loaded", "captum", captum_sides, least=4.0, **asked)
    for count, points, how, least in (
        (1, steps, "as loaded", 2.0),
        (1, steps, "prepared", None),
        (2 * images, steps // 2, "as loaded", 2.0),
    ):
        name = f"Guided IG, {points} steps; {count} images; seconds against PAIR, {how}"
        add(name, "saliency", guided_sides, least=least, steps=points, images=count, prepared=how == "prepared")
    name = f"Blur IG, {steps // 2} steps; 1 images; seconds against PAIR, as loaded"
    add(name, "saliency", blur_sides, least=3.3, steps=steps // 2)
    add("PIC (SIC and AIC) of a map; 1 images; seconds against PAIR, as loaded", "saliency", pic_sides, least=5.0)
    for how, least in (("as loaded", 1.2), ("prepared", None)):
        name = f"insertion and deletion of a map in 20 steps; {images} images; seconds against torch-cam, {how}"
        asked = {"steps": 20, "images": images, "prepared": how == "prepared"}
        add(name, "torchcam", torchcam_sides, least=least, **asked)
    name = f"deletion of a map in {FLIPS} steps; {images} images; seconds against Quantus, as loaded"
    add(name, "quantus", quantus_sides, least=3.0, images=images)
    return found
