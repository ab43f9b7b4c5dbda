"""What a run would take: counted passes, thin units, the slice of a notebook that asks for units."""

import ast
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torchvision.models import MobileNet_V2_Weights, ResNet34_Weights

from lib import ROOT, InputError
from lib.attacks.curvature import hessian_product
from lib.attribution import Riemann, Straight, attribute, gradients
from lib.attribution.forward import values
from lib.data import imagenet, readability
from lib.data.imagenet import photographs
from lib.experiments import idgi, subjects
from lib.metrics.sanity import stages
from lib.models.layers import Normalize
from lib.models.recipes import IMAGENET
from lib.models.softplus import softplus_twin
from lib.run import counting, prediction, rehearsal
from lib.run.commands import plan, reproduce
from lib.run.counting import Counting, Tally, depth_of, row_seconds, side_of
from lib.run.notebooks import python_cells, read_notebook
from lib.run.planner import Planner, line, networks_in, thin
from lib.run.rehearsal import rehearsed
from lib.run.slicing import DOORS, needed, run_cells
from lib.run.study import jobs_of, study
from lib.store import units
from lib.store.files import content_digest
from lib.training.fit import digit_network, training_unit

LITE, V2 = "efficientnet_lite0", "mobilenet_v2"  # of equal size


def toy(load, *, iterations: int, samples: int) -> pd.DataFrame:
    """Of each image: 1 answer, `iterations` gradients of one pass each, and SmoothGrad's `samples` passes."""
    of = load()
    assert of.answers()[1].all()  # whatever the network is, each image counts as recognised
    for _ in range(iterations):
        gradients.input_gradient(of.model, of.x, of.target)
    gradients.smoothgrad(of.model, of.x, of.target, images=of.images, samples=samples)
    return pd.DataFrame({"image": of.images})


class Operations(TorchDispatchMode):
    """Counts the multiplications and additions of a block."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if function.overloadpacket in flop_registry:
            self.count += flop_registry[function.overloadpacket](*args, **(kwargs or {}), out_val=found)
        return found


@pytest.fixture
def operations(monkeypatch):
    """A clock that other processes cannot disturb: a second for each 10^9 multiplications and additions."""

    def clocked(run):
        with Operations() as counter:
            run()
        return counter.count / 1e9

    monkeypatch.setattr(counting, "_clocked", clocked)
    monkeypatch.setattr(counting, "LONG", 0)  # once is enough


@pytest.fixture
def planned(tmp_path):
    """A planner, with the study's stand-ins in place."""
    tally = Tally()
    planner = Planner(tally, tmp_path)
    with rehearsed(tally, {"evaluate": planner.evaluate, "finished": planner.finished}):
        yield planner


def asked(name: str, tmp_path: Path, group: int = 4) -> dict:
    return subjects.subject_units(
        name, images="packaged", limit=8, digits_limit=16, group=group, pool=3, cache=tmp_path
    )


def rows(planner: Planner, number: int = -1) -> dict:
    return {key: value for key, value in planner.units[number].cost.items() if isinstance(key, tuple)}


# -- counts, worked by hand --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [3, 300])
def test_the_passes_of_a_unit_are_counted_exactly(planned, tmp_path, iterations):
    """Units of 4 photographs, of which one is computed; of 300 iterations, two and four are."""
    compute = partial(toy, iterations=iterations, samples=5)
    units.evaluate(asked(LITE, tmp_path), compute, cache=tmp_path, label="toy")
    (found,) = planned.units
    assert (found.label, found.count, found.networks) == ("toy", 2, (LITE,))
    forward, backward = 4 * (1 + 1 + iterations + 5), 4 * (iterations + 5)  # the assertion of `toy` is an answer, too
    forward -= 4  # and its only one
    assert rows(planned) == {(LITE, "forward"): forward, (LITE, "backward"): backward}
    assert found.cost["rest"] > 0 and found.cost["bytes"] > 0


