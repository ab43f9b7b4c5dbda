"""Where maps of the code of Singhi & Kumari (TMLR 2024) differ from IG, Guided IG and IDGI as written."""

import torch
from torch import Tensor

from lib.attribution import IDGI, Guided, Riemann, Straight, attribute
from lib.experiments.defects import HALF, pixel_maps
from lib.experiments.discrepancies_record import (
    IDGI_ORIGINAL,
    TMLR,
    Discrepancy,
    Outcome,
    Place,
    photograph_maps,
    two_maps,
    two_totals,
)
from lib.experiments.subjects import Subject

ONE, TWO = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 2)
UNBOUNDED = {"fraction": 0.5, "max_dist": 1.0}  # the study's Guided IG (gig.py:50)


def _early_end() -> Outcome:
    """f = a rises by 1; the last of the 8 nodes kept of 128 is at 112 / 127."""
    asked = {"rules": {"a": IDGI()}, "steps": [8], "objective": "logit"}
    found = [
        attribute(lambda x: x.flatten(1), ONE, 0, path=Straight(128, released=each), **asked) for each in (True, False)
    ]
    return Outcome(*(each["a", 8].sum().item() for each in found), 1.0)


def _early_end_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    asked, few = {"rules": {"a": Riemann()}}, steps // 4
    paths = (Straight(steps, released=early) for early in (True, False))
    found = [attribute(of.model, of.x, of.target, path=path, steps=[few], **asked)["a", few] for path in paths]
    return found[0].sum(1), found[1].sum(1)


def _one_sided() -> Outcome:
    """f = a^2 rises by 1; gradients 1/2, 1, 3/2, 2 at the right ends of four steps have the mean 5/4."""
    path = Straight(4)
    return two_totals(lambda v: v[:, 0] ** 2, ONE, (path, Riemann("right")), (path, Riemann()), 1.0)


def _zero_gradient() -> Outcome:
    """f = relu(4a - 1): of its rise by 3 the first of two steps, whose left gradient is 0, has 1, the second 2."""
    path = Straight(2)
    return two_totals(lambda v: (4 * v[:, 0] - 1).relu(), ONE, (path, IDGI(guard=False)), (path, IDGI()), 2.0)


def _last_step() -> Outcome:
    """f = 3a + 4b: a moves in the first of two steps, b in the second."""
    paths = [Guided(2, released=released, **UNBOUNDED) for released in (True, False)]
    return two_totals(lambda v: 3 * v[:, 0] + 4 * v[:, 1], TWO, (paths[0], IDGI()), (paths[1], IDGI()), 7.0)


def _normalised() -> Outcome:
    """f = (a - .5) / .25, a pixel normalised: it rises by 4, and by 1 for each unit of the normalised pixel."""
    paths = [Guided(4, scale=scale, **UNBOUNDED) for scale in (0.25, None)]
    left = Riemann("left")
    return two_totals(lambda v: (v[:, 0] - 0.5) / 0.25, ONE, (paths[0], left), (paths[1], left), 4.0)


def _normalised_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    std = torch.tensor(of.network.std, device=of.x.device).view(-1, 1, 1)
    released, corrected = (Guided(steps // 2, scale=scale, **UNBOUNDED) for scale in (std, None))
    return two_maps(of, (released, Riemann("left")), (corrected, Riemann("left")))


def _half() -> Outcome:
    """A thousand different scores up to 2e-5; numbers of half precision lie 6e-8 apart there."""
    maps = {"a": (torch.arange(1, 1001) * 2e-8).view(1, 1, 20, 50)}
    keys = [("straight", "idgi", 8, mode) for mode in (HALF, "corrected")]
    different = [len(pixel_maps(maps, {key: "a"})[key].unique()) for key in keys]
    return Outcome(*map(float, different), 1000.0)


def _half_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    found = photograph_maps(of, Straight(steps // 2), IDGI())
    return found.half().float(), found


RECORDS = (
    Discrepancy(
        "early end",
        Place(TMLR, "ig.py", 82),
        "gradients_copy = gradients[:,::n_steps//n]",
        "takes every (128 / n)-th of 128 nodes and no last one, so that a walk of few steps stops before the image",
        "take n + 1 nodes, the image among them",
        "sum of IDGI's map at 8 steps where f rises by 1",
        "Straight(released=True); Straight()",
        _early_end,
        _early_end_moves,
    ),
    Discrepancy(
        "one-sided sums",
        Place(TMLR, "ig.py", 89),
        "a = (gradients_copy[:,1:] * (sequence_copy[:,1:]-sequence_copy[:,:-1])).sum((1,2)).numpy()",
        "takes the gradient at the right end of each step for IG, and at the left end for IDGI",
        "take the mean of both ends, whose error shrinks with the square of the step",
        "sum of IG's map at 4 steps where f rises by 1",
        'Riemann("right"); Riemann("trapezoid")',
        _one_sided,
        lambda of, steps: two_maps(of, (Straight(steps), Riemann("right")), (Straight(steps), Riemann())),
    ),
    Discrepancy(
        "0 / 0",
        Place(TMLR, "ig.py", 90),
        "b = (element_product*d.view(batchSize,n-1,1,1,1)/element_product.sum((2,3,4))…",
        "divides 0 by 0 where a gradient vanishes, so that the whole map is NaN",
        "leave such a step out and say how much of the change that loses",
        "sum of IDGI's map at 2 steps where f rises by 3, of which 1 has no direction",
        "IDGI(guard=False); IDGI()",
        _zero_gradient,
        also=(Place(TMLR, "blurig.py", 97), Place(TMLR, "gig.py", 88), Place(IDGI_ORIGINAL, "idgi.py", 30)),
    ),
    Discrepancy(
        "last step of Guided IG",
        Place(TMLR, "gig.py", 63),
        "for step in range(steps):",
        "never evaluates the network at the end of the path, so that IDGI lacks the last step",
        "evaluate the end, too",
        "sum of IDGI's map where f rises by 7",
        "Guided(released=True); Guided()",
        _last_step,
        lambda of, steps: two_maps(
            of, (Guided(steps // 2, released=True, **UNBOUNDED), IDGI()), (Guided(steps // 2, **UNBOUNDED), IDGI())
        ),
    ),
    Discrepancy(
        "normalised gradients",
        Place(TMLR, "gig.py", 117),
        "attr_all[i] += (x - x_old) * grad_actual",
        "multiplies a step in pixel values with a gradient with respect to normalised pixels",
        "take both with respect to the same image",
        "sum of Guided IG's map where f rises by 4",
        "Guided(scale=std); Guided()",
        _normalised,
        _normalised_moves,
        also=(Place(TMLR, "gig.py", 64), Place(TMLR, "gig.py", 98)),
    ),
    Discrepancy(
        "half precision",
        Place(TMLR, "script.py", 69),
        'np.save(…, f"class_{class_idx:03d}_steps_{n_step}"), salienciency_idgi[j][…].astype(np.float16))',
        "stores maps in half precision, in which small scores tie",
        "keep the precision in which they were computed",
        "different scores among 1000",
        'pixel_maps(mode="half precision"); pixel_maps(mode="corrected")',
        _half,
        _half_moves,
        also=(Place(TMLR, "script.py", 68),),
    ),
)
