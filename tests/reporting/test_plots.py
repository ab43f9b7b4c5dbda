"""Figures: what is drawn, on which scale, and files that do not change from run to run."""

import io
from itertools import pairwise

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from lib import ROOT, InputError
from lib.reporting import plots
from lib.reporting.statistics import summary


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
    panels = {"insertion": {"idgi": values}, "deletion": {"idgi": values}}
    figure = plots.curves(range(4), panels, xlabel="x", ylabel="y")
    axis = figure.axes[0]
    assert axis.get_title() == "insertion"
    (legend,) = figure.legends  # above the panels, where it hides no curve
    assert [text.get_text() for text in legend.get_texts()] == [plots.named("idgi")]
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


def test_tick_labels_of_narrow_panels_do_not_touch():
    span = {"insertion": 0.045, "insertion_ratio": 0.06, "aic": 0.045, "sic": 0.04}
    span |= {"aic_msssim": 0.03, "sic_msssim": 0.02}
    rows = [{"metric": name, "mean": 0, "low": -0.9 * high, "high": high, "n": 9} for name, high in span.items()]
    figure = plots.forest(pd.DataFrame(rows).assign(path="guided", model="efficientnet_lite0"), xlabel="difference")
    figure.canvas.draw()
    for axis in figure.axes:
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        boxes = [tick.label1.get_window_extent() for tick in ticks]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


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
    keys = ("local", "recalibrated_point", "none", "lite0", 8, "top_k", "paper_era", "ig_sum_norm", "mnist_5k")
    names = ["LPI", "re-calibrated", "", "lite0", "8", "top-k intersection", "paper-era code", "IG-SUM-NORM"]
    assert list(map(plots.named, keys)) == [*names, "5,000 digits of MNIST"]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("diffid_logit_pixels", "DiffID (logit), pixels"),
        ("top_k_chance", "top-k intersection, chance level"),
        ("lens_recall_div_3_adjusted", "LENS recall-div, w = 3, adjusted"),
        ("spearman_chance_advantage", "rank correlation, chance level, gain of training"),
        ("insertion_gain", "insertion, gain"),
        ("aic_png_moved_idgi", "AIC, entropy, moved, IDGI"),
        ("made_up_chance", "made_up_chance"),
    ],
)
def test_a_metrics_name_says_what_its_suffixes_add(key, name):
    assert plots.named(key) == name


COLUMNS = ("path", "rule", "mode", "metric", "attack", "model", "data", "training", "method", "twin")
TABLES = [path for path in (ROOT / "results" / "laptop").glob("*.*") if path.suffix in (".csv", ".parquet")]


@pytest.mark.parametrize("path", [path for path in TABLES if path.stem != "claims"], ids=lambda path: path.stem)
def test_every_key_of_the_committed_tables_has_a_name(path):
    table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    keys = {str(key) for column in table.columns.intersection(COLUMNS) for key in table[column].dropna().unique()}
    assert keys
    words = {key for key in keys if " " in key}  # such as "straight from white"
    assert {key for key in keys - words if plots.named(key) == key and key not in plots.NAMES} == set()


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


@pytest.mark.parametrize("logarithmic", [False, True])
def test_curve_panels_of_no_scores_say_so(logarithmic):
    nothing = summary(
        pd.DataFrame({"image": [], "model": [], "rule": [], "steps": [], "value": []}), ["model", "rule", "steps"]
    )
    labels = {"ylabel": "y", "xlabel": "x", "logarithmic": logarithmic}
    figure = plots.curve_panels(nothing, x="steps", panels="model", lines="rule", **labels)
    assert [axis.get_title() for axis in figure.axes] == ["no scores"]


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


@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_single_x_has_points_beside_each_other_with_their_intervals(logarithmic):
    figure = draw_curves(curve_table([0.5]), logarithmic=logarithmic)
    axis = figure.axes[1]
    assert [text.get_text() for text in figure.axes[-1].get_xticklabels()] == ["0.5"]
    assert [list(line.get_xdata()) for line in axis.lines] == [[-0.3], [0.3]]
    ends = [segment[:, 1].tolist() for part in axis.collections for segment in part.get_segments()]
    assert sorted(ends) == [pytest.approx([0.02, 0.12]), pytest.approx([0.13, 0.23])]  # .07 and .18


def test_a_single_x_has_intervals_beside_published_curves_too():
    published = pd.DataFrame({"metric": "ssim", "rule": "riemann", "stage": [1, 5], "value": [0.9, 0.8]})
    axis = draw_curves(curve_table([5]), published=published).axes[1]
    assert [list(line.get_xdata()) for line in axis.lines] == [[4.8], [1, 5], [5.2]]
    assert len([segment for part in axis.collections for segment in part.get_segments()]) == 2


