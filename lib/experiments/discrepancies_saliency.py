"""Where PAIR's `saliency`, as installed, differs from IG, Blur IG, Guided IG and information curves as written."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from lib.attribution import Blur, Guided, Lines, Riemann, Straight
from lib.attribution.references import Single
from lib.experiments.discrepancies_blur import dot_image
from lib.experiments.discrepancies_record import (
    SALIENCY,
    Discrepancy,
    Outcome,
    Place,
    photograph_maps,
    run_or_nan,
    total,
)
from lib.experiments.subjects import Subject
from lib.metrics.pic import aggregate_curves

TWO, ENDS = torch.ones(1, 1, 1, 2), torch.tensor([0.0, 1.0])


def _gradients(gradient):
    """A model of PAIR's saliency with this gradient, a function of points (N, H, W, C)."""
    from saliency.core import INPUT_OUTPUT_GRADIENTS

    return lambda points, call_model_args=None, expected_keys=None: {
        INPUT_OUTPUT_GRADIENTS: gradient(np.asarray(points, float))
    }


def _equal_weights() -> Outcome:
    """f = (2a)^3 + (2b)^3 rises by 16; ten equal weights on a grid with both ends give 16.89."""
    from saliency.core import IntegratedGradients

    theirs = IntegratedGradients().GetMask(np.ones((1, 2, 1)), _gradients(lambda x: 24 * x**2), x_steps=10).sum()
    ours = total(lambda v: (8 * v**3).sum(1), TWO, Straight(10, grid="gauss"), Riemann("gauss"))
    return Outcome(float(theirs), ours, 16.0)


def _equal_weights_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    released = photograph_maps(of, Lines(Single(), steps // 2, "linspace"), Riemann("mean"))
    return released, photograph_maps(of, Straight(steps // 2), Riemann())


def _square_root() -> Outcome:
    """Blur IG of a linear f by widths sqrt(i), i = 0 ... 10: in batches of ten and one by one, and by its formula."""
    from saliency.core import BlurIG

    image, weights = (np.random.RandomState(seed).rand(16, 16, 1) for seed in (1, 0))
    model = _gradients(lambda x: np.broadcast_to(weights, x.shape))
    asked = {"max_sigma": 10, "steps": 10, "sqrt": True}
    batched, single = (BlurIG().GetMask(image, model, batch_size=size, **asked).sum() for size in (10, 1))

    def blur(sigma: float) -> np.ndarray:
        return gaussian_filter(image, [sigma, sigma, 0], mode="constant") if sigma else image

    widths = np.sqrt(np.arange(11.0))
    rates = [(weights * (blur(width + 0.01) - blur(width))).sum() / 0.01 for width in widths[:-1]]
    return Outcome(float(batched), float(single), float(-(np.diff(widths) * rates).sum()))


def _first_blur() -> Outcome:
    """f = the middle of a dot falls from 1 to what one blur of sigma = 2 leaves; here by SciPy."""
    from saliency.core import BlurIG

    image = dot_image()[0].permute(1, 2, 0).double().numpy()
    model = _gradients(lambda x: np.broadcast_to(image, x.shape))  # 1 in the middle
    theirs = BlurIG().GetMask(image, model, max_sigma=2, steps=1).sum()
    middle = 33 * 16 + 16
    ours = total(lambda v: v[:, middle], dot_image(), Blur(1, sigma_max=2.0, padding="zero"), Riemann())
    left = gaussian_filter(image[..., 0], 2, mode="constant")[16, 16]
    return Outcome(float(theirs), ours, 1 - float(left))


def _guided() -> Outcome:
    """f = 3a + 4b rises by 7."""
    from saliency.core import GuidedIG

    model = _gradients(lambda x: np.array([3.0, 4.0]).reshape(1, 1, 2, 1) * np.ones_like(x))
    theirs = run_or_nan(lambda: GuidedIG().GetMask(np.ones((1, 2, 1)), model, x_steps=4).sum(), TypeError)
    ours = total(lambda v: 3 * v[:, 0] + 4 * v[:, 1], TWO, Guided(4), Riemann("left"))
    return Outcome(theirs, ours, 7.0)


def _aggregated() -> Outcome:
    """The area under the mean of two information curves, both a line from 0 to 1."""
    from saliency.metrics import pic

    curve = {"curve_x": ENDS.numpy(), "curve_y": ENDS.numpy(), "auc": 0.5}
    result = pic.PicMetricResult(**curve, blurred_images=[], predictions=[], thresholds=[])
    theirs = run_or_nan(lambda: pic.aggregate_individual_pic_results([result] * 2, "mean").auc, AttributeError)
    return Outcome(theirs, aggregate_curves(ENDS.expand(2, 2).double(), "mean")[1].item(), 0.5)


RECORDS = (
    Discrepancy(
        "both ends with full weight",
        Place(SALIENCY, "saliency/core/integrated_gradients.py", 68),
        "for alpha in np.linspace(0, 1, x_steps):",
        "gives all nodes from 0 to 1, both ends among them, the same weight: neither trapezoid nor midpoints",
        "halve the ends' weights, or take midpoints",
        "sum of IG's map at 10 nodes where f rises by 16",
        "saliency as installed; Straight(10, grid='gauss')",
        _equal_weights,
        _equal_weights_moves,
        tolerance=1e-4,
    ),
    Discrepancy(
        "one width for a whole batch",
        Place(SALIENCY, "saliency/core/blur_ig.py", 118),
        "step_vector_diff[i] *",
        "multiplies all steps of a batch by the width of the last one, wrong where widths differ (`sqrt=True`)",
        "give each step its own",
        "sum of Blur IG's map, widths by square roots",
        "saliency as installed, batch_size=10; batch_size=1",
        _square_root,
    ),
    Discrepancy(
        "the first blur is no blur",
        Place(SALIENCY, "saliency/core/blur_ig.py", 103),
        "gaussian_gradient = (gaussian_blur(x_value, sigmas[i] + grad_step)",
        "takes the rate of change from 0 to 0.01 pixels of blur, where kernels are single pixels: nothing changes",
        "take the difference of neighbouring blurs",
        "sum of Blur IG's map at 1 step",
        "saliency as installed; Blur(padding='zero')",
        _first_blur,
    ),
    Discrepancy(
        "Guided IG on numpy 2.4",
        Place(SALIENCY, "saliency/core/guided_ig.py", 145),
        "threshold = np.quantile(np.abs(grad), fraction, interpolation='lower')",
        "names an argument that numpy 2.4 no longer has, and stops",
        "say `method='lower'`",
        "sum of Guided IG's map where f rises by 7",
        "saliency as installed; Guided()",
        _guided,
    ),
    Discrepancy(
        "information curves on numpy 2.4",
        Place(SALIENCY, "saliency/metrics/pic.py", 428),
        "auc = np.trapz(aggr_curve_y, curve_xs[0])",
        "calls a function that numpy 2.4 no longer has, and stops",
        "call `trapezoid`",
        "area under the mean of two lines from 0 to 1",
        "saliency as installed; aggregate_curves()",
        _aggregated,
        also=(Place(SALIENCY, "saliency/metrics/pic.py", 366),),
    ),
)
