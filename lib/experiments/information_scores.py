"""AIC and SIC of the maps of the IDGI study, in the modes of computing that `lib.experiments.defects` tells apart."""

from collections.abc import Collection, Iterator, Mapping
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib.data.imagenet import Photograph, load_image
from lib.experiments.defects import COARSE, JOINT, JPEG, PNG, RAW, RULES, defects_of
from lib.experiments.subjects import Key, score_rows
from lib.metrics.information import Revealed, blurred, information_curves
from lib.metrics.pic import aggregate_curves, pic
from lib.models.zoo import Network

CURVE_POINTS = 100  # points of the stored information curves


def information_rows(
    network: Network,
    photos: list[Photograph],
    chosen: list[int],
    x: Tensor,
    target: Tensor,
    maps: Mapping[Key, Tensor],
    *,
    webp: list[str] = (),
    alone: bool = False,
) -> list[dict]:
    """AIC and SIC; NaN for photographs that are not chosen and for those the exclusion rules leave out.

    See `idgi.idgi_benchmark`; with `alone`, the blurred image is taken without its JPEG for IG and IG+IDGI only.
    """

    def revealed(maps: Mapping[Key, Tensor], measures: tuple[str, ...], **how) -> Revealed | None:
        if not chosen or not maps:
            return None
        veiled = torch.stack([network.tensor(blurred(load_image(photos[index]), **how)) for index in chosen]).to(x)
        ranking = torch.stack(list(maps.values()), 1)[chosen]
        return information_curves(network.model, x[chosen], veiled, ranking, target[chosen], measures=measures)

    def scored(
        evidence: Revealed | None, maps: Collection[Key], keys: Collection[Key], mode: str, **names: str
    ) -> Iterator[dict]:
        """Rows of some of the maps, under this mode; names: {measure: what it is called}."""
        columns = [place for place, key in enumerate(maps) if key in keys]
        labels = [(*key[:3], mode) for key in maps if key in keys]
        defects = defects_of(mode)
        how = {"joint": JOINT in defects, "raw_msssim": RAW in defects}
        how |= {"points": CURVE_POINTS} if COARSE in defects else {}
        for curve, (measure, name) in product(("aic", "sic"), names.items()):
            areas = torch.full((len(photos), len(labels)), torch.nan, dtype=torch.float64)
            curves = areas[..., None].expand(-1, -1, CURVE_POINTS + 1).clone()
            if evidence is not None:
                found = pic(evidence, curve, measure, **how)
                step = (found.curve.shape[-1] - 1) // CURVE_POINTS
                areas[chosen], curves[chosen] = found.auc[:, columns], found.curve[:, columns, ::step]
            yield from score_rows(photos, labels, f"{curve}_{name}", areas, curves)

    both, everything = {"png": "png", "msssim": "msssim"}, revealed(maps, ("png", "msssim"))
    right = {key: each for key, each in maps.items() if key[1] in RULES and key[3] == "corrected"}
    rows = []
    for mode in ("corrected", "released"):
        rows += scored(everything, maps, [key for key in maps if key[3] == mode], mode, **both)
    coded = {key: each for key, each in right.items() if key[0] in webp}
    files = revealed(coded, ("webp",))
    rows += scored(files, coded, coded, "corrected", webp="webp")
    if alone:
        rows += scored(everything, maps, right, RAW, msssim="msssim")
        rows += scored(everything, maps, right, COARSE, **both)
        rows += scored(files, coded, coded, PNG, webp="png")
        straight = {key: each for key, each in right.items() if key[0] == "straight"}
        rows += scored(revealed(straight, (*both,), jpeg_quality=None), straight, straight, JPEG, **both)
    return rows


def aggregated(curves: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Area under the aggregate curve, as the released code reports it: the median of SIC curves, the mean of AIC's."""
    curves = curves[curves["metric"].isin(metrics)]
    rows = []
    for (metric, path, rule), group in curves.groupby(["metric", "path", "rule"], sort=False):
        stack = torch.tensor(np.stack(list(group["curve"])), dtype=torch.float64)
        _, area = aggregate_curves(stack, "median" if metric.startswith("sic") else "mean")
        rows.append((metric, path, rule, float(area)))
    return pd.DataFrame(rows, columns=["metric", "path", "rule", "value"])
