"""Where Quantus, as installed, differs from pixel flipping and ROAD as written."""

import warnings

import numpy as np
import torch
from torch import nn

from lib.experiments.discrepancies_record import QUANTUS, Discrepancy, Outcome, Place, run_or_nan
from lib.metrics.insertion import Insertion, insertion

ENDS = torch.tensor([0.0, 1.0])


def _flipping_area() -> Outcome:
    """The area under a line from 0 to 1."""
    from quantus.helpers.utils import calculate_auc

    theirs = run_or_nan(lambda: calculate_auc(ENDS.numpy()), AttributeError)
    return Outcome(theirs, Insertion(ENDS, ENDS[None, None]).probability.item(), 0.5)


def _flipped() -> Outcome:
    """Steps in which an image of 2 x 2 pixels and three colours is taken away, one pixel at a time."""
    from quantus import PixelFlipping

    x, scores = np.full((1, 3, 2, 2), 0.5, np.float32), np.arange(4.0, dtype=np.float32).reshape(1, 1, 2, 2)
    metric = PixelFlipping(features_in_step=1, perturb_baseline="black", disable_warnings=True)
    asked = {"y_batch": np.array([0]), "a_batch": scores, "channel_first": True, "softmax": False, "device": "cpu"}
    with warnings.catch_warnings(action="ignore"):  # it warns that black on black changes nothing
        theirs = len(metric(model=nn.Flatten().eval(), x_batch=x, **asked)[0])
    network = nn.Flatten().eval()
    ours = insertion(network, torch.from_numpy(x), torch.from_numpy(scores), 0, steps=4).probabilities.shape[-1] - 1
    return Outcome(float(theirs), float(ours), 4.0)


def _road() -> Outcome:
    """Images of three colours that ROAD scores, of one."""
    from quantus import ROAD

    x = np.random.RandomState(0).rand(1, 3, 4, 4).astype(np.float32)
    asked = {"y_batch": np.array([0]), "a_batch": x[:, :1], "channel_first": True, "device": "cpu"}
    metric = ROAD(percentages=[50], disable_warnings=True)
    theirs = run_or_nan(lambda: len(metric(model=nn.Flatten().eval(), x_batch=x, **asked)), IndexError)
    ours = insertion(nn.Flatten().eval(), torch.from_numpy(x), torch.from_numpy(x[:, :1]), 0, steps=2)
    return Outcome(theirs, float(len(ours.probabilities)), 1.0)


RECORDS = (
    Discrepancy(
        "areas on numpy 2.4",
        Place(QUANTUS, "quantus/helpers/utils.py", 1032),
        "return np.trapz(np.array(values), dx=dx, axis=axis)",
        "calls a function that numpy 2.4 no longer has, and stops",
        "call `trapezoid`",
        "area under a line from 0 to 1",
        "Quantus as installed; Insertion.probability",
        _flipping_area,
    ),
    Discrepancy(
        "features for pixels",
        Place(QUANTUS, "quantus/metrics/faithfulness/pixel_flipping.py", 327),
        "a_indices = np.argsort(-a_batch, axis=1)",
        "ranks every channel of a pixel by itself, also where a map has one score a pixel",
        "flip pixels, as the name says",
        "steps in which 2 × 2 pixels of three colours are taken away",
        "Quantus as installed; insertion()",
        _flipped,
    ),
    Discrepancy(
        "ROAD on colour images",
        Place(QUANTUS, "quantus/functions/perturb_func.py", 753),
        "mask[indices] = 0",
        "takes places among all channels for places in one, and stops",
        "remove pixels",
        "images of three colours scored, of one",
        "Quantus as installed; insertion()",
        _road,
    ),
)
