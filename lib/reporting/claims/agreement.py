"""Whether the released and the corrected code lead to the same conclusions."""

import numpy as np
import pandas as pd

from lib.reporting.claims.evidence import ALPHA, Evidence
from lib.reporting.claims.notes import joined, too_few
from lib.reporting.claims.verdicts import FEWEST, NOT_TESTABLE, Finding, not_run
from lib.reporting.statistics import bootstrap, resampled_means

BOTH = ("corrected", "released")


def agree(found: dict[str, dict[str, Evidence]], seed: int) -> Finding:
    """Are the conclusions (+, 0, -) of other claims' cells the same under both protocols?

    Estimate: the share of cells whose mean difference has the same sign in both, images resampled.

    found: {protocol: {name of a question: evidence}}
    """
    if missing := [f"rows with mode = {protocol}" for protocol in BOTH if not found.get(protocol)]:
        return not_run(missing)
    signs, gains = {}, {}
    for protocol in BOTH:
        mine = found[protocol]
        if lacking := [part for evidence in mine.values() if evidence.cells is None for part in evidence.lacking]:
            return not_run(sorted(set(lacking)))
        tests = pd.concat([e.cells.assign(cell=f"{name} " + e.cells["cell"].astype(str)) for name, e in mine.items()])
        signs[protocol] = (np.sign(tests["gain"]) * (tests["p_holm"] < ALPHA)).set_axis(tests["cell"])
        wide = {
            name: e.table.pivot_table(index="image", columns="cell", values="gain", observed=True)
            for name, e in mine.items()
        }
        gains[protocol] = pd.concat([each.add_prefix(f"{name} ") for name, each in wide.items()], axis=1)
    corrected, released = (signs[protocol] for protocol in BOTH)
    shared = corrected.index.intersection(released.index)
    images = gains["corrected"].index.intersection(gains["released"].index)
    if shared.empty or images.empty:
        return not_run(["cells and images that both protocols share"])
    matrix = np.hstack([gains[protocol].loc[images, shared] for protocol in BOTH])

    def statistic(units: np.ndarray) -> np.ndarray:
        one, other = np.split(np.sign(resampled_means(matrix, units)), 2, axis=-1)
        return (one == other).mean(-1)

    flips = shared[corrected[shared] * released[shared] < 0]
    same = int((corrected[shared] == released[shared]).sum())
    alone = len(corrected) + len(released) - 2 * len(shared)
    notes = [f"{same} of {len(shared)} cells have the same conclusion", f"{len(flips)} flip"]
    notes += [f"flips: {', '.join(flips)}"] if len(flips) else []
    notes += [f"{alone} cells under one protocol only"] if alone else []
    n, outcome = len(images), "inconclusive"
    if n < FEWEST:
        outcome = NOT_TESTABLE
        notes.append(too_few(n, 1, FEWEST))
    elif len(flips):
        outcome = "fails"
    elif same == len(shared) and corrected[shared].any() and not alone:
        outcome = "holds"
    elif same < len(shared):
        notes.append("the others are significant under one protocol only: more images would decide")
    else:
        notes.append("no cell is significant" if not corrected[shared].any() else "")
    return Finding(outcome, joined(notes), *bootstrap(statistic, n, seed=seed), n, cells=len(shared), cells_won=same)
