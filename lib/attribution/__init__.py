"""Walk once, integrate many ways: a path says where f and its gradient are evaluated, a rule makes the map."""

from lib.attribution.adversarial import Adversarial
from lib.attribution.attribute import Attribution, attribute, walk
from lib.attribution.multi_reference import Lines
from lib.attribution.nodes import Node
from lib.attribution.paths import Blur, Guided, Straight
from lib.attribution.recalibration import PointAbsolute, RandomMask, Recalibrated, SquaredMeanGradient, Weighted
from lib.attribution.rules import IDGI, Riemann, SquaredGradient

__all__ = [
    "IDGI",
    "Adversarial",
    "Attribution",
    "Blur",
    "Guided",
    "Lines",
    "Node",
    "PointAbsolute",
    "RandomMask",
    "Recalibrated",
    "Riemann",
    "SquaredGradient",
    "SquaredMeanGradient",
    "Straight",
    "Weighted",
    "attribute",
    "walk",
]