def test_a_panel_with_a_single_x_has_intervals_beside_one_with_curves():
    table = curve_table([1, 5])
    axis, other = draw_curves(table[(table["metric"] != "ssim") | (table["stage"] == 5)]).axes[1::-1]
    assert [list(line.get_xdata()) for line in axis.lines] == [[4.8], [5.2]]
    assert len([segment for part in axis.collections for segment in part.get_segments()]) == 2
    assert [list(line.get_xdata()) for line in other.lines] == [[1, 5], [1, 5]]


def test_a_few_points_keep_their_colour():
    colours = plots.palette(["riemann", "idgi", "riemann_abs", "random", "squared_gradient"])
    with plots.house():
        figure, axis = plt.subplots()
        for name, colour in colours.items():
            axis.plot([0, 1], [0, 1], ".", color=colour, label=name)
            axis.vlines(np.linspace(0, 1, 90), 0, 1, color=plt.cm.magma(np.linspace(0, 1, 90)), linewidth=0.5)
        axis.legend()
    shown = np.asarray(Image.open(io.BytesIO(plots.show(figure).data)).convert("RGB")).reshape(-1, 3).astype(int)
    for colour in colours.values():
        wanted = 255 * np.array(to_rgb(colour))
        assert np.abs(shown - wanted).max(axis=1).min() <= 8


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


def photograph():
    """A figure of as many colours as a photograph has, beside a map with its colour bar."""
    ramp = np.linspace(0, 1, 200)
    red, green = np.meshgrid(ramp, ramp)
    return plots.maps_grid([np.stack([red, green, red * green], axis=2)], {"IG": [red - green]})


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def exact(fig):
    buffer = io.BytesIO()
    with plots.house():
        fig.savefig(buffer, format="png")
    return pixels(buffer.getvalue())


def test_a_drawing_is_saved_as_a_png_with_a_palette_that_does_not_show():
    shown = plots.show(plots.forest(forest_table(), xlabel="difference"))
    assert shown.format == "png"
    assert Image.open(io.BytesIO(shown.data)).mode == "P"
    assert (
        np.abs(pixels(shown.data) - exact(plots.forest(forest_table(), xlabel="difference"))).mean() < 2
    )  # of 255; white is 254


def test_photographs_and_maps_keep_their_colours():
    shown = plots.show(photograph())
    assert shown.format == "jpeg"
    found = pixels(shown.data)
    assert np.abs(found - exact(photograph())).mean() < 3
    assert len(np.unique(found.reshape(-1, 3), axis=0)) > 5_000  # no bands


@pytest.mark.parametrize(
    ("draw", "suffix"), [(lambda: plots.forest(forest_table(), xlabel="x"), "png"), (photograph, "jpeg")]
)
def test_the_saved_file_is_what_is_shown_and_the_same_byte_for_byte(tmp_path, draw, suffix):
    for folder in ("one", "two"):
        shown = plots.save(draw(), "nb-forest", "laptop", tmp_path / folder)
        assert [p.name for p in (tmp_path / folder / "figures" / "laptop").iterdir()] == [f"nb-forest.{suffix}"]
        assert shown.data == (tmp_path / folder / "figures" / "laptop" / f"nb-forest.{suffix}").read_bytes()
    assert shown.data == (tmp_path / "one" / "figures" / "laptop" / f"nb-forest.{suffix}").read_bytes()


