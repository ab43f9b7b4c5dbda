"""The cross matrix: equal evaluations, one walk for all rules, tidy rows, and what is made of them."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from lib import InputError
from lib.attribution import IDGI, Adversarial, Riemann, attribute, walk
from lib.data.imagenet import Photograph, load_image
from lib.experiments import cross, cross_tables
from lib.experiments.cross_paths import ALSO_AT_HALF, ONE_LINE, PATHS, Returning, along, combinations, ways
from lib.experiments.cross_scores import FAMILIES, MODE, Protocol, removal, stable
from lib.experiments.cross_tables import CHOSEN, FAMILY, METHODS, STANDING, TRIED
from lib.metrics.diffid import area, diffid
from lib.models.zoo import Network, best_device

KEYS = ["image", "path", "rule", "steps", "metric"]
CHOICE = {"paths": list(PATHS), "points": 4, "references": 2, "clusters": 1}
THIN = {"ratios": 3, "insertion_steps": 3, "information_points": 3, "draws": 5, "k": 20, "radius": 1}


def network() -> Network:
    """A small random one of five classes, for images of 12 x 12."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 5)]
    model = nn.Sequential(*layers).eval().requires_grad_(False).to(best_device())
    return Network("small", model, 12, 12, "bilinear", (0.5,) * 3, (0.25,) * 3, "none")


@pytest.fixture(scope="module")
def of(tmp_path_factory):
    """Four photographs of noise, the last of which is misclassified."""
    small, folder, photos = network(), tmp_path_factory.mktemp("photographs"), []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        photos.append(Photograph(folder / f"{number}.png", number, f"p{number}"))
    x = torch.stack([small.tensor(load_image(photo)) for photo in photos]).to(best_device())
    with torch.no_grad():
        target = small.model(x).argmax(1)
    target[3] = (target[3] + 1) % 5
    pool = torch.rand(30, 3, 12, 12, generator=torch.Generator().manual_seed(1)).to(best_device())
    return cross.Pictured(small, x, target, [photo.id for photo in photos], pool, [-1] * 4, photos)


@pytest.fixture(scope="module")
def scored(of, tmp_path_factory):
    """Rows of the subject that is given, all paths and metrics."""
    cache = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross, "load_network", lambda *_, **__: network())
        yield lambda of: cross.cross_matrix(lambda: of, **CHOICE, objective="logit", protocol=THIN, cache=cache)


@pytest.fixture(scope="module")
def rows(of, scored):
    return scored(of)


@pytest.fixture(scope="module")
def places(rows):
    return cross_tables.standings(rows)


def test_adversarial_lines_walked_back_give_agis_own_sum_and_complete_idgi(of):
    targets = [[(int(own) + step) % 5 for step in (1, 2)] for own in of.target]
    outward = Adversarial(targets, 3)
    asked = {"objective": "logit"}
    there = attribute(of.model, of.x, of.target, path=outward, rules={"agi": Riemann("left")}, **asked)
    rules = {"agi": Riemann("left"), "idgi": IDGI()}
    back = attribute(of.model, of.x, of.target, path=Returning(outward), rules=rules, **asked)
    torch.testing.assert_close(back["agi"], there["agi"], atol=1e-6, rtol=1e-4)
    ends = [node.value for node in walk(of.model, outward, of.x, of.target, **asked) if node.index == 2]
    rise = of.answers()[0].gather(1, of.target[:, None])[:, 0] - torch.stack(ends).mean(0)
    torch.testing.assert_close(back["idgi"].flatten(1).sum(1), rise, atol=1e-5, rtol=1e-4)
    assert back.evaluations == there.evaluations + len(of.x)


