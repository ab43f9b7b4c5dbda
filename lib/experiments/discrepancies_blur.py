"""Where Blur IG in the code of Singhi & Kumari (TMLR 2024), with IDGI and without, differs from both as written."""

import math

import torch
from torch import Tensor

from lib.attribution import IDGI, Blur, Riemann, Straight, attribute
from lib.experiments.discrepancies_record import SALIENCY, TMLR, Discrepancy, Outcome, Place, two_maps, two_totals

TWO = torch.ones(1, 1, 1, 2)
CENTRE = 16, 33 * 16 + 16  # of an image of 33 x 33: its row and its place in the flattened image


def _dot(sigma: float) -> float:
    """What a blur leaves of a dot, at its place: the square of the kernel's middle weight."""
    reach = int(4 * sigma + 0.5)
    return sum(math.exp(-0.5 * (d / sigma) ** 2) for d in range(-reach, reach + 1)) ** -2


def dot_image() -> Tensor:
    """A white pixel in the middle of a black image (1, 1, 33, 33), whose blurs up to sigma = 4 do not reach the edge.

    >>> dot_image().sum().item()
    1.0
    """
    x = torch.zeros(1, 1, 33, 33)
    x[0, 0, CENTRE[0], CENTRE[0]] = 1
    return x


def _first_blur() -> Outcome:
    """f = the middle pixel of a dot: it falls from 1 to what one blur of sigma = 2 leaves."""
    released, corrected = Blur(1, sigma_max=2.0, released=True), Blur(1, sigma_max=2.0)
    pair = (released, Riemann("left")), (corrected, Riemann())
    return two_totals(lambda v: v[:, CENTRE[1]], dot_image(), *pair, 1 - _dot(2.0))


def _last_blur() -> Outcome:
    """The same with two steps up to sigma = 4; IDGI of the released nodes knows the first only."""
    released, corrected = (Blur(2, sigma_max=4.0, released=each) for each in (True, False))
    return two_totals(lambda v: v[:, CENTRE[1]], dot_image(), (released, IDGI()), (corrected, IDGI()), 1 - _dot(4.0))


def _sharp_end() -> Outcome:
    """f = a^2 + b on one step from 0: the gradient is (0, 1) where it begins and (2, 1) where it ends."""
    asked = {"path": Straight(1), "rules": {side: IDGI(side) for side in ("right", "left")}, "objective": "logit"}
    found = attribute(lambda x: (x[..., 0] ** 2 + x[..., 1]).flatten(1), TWO, 0, **asked)
    return Outcome(found["right"].flatten()[0].item(), found["left"].flatten()[0].item(), 0.0)


def _kept_kernels() -> Outcome:
    """Two blurs of one width, kept under a tensor and under a number."""
    by_tensor, by_number = {}, {}
    for sigma in (torch.tensor(2.0), torch.tensor(2.0)):
        by_tensor.setdefault(sigma, "kernel")
        by_number.setdefault(sigma.item(), "kernel")
    return Outcome(len(by_tensor), len(by_number), 1.0)


RECORDS = (
    Discrepancy(
        "first step of Blur IG",
        Place(TMLR, "blurig.py", 69),
        "gaussian_gradient = (self.gaussian_blur(processed_images, sigmas[i]+grad_step)-x_step)/grad_step",
        "takes the rate of change from 0 to 0.01 pixels of blur, where kernels are single pixels: nothing changes",
        "take the difference of neighbouring blurs",
        "sum of Blur IG's map at 1 step",
        "Blur(released=True); Blur()",
        _first_blur,
        lambda of, steps: two_maps(of, (Blur(steps, released=True), Riemann("left")), (Blur(steps), Riemann())),
        also=(Place(SALIENCY, "saliency/core/blur_ig.py", 103),),
    ),
    Discrepancy(
        "last step of IDGI on Blur IG",
        Place(TMLR, "blurig.py", 93),
        "d = outputs_copy[:, 1:] - outputs_copy[:, :-1]",
        "has n evaluations, hence n - 1 differences, and ends before the widest blur",
        "have n differences",
        "sum of IDGI's map at 2 steps",
        "Blur(released=True); Blur()",
        _last_blur,
        lambda of, steps: two_maps(of, (Blur(steps // 2, released=True), IDGI()), (Blur(steps // 2), IDGI())),
    ),
    Discrepancy(
        "the other end",
        Place(TMLR, "blurig.py", 97),
        "b = -(element_product*d.view(len(processed_images),n-1,1,1,1)/element_product.sum((2,3,4))…",
        "walks from the sharp image to the blurred one, so that its left gradient is the one at the end of each step",
        "take the gradient where a step from the reference begins, as for the other paths",
        "score of a where f = a² + b, by one step",
        'IDGI("right"); IDGI("left")',
        _sharp_end,
        lambda of, steps: two_maps(of, (Blur(steps // 2), IDGI("right")), (Blur(steps // 2), IDGI())),
    ),
    Discrepancy(
        "kernels kept for ever",
        Place(TMLR, "blurig.py", 23),
        "if sigma not in self.blurrers:",
        "looks for a kernel under a tensor, which equals no key but itself: every blur adds one",
        "look under the number",
        "kernels kept after two blurs of one width",
        "stand-in",
        _kept_kernels,
    ),
)
