"""From the trainings of `lib.experiments.sparsity` to the table that the claims are judged by.

rows: the trainings on one table, as `sparsity.trained` returns them; `each_table` takes those on several.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from lib.experiments.sparsity import CURVE, KEYS

PUBLISHED_CROSSING = 32  # references with which Expected Gradients are said to reach X-Gradient
PUBLISHED_STRENGTHS = {"x_gradient": 1.0, "expected_gradients": 1.0, "rrr": 0.1, "gradient": 0.1}


def each_table(made: Callable[[pd.DataFrame], pd.DataFrame], rows: pd.DataFrame) -> pd.DataFrame:
    """made(rows of a table) for each table, below each other; the first level of the index is the column `data`."""
    parts = rows.groupby("data", sort=False)
    return pd.concat({data: made(part).drop(columns="data", errors="ignore") for data, part in parts}, names=["data"])


def grid(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the first experiment: the first seed, at most one reference."""
    return rows[(rows["seed"] == rows["seed"].min()) & (rows["references"] <= 1)]


def chosen_strengths(rows: pd.DataFrame) -> pd.Series:
    """For each method the strength with the highest mean validation ROC-AUC over repetitions; 0 without a prior."""
    valid = grid(rows)
    means = valid[valid["metric"] == "valid_auc"].groupby(["method", "strength"], sort=False)["value"].mean()
    return pd.Series({method: means[method].idxmax() for method in means.index.unique("method")}).rename_axis("method")


def strength_shares(rows: pd.DataFrame, *, seed: int = 0, runs: int = 10_000) -> pd.DataFrame:
    """How often each strength would be chosen if the repetitions were resampled: (method x strength), rows sum to 1."""
    valid = grid(rows)
    valid = valid[(valid["metric"] == "valid_auc") & (valid["strength"] > 0)]
    wide = valid.pivot(index="image", columns=["method", "strength"], values="value")
    random, found = np.random.default_rng(seed), {}
    picked = random.multinomial(len(wide), np.full(len(wide), 1 / len(wide)), runs)
    for method in valid["method"].unique():
        won = (picked @ wide[method].to_numpy()).argmax(1)
        found[method] = pd.Series(np.bincount(won, minlength=wide[method].shape[1]) / runs, wide[method].columns)
    return pd.DataFrame(found).T.rename_axis("method")


def strength_regret(rows: pd.DataFrame) -> pd.DataFrame:
    """What the published strength loses in validation ROC-AUC against the best of the grid, one row a repetition.

    The best is chosen on the *other* repetitions: chosen on all of them, it would win by construction.
    """
    valid = grid(rows)
    valid, found = valid[valid["metric"] == "valid_auc"], []
    for method, published in PUBLISHED_STRENGTHS.items():
        wide = valid[valid["method"] == method].pivot(index="image", columns="strength", values="value")
        others = (wide.sum() - wide) / max(len(wide) - 1, 1)
        rival = others.to_numpy().argmax(1)
        best = wide.to_numpy()[np.arange(len(wide)), rival]
        found.append(pd.DataFrame({"image": wide.index, "method": method, "value": best - wide[published].to_numpy()}))
    return pd.concat(found, ignore_index=True).assign(metric="strength_regret")


