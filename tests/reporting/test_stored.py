"""Tables that need not fit in memory: stored in parts, selected, compared and judged as tables in memory are."""

import json
import re
import subprocess
import sys
from itertools import product

import numpy as np
import pandas as pd
import pytest

from lib import ROOT, InputError
from lib.reporting import bands, claims, packing, stored, tables
from lib.reporting.statistics import contrasts, paired, summary
from lib.reporting.stored import StoredScores, portions, select
from lib.store.files import content_digest

BASE, OURS = {"rule": "riemann"}, {"rule": "idgi"}
CELLS = ["metric", "path", "model"]


def unit(number: int) -> pd.DataFrame:
    """A network's scores of three images: released on its own grid, and a random map that has no path."""
    model = f"net{number // 4}"
    keys = list(product(("straight", "blur"), ("riemann", "idgi"), (8, 64), ("corrected",), ("insertion", "aic")))
    keys += [(path, rule, 32, "released", "insertion") for path in ("straight", "blur") for rule in ("riemann", "idgi")]
    keys += [("none", "random", 0, "corrected", metric) for metric in ("insertion", "aic")]
    rows = [
        {"image": f"img{3 * (number % 4) + k}", "label": k, "path": p, "rule": r, "steps": s, "mode": m, "metric": q}
        for k in range(3)
        for p, r, s, m, q in keys
    ]
    frame = pd.DataFrame(rows)
    frame["value"] = np.random.default_rng(number).normal(size=len(frame)) + (frame["rule"] == "idgi")
    frame.loc[(frame["metric"] == "aic") & (frame["label"] == 2), "value"] = np.nan  # an excluded image
    frame.attrs["seconds"] = 1.0 + number
    return frame.assign(model=model)


@pytest.fixture(params=["one file", "parts"])
def both(request, tmp_path, monkeypatch):
    """The same scores in memory and stored: as one file read at once, or in parts read in portions of 200 rows."""
    if request.param == "parts":
        monkeypatch.setattr(stored, "MOST", 200 * 9)
        monkeypatch.setattr(packing, "MOST", 150 * 9)
    scores = tables.save_parts(map(unit, range(8)), "scores", "laptop", tmp_path)
    path = tmp_path / "results" / "laptop" / "scores.parquet"
    assert path.is_dir() == (request.param == "parts")
    assert len(list(path.glob("*"))) == (4 if request.param == "parts" else 0)
    whole = pd.concat(map(unit, range(8)), ignore_index=True)
    return whole.assign(value=packing.as_stored(whole["value"])), scores


def assert_same_rows(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    ours, theirs = (stored.plain(frame) for frame in (ours, theirs))
    by = [column for column in theirs if theirs[column].dtype.kind not in "f"]
    ours, theirs = (frame.sort_values(by).reset_index(drop=True)[list(theirs)] for frame in (ours, theirs))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"rule": "idgi"},
        {"steps": [8, 64], "metric": "aic"},
        {"model": "net*", "path": ["bl*", "none"]},
        {"steps": "largest"},  # another number of steps in each mode: not a product of values
        {"steps": "smallest", "metric": "insertion", "mode": ["corrected", "released"]},
        {"image": ["img1", "img7"], "label": 1, "rule": "riemann"},
        {"rule": "unheard of"},
    ],
    ids=str,
)
def test_select_reads_the_rows_it_would_find_in_memory(both, where):
    whole, scores = both
    found = select(scores, where)
    assert list(found.columns) == list(whole.columns)
    pd.testing.assert_frame_equal(
        stored.plain(found).reset_index(drop=True), select(whole, where).reset_index(drop=True)
    )


def test_an_unknown_column_names_the_nearest(both):
    for scores in both:
        with pytest.raises(InputError, match=r"no column 'stepz'; did you mean 'steps'"):
            select(scores, {"stepz": 8})


