"""Figures: their house style, pictures of maps, and plots of scores."""

from lib.reporting.plots.beside_chance import beside_chance, chance_as_line
from lib.reporting.plots.charts import curve_panels, curves, distributions, dots, forest, steps
from lib.reporting.plots.house import (
    ATTACKS,
    COLOURS,
    METRICS,
    PATHS,
    RULES,
    STYLE,
    UNDECIDED,
    house,
    named,
    palette,
    save,
    show,
)
from lib.reporting.plots.neighbourhoods import neighbourhoods
from lib.reporting.plots.pictures import maps_grid, maps_table, photographs_row

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
    "photographs_row",
    "save",
    "show",
    "steps",
]
