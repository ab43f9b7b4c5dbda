"""Nodes placed where they are needed: against even ones on lines whose roughness is known, and image by image."""

import itertools

import numpy as np
import pytest
import torch
from tagged import is_tagged, tagged_device
from torch import nn
from walks import rules

from lib import InputError
from lib.attribution import IDGI, Adaptive, Riemann, Straight, TrapezoidError, attribute, walk
from lib.attribution.placement import Cells, Evaluated, equal_parts, shared_out

FINE = 4096
LOGIT = {"objective": "logit"}


class Rough(nn.Module):
    """One class; f(x) = sum_p F_p(x_p), where F_p' is a random walk that moves `speed(alpha)` times as fast at alpha.

    Along a straight line from black to white the gradient of pixel p is its walk, drawn by straight lines.
    """

    def __init__(self, speed, pixels: int = 400, seed: int = 0):
        super().__init__()
        steps = torch.randn(FINE, pixels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        steps = steps * speed((torch.arange(FINE) + 0.5) / FINE)[:, None] / FINE**0.5
        self.slope = torch.cat([torch.zeros(1, pixels).double(), steps.cumsum(0)]) + 1  # at k / FINE
        cells = (self.slope[1:] + self.slope[:-1]) / (2 * FINE)
        self.height = torch.cat([torch.zeros(1, pixels).double(), cells.cumsum(0)])

    @property
    def limit(self):
        return self.height[-1]  # the map: a pixel's integral from 0 to 1

    def forward(self, x):
        x = x.flatten(1)
        cell = (x.detach() * FINE).long().clamp(max=FINE - 1)
        rest, pixel = x - cell / FINE, torch.arange(x.shape[1])
        low, high = self.slope[cell, pixel], self.slope[cell + 1, pixel]
        return (self.height[cell, pixel] + low * rest + (high - low) * FINE * rest**2 / 2).sum(1, keepdim=True)


SPEEDS = {
    "even": torch.ones_like,
    "at the reference": lambda alpha: 0.1 + 3 * (alpha < 0.1),
    "in the middle": lambda alpha: 0.3 + 2 * (abs(alpha - 0.6) < 0.05),
}


def white(images: int = 1):
    return torch.ones(images, 1, 20, 20, dtype=torch.float64)


def distance(model, path):
    found = attribute(model, white(), 0, path=path, rules={"ig": TrapezoidError()}, **LOGIT)
    error = (found["ig"].flatten() - model.limit).abs().sum() / model.limit.abs().sum()
    return float(error), float(found.sums["ig"]["error"]), found.evaluations


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("path", [Straight(32), Straight(128), Adaptive(32), Adaptive(40, scan=8)], ids=str)
def test_the_error_of_a_map_is_told_by_its_nodes(speed, path):
    wrong, told, _ = distance(Rough(SPEEDS[speed]), path)
    assert told == pytest.approx(wrong, rel=0.25)


@pytest.mark.parametrize("speed", SPEEDS)
def test_nodes_placed_by_gradients_are_better_by_as_much_as_can_be(speed):
    """The best density of nodes is v^(1/3), v the squared speed: (int v^(1/3))^(3/2) / (int v)^(1/2) of even ones."""
    model, alpha = Rough(SPEEDS[speed]), (torch.arange(FINE) + 0.5) / FINE
    v = SPEEDS[speed](alpha) ** 2
    best = float((v ** (1 / 3)).mean() ** 1.5 / v.mean() ** 0.5)
    (even, *_), (ours, _, evaluations) = (distance(model, path) for path in (Straight(48), Adaptive(48)))
    assert evaluations == 49
    assert 0.8 * best < ours / even < 1.35 * best


def test_what_the_error_tells_where_pixels_cancel():
    def opposite(x):
        return (4 * (x[..., :1] ** 3 - x[..., 1:] ** 3)).flatten(1)

    found = attribute(opposite, torch.ones(1, 1, 1, 2), 0, path=Straight(4), rules={"ig": TrapezoidError()}, **LOGIT)
    assert found.completeness_error("ig").abs() < 1e-6 < 1e-2 < found.sums["ig"]["error"]


def alphas(path, model=None):
    model = model or Rough(SPEEDS["in the middle"])
    return [float(node.x[0, 0, 0, 0]) for node in walk(model, path, white(), 0, **LOGIT)]


@pytest.mark.parametrize("by", ["gradient", "value"])
def test_finer_grids_keep_the_nodes_of_coarser_ones(by):
    grids = [set(alphas(Adaptive(steps, by=by))) for steps in (8, 12, 18, 27, 40)]
    assert [len(grid) for grid in grids] == [9, 13, 19, 28, 41]
    assert all(coarse < fine for coarse, fine in itertools.pairwise(grids))


@pytest.mark.parametrize(
    "path",
    [
        Adaptive(21),
        Adaptive(21, by="value"),
        Adaptive(21, scan=9),
        Adaptive(5),
        Adaptive(21, first=21, scan=6),
        Adaptive(64, tolerance=0.1),
    ],
    ids=str,
)
def test_nodes_lie_in_order_and_stand_for_the_whole_line(path):
    x = torch.rand(1, 1, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    nodes = list(walk(Rough(SPEEDS["at the reference"]), path, x, 0, **LOGIT))
    assert torch.equal(nodes[0].x, torch.zeros_like(x)) and torch.equal(nodes[-1].x, x)
    assert float(sum(node.share for node in nodes)) == pytest.approx(1)
    assert all(node.share > 0 for node in nodes[:-1]) and nodes[-1].share == 0
    torch.testing.assert_close(sum(node.dx for node in nodes), x)
    for node, following in itertools.pairwise(nodes):
        assert torch.equal(node.dx, following.x - node.x)


def test_f_moves_by_as_much_in_every_cell():
    def sharp(x):
        return torch.sigmoid(80 * x.flatten(1)[:, :1] - 20)

    even, ours, scanned = (
        np.diff([float(node.value) for node in walk(sharp, path, white(), 0, **LOGIT)]).max()
        for path in (Straight(32), Adaptive(32, by="value"), Adaptive(32, first=32, scan=16))
    )
    assert even > 0.4 and ours < 0.15 and scanned < 0.15


def test_idgi_is_better_where_f_moves_and_stays_complete():
    def sharp(x):
        return torch.sigmoid(30 * (x.flatten(1)[:, :1] + x.flatten(1)[:, 1:2] ** 2) - 15)

    x = torch.ones(1, 1, 1, 2, dtype=torch.float64)

    def idgi(path):
        return attribute(sharp, x, 0, path=path, rules={"idgi": IDGI()}, **LOGIT)

    limit = idgi(Straight(2048))["idgi"]
    even, ours = idgi(Straight(24)), idgi(Adaptive(24, by="value"))
    assert (ours["idgi"] - limit).abs().sum() < (even["idgi"] - limit).abs().sum() / 3
    assert ours.completeness_error("idgi").abs() < 1e-12


class Counting(nn.Module):
    """Two classes of different sharpness; counts the images it is given with and without autograd."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(27, 64), nn.ReLU(), nn.Linear(64, 3)).double()
        self.with_gradient = self.without = 0
        self.eval()

    def forward(self, x):
        if torch.is_grad_enabled():
            self.with_gradient += len(x)
        else:
            self.without += len(x)
        return 6 * self.body(x)


def small(images: int = 5):
    x = torch.rand(images, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    scale = torch.linspace(0.05, 1, images, dtype=torch.float64).view(-1, 1, 1, 1)  # some are nearly done at once
    return x * scale, torch.arange(images) % 3


@pytest.mark.parametrize("path", [Adaptive(20), Adaptive(20, scan=7), Adaptive(20, first=20, scan=4)], ids=str)
def test_what_is_evaluated_is_counted(path):
    model, (x, target) = Counting(), small()
    found = attribute(model, x, target, path=path, rules={"ig": Riemann()})
    assert found.evaluations == model.with_gradient == len(x) * 21
    assert model.without == len(x) * path.scan


@pytest.mark.parametrize(
    "path",
    [Adaptive(20), Adaptive(20, by="value"), Adaptive(20, scan=7), Adaptive(200, first=4, tolerance=0.03)],
    ids=str,
)
def test_a_map_does_not_depend_on_company(path):
    (x, target), path_rules = small(), rules(path) | {"error": TrapezoidError()}
    path_rules.pop("mask")  # draws by the ids of two images
    path_rules.pop("travelled" if path.tolerance else "", None)  # counts nodes, see `Adaptive`
    together = attribute(Counting(), x, target, path=path, rules=path_rules)
    evaluations = 0
    for image in range(len(x)):
        alone = attribute(Counting(), x[image : image + 1], target[image : image + 1], path=path, rules=path_rules)
        evaluations += alone.evaluations
        for name in path_rules:
            for part, sums in alone.sums[name].items():
                if sums.dim():
                    mine = together.sums[name][part][image : image + 1]
                    torch.testing.assert_close(mine, sums, rtol=1e-9, atol=1e-12, equal_nan=True)
    assert evaluations == together.evaluations


def test_an_image_is_done_when_its_own_errors_are_small():
    x, target = small()
    each, spent = {"ig": TrapezoidError()}, []
    for tolerance in (0.1, 0.03, 0.01):
        path, numbers = Adaptive(400, first=4, tolerance=tolerance), []
        for image in range(len(x)):
            one = Counting(), x[image : image + 1], target[image : image + 1]
            found = attribute(*one, path=path, rules=each)
            f = torch.cat([node.value for node in walk(one[0], path, *one[1:])])
            assert found.sums["ig"]["error"] <= tolerance
            assert found.completeness_error("ig").abs() <= tolerance * f.diff().abs().sum()
            numbers.append(found.evaluations)
        spent.append(numbers)
    assert len(set(spent[-1])) > 1 and max(spent[-1]) < 401
    for coarse, fine in itertools.pairwise(spent):
        assert all(few <= more for few, more in zip(coarse, fine, strict=True)) and sum(coarse) < sum(fine)
    capped = attribute(Counting(), x, target, path=Adaptive(9, first=4, tolerance=1e-9), rules=each)
    assert capped.evaluations == 10 * len(x)


def test_a_straight_function_is_done_after_the_first_grid():
    x = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    found = attribute(
        lambda x: x.flatten(1), x, [0, 4], path=Adaptive(64, tolerance=1e-6), rules={"ig": Riemann()}, **LOGIT
    )
    assert found.evaluations == 2 * 9
    torch.testing.assert_close(found["ig"].flatten(1).sum(1), x.flatten(1)[[0, 1], [0, 4]])


def test_an_image_that_is_its_reference_gets_a_map_of_zeros():
    x = torch.cat([torch.zeros(1, 1, 20, 20).double(), white()])
    for path in (Adaptive(12), Adaptive(12, by="value", scan=5), Adaptive(12, tolerance=0.1)):
        found = attribute(Rough(SPEEDS["even"]), x, [0, 0], path=path, rules={"ig": Riemann(), "idgi": IDGI()}, **LOGIT)
        assert not found["ig"][0].any() and not found["idgi"][0].any() and found["ig"][1].any()


def test_the_scan_works_on_another_device_and_in_single_precision():
    (x, target), model, path = small(), Counting().float(), Adaptive(12, first=4, scan=6, tolerance=1e-3)
    expected = attribute(model, x.float(), target, path=path, rules={"ig": Riemann()})["ig"]
    with tagged_device() as on:
        found = attribute(on(model), on(x.float()), target, path=path, rules={"ig": Riemann()})["ig"]
    assert is_tagged(found) and found.dtype == torch.float32
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-6)


def test_maps_can_be_differentiated():
    x, target = small(2)
    x = x.requires_grad_()
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 8), nn.Softplus(), nn.Linear(8, 3)).double().eval()
    maps = attribute(model, x, target, path=Adaptive(12), rules={"ig": TrapezoidError()}, create_graph=True)
    (by_x,) = torch.autograd.grad(maps["ig"].square().sum(), x)
    assert by_x.abs().sum() > 0


def test_a_network_that_breaks_on_the_way_is_named():
    def broken(x):
        return torch.where(x.mean() > 0.4, torch.nan, 1.0) * x.flatten(1)

    for path in (Adaptive(12), Adaptive(12, scan=4, by="value"), Adaptive(12, tolerance=0.5)):
        with pytest.raises(InputError, match="not finite at node"):
            attribute(broken, white(), 0, path=path, rules={"ig": Riemann()}, **LOGIT)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"by": "slope"}, "by is 'slope'; choose gradient or value"),
        ({"steps": 0}, "steps is 0"),
        ({"first": 2.5}, "first is 2.5"),
        ({"scan": -1}, "scan is -1"),
        ({"scan": 3}, "at least 4 points"),
        ({"tolerance": 1.0}, "0 <= tolerance < 1"),
        ({"tolerance": float("nan")}, "0 <= tolerance < 1"),
    ],
)
def test_options_out_of_range_are_named(given, said):
    with pytest.raises(InputError, match=said):
        Adaptive(**given)


def test_sub_grids_are_walked_one_by_one():
    with pytest.raises(InputError, match="walk it once per step count"):
        attribute(Rough(torch.ones_like), white(), 0, path=Adaptive(8), rules={"ig": Riemann()}, steps=[4], **LOGIT)


def test_parts_go_where_most_is_left():
    errors = [5.0, 0.1, 2.0, 1.0]
    for room in range(9):
        parts = shared_out(errors, room)
        assert sum(parts) == len(errors) + room
        best = min(
            max(e / k**1.5 for e, k in zip(errors, split, strict=True))
            for split in itertools.product(range(1, room + 2), repeat=4)
            if sum(split) == len(errors) + room
        )
        assert max(e / k**1.5 for e, k in zip(errors, parts, strict=True)) <= best * 1.002
    assert shared_out([1.0, 1.0 + 1e-7, 1.0], 1) == shared_out([1.0 + 1e-7, 1.0, 1.0], 1) == [2, 1, 1]


def test_equal_parts():
    grid = np.linspace(0, 1, 9)
    np.testing.assert_allclose(equal_parts(grid, 3 * grid, grid), grid)  # f straight: even
    np.testing.assert_allclose(equal_parts(grid, 0 * grid, grid), grid)  # f at rest: even
    step = np.array([0.0, 0, 0, 1, 1, 1, 1, 1, 1])
    assert ((equal_parts(grid, step, grid) > 0.25) & (equal_parts(grid, step, grid) < 0.375)).sum() >= 6
    ends = np.array([0.0, 1, 1, 1, 1, 1, 1, 1, 9])  # slopes 8 and 64, whose densities are 4 and 16
    np.testing.assert_allclose(equal_parts(grid, ends, np.array([0.1, 0.6]), even=0.0), [0.0625, 0.9375])


def test_cells_by_hand():
    line = [
        Evaluated(a, torch.tensor(float(f)), torch.tensor([float(g), 1.0]))
        for a, f, g in [(0, 0, 1), (0.5, 2, 3), (1, 1, 3)]
    ]
    cells = Cells.of(line, torch.tensor([1.0, 2.0]))
    assert cells.turns.tolist() == [2, 0] and cells.rises.tolist() == [2, 1] and cells.widths.tolist() == [0.5, 0.5]
    # the map: (1 + 3 + 3 + 3) / 4 and 2, its sum 4.5; f rises by 1 and moves by 3
    assert cells.incomplete == pytest.approx(3.5 / 3) and cells.error == pytest.approx(12**-0.5 * 1 / 4.5)