def test_comparisons_are_those_of_the_table_in_memory(both):
    whole, scores = both
    where = {"steps": "largest", "mode": "corrected"}
    assert_same_rows(paired(scores, OURS, BASE, where=where), paired(whole, OURS, BASE, where=where))
    random = {"rule": "random", "path": "none", "steps": 0}  # one map beside every path
    assert_same_rows(paired(scores, OURS, random, where=where), paired(whole, OURS, random, where=where))
    for by in (CELLS, ["metric"]):
        ours, theirs = (contrasts(each, OURS, BASE, by=by, where=where) for each in (scores, whole))
        assert_same_rows(ours, theirs)
        ours, theirs = (tables.comparison(each, OURS, BASE, by=by, where=where) for each in (scores, whole))
        assert_same_rows(ours, theirs)
        assert_same_rows(summary(scores, by, where=where), summary(whole, by, where=where))
    with pytest.raises(InputError, match="has several rows for one"):
        paired(scores, {"rule": "idgi", "steps": 64}, {"rule": "riemann", "steps": [8, 64]})


REGISTRY = """
A: {paper: idgi, statement: s, source: ours, notebook: scores, test: {kind: order, a: {rule: idgi}, b: {rule: riemann},
    where: {steps: largest, metric: [insertion, aic]}, direction: greater, every: true}}
B: {paper: idgi, statement: s, source: ours, notebook: scores, test: {kind: order, a: {rule: idgi}, b: {rule: riemann},
    where: {path: [straight, blur], metric: [insertion, sic]}, change: steps, direction: less, every: false}}
C: {paper: tmlr, statement: s, source: ours, notebook: scores, test: {kind: share, a: {rule: idgi}, b: {rule: riemann},
    where: {steps: largest, metric: insertion}, direction: greater, within: {model: "net1*"}}}
D: {paper: tmlr, statement: s, source: ours, notebook: scores, test: {kind: bound, where: {rule: idgi}, statistic: mean,
    at_least: 0.5}}
E: {paper: tmlr, statement: s, source: ours, notebook: scores, test: {kind: exclusion, where: {rule: idgi,
    steps: largest, metric: insertion}, defined: {metric: aic}, at_most: 0.4}}
F: {paper: idgi, statement: s, source: ours, notebook: scores, test: {kind: agree, claims: [A]}}
G: {paper: tmlr, statement: s, source: ours, notebook: scores, test: {kind: share, a: {rule: idgi}, b: {rule: riemann},
    where: {steps: largest}, direction: greater}}
"""


def test_every_kind_of_claim_is_judged_as_in_memory(both, tmp_path):
    whole, scores = both
    (tmp_path / "claims.yaml").write_text(REGISTRY)
    registry = claims.load_registry(tmp_path / "claims.yaml")
    ours, theirs = (claims.check("scores", each, registry=registry) for each in (scores, whole))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-9)
    assert set(theirs["verdict"]) >= {"holds here", "inconclusive", "fails here"}
    results = tmp_path / "results" / "laptop"
    record = {"scores": {"tables": {path.name: content_digest(path) for path in results.glob("scores.*")}}}
    (results / "provenance.json").write_text(json.dumps(record))
    found = claims.judge(results, registry=registry)
    pd.testing.assert_frame_equal(found[claims.COLUMNS], theirs, rtol=1e-9)


def test_no_portion_is_larger_than_memory_takes_but_for_a_whole_group(both):
    whole, scores = both
    found = list(portions(scores, CELLS))
    assert sum(map(len, found)) == len(whole)
    most, largest = scores.most, whole.groupby(CELLS).size().max()
    assert len(found) >= len(whole) // (most + largest)
    assert all(len(rows) <= most + largest for rows in found)
    cells = [tuple(cell) for rows in found for cell in rows[CELLS].drop_duplicates().to_numpy()]
    assert len(cells) == len(set(cells)) == len(whole[CELLS].drop_duplicates())


