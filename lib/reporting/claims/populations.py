"""What a verdict rests on: photographs, digits or other inputs, and the paper's own networks or others."""

from typing import NamedTuple

import pandas as pd

from lib.models.recipes import NETWORKS, TWINS
from lib.reporting.stored import StoredScores, cells_of, select

KINDS_OF_DATA = ("photographs", "digits", "image sets", "table", "generated table", "made-up inputs")
SETS = {"mnist": "digits", "fashion": "digits", "gtsrb": "image sets", "flower": "image sets"}


class Paper(NamedTuple):
    """A paper, and the networks whose ImageNet versions it explains."""

    title: str
    networks: frozenset[str]


_TMLR = {*NETWORKS} - {"squeezenet1_1", "resnet34", "vit_b_16", "swin_b", *(f"efficientnet_lite{n}" for n in range(3))}
_TMLR -= {f"resnet{depth}_v1" for depth in (50, 101, 152)}
PAPERS = {
    "idgi": Paper("Yang et al., CVPR 2023", frozenset(_TMLR)),
    "tmlr": Paper("Singhi & Kumari, TMLR 2024", frozenset(_TMLR)),
    "recalibration": Paper("Yang et al., ICLR 2023", frozenset({"vgg16", "resnet34"})),
    "lpi": Paper("Yang et al., AAAI 2023", frozenset({"vgg16", "resnet34"})),
    "xdnn": Paper("Hesse et al., NeurIPS 2021", frozenset({*TWINS, *TWINS.values()})),
    # SqueezeNet of Ghorbani et al. and of the paper's Fig. 2, ResNet-50 of its tables
    "lens": Paper("Kamath et al., AAAI 2024", frozenset({"squeezenet1_1", "resnet50", "resnet50_pgd"})),
    "density": Paper("Yang et al., ECCV 2024", frozenset()),
    "cross": Paper("All papers together: the cross matrix, a study of ours", frozenset()),
}


class Population(NamedTuple):
    """Rows of a table that one verdict is about.

    data: one of KINDS_OF_DATA, "" where the table does not say; network: "paper", or those that stand in; where: the
    selection that picks the rows
    """

    data: str
    network: str
    where: dict

    @property
    def kind(self) -> tuple[str, bool]:
        """What protocols share that ran with different networks: data, and whether the networks are the paper's."""
        return self.data, self.network == "paper"


EVERYTHING = Population("", "", {})  # of exact claims, which are no averages


def populations(scores: pd.DataFrame | StoredScores, where: dict, paper: str) -> list[Population]:
    """The populations among the rows that `where` selects: those with the paper's networks and photographs first.

    They are told apart by the columns `model` and `data`. Returns [EVERYTHING] without these, and without such rows.
    """
    rows = select(cells_of(scores), where)
    columns = [column for column in ("model", "data") if column in rows]
    parts: dict[tuple[bool, str], list] = {}
    for found in rows[columns].drop_duplicates().to_dict("records") if columns else []:
        model, data = (str(found.get(column, "")) for column in ("model", "data"))
        own = model in PAPERS[paper].networks
        parts.setdefault((not own, _kind_of(model, data)), []).append(found[columns[0]])
    ranked = sorted(parts, key=lambda part: (part[0], [*KINDS_OF_DATA, ""].index(part[1])))
    return [_population(kind, other, columns[0], parts[other, kind]) for other, kind in ranked] or [EVERYTHING]


def _population(kind: str, other: bool, column: str, found: list) -> Population:
    names = sorted(set(found))
    return Population(kind, ", ".join(map(str, names)) if other else "paper", {column: names})


def _kind_of(model: str, data: str) -> str:
    if data in KINDS_OF_DATA:
        return data
    if model in NETWORKS or model in {*TWINS, *TWINS.values()}:
        return "photographs"
    if model == "made up":
        return "made-up inputs"
    return next((kind for name, kind in SETS.items() if (model or data).startswith(name)), "")