def curve(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the second experiment; X-Gradient, which has no references, stands at every number of them.

    None where there are not two numbers of references to compare.
    """
    at_one = rows[(rows["strength"] == CURVE) & rows["method"].isin(["x_gradient", "expected_gradients"])]
    many = at_one.loc[at_one["references"] > 0].groupby("image")["references"].nunique()
    at_one = at_one[at_one["image"].isin(many[many == many.max()].index)]
    counts = sorted(at_one.loc[at_one["references"] > 0, "references"].unique())
    if len(counts) < 2:
        return at_one.iloc[:0]
    line = at_one[at_one["references"] == 0]
    repeated = [line.assign(references=count) for count in counts]
    return pd.concat([at_one[at_one["references"] > 0], *repeated], ignore_index=True)


def deficit(of_curve: pd.DataFrame) -> pd.DataFrame:
    """Test ROC-AUC of X-Gradient minus that of Expected Gradients, by repetition, seed and number of references."""
    test = of_curve[of_curve["metric"] == "test_auc"]
    wide = test.pivot(index=["image", "seed", "references"], columns="method", values="value")
    return (wide["x_gradient"] - wide["expected_gradients"]).rename("value").reset_index().assign(metric="deficit")


def slopes(of_curve: pd.DataFrame) -> pd.DataFrame:
    """What each doubling of the references adds (least squares over log2 k), for each repetition and seed."""
    mine, found = of_curve[of_curve["method"] == "expected_gradients"], []
    for metric in ("test_auc", "gini", "gini_ixg"):
        wide = mine[mine["metric"] == metric].pivot(index=["image", "seed"], columns="references", values="value")
        doublings = np.log2(wide.columns.to_numpy(float))
        doublings -= doublings.mean()
        slope = wide.to_numpy() @ doublings / (doublings @ doublings)
        found.append(wide.index.to_frame(index=False).assign(metric=f"{metric}_per_doubling", value=slope))
    return pd.concat(found, ignore_index=True)


def crossing(of_deficit: pd.DataFrame) -> pd.Series:
    """For each seed the fewest references with which Expected Gradients' mean is at least X-Gradient's; NaN if none."""
    means = of_deficit.groupby(["seed", "references"])["value"].mean().unstack()
    return means.apply(lambda row: min(row.index[row <= 0], default=np.nan), axis=1)


def resampled_crossings(
    of_deficit: pd.DataFrame, sizes: Sequence[int], *, seed: int = 0, runs: int = 10_000
) -> pd.DataFrame:
    """How often a run of so many repetitions, resampled from ours, would put the crossing where: (crossing x sizes).

    A run draws repetitions, and one of our seeds for each, as the released code's every run draws new ones.
    """
    wide = of_deficit.pivot(index=["image", "seed"], columns="references", values="value")
    values, random = wide.to_numpy(), np.random.default_rng(seed)
    counts = [*map(str, wide.columns), "never"]
    found = {}
    for size in sizes:
        picked = random.multinomial(size, np.full(len(values), 1 / len(values)), runs)
        reached = np.column_stack([picked @ values <= 0, np.ones(runs, bool)])
        found[size] = np.bincount(reached.argmax(1), minlength=len(counts)) / runs
    return pd.DataFrame(found, index=pd.Index(counts, name="references"))


def at_chosen(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the first experiment at each method's chosen strength, which is given under metric `strength`.

    Their column `strength` is NaN, so that methods can be paired whose choices differ.
    """
    chosen, all_rows = chosen_strengths(rows), grid(rows)
    picked = all_rows[all_rows["strength"] == all_rows["method"].map(chosen)]
    first = picked.drop_duplicates("method").assign(image="all", metric="strength")
    return pd.concat([picked, first.assign(value=first["strength"])], ignore_index=True).assign(strength=np.nan)


def room(rows: pd.DataFrame) -> pd.DataFrame:
    """What columns that know nothing cost without any prior, in test ROC-AUC: the most that a sparse prior could gain.

    One row a repetition; none where no column is known to be idle.
    """
    if "real_columns" not in set(rows["method"]):
        return rows.iloc[:0][["image", "metric", "value"]]
    plain = grid(rows).query("metric == 'test_auc' and strength == 0")
    wide = plain.pivot(index="image", columns="method", values="value")
    return (wide["real_columns"] - wide["unregularised"]).rename("value").reset_index().assign(metric="room")


def sparsity_table(rows: pd.DataFrame, exact: pd.DataFrame, *, overlap: Mapping[str, float]) -> pd.DataFrame:
    """The tidy table that claims are judged by, its column `experiment` as params/claims.yaml explains it.

    rows: of one or several tables
    overlap: {kind of data: test rows / training rows of a split, 0 where splits share no rows}
    crossing_off (derived): |log2 of the crossing / 32| of each seed, undefined where there is none.
    """
    found = each_table(_experiments, rows).reset_index("data")
    exact = exact.assign(experiment="exact", data="made-up inputs")
    found = pd.concat([found, exact], ignore_index=True)
    found = found.fillna({"method": "comparison", "references": 0, "seed": rows["seed"].min()})
    found = found.astype({"references": int, "seed": int})[["experiment", *KEYS]]
    return found.assign(overlap=found["data"].map(overlap))


def _experiments(rows: pd.DataFrame) -> pd.DataFrame:
    of_curve, chosen = curve(rows), at_chosen(rows)
    wide = chosen[chosen["metric"] == "test_auc"].pivot(index="image", columns="method", values="value")
    bias_cost = (wide["unregularised"] - wide["unregularised_no_bias"]).rename("value").reset_index()
    derived = [bias_cost.assign(metric="bias_cost"), room(rows), strength_regret(rows)]
    if len(of_curve):
        lost = deficit(of_curve)
        off = np.abs(np.log2(crossing(lost) / PUBLISHED_CROSSING)).rename("value").reset_index()
        derived += [lost, slopes(of_curve), off.assign(metric="crossing_off", image="all")]
    parts = {
        "grid": grid(rows),
        "chosen": chosen,
        "references": of_curve,
        "derived": pd.concat(derived, ignore_index=True).assign(strength=np.nan),
    }
    parts = [part.assign(experiment=name) for name, part in parts.items() if len(part)]
    return pd.concat(parts, ignore_index=True)