@pytest.mark.parametrize(("kind", "magic"), [("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_figures_for_print_take_the_format_asked_for_and_hold_no_date(tmp_path, monkeypatch, kind, magic):
    monkeypatch.setenv("FIGURE_FORMAT", kind)
    written = []
    for folder in ("one", "two"):
        plots.save(photograph(), "nb-maps", "laptop", tmp_path / folder)
        (path,) = (tmp_path / folder / "figures" / "laptop").iterdir()
        assert path.name == f"nb-maps.{kind}"
        written.append(path.read_bytes())
    assert written[0] == written[1]
    assert written[0].startswith(magic)
    assert b"Date" not in written[0]


def test_an_unknown_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FIGURE_FORMAT", "pfd")
    with pytest.raises(InputError, match="FORMAT 'pfd' is unknown; did you mean 'pdf'"):
        plots.save(photograph(), "nb-maps", "laptop", tmp_path)


def test_the_house_style_does_not_leak():
    before = dict(plt.rcParams)
    plots.curves(range(2), {"": {"idgi": np.zeros((3, 2))}}, xlabel="x", ylabel="y")
    assert dict(plt.rcParams) == before


def test_photographs_stand_in_rows_under_their_titles():
    figure = plots.photographs_row({f"{k}": np.full((4, 4), k) for k in range(5)}, columns=3, cmap="gray_r")
    assert [axis.get_title() for axis in figure.axes] == [*"01234", ""]
    assert [image.get_cmap().name for image in images(figure.axes)] == ["gray_r"] * 5
    assert figure.axes[3].get_position().y1 <= figure.axes[0].get_position().y0


def attacked_table():
    rows = [
        (f"img{i}", "gradient", metric, attack, epsilon, level - 0.01 * epsilon)
        for i in range(4)
        for metric, level in (("top_k", 0.8), ("top_k_chance", 0.2), ("spearman", 0.9))
        for attack in ("random1", "top_k")
        for epsilon in (1, 4)
    ]
    return pd.DataFrame(rows, columns=["image", "method", "metric", "attack", "epsilon", "value"])


def test_attack_panels_draw_a_line_per_attack_and_chance_once():
    published = pd.DataFrame(
        {"method": "gradient", "metric": "top_k", "attack": "top_k", "epsilon": [1, 4], "value": [0.5, 0.3]}
    )
    figure = plots.attack_panels(attacked_table(), ["top_k", "spearman"], xlabel="epsilon", published=published)
    assert [axis.get_title() for axis in figure.axes] == ["gradient, top-k intersection", "gradient, rank correlation"]
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert lines["chance"] == pytest.approx([0.19, 0.16])
    assert lines["random signs"] == pytest.approx([0.79, 0.76])
    assert lines["top-k attack, published"] == [0.5, 0.3]
    assert {line.get_label() for line in figure.axes[1].lines} == {"random signs", "top-k attack"}


def test_score_panels_are_the_curve_panels_of_the_selected_means():
    table = attacked_table().assign(rule="riemann")
    asked = {"x": "epsilon", "panels": "metric", "lines": "rule", "xlabel": "x", "ylabel": "y"}
    figure = plots.score_panels(table, {"metric": "top_k*", "attack": "top_k"}, **asked, level=0.5, logarithmic=True)
    assert [axis.get_title() for axis in figure.axes] == ["top-k intersection", "top-k intersection, chance level"]
    line, level = figure.axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), [0.79, 0.76])
    assert list(level.get_ydata()) == [0.5, 0.5]
    assert {(axis.get_xscale(), axis.get_yscale()) for axis in figure.axes} == {("log", "log")}


def test_neighbourhoods_tell_the_top_pixels_near_the_first_set_from_the_far_ones():
    before, after = torch.zeros(2, 5, 5)
    before[0, 0], before[0, 1] = 2, 1
    after[0, 0], after[1, 1], after[4, 4] = 3, 2, 1
    figure = plots.neighbourhoods(
        torch.zeros(1, 5, 5), {"before": before, "after": after}, k=2, w=1, notes={"after": "found"}
    )
    kinds = figure.axes[5].images[0].get_array()
    assert (kinds[0, 0], kinds[1, 1], kinds[0, 1], kinds[4, 4]) == (4, 3, 1, 0)
    assert figure.axes[5].get_xlabel() == "found"
    far = plots.neighbourhoods(torch.zeros(3, 5, 5), {"before": before, "after": after.flip(0)}, k=2, w=0, notes={})
    assert far.axes[5].images[0].get_array()[4, 0] == 2  # in the top k after, far from all before


def test_the_scores_below_a_map_are_its_own():
    names = ("top_k", "lens_recall_1", "lens_recall_div_1")
    rows = [
        (image, "pgd", name + end, value)
        for image, value in (("a", 0.25), ("b", 0.75))
        for name in names
        for end in ("", "_chance")
    ]
    table = pd.DataFrame(rows, columns=["image", "attack", "metric", "value"])
    lines = plots.scores_below(table, "b", 1)["pgd"].splitlines()
    assert lines[1] == "recall, w = 1 0.75 (chance 0.75)" and len(lines) == 3


def test_numbers_that_would_touch_on_a_logarithmic_axis_are_left_out():
    rows = [
        {"image": i, "steps": n, "panel": "p", "line": "even", "value": 1 / n} for n in (16, 32, 40, 64) for i in (0, 1)
    ]
    figure = plots.score_panels(
        pd.DataFrame(rows), {}, x="steps", panels="panel", lines="line", xlabel="", ylabel="", logarithmic=True
    )
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["16", "32", "", "64"]
