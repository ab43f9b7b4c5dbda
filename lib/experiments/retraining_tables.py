"""Tables of the retraining study: areas of each test image, curves, and how far these lie from published ones."""

from collections.abc import Iterator

import pandas as pd

from lib.experiments.retraining import MASK
from lib.training.retraining import removal_areas

KEYS = ["path", "rule", "training", "seed"]


def roar(answers: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """ROAR and DiffROAR of each test image, and mask_accuracy: the mean over shares of being right by the mask alone.

    answers: rows of `retrained`; returns rows with image, label, KEYS, metric and value
    """
    whole = answers[answers["share"] == 0].set_index(["training", "seed", "image"])["value"].sort_index()
    for key, rows in answers[answers["share"] > 0].groupby(KEYS, sort=False):
        labels = rows.drop_duplicates("image").set_index("image")["label"]
        wide = {end: part.pivot(index="image", columns="share", values="value") for end, part in rows.groupby("end")}
        highest, found = wide["highest"], {}
        if (named := dict(zip(KEYS, key, strict=True)))["training"] == MASK:
            found["mask_accuracy"] = highest.mean(axis=1, skipna=False).to_numpy()
        else:
            start = whole.loc[named["training"], named["seed"]].loc[highest.index]
            found = removal_areas(start, highest, wide["lowest"].loc[highest.index], highest.columns)
        for metric, value in found.items():
            table = pd.DataFrame({"image": highest.index, "metric": metric, "value": value})
            yield table.assign(label=table["image"].map(labels), **named)


def curves_of(answers: pd.DataFrame) -> pd.DataFrame:
    """What is drawn against the share removed: KEYS, image, share, metric (roar, diffroar, mask_accuracy) and value."""
    keys = [*KEYS, "image", "share"]
    wide = answers[answers["share"] > 0].pivot(index=keys, columns="end", values="value").reset_index()
    mask = wide["training"] == MASK
    ends = {"roar": wide["highest"], "diffroar": wide["lowest"] - wide["highest"]}
    found = [wide[~mask].assign(metric=metric, value=value[~mask]) for metric, value in ends.items()]
    found.append(wide[mask].assign(metric="mask_accuracy", value=wide["highest"][mask]))
    methods = wide[~mask][KEYS].drop_duplicates()
    whole = answers[answers["share"] == 0].drop(columns=["path", "rule", "end", "label"])
    start = methods.merge(whole, on=["training", "seed"])
    found += [start.assign(metric="roar"), start.assign(metric="diffroar", value=0.0)]
    return pd.concat(found, ignore_index=True)[[*keys, "metric", "value"]]


def apart(curves: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """How far our ROAR curves lie from published ones, for each way of training, seed and published network.

    Root mean square, over methods and shares above 0, of the difference between accuracies divided by that of whole
    images: levels of two data sets cannot be compared, what is left of them can.

    curves: of `curves_of`; published: rows of params/published.csv, metric roar_curve
    """
    keys = ["path", "rule", "share"]
    ours = curves[curves["metric"] == "roar"].groupby([*KEYS, "share"])["value"].mean().rename("ours").reset_index()
    ours["ours"] /= ours["ours"].where(ours["share"] == 0).groupby([ours[key] for key in KEYS]).transform("first")
    theirs = published[published["metric"] == "roar_curve"].rename(columns={"fraction": "share", "value": "theirs"})
    theirs = theirs.sort_values("share")
    theirs["theirs"] /= theirs.groupby(["model", "path", "rule"])["theirs"].transform("first")
    both = ours[ours["share"] > 0].merge(theirs[["model", *keys, "theirs"]], on=keys)
    both["squared"] = (both["ours"] - both["theirs"]) ** 2
    return both.groupby(["model", "training", "seed"])["squared"].mean().pow(0.5).rename("value").reset_index()
