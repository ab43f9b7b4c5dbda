"""From the trainings of `lib.experiments.sparsity` to the table that the claims are judged by.

rows: the trainings, as `sparsity.trained` returns them.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from lib.data.tabular import TRAIN, VALID
from lib.experiments.sparsity import CURVE, KEYS

PUBLISHED_CROSSING = 32  # references with which Expected Gradients are said to reach X-Gradient
PUBLISHED_STRENGTHS = {"x_gradient": 1.0, "expected_gradients": 1.0, "rrr": 0.1, "gradient": 0.1}


def grid(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the first experiment: the first seed, at most one reference."""
    return rows[(rows["seed"] == rows["seed"].min()) & (rows["references"] <= 1)]


def chosen_strengths(rows: pd.DataFrame) -> dict[str, float]:
    """For each method the strength with the highest mean validation ROC-AUC over repetitions; 0 without a prior."""
    valid = grid(rows)
    means = valid[valid["metric"] == "valid_auc"].groupby(["method", "strength"], sort=False)["value"].mean()
    return {method: means[method].idxmax() for method in means.index.unique("method")}


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
    """The rows of the second experiment; X-Gradient, which has no references, stands at every number of them."""
    at_one = rows[(rows["strength"] == CURVE) & rows["method"].isin(["x_gradient", "expected_gradients"])]
    many = at_one.loc[at_one["references"] > 0].groupby("image")["references"].nunique()
    at_one = at_one[at_one["image"].isin(many[many == many.max()].index)]
    counts = sorted(at_one.loc[at_one["references"] > 0, "references"].unique())
    line = at_one[at_one["references"] == 0]
    repeated = [line.assign(references=count) for count in counts]
    return pd.concat([at_one[at_one["references"] > 0], *repeated], ignore_index=True)


def deficit(of_curve: pd.DataFrame) -> pd.DataFrame:
    """Test ROC-AUC of X-Gradient minus that of Expected Gradients, by repetition, seed and number of references."""
    test = of_curve[of_curve["metric"] == "test_auc"]
    wide = test.pivot(index=["image", "seed", "references"], columns="method", values="value")
    return (wide["x_gradient"] - wide["expected_gradients"]).rename("value").reset_index().assign(metric="deficit")


def slopes(of_curve: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """What each doubling of the references adds (least squares over log2 k), for each repetition and seed."""
    mine = of_curve[of_curve["method"] == "expected_gradients"]
    for metric in ("test_auc", "gini", "gini_ixg"):
        wide = mine[mine["metric"] == metric].pivot(index=["image", "seed"], columns="references", values="value")
        if wide.shape[1] < 2:
            return
        doublings = np.log2(wide.columns.to_numpy(float))
        doublings -= doublings.mean()
        slope = wide.to_numpy() @ doublings / (doublings @ doublings)
        yield wide.index.to_frame(index=False).assign(metric=f"{metric}_per_doubling", value=slope)


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


def sparsity_table(rows: pd.DataFrame, exact: pd.DataFrame, *, size: int) -> pd.DataFrame:
    """The tidy table that claims are judged by, its column `experiment` as params/claims.yaml explains it.

    size: rows of the table that was split; column `overlap`: test rows / training rows.
    crossing_off (derived): |log2 of the crossing / 32| of each seed, undefined where there is none.
    """
    of_curve, chosen = curve(rows), at_chosen(rows)
    wide = chosen[chosen["metric"] == "test_auc"].pivot(index="image", columns="method", values="value")
    bias_cost = (wide["unregularised"] - wide["unregularised_no_bias"]).rename("value").reset_index()
    lost = deficit(of_curve)
    off = np.abs(np.log2(crossing(lost) / PUBLISHED_CROSSING)).rename("value").reset_index()
    derived = [bias_cost.assign(metric="bias_cost"), lost, *slopes(of_curve), strength_regret(rows)]
    derived.append(off.assign(metric="crossing_off", image="all"))
    parts = {
        "grid": grid(rows),
        "chosen": chosen,
        "references": of_curve,
        "derived": pd.concat(derived, ignore_index=True).assign(strength=np.nan),
        "exact": exact.assign(strength=np.nan),
    }
    found = pd.concat([part.assign(experiment=name) for name, part in parts.items()], ignore_index=True)
    found = found.fillna({"method": "comparison", "references": 0, "seed": rows["seed"].min()})
    found = found.astype({"references": int, "seed": int})[["experiment", *KEYS]]
    return found.assign(data="table", overlap=(size - TRAIN - VALID) / TRAIN)
