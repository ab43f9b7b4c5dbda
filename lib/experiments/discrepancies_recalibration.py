"""Where references and points in the code of Yang et al. (ICLR 2023) differ from IG and re-calibration as written."""

import torch
from torch import Tensor

from lib.attribution import Lines, Recalibrated, Riemann, Weighted, attribute
from lib.attribution.references import FromPool, NoisyCopies, Single, UniformNoise
from lib.experiments.discrepancies_record import (
    LPI,
    RECALIBRATION,
    Discrepancy,
    Outcome,
    Place,
    photograph_maps,
    total,
)
from lib.experiments.subjects import Subject

ONE = torch.ones(1, 1, 1, 1)
POINTS, REFERENCES = 5, 10  # the code's defaults, and the paper's
LOGIT = {"objective": "logit"}  # the code's default
IG_SG = "saliency_methods/IG_SG.py"


def _pairing() -> Outcome:
    """Ten pairs of a reference and a point are different, of fifty; two of them are the image itself."""
    noise, asked = UniformNoise(["toy"], REFERENCES), {"rules": {"a": Riemann("mean")}, **LOGIT}
    paths = Lines(noise, POINTS, "linspace", "tiled"), Lines(noise, POINTS)
    spent = [attribute(lambda x: x.flatten(1), ONE, 0, path=path, **asked).evaluations for path in paths]
    return Outcome(*map(float, spent), 50.0)


def _pairing_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    noise = UniformNoise(of.images, REFERENCES)
    paths = Lines(noise, POINTS, "linspace", "tiled"), Lines(noise, POINTS)
    return tuple(photograph_maps(of, path, Recalibrated(), **LOGIT) for path in paths)


def _displaced() -> Outcome:
    """f = a^2 from references 0 and 1/2 to 1 rises by 1 and 3/4. Tiled, samples 0 ... 3 lie at 0, 1, 0, 1, where the
    gradient is 0, 2, 0, 2, and get the displacements 1, 1, 1/2, 1/2: (2 + 1) / 4."""
    references = FromPool(torch.tensor([0.0, 0.5]).view(2, 1, 1, 1), [[0, 1]])
    paths = Lines(references, 2, "linspace", "tiled"), Lines(references, 2)
    return Outcome(*(total(lambda v: v[:, 0] ** 2, ONE, path, Riemann("mean")) for path in paths), 0.875)


def _displaced_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    """At places drawn at random, where all pairs are different: what the wrong displacement alone does."""
    noise, drawn = UniformNoise(of.images, 4), {"images": of.images}
    paths = (Lines(noise, 2, "uniform", pairing, **drawn) for pairing in ("tiled", "full"))
    return tuple(photograph_maps(of, path, Riemann("mean"), **LOGIT) for path in paths)


def _one_point() -> Outcome:
    """f = 3a: at the middle of the way half of it remains."""
    paths = Lines(Single(), 1, "linspace"), Lines(Single(), 1)
    return Outcome(*(total(lambda v: 3 * v[:, 0], ONE, path, Recalibrated()) for path in paths), 1.5)


def _crossed() -> Outcome:
    """A grey of .2 in a batch with one of .8: what a copy of it without noise is."""
    x = torch.tensor([0.2, 0.8]).view(2, 1, 1, 1)
    copies = [NoisyCopies(["dark", "light"], 2, sigma=0.0, cross_images=crossed) for crossed in (True, False)]
    return Outcome(*(each(1, x)[0].item() for each in copies), 0.2)


def _crossed_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    copies = (NoisyCopies(of.images, 2, cross_images=crossed) for crossed in (True, False))
    return tuple(photograph_maps(of, Lines(each, POINTS), Recalibrated(), **LOGIT) for each in copies)


def _noise_scale() -> Outcome:
    """A flat image in a batch with one that has black and white pixels: its own range is 0, and so is its noise."""
    x = torch.full((2, 1, 8, 8), 0.5)
    x[1, 0, 0, :2] = torch.tensor([0.0, 1.0])
    copies = [NoisyCopies(["flat", "mate"], 1, cross_images=crossed) for crossed in (True, False)]
    return Outcome(*(each(0, x)[0].std().item() for each in copies), 0.0)


def _unseeded() -> Outcome:
    """Are the references of two runs the same?"""
    theirs = [torch.rand(1, 1, 8, 8) for _ in range(2)]
    ours = [UniformNoise(["toy"], 1)(0, torch.zeros(1, 1, 8, 8)) for _ in range(2)]
    return Outcome(*(float(torch.equal(*each)) for each in (theirs, ours)), 1.0)


def _statistics() -> Outcome:
    """A black pixel, normalised as CIFAR-10's, and back as ImageNet's: -.4914 / .2471 * .229 + .485."""
    there_and_back = (0.0 - 0.4914) / 0.2471 * 0.229 + 0.485
    return Outcome(there_and_back, NoisyCopies(["black"], 1, sigma=0.0)(0, 0 * ONE).item(), 0.0)


