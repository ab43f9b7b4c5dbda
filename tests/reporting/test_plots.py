"""Figures: what is drawn, on which scale, and files that do not change from run to run."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from lib.reporting import plots


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


def test_the_forest_names_a_map_without_a_path_by_its_model_alone():
    table = pd.DataFrame(
        {"model": "lite0", "path": ["straight", "none"], "metric": "ssim", "mean": 0.1, "low": 0, "high": 1, "n": 9}
    )
    axis = plots.forest(table, xlabel="difference").axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["IG, lite0", "lite0"]


def test_names_are_unambiguous_and_unknown_ones_stay():
    assert len(plots.PATHS | plots.RULES | plots.METRICS) == sum(map(len, (plots.PATHS, plots.RULES, plots.METRICS)))
    assert plots.named("diffid_logit_pixels") == "DiffID (logit), pixels"
    assert [plots.named(value) for value in ("local", "recalibrated_point", "none", "lite0", 8)] == [
        "LPI",
        "re-calibrated",
        "",
        "lite0",
        "8",
    ]


def test_the_palette_keeps_a_rules_colour_for_it_alone():
    found = plots.palette(["local", "riemann", "dataset", "local", "idgi"])
    assert list(found) == ["local", "riemann", "dataset", "idgi"]
    assert (found["riemann"], found["idgi"]) == ("#0072B2", "#D55E00")
    assert len(set(found.values())) == 4
    every = plots.palette(plots.COLOURS) | plots.palette(range(20))
    assert all(to_hex(colour).upper() == colour for colour in every.values())


def table_of_maps():
    rng = np.random.default_rng(0)
    signed = [rng.normal(size=(20, 20)) * scale for scale in (1, 1000)]
    return [signed, [np.abs(grid) for grid in signed], [np.zeros((20, 20))] * 2]


def draw_maps(**options):
    notes = [[f"AUC {row}{column}" for column in range(2)] for row in range(3)]
    titles = {"rows": ["signed", "absolute", "re-calibrated"], "columns": ["IG", "EG"]}
    return plots.maps_table(np.zeros((20, 20, 3)), table_of_maps(), **titles, notes=notes, **options)


def test_a_table_of_maps_scales_each_map_by_its_own_99th_percentile():
    axes = draw_maps().axes[1:7]
    signed, magnitudes, _ = table_of_maps()
    for axis, grid in zip(axes[:4], signed + magnitudes, strict=True):
        np.testing.assert_allclose(axis.images[0].get_array(), grid / np.quantile(np.abs(grid), 0.99))
    assert (axes[4].images[0].get_array() == 0).all()
    assert [axis.images[0].get_clim() for axis in axes] == [(-1, 1)] * 2 + [(0, 1)] * 4
    assert [axis.images[0].get_cmap().name for axis in axes] == ["RdBu_r"] * 2 + ["magma"] * 4


def test_a_table_of_maps_has_one_photograph_titles_notes_and_a_bar_for_each_kind():
    figure = draw_maps(bold=[[False, False], [False, True], [True, False]])
    photograph, *axes = figure.axes[:7]
    assert photograph.get_title() == "image" and photograph.images[0].get_array().shape == (20, 20, 3)
    assert [axis.get_title() for axis in axes] == ["IG", "EG", "", "", "", ""]
    assert [axis.get_ylabel() for axis in axes] == ["signed", "", "absolute", "", "re-calibrated", ""]
    assert [axis.get_xlabel() for axis in axes] == ["AUC 00", "AUC 01", "AUC 10", "AUC 11", "AUC 20", "AUC 21"]
    weights = [axis.xaxis.label.get_fontweight() for axis in axes]
    assert [weight == "bold" for weight in weights] == [False, False, False, True, True, False]
    bars = [[label.get_text() for label in axis.get_yticklabels()] for axis in figure.axes[7:]]
    assert bars == [["−max", "0", "max"], ["0", "max"]]


def curve_table(stages):
    rows = [
        (metric, rule, stage, 0.1 * position + 0.01 * len(rule))
        for metric in ("spearman", "ssim", "hog", "topk", "spearman_abs")
        for rule in ("riemann", "recalibrated_point")
        for position, stage in enumerate(stages)
    ]
    table = pd.DataFrame(rows, columns=["metric", "rule", "stage", "mean"])
    return table.assign(low=table["mean"] - 0.05, high=table["mean"] + 0.05)


def draw_curves(table, **options):
    return plots.curve_panels(table, x="stage", panels="metric", lines="rule", ylabel="y", xlabel="x", **options)


def test_curve_panels_draw_each_line_in_the_order_of_x_inside_its_band():
    table = curve_table([1, 3, 5])
    figure = draw_curves(table.iloc[::-1], styles={"riemann": {"linestyle": "--"}})
    assert len(figure.axes) == 5
    axis = next(axis for axis in figure.axes if axis.get_title() == "SSIM")
    lines = {line.get_label(): line for line in axis.lines}
    base, ours = lines["base"], lines["re-calibrated"]
    assert (list(base.get_xdata()), base.get_linestyle(), ours.get_linestyle()) == ([1, 3, 5], "--", "-")
    np.testing.assert_allclose(base.get_ydata(), [0.07, 0.17, 0.27])
    assert (base.get_color(), ours.get_color()) == (plots.COLOURS["riemann"], plots.COLOURS["recalibrated_point"])
    bands = [part.get_paths()[0].vertices[:, 1] for part in axis.collections]
    assert sorted(edges.min() for edges in bands) == pytest.approx([0.02, 0.13])  # .07 and .18, less .05
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"base", "re-calibrated"}


def test_stages_are_drawn_at_equal_distances_and_named_below_every_column():
    figure = draw_curves(curve_table(["origin", "fc", "conv1"]))
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[0, 1, 2]] * 2
    figure.canvas.draw()
    named = [[label.get_text() for label in axis.get_xticklabels() if label.get_visible()] for axis in figure.axes]
    assert named == [[]] * 2 + [["origin", "fc", "conv1"]] * 3
    assert {label.get_rotation() for label in figure.axes[4].get_xticklabels()} == {90}


def test_published_curves_are_dotted_hollow_and_in_their_own_panel():
    published = pd.DataFrame({"metric": "ssim", "rule": "riemann", "stage": [5, 1], "value": [0.9, 0.8]})
    figure = draw_curves(curve_table([1, 3, 5]), published=published)
    assert [len(axis.lines) for axis in figure.axes] == [2, 3, 2, 2, 2]
    line = next(line for line in figure.axes[1].lines if line.get_label() == "base, published")
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 5], [0.8, 0.9])
    assert (line.get_linestyle(), line.get_marker(), line.get_markerfacecolor()) == (":", "o", "white")
    assert line.get_color() == pytest.approx((0x77 / 510, (0x72 + 0x77) / 510, (0xB2 + 0x77) / 510))
    assert "base, published" in {text.get_text() for text in figure.legends[0].get_texts()}


def test_dots_offset_the_rules_of_a_method_and_keep_their_places_in_every_panel():
    rows = [
        (path, rule, metric, shift + level, shift + level - 0.1, shift + level + 0.2)
        for shift, metric in enumerate(("diffid_logit", "ssim"))
        for path, rules in {"straight": ["riemann", "riemann_abs"], "local": ["riemann"]}.items()
        for level, rule in enumerate(rules)
        if (metric, rule) != ("ssim", "riemann_abs")
    ]
    table = pd.DataFrame(rows, columns=["path", "rule", "metric", "mean", "low", "high"])
    figure = plots.dots(table, rows="path", colours="rule", panels="metric", xlabel="mean", zero=True)
    first, second = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["DiffID (logit)", "SSIM"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["IG", "LPI"]
    assert list(first.get_yticks()) == [0.5, 3]
    assert first.get_ylim()[0] > first.get_ylim()[1]  # the first method on top
    drawn = {line.get_label(): line.get_xydata().tolist() for line in first.lines if line.get_marker() == "o"}
    assert drawn == {"base": [[0, 0], [0, 3]], "|base|": [[1, 1]]}
    assert second.lines[-1].get_xydata().tolist() == [[1, 0], [1, 3]]
    ends = first.collections[1].get_segments()[0]
    np.testing.assert_allclose(ends, [[0.9, 1], [1.2, 1]])
    colours = [to_hex(part.get_color()[0]).upper() for part in first.collections]
    assert colours == [plots.COLOURS["riemann"], plots.COLOURS["riemann_abs"]]
    assert list(first.lines[0].get_xdata()) == [0, 0]


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
