"""Stacks of networks and the sparsity study: against a plain loop, scikit-learn, and numbers made by hand."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from lib import InputError
from lib.data.tabular import FriedmanTable, Table, splits
from lib.experiments import sparsity, sparsity_tables
from lib.reporting.claims import check, load_registry
from lib.seeds import image_generator
from lib.training import ensembles
from lib.training.ensembles import initial_layers, perceptron, roc_auc
from lib.training.priors import sparse_loss, trainable_x_gradient

GENERATED = FriedmanTable()
OVERLAP = {"table": 3.69, "generated table": 0.0}


@pytest.fixture(autouse=True)
def small_networks_on_the_cpu(monkeypatch):
    monkeypatch.setattr(sparsity, "best_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(sparsity, "HIDDEN", (16, 8))


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(0)
    x = random.normal(size=(260, 10))
    y = (x[:, 0] + x[:, 1] + random.normal(size=260) > 0).astype(int)
    return Table("made up", x, y, np.arange(10) < 2)


def generators(count, seed=0):
    return [image_generator(seed, f"split-{number:03d}", "weights") for number in range(count)]


# -- stacks ----------------------------------------------------------------------------------------------------


def test_roc_auc_by_hand():
    y = torch.tensor([[0, 0, 1, 1]] * 4)
    # pairs of a negative and a positive: all right, none, 3 of 4, and all tied (half each)
    scores = torch.tensor([[1.0, 2, 3, 4], [4, 3, 2, 1], [1, 3, 2, 4], [5, 5, 5, 5]])
    assert roc_auc(scores, y).tolist() == [1, 0, 0.75, 0.5]


def test_roc_auc_is_scikit_learns_with_ties_too():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 80, generator=generator)
    scores[3:] = (4 * scores[3:]).round()
    y = (torch.rand(6, 80, generator=generator) < 0.3).long()
    assert roc_auc(scores, y).tolist() == pytest.approx([roc_auc_score(*each) for each in zip(y, scores, strict=True)])


@pytest.mark.parametrize("scores", [[[0.1, 0.2]], [[float("nan"), 0.2]]])
def test_roc_auc_of_one_class_or_of_nan_is_refused(scores):
    y = torch.tensor([[1, 1]]) if scores == [[0.1, 0.2]] else torch.tensor([[0, 1]])
    with pytest.raises(InputError, match="both labels"):
        roc_auc(torch.tensor(scores), y)


def test_initial_weights_are_pytorchs_in_distribution_and_the_same_with_and_without_biases():
    with_biases, without = (initial_layers((100, 50, 1), generators(20), bias=bias) for bias in (True, False))
    for (weight, bias), (same, none) in zip(with_biases, without, strict=True):
        assert torch.equal(weight, same)
        assert none is None
        assert bias.shape == (20, 1, weight.shape[-1])
        bound = weight.shape[1] ** -0.5
        assert max(weight.abs().max(), bias.abs().max()) <= bound
        assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.1)
    alone = initial_layers((100, 50, 1), generators(3)[2:])
    assert torch.equal(alone[0][0][0], with_biases[0][0][2])


def test_a_stack_is_its_networks_one_by_one():
    layers = initial_layers((4, 6, 1), generators(3))
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    for number in range(3):
        model = sequential(layers, number)
        torch.testing.assert_close(perceptron(layers, x)[number], model(x[number])[:, 0])


def sequential(layers, number):
    """One network of a stack as torch's own layers."""
    parts = []
    for weight, bias in layers:
        linear = nn.Linear(*weight.shape[1:], bias=bias is not None).to(weight.dtype)
        linear.weight.data = weight[number].T.clone()
        if bias is not None:
            linear.bias.data = bias[number, 0].clone()
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def test_the_first_of_the_best_epochs_is_kept_with_the_weights_before_its_step():
    # One weight, w = 1 at first; Adam moves it by .5 an epoch against a constant gradient. AUC 1 while w > 0, .5 at 0.
    layers = [(torch.full((1, 1, 1), 1.0), None)]
    x, y = torch.tensor([[[-1.0], [1.0]]]), torch.tensor([[0, 1]])

    def loss(f, sign):
        value = sign * f(x)[:, 1]
        return value, value

    down = ensembles.train_together(layers, partial(loss, sign=1), (x, y), epochs=5, learning_rate=0.5)
    assert (down.epoch.item(), down.valid_auc.item(), down.layers[0][0].item()) == (0, 1, 1)
    start = [(torch.full((1, 1, 1), -1.0), None)]
    up = ensembles.train_together(start, partial(loss, sign=-1), (x, y), epochs=6, learning_rate=0.4)
    assert (up.epoch.item(), up.valid_auc.item()) == (3, 1)  # -1, -.6, -.2, .2
    assert up.layers[0][0].item() == pytest.approx(0.2, abs=1e-5)
    assert up.loss.item() == pytest.approx(-0.2, abs=1e-5)
    assert start[0][0].item() == -1  # what was given is left alone


