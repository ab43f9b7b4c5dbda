"""What others printed: unique and with a source, areas that fit their curves, and a table that does not add up."""

import numpy as np
import pandas as pd
import pytest
import torch

from lib import InputError
from lib.metrics.diffid import RATIOS, area
from lib.reporting.published import THIRD_PARTY, lpi_identity, published_values
from lib.reporting.tables import PUBLISHED


@pytest.fixture(scope="module")
def published():
    return pd.read_csv(PUBLISHED)


PUBLISHED_KEYS = ["paper", "item", "model", "path", "rule", "steps", "fraction", "metric", "attack", "epsilon"]
PUBLISHED_KEYS += ["clusters"]


def test_published_values_have_unique_keys_and_a_source(published):
    assert not published.duplicated(PUBLISHED_KEYS).any()
    assert published[["paper", "item", "metric", "value", "source", "note"]].notna().all(axis=None)
    assert (published["fraction"].notna() == published["metric"].str.endswith("_curve")).all()


def test_published_areas_are_those_of_their_curves(published):
    """To the precision that a curve was read off with; one curve, of which a point could not be read, has no area."""
    checked = 0
    for _, rows in published.groupby(["paper", "item", "path", "rule"]):
        for metric in ("diffid_logit", "diffid_accuracy", "unstated"):
            areas, curve = (rows[rows["metric"] == name] for name in (metric, f"{metric}_curve"))
            if len(areas) and len(curve) == len(RATIOS):
                read = 0.006 if curve["source"].str.contains("digitised ±.006").all() else 6e-4
                np.testing.assert_allclose(area(torch.tensor(curve["value"].to_numpy())), areas["value"], atol=read)
                checked += 1
    assert checked == 11 + 19


def test_published_retraining_begins_with_the_untouched_network(published):
    start = published[published["fraction"] == 0].groupby(["metric", "model"])["value"].agg(set).to_dict()
    assert start == {
        ("roar_curve", "preactresnet18, CIFAR-10"): {0.942},
        ("roar_curve", "preactresnet18, CIFAR-100"): {0.735},
        ("diffroar_curve", "preactresnet18, CIFAR-10"): {0.0},
        ("diffroar_curve", "preactresnet18, CIFAR-100"): {0.0},
    }


def test_values_of_a_paper_and_of_third_parties_are_told_apart():
    fourth = published_values("lpi", item="Fig. 4", metric="diffid_logit", path="local")
    assert fourth["value"].tolist() == [0.289] and fourth["network"].tolist() == ["resnet34"]
    spectral = published_values(THIRD_PARTY, item="Spectral IG*", network="vgg16", metric="diffid_logit")
    assert spectral.set_index("path")["value"][["straight", "guided", "adversarial"]].tolist() == [0.24, 0.281, 0.226]
    assert "third party" not in set(published_values("tmlr")["paper"])
    with pytest.raises(InputError, match="no column 'models'"):
        published_values("lpi", models="vgg16")


def test_the_rows_of_table_1_that_do_not_add_up_are_found():
    table = lpi_identity()
    assert len(table) == 12 and table.set_index(["network", "path", "rule"])["error"].between(0, 0.14).all()
    amiss = table[~table["holds"]].set_index(["network", "path"])["error"]
    np.testing.assert_allclose(amiss[("resnet34", "none")], 0.139, atol=1e-9)
    np.testing.assert_allclose(amiss[("resnet34", "straight")], 0.110, atol=1e-9)
    np.testing.assert_allclose(amiss[("resnet34", "dataset")], 0.006, atol=1e-9)
    assert len(amiss) == 3