@pytest.mark.parametrize(("points", "references"), [(4, 1), (4, 3), (6, 2)])
def test_all_paths_take_the_same_number_of_evaluations(of, points, references, tmp_path):
    choice = CHOICE | {"points": points, "references": references, "cache": tmp_path}
    for way in ways(of, **choice):
        spent = along(way, of, "logit")[1]
        assert (spent["evaluations"], spent["extra_evaluations"]) == (points * references + 1, 0), way.name
        coarse = attribute(of.model, of.x, of.target, path=way.half, rules=way.rules)
        assert coarse.evaluations == len(of.x) * (points * references // 2 + 1), way.name


def test_maps_at_half_the_evaluations_are_those_of_a_walk_with_half_the_points(of, tmp_path):
    choice = CHOICE | {"cache": tmp_path, "references": 2}
    for long, short in zip(ways(of, **choice | {"points": 8}), ways(of, **choice), strict=True):
        halves, _ = along(long, of, "logit", halved=True)
        alone, _ = along(short, of, "logit")
        found = {key for key in halves if key[2] == 9}
        assert {key[1] for key in found} == {*ALSO_AT_HALF}
        for key in found:
            torch.testing.assert_close(halves[key], alone[key], atol=1e-5, rtol=1e-3)


def test_paths_and_points_that_do_not_exist_are_refused(of, tmp_path):
    with pytest.raises(InputError, match="did you mean 'straight'"):
        ways(of, **CHOICE | {"paths": ["strait"]}, cache=tmp_path)
    with pytest.raises(InputError, match="give an even number"):
        ways(of, **CHOICE | {"points": 5}, cache=tmp_path)
    with pytest.raises(InputError, match="at least 4"):
        ways(of, **CHOICE | {"points": 2}, cache=tmp_path)
    with pytest.raises(InputError, match="knows digits"):
        cross.cross_units("mnist_cnn", images="packaged", limit=1, group=1, pool=1, weights="", cache=tmp_path)


def test_rows_are_tidy_and_every_combination_has_every_score(rows):
    assert not rows.duplicated(KEYS).any()
    whole = cross_tables.whole_walks(rows)
    several = [path for path in PATHS if path not in ONE_LINE]
    wanted = {(path, rule) for path in PATHS for rule in (*METHODS, "squared_gradient", "relu", "random_mask")}
    wanted -= {(path, "recalibrated_reference") for path in ONE_LINE}
    wanted |= {("none", "gradient"), ("none", "random")}
    assert len(wanted) == 3 * 7 + len(several) * 8 + 2
    for _, own in whole.groupby(["metric", "image"]):
        assert {*zip(own["path"], own["rule"], strict=True)} == wanted
    assert set(whole["metric"]) == {metric for metrics in FAMILIES.values() for metric in metrics}
    assert set(rows[rows["metric"] == "forward_passes"]["rule"]) == {*FAMILIES, "equal_time"}


def test_a_misclassified_photograph_is_counted_and_not_scored(of, rows, scored):
    right = rows[rows["metric"] == "right"].set_index("image")["value"]
    assert right.to_dict() == {"p0": 1, "p1": 1, "p2": 1, "p3": 0}
    assert set(rows[rows["image"] == "p3"]["metric"]) == {"right"}
    nobody = scored(of.only(torch.tensor([False, False, False, True])))
    assert nobody["metric"].tolist() == ["right"]
    with pytest.raises(InputError, match="no network classifies any"):
        cross_tables.standings(nobody)


def test_scores_do_not_depend_on_the_company(of, rows, scored):
    alone = scored(of.only(torch.tensor([False, True, False, False])))
    alone = alone[alone["metric"].isin([*FAMILY])].set_index(KEYS)["value"]
    together = rows.set_index(KEYS)["value"].loc[alone.index]
    assert (alone.isna() == together.isna()).all()
    # A pixel that falls on the other side of a rank moves a set of k pixels by one.
    assert (alone - together).abs().max() < 0.06


def test_a_random_map_is_perfectly_stable_and_perfectly_insane(rows):
    of_random = rows[rows["rule"] == "random"]
    for metric in ("jpeg_spearman", "sanity_last", "sanity_all"):
        values = of_random[of_random["metric"] == metric]["value"]
        assert len(values) == 3 and (values - 1).abs().max() < 1e-9


def test_walks_are_counted_with_their_metrics(rows, of):
    spent = rows[rows["metric"].isin(["forward_passes", "gradient_passes"])]
    spent = spent.pivot_table(index="rule", columns="metric", values="value")
    assert spent.loc["sensitivity"].tolist() == [16, 0]  # three fractions of five masks, and the image itself
    assert spent.loc["insertion", "forward_passes"] == 2 * 63 + 2
    # nine evaluations on each of eight paths and a single gradient, twice
    assert spent.loc["stability"].tolist() == spent.loc["sanity"].tolist() == [0, 2 * (8 * 9 + 1)]


def test_removal_at_nine_ratios_is_the_papers_area(of, tmp_path):
    maps = combinations([], of, "logit")
    game = diffid(of.model, of.x, torch.stack(list(maps.values()), 1), of.target, mean=(0.5,) * 3, std=(0.25,) * 3)
    found = removal(of, maps, Protocol(ratios=9))
    torch.testing.assert_close(found["diffid_logit"], area(game.diffid_logit))
    torch.testing.assert_close(found["deletion_logit"], area(game.deletion_logit))


def test_lens_above_its_level_by_hand():
    corner, opposite, elsewhere = (torch.zeros(1, 5, 5) for _ in range(3))
    corner[0, 0, 0] = opposite[0, 4, 4] = elsewhere[0, 0, 2] = 1.0
    how = Protocol(k=1, radius=1)

    def score(after):
        return stable({"map": corner}, {"map": corner}, {"map": after}, how)["lens_above_turned"].item()

    assert score(corner) == 1  # found; the turned one is far away
    assert score(elsewhere) == 0  # neither is near
    assert np.isnan(score(opposite))  # the turned one has all that could be found


def table(values: dict, metric: str = "diffid_logit", image: str = "a", steps: int = 8) -> pd.DataFrame:
    rows = [(image, 0, "net", MODE, path, rule, steps, metric, value) for (path, rule), value in values.items()]
    return pd.DataFrame(rows, columns=["image", "label", "model", "mode", "path", "rule", "steps", "metric", "value"])


IG, BLUR, GUIDED = (("straight", "riemann"), ("blur", "riemann"), ("guided", "recalibrated_point"))


def standing(rows: pd.DataFrame, metric: str) -> dict:
    own = rows[rows["metric"] == metric]
    return {(row.path, row.rule): row.value for row in own.itertuples()}


def test_standings_by_hand():
    parts = [table({IG: 3.0, BLUR: 1.0, GUIDED: 1.0}), table({IG: 3.0, BLUR: 2.0, GUIDED: 1.0}, "deletion_logit")]
    parts += [table({IG: 0.0, BLUR: 5.0, GUIDED: np.nan}, "insertion")]
    found = cross_tables.standings(pd.concat(parts, ignore_index=True))
    assert standing(found, "diffid_logit") == {IG: 1.0, BLUR: 0.25, GUIDED: 0.25}  # beats none, ties with one of two
    assert standing(found, "deletion_logit") == {IG: 0.0, BLUR: 0.5, GUIDED: 1.0}  # less is better
    insertion = standing(found, "insertion")
    assert (insertion[IG], insertion[BLUR]) == (0, 1) and np.isnan(insertion[GUIDED])
    # the mean of removal, (1 + 0) / 2, and insertion, 0; without insertion where it is not defined
    assert standing(found, STANDING) == {IG: 0.25, BLUR: (0.375 + 1) / 2, GUIDED: 0.625}


def test_insertion_and_its_ratio_rank_alike_and_one_of_them_counts(rows, places):
    """The ratio divides a photograph's insertion by one number."""
    wide = rows.pivot_table(index=["image", "path", "rule"], columns="metric", values="value")
    share = (wide["insertion_ratio"] / wide["insertion"]).groupby("image")
    np.testing.assert_allclose(share.max(), share.min(), rtol=1e-5)
    assert cross_tables.RANKED_TWICE in set(rows["metric"]) - set(places["metric"])


def test_half_walks_take_no_part_in_standings():
    both = pd.concat([table({IG: 1.0, BLUR: 0.0}), table({IG: 5.0, BLUR: 9.0}, steps=4)], ignore_index=True)
    assert len(cross_tables.whole_walks(both)) == 2
    assert standing(cross_tables.standings(both), STANDING) == {IG: 1.0, BLUR: 0.0}


def test_standings_of_all_combinations_average_one_half(places):
    by_image = places.groupby(["image", "metric"])["value"].agg(["count", "mean"])
    defined = by_image[by_image["count"] > 0].drop(STANDING, level="metric")
    np.testing.assert_allclose(defined["mean"], 0.5)
    overall = by_image.xs(STANDING, level="metric")
    assert (overall["count"] == 63).all()
    whole = [image for image, rows in defined.groupby("image") if (rows["count"] == 63).all()]
    assert whole  # LENS recall is not defined for some maps of the others
    np.testing.assert_allclose(overall.loc[whole, "mean"], 0.5)


def test_agreement_of_metrics_by_hand():
    up, down = {IG: 2.0, BLUR: 1.0, GUIDED: 0.0}, {IG: 0.0, BLUR: 1.0, GUIDED: 2.0}
    for other, tau in ((up, 1.0), (down, -1.0)):
        rows = pd.concat([table(up), table(other, "insertion"), table(down, "aic_png", "b")])
        found = cross_tables.accord(cross_tables.standings(rows)).set_index("image")["value"]
        assert found["a"] == pytest.approx(tau)
        assert np.isnan(found["b"])  # a single metric agrees with nothing


def test_photographs_never_judge_a_choice_that_they_had_part_in():
    images = [f"i{number}" for number in range(8)]
    first, second = cross_tables.halves(images, seed=3)
    assert first | second == {*images} and not first & second and len(first) == 4
    assert cross_tables.halves(images[::-1], seed=3) == (first, second)
    assert cross_tables.halves(images, seed=4) != (first, second)
    # one half prefers IG, the other Blur IG, and Guided IG re-calibrated is the only one that is untried
    likes = {True: {IG: 1.0, BLUR: 0.5, GUIDED: 0.0}, False: {IG: 0.0, BLUR: 1.0, GUIDED: 0.5}}
    rows = pd.concat([table(likes[image in first], image=image) for image in images], ignore_index=True)
    places = cross_tables.standings(rows)
    picks = cross_tables.choices(places, seed=3).set_index(["half", "kind"])
    assert tuple(picks.loc[(0, "tried"), ["path", "rule"]]) == IG
    assert tuple(picks.loc[(1, "tried"), ["path", "rule"]]) == BLUR
    tested = cross_tables.put_to_test(rows, places, seed=3)
    assert set(tested["path"]) == {CHOSEN} and not tested.duplicated(KEYS).any()
    tried = tested[tested["rule"] == "tried"].set_index("image")["value"]
    assert {image: tried[image] for image in images} == {image: 0.5 if image in first else 0.0 for image in images}


def test_equal_time_by_hand():
    costs = [(("straight", "riemann"), 1.0), (("blur", "riemann"), 1.5), (("guided", "recalibrated_point"), 3.0)]
    parts = [table({key: seconds}, "seconds", steps=9) for key, seconds in costs]
    parts += [table({key: 9.0}, "evaluations", steps=9) for key, _ in costs]
    parts += [table({IG: 0.0, BLUR: 0.0, GUIDED: 0.0}, steps=5), table({IG: 1.0, BLUR: 1.0, GUIDED: 1.0}, steps=9)]
    found = cross_tables.at_equal_time(pd.concat(parts, ignore_index=True)).set_index(["compared", "path"])
    assert found.loc["evaluations", "value"].tolist() == [1.0] * 3
    by_time = found.loc["seconds"]
    assert by_time.loc["straight", ["evaluations", "value"]].tolist() == [9.0, 1.0]
    assert by_time.loc["blur", ["evaluations", "value"]].tolist() == [6.0, 0.25]  # one step beyond five, of four
    assert by_time.loc["guided", ["evaluations", "value"]].tolist() == [
        5.0,
        0.0,
    ]  # three would fit


def test_what_papers_tried_are_paths_and_rules_of_the_matrix():
    assert set(TRIED) == set(PATHS)
    assert all(set(rules) <= set(METHODS) for rules in TRIED.values())
    found = {cross_tables.kind_of(path, rule) for path in PATHS for rule in METHODS}
    assert found == {"tried", "untried", "control"}