def test_a_loss_that_is_not_finite_is_refused():
    layers, x, y = initial_layers((2, 1), generators(1)), torch.randn(1, 4, 2), torch.tensor([[0, 1, 0, 1]])
    with pytest.raises(InputError, match="epoch 0; lower the prior's strength"):
        ensembles.train_together(layers, lambda f: (f(x).sum(-1) * torch.nan, f(x).sum(-1)), (x, y))


# -- the training, against a plain transcription of its protocol -------------------------------------------------


def plain_training(data, number, *, method, references, strength, seed, epochs):
    """One training, network by network and reference by reference; float64."""
    bias = sparsity.METHODS[method][1]
    x, y = data.train[0][number].double(), data.train[1][number].double()
    sizes = (x.shape[1], *sparsity.HIDDEN, 1)
    layers = initial_layers(sizes, [image_generator(seed, data.ids[number], "weights")], bias=bias)
    model = sequential(layers, 0).double()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    drawn, best = image_generator(seed, data.ids[number], f"references/{references}"), (-1.0,)
    for epoch in range(epochs):
        z = model(x)[:, 0]
        loss, gini = nn.functional.binary_cross_entropy_with_logits(z, y), torch.tensor(torch.nan)
        if method != "unregularised":
            v = plain_attribution(model, x, method, references, drawn).abs().mean(0)
            gini = (v[:, None] - v[None]).abs().sum() / (2 * len(v) ** 2 * v.mean())
            loss = loss - strength * gini
        auc = roc_auc_score(data.valid[1][number], model(data.valid[0][number].double())[:, 0].detach())
        if auc > best[0]:
            test = roc_auc_score(data.test[1][number], model(data.test[0][number].double())[:, 0].detach())
            best = (auc, test, gini.item(), epoch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return dict(zip(("valid_auc", "test_auc", "gini", "epoch"), best, strict=True))


def plain_attribution(model, x, method, references, drawn):
    if method != "expected_gradients":
        inputs = x.clone().requires_grad_()
        z = model(inputs)[:, 0]
        scalar = 2 * nn.functional.logsigmoid(z) - z if method == "rrr" else z
        (gradient,) = torch.autograd.grad(scalar.sum(), inputs, create_graph=True)
        return gradient * x if "x_gradient" in method else gradient
    n, total = len(x), 0
    tiled = x.repeat(references, 1)[torch.randperm(references * n, generator=drawn)]
    alphas = torch.rand(references, n, generator=drawn)
    for k in range(references):
        r, alpha = tiled[k * n : (k + 1) * n], alphas[k][:, None]
        inputs = (alpha * x + (1 - alpha) * r).requires_grad_()
        (gradient,) = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)
        total = total + (x - r) * gradient / references
    return total


@pytest.mark.parametrize(
    ("method", "references"),
    [(method, 0) for method in ("x_gradient", "gradient", "rrr", "input_x_gradient", "unregularised")]
    + [("expected_gradients", 1), ("expected_gradients", 3)],
)
def test_stacked_training_is_the_plain_loop(table, method, references):
    strengths, epochs = ((0.0,), 12) if method == "unregularised" else ((0.1, 1.0), 12)
    found = sparsity.trained(table, method, references, strengths, 5, [3, 4], epochs=epochs)
    data = splits(table, [3, 4])
    for number, image in enumerate(data.ids):
        for strength in strengths:
            mine = found[(found["image"] == image) & (found["strength"] == strength)].set_index("metric")["value"]
            settings = {"method": method, "references": references, "strength": strength}
            plain = plain_training(data, number, **settings, seed=5, epochs=epochs)
            for metric, value in plain.items():
                if not np.isnan(value):
                    assert mine[metric] == pytest.approx(value, abs=1e-4), metric


