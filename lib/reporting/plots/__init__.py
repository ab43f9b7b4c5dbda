"""Figures: their house style, pictures of maps, and plots of scores."""

from lib.reporting.plots.beside_chance import attack_panels, beside_chance, chance_as_line
from lib.reporting.plots.curves import curve_panels, curves, score_panels, steps
from lib.reporting.plots.dots import distributions, dots, forest
from lib.reporting.plots.heat import heat_map
from lib.reporting.plots.house import COLOURS, PALETTE, STYLE, UNDECIDED, house, palette, save, show
from lib.reporting.plots.names import ATTACKS, METRICS, NAMES, PATHS, RULES, named
from lib.reporting.plots.neighbourhoods import neighbourhoods, scores_below
from lib.reporting.plots.pictures import enlarged, maps_grid, maps_table, photographs_row

__all__ = [
    "ATTACKS",
    "COLOURS",
    "METRICS",
    "NAMES",
    "PALETTE",
    "PATHS",
    "RULES",
    "STYLE",
    "UNDECIDED",
    "attack_panels",
    "beside_chance",
    "chance_as_line",
    "curve_panels",
    "curves",
    "distributions",
    "dots",
    "enlarged",
    "forest",
    "heat_map",
    "house",
    "maps_grid",
    "maps_table",
    "named",
    "neighbourhoods",
    "palette",
    "photographs_row",
    "save",
    "score_panels",
    "scores_below",
    "show",
    "steps",
]
