"""The study of evaluations: its rows are tidy, its distances those to the map of many even steps, its costs counted."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lib import InputError
from lib.attribution import IDGI, Riemann, Straight, attribute
from lib.experiments import evaluations as study
from lib.experiments.subjects import Subject
from lib.models.zoo import Network

SETTINGS = {"even": [4, 8], "budgets": [8, 12], "compared": [8], "limit": 48, "tolerance": 0.2, "most": 20}
ROUGH = (0.6, 0.2, 0.1, 0.1)
KEYS = ["image", "model", "objective", "path", "rule", "steps", "metric"]


class Watched(nn.Module):
    """A small network that counts the images it is given with autograd on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 7)
        self.body = nn.Sequential(*layers)
        self.seen = 0
        self.eval().requires_grad_(False)

    def forward(self, x):
        self.seen += len(x) * torch.is_grad_enabled()
        return 8 * self.body(x)


def subject(count: int = 2) -> Subject:
    network = Network("small", Watched(), 16, 18, "bilinear", (0.5,) * 3, (0.25, 0.5, 0.75), "none")
    x = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return Subject(network, x, torch.arange(count), [f"i{k}" for k in range(count)], x, [-1] * count)


@pytest.fixture(scope="module")
def rows():
    return study.evaluations(subject, "logit", ROUGH, **SETTINGS)


def of(rows, metric, path, rule="riemann"):
    chosen = rows[(rows["metric"] == metric) & (rows["path"] == path) & (rows["rule"] == rule)]
    return chosen.pivot(index="image", columns="steps", values="value")


def test_rows_are_tidy_and_there_for_every_image(rows):
    assert not rows.duplicated(KEYS).any() and set(rows["model"]) == {"small"}
    assert (rows.groupby(KEYS[1:]).size() == 2).all()
    placed = {
        "refined by gradient",
        "refined by value",
        "placed by a scan",
        "common nodes",
        "Gauss nodes",
        "until 0.2",
    }
    assert set(rows["path"]) == {"even", "even midpoints"} | placed


def test_distances_are_those_to_the_map_of_many_even_steps(rows):
    here = subject()
    own = {"target": study.explained(here), "objective": "logit"}
    rules = {"ig": Riemann(), "left": IDGI(), "right": IDGI("right")}

    def maps(path, each=rules):
        found = attribute(here.model, here.x, path=path, rules=each, **own)
        return {name: found[name].sum(1) for name in each}

    limit, even = maps(Straight(48)), maps(Straight(8))
    middle = maps(Straight(8, grid="midpoint"), {"ig": Riemann("midpoint")})
    both = (limit["left"] + limit["right"]) / 2
    for found, end, path, rule in (
        (even["ig"], limit["ig"], "even", "riemann"),
        (middle["ig"], limit["ig"], "even midpoints", "riemann"),
        (even["left"], both, "even", "idgi"),
        ((even["left"] + even["right"]) / 2, both, "even", "idgi both sides"),
    ):
        expected = (found - end).abs().flatten(1).sum(1) / end.abs().flatten(1).sum(1)
        np.testing.assert_allclose(of(rows, "relative_convergence", path, rule)[8], expected, rtol=1e-3)


def test_more_evaluations_bring_a_map_nearer(rows):
    found = rows[(rows["metric"] == "relative_convergence") & (rows["path"] == "even") & (rows["rule"] == "riemann")]
    assert found.groupby("steps")["value"].mean().is_monotonic_decreasing
    assert set(found["steps"]) == {4, 8, 24}  # half the limit's steps are added, and show how far from it they are
    ranks = of(rows, "spearman", "even")
    assert (ranks[24] > ranks[4]).all() and (ranks <= 1).all(axis=None)


def test_cost_counts_evaluations_and_a_third_of_the_scan(rows):
    assert (of(rows, "evaluations", "even")[8] == 9).all()
    assert (of(rows, "evaluations", "refined by gradient")[12] == 13).all()
    assert (of(rows, "evaluations", "placed by a scan")[8] == 9).all()  # five nodes and twelve forward passes
    assert of(rows, "evaluations", "until 0.2")[20].between(9, 21).all()


def test_every_evaluation_of_a_unit_is_known():
    here = subject(1)
    study.evaluations(lambda: here, "logit", ROUGH, **SETTINGS)
    walks = 49 + (9 + 13) + (9 + 5 + 9 + 8)  # the limit; by gradient; by value, by a scan, common, Gauss
    assert walks + 9 <= here.model.seen <= walks + 21  # until the tolerance


def test_what_is_told_is_compared_with_what_is_found(rows):
    for path in ("even", "refined by gradient"):
        told, found, off = (of(rows, metric, path)[8] for metric in ("error told", "relative_convergence", "told off"))
        np.testing.assert_allclose(off, np.abs(np.log2(told / found)), rtol=1e-6)


def test_a_shift_is_the_distance_to_the_limits_score(rows):
    for metric in ("insertion", "diffid_logit"):
        score, shift = of(rows, metric, "even"), of(rows, f"{metric} shift", "even")
        assert (shift[48] == 0).all()
        np.testing.assert_allclose(shift[8], (score[8] - score[48]).abs(), rtol=1e-5, atol=1e-9)


def test_scores_do_not_depend_on_the_grouping(rows):
    def one(index):
        here = subject()
        return Subject(here.network, here.x[[index]], here.target[[index]], [here.images[index]], here.pool, [-1])

    alone = pd.concat([study.evaluations(lambda k=k: one(k), "logit", ROUGH, **SETTINGS) for k in range(2)])
    apart, together = (frame.set_index(KEYS)["value"].sort_index() for frame in (alone, rows))
    exact = ~together.index.get_level_values("metric").isin(["told off", "completeness"])
    np.testing.assert_allclose(apart[exact], together[exact], rtol=1e-3, atol=1e-5)


def test_common_nodes_are_denser_where_gradients_change():
    nodes = np.array(study.common_nodes(ROUGH, 40))
    assert nodes[0] == 0 and nodes[-1] == 1 and (np.diff(nodes) > 0).all()
    inside = np.histogram(nodes[1:], bins=4, range=(0, 1))[0] / 40
    np.testing.assert_allclose(inside, np.sqrt(ROUGH) / np.sqrt(ROUGH).sum(), atol=0.03)
    np.testing.assert_allclose(study.common_nodes([1, 1, 1], 6), np.arange(7) / 6)


def test_roughness_is_a_share_of_each_images_change():
    table = study.roughness(subject, "probability", steps=4)
    assert list(table.columns) == ["image", "alpha", "value"] and len(table) == 8
    np.testing.assert_allclose(table.groupby("image")["value"].sum(), 1)
    assert sorted(table["alpha"].unique()) == [0.125, 0.375, 0.625, 0.875]


def test_a_step_count_that_is_no_sub_grid_is_named():
    with pytest.raises(InputError, match=r"step counts \[5\] do not divide 48"):
        study.evaluations(subject, "logit", ROUGH, **SETTINGS | {"even": [4, 5]})


def test_seconds_of_passes():
    table = study.seconds_of_passes(lambda: subject(1), repeats=2, together=2)
    assert set(table["path"]) == {"forward pass", "evaluation pass"} and (table["value"] > 0).all()
    assert not table.duplicated(KEYS).any() and set(table["metric"]) == {"seconds"}
