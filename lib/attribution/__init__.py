"""Walk once, integrate many ways: a path says where f and its gradient are evaluated, a rule makes the map."""

from lib.attribution.adaptive import Adaptive
from lib.attribution.adversarial import Adversarial
from lib.attribution.attribute import Attribution, attribute, walk
from lib.attribution.guided import Guided
from lib.attribution.multi_reference import Lines
from lib.attribution.nodes import Node
from lib.attribution.paths import Blur, Path, Straight
from lib.attribution.placement import TrapezoidError
from lib.attribution.recalibration import PointAbsolute, RandomMask, Recalibrated, SquaredMeanGradient, Weighted
from lib.attribution.rules import IDGI, Riemann, Rule, SquaredGradient

__all__ = [
    "IDGI",
    "Adaptive",
    "Adversarial",
    "Attribution",
    "Blur",
    "Guided",
    "Lines",
    "Node",
    "Path",
    "PointAbsolute",
    "RandomMask",
    "Recalibrated",
    "Riemann",
    "Rule",
    "SquaredGradient",
    "SquaredMeanGradient",
    "Straight",
    "TrapezoidError",
    "Weighted",
    "attribute",
    "walk",
]
