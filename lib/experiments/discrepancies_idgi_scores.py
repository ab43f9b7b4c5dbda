"""Where metrics of the code of Singhi & Kumari (TMLR 2024) differ from insertion, AIC, SIC and stability as written."""

import io
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from lib.attacks.noise import random_sign
from lib.attribution import Riemann, Straight
from lib.attribution.blur import gaussian_blur
from lib.experiments.discrepancies_record import (
    TMLR,
    XDNN,
    Discrepancy,
    Outcome,
    Place,
    photograph_maps,
    run_or_nan,
)
from lib.experiments.subjects import Subject
from lib.metrics.information import Revealed, blurred, information_curves
from lib.metrics.insertion import Insertion
from lib.metrics.pic import exclusions, pic, pic_auc
from lib.metrics.stability import mse_l1, mse_signed
from lib.models.zoo import Network

REVEALED = 5  # images between blur and original, of which the study has 25


def _evidence(of: Subject, steps: int, measures: tuple[str, ...]) -> Revealed:
    """What the network recognises as IG's map reveals each photograph on a blurred copy."""
    maps = photograph_maps(of, Straight(steps // 2), Riemann())[:, None]
    blur = gaussian_blur(of.x, 20.0).clamp(0, 1)
    return information_curves(of.model, of.x, blur, maps, of.target, points=REVEALED, measures=measures)


def _areas(first: dict, second: dict, of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    """The areas (B,) under SIC curves by two sets of choices of `pic`, none of which leaves an image out as unsure."""
    evidence = _evidence(of, steps, tuple({first["measure"], second["measure"]}))
    asked = {"curve": "sic", "min_probability": 0.0}
    return tuple(pic(evidence, **asked, **each).auc[:, 0] for each in (first, second))


def _ramp() -> Image.Image:
    rows, columns = np.indices((64, 64))
    return Image.fromarray(np.stack([4 * rows, 4 * columns, 2 * (rows + columns)], 2).astype(np.uint8))


def _png() -> Outcome:
    """The bytes of a ramp of colours, whose lossless WebP file Pillow writes."""
    image, buffer = _ramp(), io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, quality=100)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    network = lambda shown: torch.stack([shown.mean((1, 2, 3)), 0 * shown.mean((1, 2, 3))], 1)  # noqa: E731
    found = information_curves(network, x, 0 * x, x[:, :1], 0, points=2, measures=("png", "webp")).information
    return Outcome(found["png"][0, 0, -1].item(), found["webp"][0, 0, -1].item(), float(buffer.tell()))


def _raw_msssim() -> Outcome:
    """Recognised as soon as anything is revealed, from .5 to 1: rescaled the area is 3/4, else half of that."""
    information, performance = torch.tensor([0.5, 0.75, 1.0]), torch.tensor([0.0, 1.0, 1.0])
    found = [pic_auc(information, performance, normalise=each)[1].item() for each in (False, True)]
    return Outcome(*found, 0.75)


def _joint() -> Outcome:
    """One image whose blur is classified right, at a probability of .1: no AIC, but a SIC."""
    p = torch.tensor([[[0.1, 0.9]]]).double()
    evidence = Revealed(torch.tensor([0, 4]), p, torch.ones_like(p), {"png": 100 * p})
    kept = [exclusions(evidence, "sic", "png", joint=joint).count("") for joint in (True, False)]
    return Outcome(*map(float, kept), 1.0)


def _coarse() -> Outcome:
    """Recognised at .004 of the information: a triangle of half of that is missing from 1."""
    information, performance = torch.tensor([0.0, 0.004, 1.0]), torch.tensor([0.0, 1.0, 1.0])
    found = [pic_auc(information, performance, points=points)[1].item() for points in (100, 1000)]
    return Outcome(*found, 0.998)


def _jpeg() -> Outcome:
    """How far the blurred ramp is from Pillow's blur of it, in grey levels."""
    image = _ramp()
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(2)), float)
    found = [np.asarray(blurred(image, radius=2, jpeg_quality=quality), float) for quality in (75, None)]
    return Outcome(*(float(np.abs(each - soft).mean()) for each in found), 0.0)


def _signed_sum() -> Outcome:
    """Maps (1, -.9) and (1, -.8): nearly alike, but one is divided by .1 and the other by .2."""
    a, b = torch.tensor([[[1.0, -0.9]]]), torch.tensor([[[1.0, -0.8]]])
    expected = ((1 / 1.9 - 1 / 1.8) ** 2 + (0.9 / 1.9 - 0.8 / 1.8) ** 2) / 2
    return Outcome(mse_signed(a, b).item(), mse_l1(a, b).item(), expected)


