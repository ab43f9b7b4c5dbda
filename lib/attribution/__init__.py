"""Walk once, integrate many ways: a path says where f and its gradient are evaluated, a rule makes the map."""

from lib.attribution.attribute import Attribution, attribute, walk
from lib.attribution.nodes import Node
from lib.attribution.paths import Blur, Guided, Straight
from lib.attribution.rules import IDGI, Riemann, SquaredGradient

__all__ = [
    "IDGI",
    "Attribution",
    "Blur",
    "Guided",
    "Node",
    "Riemann",
    "SquaredGradient",
    "Straight",
    "attribute",
    "walk",
]
