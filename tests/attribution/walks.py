"""Every path with every rule that fits it, and every map of gradients: what the tests of the gate run through."""

import torch

from lib.attribution import (
    IDGI,
    Adaptive,
    Adversarial,
    Blur,
    Guided,
    Lines,
    PointAbsolute,
    RandomMask,
    Recalibrated,
    Riemann,
    SquaredGradient,
    SquaredMeanGradient,
    Straight,
    TrapezoidError,
    Weighted,
)
from lib.attribution.adversarial import other_classes
from lib.attribution.gradients import input_gradient, input_x_gradient, smoothgrad, x_gradient
from lib.attribution.layerwise import fullgrad, gradcam
from lib.attribution.references import FromPool, NoisyCopies, Single, UniformNoise

IDS = ["a", "b"]


def paths(x, classes: int = 5) -> dict:
    """A path of each kind for two images of the shape of x."""
    pool = torch.rand(5, *x.shape[1:], dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    drawn = FromPool(pool, [[0, 4], [1, 2]], [[0.25, 0.75], [0.5, 0.5]])
    return {
        "straight": Straight(4),
        "colour": Straight(2, reference=[0.5] * x.shape[1], grid="gauss"),
        "midpoint": Straight(2, reference="blurred", grid="midpoint"),
        "released": Straight(3, reference=0.5, released=True),
        "adaptive": Adaptive(6, first=2, by="value", reference="white"),
        "until_done": Adaptive(8, first=2, tolerance=0.2),
        "blur": Blur(2, sigma_max=2),
        "blur_released": Blur(2, sigma_max=2, released=True),
        "guided": Guided(3, scale=torch.full((x.shape[1], 1, 1), 0.5)),
        "black": Lines(Single("black"), 2),
        "uniform": Lines(UniformNoise(IDS, 2), 2, grid="closed"),
        "copies": Lines(NoisyCopies(IDS, 2), 2, "linspace", "tiled"),
        "crossed": Lines(NoisyCopies(IDS, 2, cross_images=True), 2, "linspace", "tiled", at_input=False),
        "pool": Lines(drawn, 2, "uniform", images=IDS),
        "fresh": Lines(UniformNoise(IDS, 4), 2, pairing="fresh"),
        "adversarial": Adversarial(other_classes([0, 1], classes, 2, images=IDS), 2),
        "restarted": Adversarial(other_classes([0, 1], classes, 2, images=IDS), 2, restart=True),
    }


def rules(path) -> dict:
    """The rules that fit a path."""
    found = {"point": Recalibrated(), "weighted": Weighted(), "absolute": PointAbsolute(), "mask": RandomMask(IDS)}
    if not path.at_input:
        return found
    found |= {f"riemann_{name}": Riemann(name) for name in path.rules}
    found |= {"line": Recalibrated(by="reference", delta="displacement"), "squared": SquaredMeanGradient()}
    found |= {"squares": Recalibrated(square=True), "plain": lambda node, following: node.grad * node.dx}
    if "trapezoid" in path.rules:
        found |= {"idgi": IDGI(scale=torch.tensor(2.0)), "right": IDGI("right"), "g2": SquaredGradient()}
        found |= {"error": TrapezoidError()}
    if not isinstance(path, Adversarial):
        found |= {"travelled": Recalibrated(delta="travelled", norm="negatives")}
    return found


GRADIENT_MAPS = {
    "input_gradient": input_gradient,
    "input_x_gradient": input_x_gradient,
    "smoothgrad": lambda model, x, target: smoothgrad(model, x, target, images=IDS, samples=2)[0],
    "gradcam": gradcam,
    "fullgrad": fullgrad,
    "x_gradient": x_gradient,
}