def test_a_path_and_values_are_counted_by_rows_whatever_the_batches():
    tally = Tally()
    model = nn.Sequential(Normalize(*IMAGENET), Counting("net", tally, side=32)).eval().requires_grad_(False)
    x, target = torch.rand(3, 3, 32, 32), [0, 1, 2]
    attribute(model, x, target, path=Straight(7), rules={"ig": Riemann("trapezoid")})
    assert tally.rows["net", "backward"] == 3 * 8 == tally.rows["net", "forward"]
    values(model, x, target, budget=2)
    assert tally.rows["net", "forward"] == 3 * 9
    hessian_product(softplus_twin(model), x, torch.tensor(target), x)
    hessian_product(softplus_twin(model).double(), x.double(), torch.tensor(target), x.double())  # twice
    assert dict(tally.rows) == {("net", "forward"): 27, ("net", "backward"): 24, ("net", "product"): 9}


def test_networks_of_one_size_are_rehearsed_once_and_others_again(planned, tmp_path):
    computed = []

    def compute(load):
        computed.append(load().network.name)
        return pd.DataFrame({"x": [1]})

    for name in (LITE, V2, "inception_v3"):
        units.evaluate(asked(name, tmp_path), compute, cache=tmp_path, label=name)
    assert set(computed) == {LITE, "inception_v3"}
    assert [each.networks for each in planned.units] == [(LITE,), (V2,), ("inception_v3",)]


def test_the_second_network_has_the_first_ones_passes_under_its_own_name(planned, tmp_path):
    compute = partial(toy, iterations=1, samples=1)
    for name in (LITE, V2):
        units.evaluate(asked(name, tmp_path), compute, cache=tmp_path, label=name)
    assert rows(planned, 1) == {(V2, kind): count for (_, kind), count in rows(planned, 0).items()}


def test_units_of_several_networks_in_one_call_are_told_apart(planned, tmp_path):
    both = asked(LITE, tmp_path) | asked("inception_v3", tmp_path, group=8)
    units.evaluate(both, partial(toy, iterations=1, samples=1), cache=tmp_path, label="both")
    assert [(each.networks, each.count) for each in planned.units] == [((LITE,), 2), (("inception_v3",), 1)]
    assert rows(planned, 0) == {(LITE, "forward"): 12, (LITE, "backward"): 8}
    assert rows(planned, 1) == {("inception_v3", "forward"): 24, ("inception_v3", "backward"): 16}


def test_trainings_as_units_are_all_begun(planned, tmp_path):
    loads = {str(seed): partial(digit_network, cache=tmp_path, seed=seed) for seed in (0, 1)}
    frame = units.evaluate(loads, training_unit, cache=tmp_path, label="training")
    (found,) = planned.units
    assert (found.count, len(frame)) == (2, 2) and found.cost["rest"] > 0 and planned.tally.once == 0
    units.evaluate(loads, training_unit, cache=tmp_path, label="again")
    assert planned.units[1].cost["rest"] == 0  # their weights are kept


def test_a_training_of_its_own_counts_with_each_unit(planned, tmp_path):
    """As in density regularisation: each unit trains a network, keeps its weights, and scores it."""

    def compute(seed):
        return training_unit(partial(digit_network, cache=tmp_path, seed=seed))

    units.evaluate({str(seed): seed for seed in range(6)}, compute, cache=tmp_path, label="trained and scored")
    digits_once = planned.tally.once
    units.evaluate({"0": partial(digit_network, cache=tmp_path, seed=9)}, training_unit, cache=tmp_path, label="alone")
    own, alone = (each.cost["rest"] for each in planned.units)
    assert digits_once == 0 and 0.1 * alone < own < 10 * alone and "trained" not in planned.units[0].cost


