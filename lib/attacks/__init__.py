"""Perturbations of an image within an l_inf ball: noise, attacks on its attribution map, attacks on its class."""

from lib.attacks.attack import Attack, Attacked, attack
from lib.attacks.goals import goal, mass_centre
from lib.attacks.methods import Method, normalised, pullback, raw_maps
from lib.attacks.noise import random_sign, random_walk, uniform_start
from lib.attacks.pgd import pgd, robust_answers

__all__ = [
    "Attack",
    "Attacked",
    "Method",
    "attack",
    "goal",
    "mass_centre",
    "normalised",
    "pgd",
    "pullback",
    "random_sign",
    "random_walk",
    "raw_maps",
    "robust_answers",
    "uniform_start",
]