def _signed_sum_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    """Both errors of IG's map under a change of every pixel by two grey levels."""
    path, rule = Straight(steps // 2), Riemann()
    clean = photograph_maps(of, path, rule)
    noisy = random_sign(of.x, epsilon=2 / 255, images=of.images)
    other = photograph_maps(replace(of, x=noisy), path, rule)
    return mse_signed(clean, other), mse_l1(clean, other)


def _antialias() -> Outcome:
    """Every fourth column white, at a quarter of the size: a quarter of the light; without a filter, none."""
    pattern = np.zeros((64, 64), np.uint8)
    pattern[:, ::4] = 255
    network = Network("toy", nn.Identity(), 16, 16, "bilinear", (0.0,), (1.0,), "toy")
    ours = network.tensor(Image.fromarray(pattern))[0, 8, 8].item()
    tensor = torch.from_numpy(pattern)[None] / 255
    return Outcome(transforms.resize(tensor, [16], antialias=False)[0, 8, 8].item(), ours, 0.25)


def _antialias_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    """The probability of the class of each photograph, shrunk to half its size with and without a filter, and back."""

    def probability(antialias: bool) -> Tensor:
        side = of.x.shape[-1]
        small = transforms.resize(of.x, [side // 2, side // 2], antialias=antialias)
        seen = transforms.resize(small, [side, side], antialias=False).clamp(0, 1)
        with torch.no_grad():
            return of.model(seen).softmax(1).gather(1, of.target[:, None])[:, 0]

    return probability(False), probability(True)


def _trapz() -> Outcome:
    """The area under a line from 0 to 1."""
    ends = torch.tensor([0.0, 1.0])
    theirs = run_or_nan(lambda: getattr(np, "trapz")([0.0, 1.0], dx=1.0), AttributeError)  # noqa: B009
    return Outcome(theirs, Insertion(ends, ends[None, None]).probability.item(), 0.5)


RAW, RESCALED = {"measure": "msssim", "raw_msssim": True}, {"measure": "msssim"}
RECORDS = (
    Discrepancy(
        "size of a PNG file",
        Place(TMLR, "metrics.py", 69),
        "pil_image.save(buffer, format='png', lossless=True)",
        "measures entropy by a PNG file, of which `lossless` says nothing; its forerunner's is a lossless WebP file",
        "measure as the metric's authors do, or say that it does not",
        "bytes of a ramp of colours",
        'information_curves(measures="png"); information_curves(measures="webp")',
        _png,
        partial(_areas, {"measure": "png"}, {"measure": "webp"}),
    ),
    Discrepancy(
        "MS-SSIM as it is",
        Place(TMLR, "metrics.py", 215),
        "normalized_entropy = normalized_mssims[i]",
        "takes MS-SSIM for information without rescaling it, so that curves stay 0 up to the blurred image's MS-SSIM",
        "rescale it from the blurred image to the original, as entropy is",
        "area under an information curve",
        "pic(raw_msssim=True); pic()",
        _raw_msssim,
        partial(_areas, RAW, RESCALED),
    ),
    Discrepancy(
        "joint exclusion",
        Place(TMLR, "script_pic.py", 53),
        "curve_y_compression_aic = compute_pic_metric(repeated_images[i], pred_accs[i], bokeh_images[i], …)",
        "computes both curves in one `try`: an image without AIC, whose blur is classified right, leaves SIC, too",
        "leave an image out of the curve that cannot be drawn",
        "images that SIC keeps, of one",
        "exclusions(joint=True); exclusions()",
        _joint,
        also=(Place(TMLR, "script_pic.py", 57),),
    ),
    Discrepancy(
        "a hundred points",
        Place(TMLR, "metrics.py", 101),
        "num_data_points: int = 100,",
        "draws curves on a grid of 100 points and sets the last to 1",
        "draw them on 1000, as the metric's authors do",
        "area under an information curve",
        "pic(points=100); pic(points=1000)",
        _coarse,
        partial(_areas, RESCALED | {"points": 100}, RESCALED | {"points": 1000}),
    ),
    Discrepancy(
        "JPEG of the blur",
        Place(TMLR, "blur.py", 16),
        "blurred_img.save(os.path.join(output_dir, image_file))",
        "stores blurred images as JPEG of quality 75, which puts blocks where there were none",
        "keep them as they are",
        "mean distance from the blurred image, in grey levels",
        "blurred(jpeg_quality=75); blurred(jpeg_quality=None)",
        _jpeg,
    ),
    Discrepancy(
        "division by the signed sum",
        Place(TMLR, "script_lossy.py", 68),
        "ig_clean /= ig_clean.sum((1,2), keepdims=True)",
        "divides maps by their signed sums before it compares them, which can be nearly nothing for IG",
        "divide by the sum of absolute values",
        "mean squared error of two maps that are nearly alike",
        "mse_signed; mse_l1",
        _signed_sum,
        _signed_sum_moves,
    ),
    Discrepancy(
        "smoothing left to the version",
        Place(TMLR, "utils.py", 66),
        "transforms.Resize(232),",
        "shrinks tensors, which torchvision filters first from version 0.17 on and did not before; no version is named",
        "say whether to filter",
        "grey of a quarter of white columns, at a quarter of the size",
        "resize(antialias=False); Network.tensor",
        _antialias,
        _antialias_moves,
        also=(Place(TMLR, "utils.py", 72), Place(TMLR, "utils.py", 78)),
    ),
    Discrepancy(
        "numpy.trapz",
        Place(TMLR, "metrics.py", 283),
        "auc = np.trapz(aggr_curve_y, curve_x)",
        "calls a function that numpy 2.4 no longer has, and stops there",
        "call `trapezoid`",
        "area under a line from 0 to 1",
        "numpy as installed; Insertion.probability",
        _trapz,
        also=(Place(XDNN, "imagenet/attribution_metrics.py", 334),),
    ),
)