@pytest.mark.parametrize(("method", "references"), [("x_gradient", 0), ("expected_gradients", 2)])
def test_results_do_not_depend_on_what_is_trained_beside_them(table, method, references):
    together = sparsity.trained(table, method, references, (0.1, 1.0), 0, [0, 1, 2], epochs=8)
    alone = sparsity.trained(table, method, references, (1.0,), 0, [1], epochs=8)
    same = together[(together["image"] == "split-001") & (together["strength"] == 1)]
    one, other = (rows[rows["metric"] != "seconds"].set_index("metric")["value"] for rows in (same, alone))
    assert one.to_dict() == pytest.approx(other.to_dict(), abs=1e-5)
    seeded = sparsity.trained(table, method, references, (1.0,), 1, [1], epochs=8).set_index("metric")["value"]
    assert seeded["gini_ixg"] != pytest.approx(other["gini_ixg"], abs=1e-4)


def test_a_stronger_prior_makes_attributions_sparser_in_the_course_of_training(table):
    data, seen = splits(table, [0, 0]), []  # the selected epoch may be an early one, so the last is looked at
    layers = initial_layers((10, 128, 1), [image_generator(0, "same", "weights") for _ in range(2)], bias=False)

    def loss(f):
        value, found = sparse_loss(f, *data.train, attribution=trainable_x_gradient, strength=torch.tensor([0.0, 1.0]))
        seen.append(found.detach())
        return value, found

    ensembles.train_together(layers, loss, data.valid, epochs=100)
    assert seen[0][0] == seen[0][1]
    assert seen[-1][1] > seen[-1][0] + 0.1


def test_what_is_measured_of_each_training(table):
    settings = {"seed": 0, "repetitions": [0], "epochs": 3}
    common = {"valid_auc", "test_auc", "gini_ixg", "real_share", "epoch", "seconds"}
    assert set(sparsity.trained(table, "unregularised", 0, (0.0,), **settings)["metric"]) == common
    found = sparsity.trained(table, "x_gradient", 0, (1.0,), **settings).set_index("metric")["value"]
    assert set(found.index) == common | {"gini"}
    assert found["gini"] == pytest.approx(found["gini_ixg"], abs=1e-5)  # what is trained on is input x gradient
    everything = Table(table.name, table.x, table.y, np.ones(10, bool))
    assert "real_share" not in set(sparsity.trained(everything, "rrr", 0, (1.0,), **settings)["metric"])


def test_real_columns_are_trained_on_as_a_table_that_has_no_others(table):
    settings = {"seed": 0, "repetitions": [0, 1], "epochs": 8}
    alone = Table(table.name, table.x[:, table.real], table.y, np.ones(2, bool))
    found, plain = (
        sparsity.trained(each, method, 0, (0.0,), **settings).set_index(["image", "metric"])["value"]
        for each, method in ((table, "real_columns"), (alone, "unregularised"))
    )
    for score in ("test_auc", "valid_auc"):
        assert found.xs(score, level="metric").to_dict() == plain.xs(score, level="metric").to_dict()
    assert "gini_ixg" not in found.index.unique("metric")  # of two columns, and no measure that others share


def test_tables_are_trained_on_and_named_apart(table):
    generated = FriedmanTable(length=230)
    rows = [sparsity.trained(of, "rrr", 0, (1.0,), 0, [0], epochs=2) for of in (table, generated)]
    assert [each["data"].unique().tolist() for each in rows] == [["table"], ["generated table"]]


def test_units_hold_every_training_once(table):
    sizes = {"repetitions": 7, "curve_repetitions": 3, "references": [1, 2, 64], "seeds": [0, 1]}
    found = sparsity.training_units(table, **sizes)
    trainings = [
        (method, count, strength, seed, repetition)
        for method, count, strengths, seed, block in found.values()
        for strength in strengths
        for repetition in block
    ]
    assert len(trainings) == len(set(trainings))
    grid = 7 * (5 * 5 + 3)
    assert len(trainings) == grid + 3 * (2 + 4)  # seed 0 lacks 2 and 64 references; seed 1 also 1 and X-Gradient
    for _, count, strengths, _, block in found.values():
        assert count * len(strengths) * len(block) <= max(sparsity.TOGETHER, count)
    everything = Table(table.name, table.x, table.y, np.ones(10, bool))  # nothing is known to be idle
    assert len(sparsity.training_units(everything, **sizes)) == len(found) - 1
    curve = sparsity.training_units(table, **sizes | {"curve_repetitions": 0})
    assert {(method, count) for method, count, *_ in curve.values()} == {
        (method, int(method == "expected_gradients")) for method in sparsity.METHODS
    }


# -- what is made of the rows ------------------------------------------------------------------------------------