def test_mean_curves_are_averaged_over_images_in_portions(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "MOST", 40)
    rows = [
        {"image": f"img{k}", "model": model, "rule": rule, "curve": [k + shift, 2.0 * k, np.nan if k == 5 else 0.0]}
        for k in range(6)
        for model, shift in (("a", 0.0), ("b", 1.0))
        for rule in ("riemann", "idgi")
    ]
    frame = pd.DataFrame(rows)
    scores = tables.save_parts([frame], "curves", "laptop", tmp_path)
    assert len(list(portions(scores, ["rule"]))) == 2
    ours, theirs = (bands.mean_curves(each, ["rule"], [0.1, 0.2, 0.3]) for each in (scores, frame))
    assert_same_rows(ours, theirs)
    first = ours.iloc[0]
    assert first["mean"] == np.mean([k + shift for k in range(5) for shift in (0, 1)])  # the sixth image is excluded
    none = bands.mean_curves(frame[frame["image"] == "img5"], ["rule"], [0.1, 0.2, 0.3])
    assert len(none) == 6 and none["mean"].isna().all()
    # an image's two curves are resampled together: the band is as wide as that of the images' means
    _, low, high = bands.band(np.arange(5.0)[:, None] + 0.5)
    assert (first["low"], first["high"]) == (low[0], high[0])


def test_a_band_does_not_depend_on_how_many_draws_are_made_at_once(monkeypatch):
    values = np.random.default_rng(0).random((50, 3))
    whole = bands.band(values)
    monkeypatch.setattr(bands, "AT_ONCE", 700)
    np.testing.assert_allclose(bands.band(values), whole, rtol=1e-12)


# -- writing -------------------------------------------------------------------------------------------------


def parts_then(error: Exception | None):
    yield from map(unit, range(8))
    if error:
        raise error


def test_a_table_replaces_another_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "MOST", 150 * 9)
    folder = tmp_path / "results" / "laptop"
    path = folder / "scores.parquet"
    tables.save_parts([unit(0)], "scores", "laptop", tmp_path)
    assert path.is_file()
    (folder / ".scores.parquet.killed").mkdir()  # what a killed run left
    for error in (KeyboardInterrupt(), OSError(28, "No space left on device")):
        with pytest.raises((KeyboardInterrupt, OSError)):
            tables.save_parts(parts_then(error), "scores", "laptop", tmp_path)
        assert len(pd.read_parquet(path)) == len(unit(0))
    tables.save_parts(parts_then(None), "scores", "laptop", tmp_path)
    assert path.is_dir() and len(pd.read_parquet(path)) == 8 * len(unit(0))
    tables.save_parts([unit(0)], "scores", "laptop", tmp_path)
    assert path.is_file() and len(StoredScores(path)) == len(unit(0))
    assert [each.name for each in folder.iterdir()] == ["scores.parquet"]


def test_a_stored_table_says_nothing_of_the_seconds_it_took(tmp_path):
    files = []
    for seconds in (1.0, 2.0):
        frame = unit(0)
        frame.attrs["seconds"] = seconds
        frame.to_parquet(tmp_path / "unit.parquet", index=False)
        tables.save_parts(tables.unit_frames([tmp_path / "unit.parquet"]), "scores", "laptop", tmp_path)
        files.append((tmp_path / "results" / "laptop" / "scores.parquet").read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("most", [10**6, 1], ids=["one file", "parts"])
def test_curves_of_a_unit_without_a_number_are_missing_numbers(tmp_path, monkeypatch, most):
    monkeypatch.setattr(packing, "MOST", most)
    files = [tmp_path / "none.parquet", tmp_path / "some.parquet"]  # the type of the first tells nothing
    for file, curve in zip(files, ([np.nan, np.nan], [0.5, np.nan]), strict=True):
        unit(0).assign(curve=[curve] * len(unit(0))).to_parquet(file, index=False)
    expected = [[np.nan, np.nan], [0.5, np.nan]]
    tables.save_parts(tables.unit_frames(files), "parts", "laptop", tmp_path)
    at_once = pd.concat(map(pd.read_parquet, files), ignore_index=True)
    judged = tables.save_parquet(at_once, "whole", "laptop", tmp_path)
    for table in (pd.read_parquet(tmp_path / "results" / "laptop" / f"{name}.parquet") for name in ("parts", "whole")):
        assert len(table) == len(at_once)
        np.testing.assert_equal(np.stack(table["curve"])[[0, -1]].tolist(), expected)
    np.testing.assert_equal(np.stack(judged["curve"])[[0, -1]].tolist(), expected)


def test_a_damaged_unit_is_removed_and_named(tmp_path):
    file = tmp_path / "unit-1.parquet"
    unit(0).assign(curve=[[0.0]] * len(unit(0))).to_parquet(file, index=False, write_page_checksum=True)
    assert "curve" not in next(tables.unit_frames([file], without="curve"))
    content = bytearray(file.read_bytes())
    content[200:260] = bytes(60)
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"unit-1\.parquet was damaged .*type the same command again"):
        list(tables.unit_frames([file]))
    assert not file.exists()


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no table .*nothing\.parquet; run its notebook"):
        StoredScores(tmp_path / "nothing.parquet")


