"""Figures: their house style, pictures of maps, and plots of scores."""

from lib.plots.chance import beside_chance, chance_as_line
from lib.plots.house import ATTACKS, COLOURS, METRICS, PATHS, RULES, STYLE, UNDECIDED, house, named, palette, save, show
from lib.plots.maps import maps_grid, maps_table, photographs
from lib.plots.neighbourhoods import neighbourhoods
from lib.plots.scores import curve_panels, curves, distributions, dots, forest, steps

__all__ = [
    "ATTACKS",
    "COLOURS",
    "METRICS",
    "PATHS",
    "RULES",
    "STYLE",
    "UNDECIDED",
    "beside_chance",
    "chance_as_line",
    "curve_panels",
    "curves",
    "distributions",
    "dots",
    "forest",
    "house",
    "maps_grid",
    "maps_table",
    "named",
    "neighbourhoods",
    "palette",
    "photographs",
    "save",
    "show",
    "steps",
]
