"""What others printed, params/published.csv: papers' numbers, and those of third parties, for comparison only."""

import pandas as pd

from lib.reporting.stored import select
from lib.reporting.tables import PUBLISHED

THIRD_PARTY = "third party"
ROUNDING = 0.0015  # of a - b = c, each printed to .001


def published_values(paper: str, **where) -> pd.DataFrame:
    """The rows about a paper, or of a THIRD_PARTY, whose name is in `item`; where: as `lib.reporting.stored.select`.

    The network that a row is about, without its data, is in an additional column `network`.
    Raises InputError for a column that the file does not have.

    >>> published_values(THIRD_PARTY, item="LIG*", network="resnet50", rule="idgi")["value"].tolist()
    [0.4511]
    """
    values = pd.read_csv(PUBLISHED)
    return select(values.assign(network=values["model"].str.split(", ").str[0]), {"paper": paper, **where})


def lpi_identity() -> pd.DataFrame:
    """Is insertion - deletion, Table 1 of the LPI paper, the DiffID in the legends of its Fig. 3 and 4?

    One row for each network and method: network, path, rule, insertion_logit, deletion_logit, diffid_logit, error (how
    far apart the two are) and holds: the error is one of rounding.

    >>> lpi_identity().query("network == 'vgg16'")["holds"].all()
    np.True_
    """
    games = ["insertion_logit", "deletion_logit", "diffid_logit"]
    printed = published_values("lpi", item=["Table 1", "Fig. 3", "Fig. 4"], metric=games)
    wide = printed.pivot(index=["network", "path", "rule"], columns="metric", values="value")[games]
    error = (wide["insertion_logit"] - wide["deletion_logit"] - wide["diffid_logit"]).abs()
    return wide.assign(error=error, holds=error <= ROUNDING + 1e-9).reset_index().rename_axis(columns=None)