def made_up(level, *, of=GENERATED, images=8, curve=True, references=(1, 2, 4), seeds=(0, 1), noise=0.0):
    """Rows of a whole study; level(method, references, strength) is the ROC-AUC, plus noise of each image."""
    random, rows = np.random.default_rng(0), []
    of_image = noise * random.normal(size=images)
    sizes = {"repetitions": images, "curve_repetitions": images * curve, "references": references, "seeds": seeds}
    units = sparsity.training_units(of, **sizes)
    for method, count, strengths, seed, block in units.values():
        for repetition in block:
            for strength in strengths:
                value = level(method, count, strength) + of_image[repetition] + noise * random.normal()
                for metric in ("valid_auc", "test_auc", "gini", "gini_ixg"):
                    key = (of.data, f"split-{repetition:03d}", method, count, float(strength), seed, metric)
                    rows.append((*key, value))
    return pd.DataFrame(rows, columns=sparsity.KEYS)


def peaked(method, references, strength):
    """Best at strength 1 (gradients: 10); Expected Gradients gain .01 a doubling from .79, X-Gradient is at .805."""
    if not strength:
        return 0.7
    best = 10.0 if method in ("gradient", "rrr") else 1.0
    top = 0.79 + 0.01 * np.log2(references) if references else 0.805
    return top - 0.02 * abs(np.log10(strength / best))


def test_strengths_regret_and_crossing_by_hand():
    rows = made_up(peaked)
    chosen = sparsity_tables.chosen_strengths(rows)
    assert (chosen["x_gradient"], chosen["gradient"], chosen["unregularised"]) == (1, 10, 0)
    shares = sparsity_tables.strength_shares(rows, runs=100)
    assert shares.loc["x_gradient"].to_dict() == {0.01: 0, 0.1: 0, 1: 1, 10: 0, 100: 0}
    assert "unregularised" not in shares.index
    regret = sparsity_tables.strength_regret(rows).groupby("method")["value"].mean()
    assert regret["x_gradient"] == pytest.approx(0)
    assert regret["gradient"] == pytest.approx(0.04)  # .1 is two decades from 10
    lost = sparsity_tables.deficit(sparsity_tables.curve(rows))
    assert lost.groupby("references")["value"].mean().tolist() == pytest.approx([0.015, 0.005, -0.005])
    assert sparsity_tables.crossing(lost).tolist() == [4, 4]
    assert sparsity_tables.crossing(lost[lost["references"] < 4]).isna().all()
    slopes = sparsity_tables.slopes(sparsity_tables.curve(rows)).groupby("metric")["value"].mean()
    assert slopes["test_auc_per_doubling"] == pytest.approx(0.01)


def test_the_rival_of_a_published_strength_is_chosen_on_other_repetitions():
    # Two repetitions, each with its own best strength: chosen on the other one, the rival of each is bad here.
    rows = made_up(lambda *_: 0.5, images=2)
    here = (rows["method"] == "x_gradient") & (rows["metric"] == "valid_auc")
    rows.loc[here & (rows["image"] == "split-000") & (rows["strength"] == 10), "value"] = 0.9
    rows.loc[here & (rows["image"] == "split-001") & (rows["strength"] == 100), "value"] = 0.9
    regret = sparsity_tables.strength_regret(rows)
    assert regret[regret["method"] == "x_gradient"]["value"].tolist() == [0, 0]


def test_resampled_crossings_are_shares_and_sharpen_with_more_repetitions():
    lost = sparsity_tables.deficit(sparsity_tables.curve(made_up(peaked, noise=0.01)))
    shares = sparsity_tables.resampled_crossings(lost, [4, 400], runs=2000)
    assert list(shares.index) == ["1", "2", "4", "never"]
    assert shares.sum().tolist() == pytest.approx([1, 1])
    assert shares[400].max() > shares[4].max()
    certain = sparsity_tables.resampled_crossings(
        sparsity_tables.deficit(sparsity_tables.curve(made_up(peaked))), [8], runs=100
    )
    assert certain[8].to_dict() == {"1": 0, "2": 0, "4": 1, "never": 0}


def test_what_idle_columns_cost_is_the_room_for_a_prior():
    rows = made_up(lambda method, *_: {"real_columns": 0.9, "unregularised": 0.8}.get(method, 0.7), images=3)
    assert sparsity_tables.room(rows)["value"].tolist() == pytest.approx([0.1] * 3)
    assert sparsity_tables.room(rows[rows["method"] != "real_columns"]).empty


def test_a_table_without_a_second_experiment_has_a_grid_alone():
    rows = made_up(peaked, curve=False)
    assert sparsity_tables.curve(rows).empty
    scores = sparsity_tables.sparsity_table(rows, sparsity.exactness(), overlap=OVERLAP)
    assert set(scores["experiment"]) == {"grid", "chosen", "derived", "exact"}
    assert set(scores.query("experiment == 'derived'")["metric"]) == {"bias_cost", "room", "strength_regret"}