def test_finished_hands_on_a_file_of_rows_for_every_unit(planned, tmp_path):
    compute = partial(toy, iterations=1, samples=1)
    found = units.finished(asked(LITE, tmp_path), compute, cache=tmp_path, label="toy")
    assert list(found) == list(asked(LITE, tmp_path)) and len(pd.read_parquet(found.popitem()[1])) == 1


def test_digits_have_their_network_and_its_training_counts_once(planned, tmp_path):
    compute = partial(toy, iterations=1, samples=1)
    units.evaluate(asked("mnist_cnn", tmp_path, group=1), compute, cache=tmp_path, label="digits")
    once, rest = planned.tally.once, planned.units[0].cost["rest"]
    assert once > 5 * rest > 0 and not rows(planned)  # eight epochs of 4,000 digits; a unit is 8 digits
    digit_network(cache=tmp_path)
    assert planned.tally.once == once and planned.tally.cut < 0  # what was spent on it is taken off the unit that did


def test_what_networks_would_recognise_is_taken_as_recognised(planned, tmp_path):
    """Predictions are units as all others, of which a thin one is computed; their rows are of every photograph."""
    photos = photographs("packaged")
    asked = idgi.prediction_units(photos, [LITE, "inception_v3"], size=16)
    how = {"compute": partial(idgi.predicted, weights=""), "cache": tmp_path, "label": "predictions"}
    seen = units.evaluate(units=asked, **how)  # named, as some notebooks do
    assert [(each.networks, each.count) for each in planned.units] == [((LITE,), 2), (("inception_v3",), 2)]
    each = planned.units[0].cost
    assert rows(planned, 0) == {(LITE, "forward"): each[LITE, "forward"]} and each["rest"] > 0
    assert each[LITE, "forward"] in (4, 10, 16)  # of the unit of 4, that of 16, or both
    assert not planned.tally.rows  # outside of units
    assert list(seen["image"]) == 2 * [photo.id for photo in photos]
    assert list(seen["model"]) == 20 * [LITE] + 20 * ["inception_v3"]
    for name in (LITE, "inception_v3"):
        chosen = idgi.idgi_units(photos, seen, name, 4).values()
        assert [photo.id for _, group, _ in chosen for photo in group] == [photo.id for photo in photos]
        assert sum(kept for *_, confident in chosen for kept in confident) == 10


def test_predictions_of_a_whole_set_are_planned_as_units(tmp_path):
    """The cells of a notebook at 1,000 photographs: each network has a unit for 256 of them."""
    job = jobs_of(study("smoke"), "idgi_stability")[0]
    networks = job.values["networks"]
    planner = Planner(Tally(), tmp_path)
    with rehearsed(planner.tally, {"evaluate": planner.evaluate, "finished": planner.finished}, photos=1000):
        values = job.values | {"output": str(tmp_path), "images": "/nowhere", "limit": 0, "group": 4}
        assert run_cells(python_cells(read_notebook(job.path)), values) == []
    counts = [(each.label, each.count) for each in planner.units]
    assert counts == [("predictions", 4)] * len(networks) + [("maps of both versions", 250)] * len(networks)
    assert not planner.tally.rows


def test_photographs_that_are_not_there_are_copies_of_the_packaged_ones(tmp_path):
    with rehearsed(Tally(), {}, photos=50_000):
        found = imagenet.photographs("/nowhere", 1000)
        assert len(imagenet.photographs("/nowhere")) == 50_000
    assert len({photo.id for photo in found}) == 1000 and len({photo.path for photo in found}) == 20
    assert imagenet.photographs is photographs  # and everything is as before


def test_photographs_that_are_not_there_are_not_looked_at(tmp_path, monkeypatch):
    """Neither those that are explained nor those that references are drawn from."""
    looked = []
    monkeypatch.setattr(readability, "content_digest", lambda path: looked.append(path) or content_digest(path))
    with rehearsed(Tally(), {}, photos=50):
        units_of = partial(subjects.subject_units, LITE, images="/nowhere", limit=0, digits_limit=0, group=10)
        found = units_of(pool=30, cache=tmp_path)
        assert len(found) == 5 and len(next(iter(found.values()))().pool) == 30
        assert len(readability.readable(imagenet.photographs("/nowhere"), cache=tmp_path)) == 50
    assert not looked
    readability.readable(photographs("packaged"), cache=tmp_path)
    assert len(looked) == 20


