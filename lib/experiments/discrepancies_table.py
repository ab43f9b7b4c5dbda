"""All records of defects, their toy cases in a table, and how far each moves maps and scores of photographs."""

from collections.abc import Iterable, Mapping

import pandas as pd
from torch import Tensor

from lib.experiments import (
    discrepancies_agi_lpi,
    discrepancies_blur,
    discrepancies_captum,
    discrepancies_idgi,
    discrepancies_idgi_scores,
    discrepancies_lens,
    discrepancies_quantus,
    discrepancies_recalibration,
    discrepancies_recalibration_scores,
    discrepancies_saliency,
    discrepancies_xdnn,
)
from lib.experiments.discrepancies_record import Discrepancy, Outcome
from lib.experiments.subjects import Subject, relative_difference
from lib.metrics.stability import spearman

MODULES = (
    discrepancies_idgi,
    discrepancies_blur,
    discrepancies_idgi_scores,
    discrepancies_recalibration,
    discrepancies_agi_lpi,
    discrepancies_recalibration_scores,
    discrepancies_lens,
    discrepancies_xdnn,
    discrepancies_captum,
    discrepancies_saliency,
    discrepancies_quantus,
)
RECORDS: tuple[Discrepancy, ...] = tuple(record for module in MODULES for record in module.RECORDS)


def outcomes(records: Iterable[Discrepancy]) -> dict[str, Outcome]:
    """{name: outcome of its toy case} of the records whose library is installed."""
    return {each.name: each.check() for each in records if not each.missing}


def toy_rows(found: Mapping[str, Outcome]) -> pd.DataFrame:
    """The outcomes as a tidy table: record, image "toy", metric (released, corrected, expected), value."""
    rows = [
        {"record": name, "image": "toy", "metric": metric, "value": value}
        for name, outcome in found.items()
        for metric, value in outcome._asdict().items()
    ]
    return pd.DataFrame(rows)


def effects(records: Iterable[Discrepancy], of: Subject, *, steps: int) -> dict[str, tuple[Tensor, Tensor]]:
    """{name: released and corrected maps (B, H, W), or scores (B,)} of a subject, of the records that move one."""
    return {each.name: each.effect(of, steps) for each in records if each.effect is not None}


def moved_rows(found: Mapping[str, tuple[Tensor, Tensor]], of: Subject) -> pd.DataFrame:
    """What `effects` found, as a tidy table: record, image, metric, value.

    Of maps "map_difference", mean |released - corrected| over mean |corrected|, and "map_spearman", the rank
    correlation of the two; of scores "score_released" and "score_corrected".
    """
    rows = []
    for name, (released, corrected) in found.items():
        if released.ndim == 3:
            values = {
                "map_difference": relative_difference(released, corrected),
                "map_spearman": spearman(released.cpu(), corrected.cpu()),
            }
        else:
            values = {"score_released": released, "score_corrected": corrected}
        for metric, each in values.items():
            rows += [
                {"record": name, "image": image, "metric": metric, "value": float(value)}
                for image, value in zip(of.images, each, strict=True)
            ]
    return pd.DataFrame(rows)


def overview(records: Iterable[Discrepancy], rows: pd.DataFrame) -> pd.DataFrame:
    """One line a record: repository, file and line, the three numbers of its toy case, and how far it moves maps
    and scores, in the mean over photographs; empty where it moves none, or its library is not installed."""
    means = rows.groupby(["record", "metric"])["value"].mean().unstack("metric")
    lines = []
    for each in records:
        found = means.loc[each.name].to_dict() if each.name in means.index else {}
        score, nan = found.get("score_corrected"), float("nan")
        moved = found.get("score_released", nan) - found.get("score_corrected", nan)
        line = {"defect": each.name, "where": each.where.text}
        line |= {"released": found.get("released"), "corrected": found.get("corrected")}
        line |= {"by hand": found.get("expected")}
        line |= {"map moved by": found.get("map_difference"), "rank correlation": found.get("map_spearman")}
        lines.append(line | {"score": score, "score moved by": moved, "note": each.missing})
    return pd.DataFrame(lines)