def _not_ig() -> Outcome:
    """f = 3a rises by 3; the places 0, 1/4, ... 1 sum to 5/2."""
    released = POINTS * total(lambda v: 3 * v[:, 0], ONE, Lines(Single(), POINTS, "linspace"), Weighted("travelled"))
    return Outcome(released, total(lambda v: 3 * v[:, 0], ONE, Lines(Single(), POINTS), Riemann("mean")), 3.0)


def _not_ig_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    released = photograph_maps(of, Lines(Single(), steps, "linspace"), Weighted("travelled"), **LOGIT)
    return steps * released, photograph_maps(of, Lines(Single(), steps), Riemann("mean"), **LOGIT)


RECORDS = (
    Discrepancy(
        "references paired by tiling",
        Place(RECALIBRATION, IG_SG, 140),
        "multi_ref_tensor = reference_tensor.repeat(1, self.k, 1, 1, 1)",
        "repeats ten references and five points side by side, so that a reference meets the same point every time",
        "let every reference meet every point",
        "different points evaluated, of fifty asked for",
        'Lines(pairing="tiled"); Lines(pairing="full")',
        _pairing,
        _pairing_moves,
        also=(Place(RECALIBRATION, "saliency_methods/IG_Uniform.py", 27),),
    ),
    Discrepancy(
        "another line's displacement",
        Place(RECALIBRATION, IG_SG, 172),
        "mult_grads = samples_delta * grad_tensor",
        "multiplies a gradient by the displacement of another reference than its point's own",
        "multiply by the displacement of its own",
        "sum of a map where f rises by 0.875 in the mean over references",
        'Lines(pairing="tiled"); Lines(pairing="full")',
        _displaced,
        _displaced_moves,
        also=(
            Place(RECALIBRATION, "saliency_methods/expected_grad.py", 45),
            Place(LPI, "saliency_methods/LPI.py", 142),
        ),
    ),
    Discrepancy(
        "one point is the image",
        Place(RECALIBRATION, IG_SG, 42),
        "t_tensor = torch.cat([torch.Tensor([1.0]) for _ in range(batch_size*self.bg_size)])",
        "puts the only point of a line at its end, where no way remains: every map re-calibrated by point is 0",
        "put it in the middle",
        "sum of a re-calibrated map where half of a rise by 3 remains",
        'Lines(grid="linspace"); Lines(grid="midpoint")',
        _one_point,
    ),
    Discrepancy(
        "copies of other images",
        Place(RECALIBRATION, IG_SG, 139),
        "reference_tensor = reference_tensor.view(*shape)",
        "stores noisy copies by reference and reads them by image: an image is compared with copies of its batch mates",
        "compare it with copies of itself",
        "the copy, without noise, of a grey of 0.2 beside one of 0.8",
        "NoisyCopies(cross_images=True); NoisyCopies()",
        _crossed,
        _crossed_moves,
    ),
    Discrepancy(
        "noise of the batch",
        Place(RECALIBRATION, IG_SG, 130),
        "std_dev = std_factor * (input_tensor.max().item() - input_tensor.min().item())",
        "scales an image's noise by the range of the whole batch",
        "scale it by the image's own",
        "standard deviation of a copy of a flat image",
        "NoisyCopies(cross_images=True); NoisyCopies()",
        _noise_scale,
        also=(Place(RECALIBRATION, "saliency_methods/smooth_grad.py", 61),),
    ),
    Discrepancy(
        "references without a seed",
        Place(RECALIBRATION, IG_SG, 131),
        "ref_lst = [torch.normal(mean=torch.zeros_like(input_tensor), std=std_dev) for _ in range(self.bg_size)]",
        "draws references without a seed, so that no two runs have the same maps",
        "draw them from a seed and the image's name",
        "are the references of two runs the same?",
        "stand-in; UniformNoise()",
        _unseeded,
    ),
    Discrepancy(
        "ImageNet's statistics for CIFAR",
        Place(RECALIBRATION, "main.py", 86),
        "int_grad_sg = IntGradSG(model, k=kwargs['k'], bg_size=kwargs['bg_size'], random_alpha=kwargs['random_alpha'],",
        "does not pass on the data set, so that images of CIFAR are taken back to pixels as if they were ImageNet's",
        "pass the data set on, or keep references in pixels",
        "black, there and back",
        "stand-in; NoisyCopies(), which lie in pixel space",
        _statistics,
        also=(Place(RECALIBRATION, "main.py", 90),),
    ),
    Discrepancy(
        "an IG that is not IG",
        Place(RECALIBRATION, "saliency_methods/integrated_grad.py", 130),
        "attribution = mult_grads.sum(1)",
        "weighs each gradient by its place on the line and adds up instead of averaging: the sum grows with the points",
        "take the mean of gradients times the whole way",
        "sum of IG's map where f rises by 3",
        'points × Weighted("travelled"); Riemann("mean")',
        _not_ig,
        _not_ig_moves,
        also=(Place(RECALIBRATION, "saliency_methods/integrated_grad.py", 126),),
    ),
)