@pytest.mark.parametrize("name", ["inception_v3", "xalexnet"])
def test_a_stand_in_is_as_large_as_its_network_and_has_as_many_stages(name):
    with rehearsed(Tally(), {}):
        model = nn.Sequential(Normalize(*IMAGENET), counting.counted(name, Tally())).eval()
    assert len(stages(model)) == depth_of(name)
    assert model(torch.rand(1, 3, side_of(name), side_of(name))).shape == (1, 1000)


@pytest.mark.parametrize(
    ("name", "weights"), [(V2, MobileNet_V2_Weights.IMAGENET1K_V1), ("resnet34", ResNet34_Weights.IMAGENET1K_V1)]
)
def test_a_row_takes_the_operations_that_its_network_is_known_for(operations, name, weights):
    """Two for each of the billions of multiplications that torchvision tells, and as many on the way back."""
    found = row_seconds(name, set())
    assert found["forward"] == pytest.approx(2 * weights.meta["_ops"], rel=0.003)
    assert found["backward"] == pytest.approx(found["forward"], rel=0.003)
    assert found["memory"] > 4e-9 * weights.meta["num_params"]


def test_a_first_pass_does_not_count(monkeypatch):
    """It takes longer; those after it are repeated for LONG seconds, and their median is told."""
    runs, seconds = [], iter((0.2, 0.5, 0.3, 9))
    monkeypatch.setattr(counting, "_clocked", lambda run: run() or next(seconds))
    monkeypatch.setattr(counting, "LONG", 0.9)
    assert counting._median(lambda: runs.append(1)) == 0.3
    assert len(runs) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's work is timed by the clock on the wall")
def test_seconds_are_those_that_this_process_works():
    assert 0 <= counting._clocked(lambda: time.sleep(0.5)) < 0.4
    assert counting._clocked(lambda: sum(range(10**6))) > 0


# -- thin units --------------------------------------------------------------------------------------------------------


def test_thin_units_have_fewer_photographs_and_all_else():
    photos = photographs("packaged")[:4]
    few, factor = thin((LITE, photos, [True, False, True, False], [1, 2, 3]), 2)
    assert few == (LITE, photos[:2], [True, False], [1, 2, 3]) and factor == 2
    load = partial(print, partial(print, V2, ""), photos, tuple(photos))
    few, factor = thin(load, 1)
    assert few.args[1:] == (photos[:1], tuple(photos)) and factor == 4
    assert networks_in(load) == (V2,) and networks_in((3, "mnist_cnn")) == ()


def test_a_line_goes_on_and_does_not_fall():
    low, high = {"rest": 1.0, "bytes": 10}, {"rest": 0.9, "bytes": 30, ("a", "forward"): 4}
    assert line(low, high, 2) == {"rest": 1.0, "bytes": 50, ("a", "forward"): 8}


# -- slices of notebooks -----------------------------------------------------------------------------------------------


def test_only_what_units_depend_on_is_run():
    cells = [
        "import a, b",
        "x: int = 1\nz: int = 5",
        "def g(n):\n    return evaluate(n, x)",
        "print(z)\nparts = []",
        "for n in a.names:\n    parts.append(g(n))",
        "rows = b.concat(parts)\nx = 7",
        "draw(rows)",
    ]
    kept = [ast.unparse(each).splitlines()[0] for each in needed(cells)]
    assert kept == ["import a, b", "x: int = 1", "def g(n):", "parts = []", "for n in a.names:"]
    assert needed(["x = 1", "print(x)"]) == []
    assert len(needed(["run = partial(evaluate, cache=1)", "rows = run(2)", "print(rows)", "rows = 3"])) == 2


