"""Performance information curves (PIC): what the network recognises against how much it is shown."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy
import torch
from PIL import Image, ImageFilter
from pytorch_msssim import ms_ssim
from torch import Tensor

from lib import InputError
from lib.metrics.insertion import pixel_order, probability_and_hit, refuse_outside_unit_interval, reveal, reveal_counts
from lib.metrics.stability import jpeg

CODECS = {"png": {"format": "PNG"}, "webp": {"format": "WEBP", "lossless": True, "quality": 100}}
MEASURES = (*CODECS, "msssim")
CURVES = ("sic", "aic")


@dataclass(frozen=True)
class Revealed:
    """What was measured while each map revealed its image, from fully blurred to original.

    counts (P,): pixels revealed; probability, correct (B, M, P): the target's softmax probability, and 1
    where it is the predicted class; information[measure] (B, M, P): bytes of the file ("png", "webp") or
    MS-SSIM to the original in [0, 1].
    All but counts are float64; all are on the CPU.
    """

    counts: Tensor
    probability: Tensor
    correct: Tensor
    information: dict[str, Tensor]


@dataclass(frozen=True)
class PIC:
    """Performance against information, for each of B images and M maps; NaN where the image is excluded.

    grid (G+1,): normalised information 0..1; curve (B, M, G+1); auc (B, M); excluded (B): why an image is
    left out, "" where it is kept (see `exclusions`).
    """

    grid: Tensor
    curve: Tensor
    auc: Tensor
    excluded: tuple[str, ...]


def blurred(image: Image.Image, *, radius: float = 20, jpeg_quality: int | None = 75) -> Image.Image:
    """The image without its details: Gaussian blur of `radius` pixels of the original resolution.

    Pillow's blur is three box blurs. The TMLR code stores the result as JPEG of quality 75 (blur.py:16); None
    leaves this out. PAIR instead interpolates from a random 1 % of the pixels.
    """
    soft = image.filter(ImageFilter.GaussianBlur(radius))
    return soft if jpeg_quality is None else jpeg(soft, quality=jpeg_quality)


@torch.no_grad()
def information_curves(
    model,
    x: Tensor,
    blurred: Tensor,
    ranking: Tensor,
    target: Tensor,
    *,
    points: int = 25,
    measures: tuple[str, ...] = ("png", "msssim"),
    batch: int | None = None,
) -> Revealed:
    """Reveal the original on the blurred image, highest score first; measure prediction and information.

    Image i shows x on the floor(i H W / (P-1)) highest pixels and `blurred` elsewhere, i = 0..P-1
    (Kapishnikov et al., ICCV 2019, as in Singhi & Kumari, TMLR 2024).

    x, blurred (B, C, H, W) in [0, 1]; ranking (B, M, H, W); target (B,). Measures: "png", "webp": bytes of
    the lossless file of the 8-bit image floor(255 x); "msssim": MS-SSIM to the original. Costs (P-2) M + 2
    forward passes and encodings per image; files are encoded in threads.
    Raises InputError as `insertion` does, for unknown measures, and for "msssim" of sides up to 160 pixels.
    Differs from the released code: ties are broken by position, and both curves share one measurement.
    """
    _refuse_unknown("measure", measures, MEASURES)
    if blurred.shape != x.shape:
        raise InputError(f"blurred has shape {tuple(blurred.shape)}; give the shape of x, {tuple(x.shape)}")
    if points < 2:
        raise InputError(f"points is {points}; give 2 or more (25 in the paper)")
    if "msssim" in measures and min(x.shape[-2:]) <= 160:
        raise InputError(
            f"MS-SSIM needs sides above 160 pixels, these images have {tuple(x.shape[-2:])}; "
            "give measures=('png',) or larger images"
        )
    refuse_outside_unit_interval("blurred", blurred)
    order = pixel_order(x, ranking, target)
    counts = reveal_counts(x.shape[-2:].numel(), points - 1)
    target, blurred = target.to(x.device), blurred.to(x)
    with ThreadPoolExecutor(os.cpu_count()) as threads:

        def evaluate(images: Tensor, rows: Tensor) -> Tensor:
            amounts = [_amount(measure, images, x[rows], threads) for measure in measures]
            return torch.cat([probability_and_hit(model, images, target[rows]), *amounts], 1)

        table = reveal(evaluate, x, blurred, order, counts, batch=batch)
    probability, correct, *amounts = table.unbind(3)
    return Revealed(counts, probability, correct, dict(zip(measures, amounts, strict=True)))


def exclusions(
    evidence: Revealed, curve: str, measure: str, *, joint: bool = False, min_probability: float = 0.8
) -> tuple[str, ...]:
    """Why each image is left out of a curve ("" where it is kept); the first of these reasons that applies.

    SIC: "unsure": p(original) < min_probability; "blur as large": the blurred image holds no less
    information than the original; "blur as probable": p(blurred) >= p(original).
    AIC: "misclassified": the original is; "blur as large"; "blur recognised": the blurred image is classified
    correctly.
    joint: an image excluded from one curve leaves the other too, as in the TMLR code (script_pic.py:51-66).
    """
    _refuse_unknown("curve", (curve,), CURVES)
    _refuse_unknown("measure", (measure,), evidence.information)
    ends = slice(None, None, len(evidence.counts) - 1)  # the first and last image are the same for every map
    p, correct, amount = (
        values[:, 0, ends].unbind(1)
        for values in (evidence.probability, evidence.correct, evidence.information[measure])
    )
    large = ("blur as large", amount[0] >= amount[1])
    rules = {
        "sic": [("unsure", p[1] < min_probability), large, ("blur as probable", p[0] >= p[1])],
        "aic": [("misclassified", correct[1] == 0), large, ("blur recognised", correct[0] == 1)],
    }
    applied = rules[curve]
    if joint:
        applied = applied + rules["aic" if curve == "sic" else "sic"]
    return tuple(next((reason for reason, applies in applied if applies[image]), "") for image in range(len(p[0])))


def pic(
    evidence: Revealed,
    curve: str,
    measure: str,
    *,
    joint: bool = False,
    raw_msssim: bool = False,
    points: int = 1000,
    min_probability: float = 0.8,
) -> PIC:
    """One performance information curve per image and map: curve "sic" (softmax) or "aic" (accuracy).

    See `pic_auc` for the curve and `exclusions` for the images left out.
    Differs from the released code, which is joint=True, raw_msssim=True, points=100: there MS-SSIM is not
    rescaled (metrics.py:215), so that the curve stays 0 up to the MS-SSIM of the blurred image.
    """
    excluded = exclusions(evidence, curve, measure, joint=joint, min_probability=min_probability)
    performance = evidence.probability if curve == "sic" else evidence.correct
    normalise = not (raw_msssim and measure == "msssim")
    curves, auc = pic_auc(evidence.information[measure], performance, normalise=normalise, points=points)
    kept = torch.tensor([not reason for reason in excluded])[:, None]
    return PIC(_grid(points), curves.where(kept[..., None], torch.nan), auc.where(kept, torch.nan), excluded)


def pic_auc(
    information: Tensor, performance: Tensor, *, normalise: bool = True, points: int = 1000
) -> tuple[Tensor, Tensor]:
    """Curve (..., G+1) and area (...) of performance against information, both (..., P) as revealed.

    u = clip((e - e_0) / (e_last - e_0), 0, 1); v = running max of clip((p - p_0) / (p_last - p_0), 0, 1);
    (0, 0) is added, the original lies at (1, 1); linear interpolation over u at 0, 1/G, ..., 1; trapezoid
    area. normalise=False takes information in [0, 1], 1 for the original, as u. NaN where the original holds
    no more of either than the blurred image.

    The running maximum follows the order of revealing and the interpolation that of u (PAIR saliency 0.2.1,
    metrics/pic.py), so the curve can fall where information does. Of equal u, the last one interpolates to
    the right.
    """
    u, usable = _rescaled(information) if normalise else (information, torch.tensor(True))
    v, rises = _rescaled(performance)
    u, v = u.double().clamp(0, 1), v.clamp(0, 1).cummax(-1).values
    # Added at the end, so that it is the last, and the one that counts, of the points at u = 0.
    u, v = (torch.cat([values, torch.zeros_like(values[..., :1])], -1) for values in (u, v))
    u, by_information = u.sort(dim=-1, stable=True)
    v = v.gather(-1, by_information)
    grid = _grid(points)
    rows = zip(*(values.reshape(-1, values.shape[-1]).numpy() for values in (u, v)), strict=True)
    curves = [numpy.interp(grid.numpy(), *row) for row in rows]
    curve = torch.from_numpy(numpy.stack(curves)).view(*u.shape[:-1], -1)
    curve = curve.where((usable & rises)[..., None], torch.nan)
    return curve, torch.trapezoid(curve, grid)


def aggregate_curves(curves: Tensor, how: str) -> tuple[Tensor, Tensor]:
    """Pointwise "median" (SIC) or "mean" (AIC, as released) over images: (N, G+1) -> (G+1,), and its area ().

    Excluded images (NaN) are left out; NaN where none is left. The median of an even number is the midpoint.
    """
    _refuse_unknown("aggregate", (how,), ("median", "mean"))
    kept = curves[~curves.isnan().any(1)]
    if not len(kept):
        curve = curves.new_full(curves.shape[1:], torch.nan)
    else:
        curve = kept.quantile(0.5, dim=0) if how == "median" else kept.mean(0)
    return curve, torch.trapezoid(curve, _grid(curves.shape[1] - 1))


def _grid(points: int) -> Tensor:
    return torch.arange(points + 1, dtype=torch.float64) / points


def _rescaled(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values (..., P) on the way from the first (0) to the last (1), and whether the last is larger (...)."""
    values = values.double()
    first, last = values[..., :1], values[..., -1:]
    return (values - first) / (last - first), (last > first)[..., 0]


def _amount(measure: str, images: Tensor, originals: Tensor, threads: ThreadPoolExecutor) -> Tensor:
    """Information in each image: (N, C, H, W) -> (N, 1), on the images' device."""
    if measure == "msssim":
        # Channels last: its depthwise convolutions are then some ten times faster on a CPU.
        pair = (each.contiguous(memory_format=torch.channels_last) for each in (images, originals))
        return ms_ssim(*pair, data_range=1, size_average=False)[:, None]
    pixels = (images * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    sizes = threads.map(lambda image: _bytes(image, **CODECS[measure]), pixels)
    return torch.tensor(list(sizes), dtype=images.dtype, device=images.device)[:, None]


def _bytes(pixels: numpy.ndarray, **codec) -> int:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **codec)
    return buffer.tell()


def _refuse_unknown(what: str, given, allowed) -> None:
    unknown = [name for name in given if name not in allowed]
    if unknown:
        raise InputError(f"{what} {unknown[0]!r} is unknown; choose from {', '.join(allowed)}")