# -- memory --------------------------------------------------------------------------------------------------

LARGE = """
import re, sys
from pathlib import Path
import numpy as np, pandas as pd
from lib.reporting import claims, tables
from lib.reporting.statistics import contrasts, summary

images, group, paths, grid = 50_000, 500, ("straight", "blur", "guided"), (8, 16, 32, 64, 128)
keys = [(p, r, s, m, q) for p in paths for r in ("riemann", "idgi") for s in grid for m in ("corrected", "released")
        for q in ("insertion", "insertion_ratio", "completeness")]
keys += [(p, r, 128, "corrected", q) for p in paths for r in ("squared_gradient", "riemann_abs")
         for q in ("insertion", "aic_png")]
keys += [(p, r, 128, "corrected", "sic_png") for p in paths for r in ("riemann", "idgi", "squared_gradient")][:8]
cells = pd.DataFrame(keys, columns=["path", "rule", "steps", "mode", "metric"])

def frames():
    for start in range(0, images, group):
        named = pd.DataFrame({"image": [f"ILSVRC2012_val_{k:08}" for k in range(start, start + group)], "label": 1})
        frame = cells.merge(named, how="cross")
        noise = np.random.default_rng(start).random(len(frame))
        yield frame.assign(value=noise + 0.02 * (frame["rule"] == "idgi"), model="resnet50")

scores = tables.save_parts(frames(), "scores", "imagenet", sys.argv[1])
assert len(scores) == images * len(cells) == 10**7
where = {"metric": "insertion", "steps": 128, "mode": "corrected"}
asked = {"by": ["metric"], "where": where}
difference = contrasts(scores, {"rule": "idgi"}, {"rule": "riemann"}, **asked)
assert difference["mean"].between(0.01, 0.03).all() and (difference["n"] == images).all()
assert len(tables.comparison(scores, {"rule": "idgi"}, {"rule": "riemann"}, **asked)) == 1
assert len(summary(scores, ["mode", "rule"], where={"metric": "insertion"}, resamples=99)) == 6
verdicts = claims.check("scores", scores, registry=claims.load_registry(Path(sys.argv[2])))
assert (verdicts["verdict"] == "holds here").all(), verdicts
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1e6)
"""
LARGE_REGISTRY = """
A: {paper: idgi, statement: s, source: ours, notebook: scores, protocols: [corrected], test: {kind: order,
    a: {rule: idgi}, b: {rule: riemann}, where: {path: straight, steps: largest, metric: insertion},
    direction: greater, every: true}}
B: {paper: idgi, statement: s, source: ours, notebook: scores, test: {kind: bound, where: {metric: completeness},
    statistic: max, at_most: 2}}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.slow
def test_ten_million_rows_take_less_than_a_gigabyte(tmp_path):
    """Two hundred rows an image, of as many photographs as the papers have."""
    (tmp_path / "claims.yaml").write_text(LARGE_REGISTRY)
    command = [sys.executable, "-c", LARGE, str(tmp_path), str(tmp_path / "claims.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.fullmatch(r"[\d.]+\n", done.stdout) and float(done.stdout) < 1.0


def test_claims_are_judged_without_what_computes():
    """Verdicts of millions of rows need the memory that torch would take, and a claim is looked up in a second."""
    code = "import sys, lib.reporting.claims, lib.reporting.tables; print({'torch', 'matplotlib'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "set()\n"