def test_parameters_have_the_profiles_values_and_failures_are_named():
    found = []
    cells = ["n: int = 1", "evaluate(n)", "m = [][0]", "evaluate(m)", "evaluate(n)"]
    failed = run_cells([f"evaluate = found.append\n{cells[0]}", *cells[1:]], {"n": 3, "found": found})
    assert failed[0].startswith("evaluate = found.append: NameError")
    cells = ["from builtins import print as evaluate", *cells]
    assert [each.partition(":")[0] for each in run_cells(cells, {"n": 3})] == ["m = [][0]", "evaluate(m)"]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_notebook_that_asks_for_units_is_understood(path):
    cells = python_cells(read_notebook(path))
    names = {node.id for cell in cells for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Name)}
    assert bool(needed(cells)) == bool(names & set(DOORS))


# -- the command -------------------------------------------------------------------------------------------------------


def test_a_plan_of_what_is_done_says_so_at_once(root, capsys, monkeypatch):
    assert reproduce(study("laptop", root=root)) == 0
    capsys.readouterr()
    monkeypatch.setattr(prediction, "predict", None)  # which is not called
    assert plan(study("laptop", root=root)) == 0
    assert capsys.readouterr().out == "Profile laptop: nothing has to run; the results are unchanged.\n"


def test_the_smoke_profile_of_a_notebook_is_predicted(operations):
    jobs = jobs_of(study("smoke"), "xdnn_contrast")
    (found,) = prediction.predict(study("smoke"), jobs, workers=2)
    assert [(part.label, part.units) for part in found.parts] == [
        ("mnist regular", 1),
        ("mnist x", 1),
        ("squeezenet1_1 regular", 1),
    ]
    assert found.failed == () and found.units == 3
    assert found.own > prediction.OWN / 2 and found.seconds > found.own and found.memory > prediction.LIBRARIES
    photographs_part = found.parts[2]
    assert photographs_part.passes > 0 and found.parts[0].passes == 0


@pytest.mark.slow
def test_predicted_units_take_what_they_take(tmp_path):
    """Two notebooks at smoke: seconds of this process for all units, within a factor of 2 each."""
    this = study("smoke")
    jobs = jobs_of(this, "idgi_stability recalibration_perturbation")
    found = prediction.predict(this, jobs)
    for job, predicted in zip(jobs, found, strict=True):
        seconds = []

        def evaluate(units, compute, *, cache, label, seconds=seconds):
            start = time.process_time()
            frames = [compute(*args) if isinstance(args, tuple) else compute(args) for args in units.values()]
            seconds.append(time.process_time() - start)
            return pd.concat(frames)

        def finished(units, compute, *, cache, label, evaluate=evaluate):
            evaluate(units, compute, cache=cache, label=label).to_parquet(tmp_path / "rows.parquet")
            return dict.fromkeys(units, tmp_path / "rows.parquet")

        values = {name: str(tmp_path) if name == "output" else value for name, value in job.values.items()}
        with rehearsal.replaced({units.evaluate: evaluate, units.finished: finished}):
            run_cells(python_cells(read_notebook(job.path)), values)
        assert sum(seconds) / 2 < predicted.unit_seconds < 2 * sum(seconds)


def test_two_notebooks_at_a_time_leave_no_worker_waiting():
    """Three units of 2 s on two workers take 4 s alone, and 3 where another notebook fills the rest."""
    one = prediction.Prediction("one", (prediction.Part("", 3, (), 1.5, 0.5),), own=1, seconds=5, memory=0, disk=0)
    assert prediction.together([one, one], 2) == 8
    assert prediction.together([replace(one, seconds=7)], 1) == 7


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="names no notebook"):
        jobs_of(study("smoke"), "nothing")