def test_each_table_is_made_into_a_table_of_its_own():
    rows = pd.concat([made_up(peaked), made_up(lambda *of: 1 - peaked(*of), of=packaged())])
    chosen = sparsity_tables.each_table(sparsity_tables.chosen_strengths, rows)
    assert chosen["generated table", "x_gradient"] == 1
    assert chosen["table", "x_gradient"] == 0.01  # the first of those farthest from 1
    at_chosen = sparsity_tables.each_table(sparsity_tables.at_chosen, rows).reset_index("data")
    assert at_chosen.groupby("data").size().nunique() == 1


def packaged():
    return Table("packaged", np.zeros((569, 3)), np.arange(569) % 2, np.arange(3) < 2)


def test_claims_are_judged_from_the_table_of_scores_and_each_table_apart(tmp_path):
    counts = (1, 2, 4, 8, 16, 32)

    def level(method, references, strength):
        """EG passes X-Gradient between 16 and 32."""
        top = 0.75 + 0.0045 * np.log2(references) if references else {"x_gradient": 0.77}.get(method, 0.71)
        top = 0.85 if method == "real_columns" else top
        return top - 0.02 * abs(np.log10(strength or 1))

    settings = {"images": 16, "references": counts, "noise": 0.0005}
    rows = [
        made_up(level, **settings),
        made_up(lambda *of: 0.98 + (level(*of) - 0.71) / 100, of=packaged(), curve=False, **settings),
    ]
    scores = sparsity_tables.sparsity_table(pd.concat(rows), sparsity.exactness(), overlap=OVERLAP)
    path = tmp_path / "scores.csv"
    scores.to_csv(path, index=False)
    found = [check("xdnn_sparsity", each) for each in (scores, pd.read_csv(path))]
    assert found[0]["verdict"].equals(found[1]["verdict"])
    assert set(found[0]["claim"]) == {claim.id for claim in load_registry() if claim.notebook == "xdnn_sparsity"}
    verdicts, easy = (
        found[0][found[0]["data"].isin(data)].set_index("claim")["verdict"]
        for data in (["generated table", ""], ["table"])
    )
    holding = ["XD16a", "XD16b", "XD16c", "XD16f", "XD16g", "XD16h", "XD16i", "XD16j", "XD16k", "XD17", "XD18a"]
    holding += ["XD18b", "XD18c", "XD18e", "XD18f", "XD19a", "XD19b", "XD19c", "XD20a", "XD22", "XD23"]
    assert (verdicts[holding] == "holds here").all()
    assert verdicts["XD20b"] == "fails here"  # .1 is a decade from 1
    assert not (verdicts[["XD16d", "XD16e"]] == "holds here").any()  # nothing gained over no prior
    assert verdicts["XD18d"] == "not run"  # the packaged table has no second experiment
    assert easy["XD16k"] == "fails here" and easy["XD17"] == "holds here"
    assert not {"XD18a", "XD18b", "XD19a"} & set(easy.index)


def test_claims_that_the_numbers_contradict_fail():
    def level(method, references, strength):
        if method == "real_columns":
            return 0.76
        return 0.77 - 0.01 * np.log2(references) if references else {"x_gradient": 0.7}.get(method, 0.75)

    rows = made_up(level, images=16, references=(1, 2, 16, 32), noise=0.0005)
    scores = sparsity_tables.sparsity_table(rows, sparsity.exactness(), overlap=OVERLAP)
    verdicts = check("xdnn_sparsity", scores).set_index("claim")["verdict"]
    failing = ["XD16a", "XD16f", "XD16g", "XD16h", "XD16i", "XD16j", "XD16k", "XD18c", "XD18f", "XD19a"]
    assert (verdicts[failing] == "fails here").all()


def test_the_exact_properties_hold_and_can_fail(monkeypatch):
    found = sparsity.exactness().set_index("metric")["value"]
    assert found["finite_difference_error"].max() < 1e-6
    assert found["zero_reference_error"].max() < 1e-12

    def without_graph(f, x, y, draws):
        logits, attributions = trainable_x_gradient(f, x, y)
        return logits, attributions.detach()

    monkeypatch.setattr(sparsity, "METHODS", {"x_gradient": (without_graph, False)})
    assert sparsity.exactness().set_index("metric")["value"]["finite_difference_error"].max() > 1e-3
