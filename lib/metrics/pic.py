"""Performance information curves (PIC): what the network recognises against how much it is shown."""

from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from lib import InputError, nearest
from lib.attribution.arguments import whole_number
from lib.metrics.information import Revealed

CURVES = ("sic", "aic")


@dataclass(frozen=True)
class PIC:
    """Performance against information, for each of B images and M maps; NaN where the image is excluded.

    grid (G+1,): normalised information 0..1; curve (B, M, G+1); auc (B, M); excluded (B): why an image is
    left out, "" where it is kept (see `exclusions`).

    >>> PIC(torch.tensor([0.0, 1.0]), torch.tensor([[[0.0, 1.0]]]), torch.tensor([[0.5]]), ("",)).auc
    tensor([[0.5000]])
    """

    grid: Tensor
    curve: Tensor
    auc: Tensor
    excluded: tuple[str, ...]


def exclusions(
    evidence: Revealed, curve: str, measure: str, *, joint: bool = False, min_probability: float = 0.8
) -> tuple[str, ...]:
    """Why each image is left out of a curve ("" where it is kept), (B,); the first of these reasons that applies.

    SIC: "unsure": p(original) < min_probability; "blur as large": the blurred image holds no less
    information than the original; "blur as probable": p(blurred) >= p(original).
    AIC: "misclassified": the original is; "blur as large"; "blur recognised": the blurred image is classified
    correctly.
    joint: an image excluded from one curve leaves the other too, as in the TMLR code (script_pic.py:51-66).
    Raises InputError for another curve, and a measure that `evidence` does not have.

    >>> p, size = torch.tensor([[[0.1, 0.7]]]).double(), torch.tensor([[[100.0, 200.0]]]).double()
    >>> exclusions(Revealed(torch.tensor([0, 4]), p, p.round(), {"png": size}), "sic", "png")
    ('unsure',)
    """
    _refuse_unknown("curve", curve, CURVES)
    _refuse_unknown("measure", measure, evidence.information)
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
    Raises InputError as `exclusions` and `pic_auc`.

    >>> p, size = torch.tensor([[[0.1, 0.9]]]).double(), torch.tensor([[[100.0, 200.0]]]).double()
    >>> pic(Revealed(torch.tensor([0, 4]), p, p.round(), {"png": size}), "sic", "png").auc
    tensor([[0.5000]], dtype=torch.float64)
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
    the right. Raises InputError unless the two are finite, of one shape, and of two or more points.

    >>> pic_auc(torch.tensor([100.0, 150.0, 200.0]), torch.tensor([0.1, 0.9, 0.9]))[1]
    tensor(0.7500, dtype=torch.float64)
    """
    points = whole_number(points, "points")
    finite = bool(information.isfinite().all() and performance.isfinite().all())
    if information.shape != performance.shape or information.shape[-1] < 2 or not finite:
        raise InputError(
            f"information has shape {tuple(information.shape)}, performance {tuple(performance.shape)}; give two equal "
            "ones (..., P) of finite numbers, two points or more"
        )
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
    Raises InputError for another way.

    >>> aggregate_curves(torch.tensor([[0.0, 0.5, 1.0], [0.0, 1.0, 1.0]]).double(), "mean")[0]
    tensor([0.0000, 0.7500, 1.0000], dtype=torch.float64)
    """
    _refuse_unknown("aggregate", how, ("median", "mean"))
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


def _refuse_unknown(what: str, given, allowed) -> None:
    if given not in allowed:
        raise InputError(f"{what} {given!r} is unknown; {nearest(given, allowed)}")
