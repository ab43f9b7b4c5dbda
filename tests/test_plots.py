"""Figures: what is drawn, on which scale, and files that do not change from run to run."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from lib import plots


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def images(axes):
    return [axis.images[0] for axis in axes if axis.images]


def test_signed_maps_share_a_scale_symmetric_about_zero_per_column():
    maps = {"IG": [np.full((4, 4), -2.0), np.full((4, 4), 1.0)], "IDGI": [np.full((4, 4), 0.1)] * 2}
    drawn = images(plots.maps_grid([np.zeros((4, 4, 3))] * 2, maps).axes[:6])
    limits = [image.get_clim() for image in (drawn[1], drawn[2], drawn[4], drawn[5])]
    assert limits == [(-2, 2), (-0.1, 0.1), (-2, 2), (-0.1, 0.1)]
    assert {image.get_cmap().name for image in drawn[1:3]} == {"RdBu_r"}


def test_magnitudes_are_sequential_and_may_share_a_scale_per_row():
    maps = {"IG": [np.full((4, 4), 2.0), np.full((4, 4), 1.0)], "IDGI": [np.full((4, 4), 0.5)] * 2}
    drawn = images(plots.maps_grid([np.zeros((4, 4, 3))] * 2, maps, share="row").axes[:6])
    assert [drawn[k].get_clim() for k in (1, 2, 4, 5)] == [(0, 2), (0, 2), (0, 1), (0, 1)]
    assert drawn[1].get_cmap().name == "magma"


def test_maps_have_titles_and_a_map_of_zeros_is_drawn():
    figure = plots.maps_grid([np.zeros((4, 4, 3))], {"IG": [np.zeros((4, 4))]}, rows=["tench"])
    assert [axis.get_title() for axis in figure.axes[:2]] == ["image", "IG"]
    assert figure.axes[0].get_ylabel() == "tench"
    assert figure.axes[1].images[0].get_clim() == (0, 1)


def test_curves_draw_the_mean_in_the_rules_colour_inside_its_band():
    values = np.random.default_rng(0).random((15, 4))
    axis = plots.curves(range(4), {"idgi": values}, xlabel="x", ylabel="y").axes[0]
    np.testing.assert_allclose(axis.lines[0].get_ydata(), values.mean(0))
    assert to_hex(axis.lines[0].get_color()).upper() == plots.COLOURS["idgi"]
    edges = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert edges.min() < values.mean(0).min()
    assert edges.max() > values.mean(0).max()


def forest_table():
    rows = [
        (model, path, metric, mean, mean - 0.1, mean + 0.1, 14)
        for model in ("lite0", "lite1")  # interleaved on purpose: the figure groups by path
        for path, mean in (("straight", 0.3), ("guided", -0.3), ("blur", 0.05))
        for metric in ("insertion", "sic_png")
    ]
    return pd.DataFrame(rows, columns=["model", "path", "metric", "mean", "low", "high", "n"])


def test_forest_groups_lines_by_path_and_colours_them_by_what_they_decide():
    figure = plots.forest(forest_table(), xlabel="difference")
    assert [axis.get_title() for axis in figure.axes] == ["insertion", "SIC, entropy"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [
        "IG, lite0",
        "IG, lite1",
        "Guided IG, lite0",
        "Guided IG, lite1",
        "Blur IG, lite0",
        "Blur IG, lite1",
    ]
    ticks = figure.axes[0].get_yticks()
    assert (np.diff(ticks) < 0).all()
    assert len(set(ticks)) == 6
    markers = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    colours = {line.get_ydata()[0]: (line.get_color(), line.get_markerfacecolor()) for line in markers}
    idgi, base = plots.COLOURS["idgi"], plots.COLOURS["riemann"]
    assert [colours[tick] for tick in ticks] == [(idgi, idgi)] * 2 + [(base, base)] * 2 + [
        (plots.UNDECIDED, "white")
    ] * 2


def test_steps_puts_the_authors_log_only_where_it_belongs():
    rows = [
        (path, rule, steps, metric, mode, 0.5, 0.4, 0.6)
        for path in ("straight", "blur")
        for rule in ("riemann", "idgi")
        for steps in (8, 32, 128)
        for metric in ("insertion", "sic_png")
        for mode in ("corrected", "released")
    ]
    table = pd.DataFrame(rows, columns=["path", "rule", "steps", "metric", "mode", "mean", "low", "high"])
    published = pd.DataFrame(
        {"path": "straight", "metric": "insertion", "rule": "idgi", "steps": [8, 128], "value": [0.1, 0.2]}
    )
    figure = plots.steps(table, published=published)
    assert [len(axis.lines) for axis in figure.axes] == [5, 4, 4, 4]
    log = figure.axes[0].lines[-1]
    assert log.get_label() == "base + IDGI, logged by the authors (model unknown)"
    assert (log.get_markerfacecolor(), list(log.get_ydata())) == ("white", [0.1, 0.2])
    assert {line.get_linestyle() for line in figure.axes[1].lines} == {"-", "--"}
    assert len(figure.legends[0].get_texts()) == 5


def test_saved_files_are_the_same_byte_for_byte(tmp_path):
    def saved(folder):
        shown = plots.save(plots.forest(forest_table(), xlabel="difference"), "nb-forest", "laptop", tmp_path / folder)
        path = tmp_path / folder / "figures" / "laptop" / "nb-forest.png"
        assert shown.data.startswith(b"\x89PNG") and len(shown.data) < len(path.read_bytes())
        return path.read_bytes(), path.with_suffix(".pdf").read_bytes()

    first, second = saved("one"), saved("two")
    assert first == second
    assert first[0].startswith(b"\x89PNG")
    assert first[1].startswith(b"%PDF")
    assert b"Date" not in first[1]


def test_the_house_style_does_not_leak():
    before = dict(plt.rcParams)
    plots.curves(range(2), {"idgi": np.zeros((3, 2))}, xlabel="x", ylabel="y")
    assert dict(plt.rcParams) == before
