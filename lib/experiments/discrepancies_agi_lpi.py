"""Where targets, objectives and batches in the code of Yang et al. (ICLR, AAAI 2023) differ from AGI, EG and LPI."""

import math
import random

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lib.attribution import Adversarial, Lines, Riemann, Straight, attribute, walk
from lib.attribution.adversarial import other_classes
from lib.attribution.local import local_references
from lib.attribution.references import FromPool
from lib.experiments.discrepancies_record import (
    LPI,
    RECALIBRATION,
    Discrepancy,
    Outcome,
    Place,
    photograph_maps,
    run_or_nan,
)
from lib.experiments.subjects import Subject

ONE = torch.ones(1, 1, 1, 1)
AGI = "saliency_methods/adv_grad_integration.py"
LOGIT = {"objective": "logit"}  # the code's default


def _own_class() -> Outcome:
    """Of four classes two targets for class 1: drawn from 0 and 1, or from 0, 2 and 3."""
    targets = [other_classes([1], 4, 2, images=["toy"], released=released) for released in (True, False)]
    return Outcome(*(float((each == 1).any()) for each in targets), 0.0)


def _too_many() -> Outcome:
    """Ten classes: the code's ten targets out of eight; nine is all that there are."""
    theirs = run_or_nan(lambda: len(random.sample(range(10 - 2), 10)), ValueError)
    return Outcome(theirs, float(other_classes([0], 10, 9, images=["toy"]).shape[1]), 9.0)


def _squares(x: Tensor) -> Tensor:
    """Two logits of a normalised pixel z = (x - .5) / .25: -z^2 and z^2."""
    z = ((x - 0.5) / 0.25).flatten(1)
    return torch.cat([-(z**2), z**2], 1)


def _unnormalised() -> Outcome:
    """A pixel of .4 is z = -.4, and z^2 rises when it falls to .3; fed as it is, its square rises when it does."""
    x = torch.full((1, 1, 1, 1), 0.4)
    (node,) = walk(_squares, Adversarial([[1]], steps=1, epsilon=0.1), x, 0, **LOGIT)
    as_it_is = x + 0.1 * (2 * x).sign()  # the gradient of the square of what is not normalised
    return Outcome(as_it_is.item(), node.x.item(), 0.3)


def _restart() -> Outcome:
    """Two steps of .1 from .5, downhill for the target class."""
    x, network = torch.full((1, 1, 1, 1), 0.5), lambda x: torch.cat([x.flatten(1), -x.flatten(1)], 1)
    paths = [Adversarial([[1]], steps=2, epsilon=0.1, restart=restart) for restart in (True, False)]
    return Outcome(*(list(walk(network, path, x, 0, **LOGIT))[-1].x.item() for path in paths), 0.3)


def _restart_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    classes = of.answers()[0].shape[1]
    targets = other_classes(of.target, classes, 1, images=of.images)
    paths = (Adversarial(targets, steps // 2, restart=restart) for restart in (True, False))
    return tuple(photograph_maps(of, path, Riemann("left"), **LOGIT) for path in paths)


def _log_probability() -> Outcome:
    """Two logits, a and 0: their softmax rises from 1/2 to 1 / (1 + 1/e), its logarithm by other numbers."""
    asked = {"path": Straight(16, grid="gauss"), "rules": {"a": Riemann("gauss")}}

    def network(x: Tensor) -> Tensor:
        return torch.cat([x.flatten(1), 0 * x.flatten(1)], 1)

    found = [attribute(network, ONE, 0, objective=each, **asked)["a"] for each in ("log_probability", "probability")]
    return Outcome(*(each.sum().item() for each in found), 1 / (1 + math.exp(-1)) - 0.5)


def _log_probability_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    objectives = ("log_probability", "probability")
    return tuple(photograph_maps(of, Straight(steps), Riemann(), objective=each) for each in objectives)


def _short_batch() -> Outcome:
    """Three images where batches of four were planned, two references each."""
    theirs = run_or_nan(lambda: torch.zeros(2 * 4, 1, 1, 1).view(3, 2, 1, 1, 1).shape[0], RuntimeError)
    path = Lines(FromPool(torch.zeros(5, 1, 1, 1), [[0, 1], [1, 2], [3, 4]]), 1)
    asked = {"path": path, "rules": {"a": Riemann("mean")}, **LOGIT}
    return Outcome(theirs, float(len(attribute(lambda x: x.flatten(1), ONE.expand(3, 1, 1, 1), 0, **asked)["a"])), 3.0)


def _next_batch() -> Outcome:
    """Logits 0, 4, 5, 6, 10 have the centre 5, which the image of row 2 is; batches of two."""
    logits = torch.tensor([0.0, 4.0, 5.0, 6.0, 10.0])[:, None]
    chosen = local_references(logits, clusters=1, references=1).members.item()
    stored = [2 * number + place for number in range(3) for place in range(2) if (number - 1) * 2 + place == chosen]
    return Outcome(float(stored[0]), float(chosen), 2.0)


def _last_densities() -> Outcome:
    """Two clusters: three members on one spot and one beside them, and two pairs; the second is written last."""
    logits = torch.tensor([0.0, 0.0, 0.0, 1.0, 50.0, 50.0, 51.0, 51.0])[:, None]
    found = local_references(logits, clusters=2, references=2)
    first, last = (found.of(torch.tensor([[each]]))[1].max().item() for each in (0.25, 50.5))
    return Outcome(last, first, 0.75)


def _shuffled() -> Outcome:
    """Of a thousand rows, those that have the same number in two passes of a loader."""

    def kept(shuffle: bool) -> float:
        loader = DataLoader(range(1000), batch_size=100, shuffle=shuffle, generator=torch.Generator().manual_seed(0))
        first, second = (torch.cat(list(loader)) for _ in range(2))
        return float((first == second).double().mean())

    return Outcome(kept(True), kept(False), 1.0)


RECORDS = (
    Discrepancy(
        "the label among AGI's targets",
        Place(RECALIBRATION, AGI, 30),
        "return torch.as_tensor(random.sample(list(range(0, self.cls_num - 1)), self.top_k)).view([1, -1])",
        "rejects draws that hold the label and returns a fresh one, which may hold it; two classes never come up",
        "return the draw that was accepted, of all classes",
        "is the image's own class a target? (of four classes)",
        "other_classes(released=True); other_classes()",
        _own_class,
        also=(Place(RECALIBRATION, AGI, 14), Place(RECALIBRATION, AGI, 25)),
    ),
    Discrepancy(
        "ten targets of ten classes",
        Place(RECALIBRATION, AGI, 25),
        "top_ids = random.sample(list(range(0, self.cls_num - 1)), self.top_k)",
        "draws as many targets as references, ten, of CIFAR-10's eight that it allows, and stops",
        "draw from the nine other classes, and no more",
        "targets of an image of ten classes",
        "stand-in; other_classes()",
        _too_many,
    ),
    Discrepancy(
        "an image that is not normalised",
        Place(RECALIBRATION, AGI, 53),
        "output = model(perturbed_image)",
        "takes the target's gradient at pixels and the label's at normalised pixels",
        "show the network normalised pixels both times",
        "the first point from 0.4, where the target falls with the pixel",
        "stand-in; Adversarial()",
        _unnormalised,
    ),
    Discrepancy(
        "every step from the image",
        Place(RECALIBRATION, AGI, 66),
        "perturbed_image, delta = self.fgsm_step(image, epsilon, data_grad_target)",
        "takes each step of the adversarial path from the image instead of from the last point",
        "walk on",
        "the second point from 0.5, by steps of 0.1 downwards",
        "Adversarial(restart=True); Adversarial()",
        _restart,
        _restart_moves,
    ),
    Discrepancy(
        "log probability as probability",
        Place(RECALIBRATION, "saliency_methods/IG_SG.py", 84),
        "batch_output = -1 * F.nll_loss(F.log_softmax(output, dim=1), sparse_labels.flatten(), reduction='sum')",
        "explains the logarithm of the probability under the name `prob`",
        "explain what the option says",
        "sum of IG's map of a probability that rises from one half",
        'objective="log_probability"; objective="probability"',
        _log_probability,
        _log_probability_moves,
    ),
    Discrepancy(
        "the last, shorter batch",
        Place(RECALIBRATION, "saliency_methods/expected_grad.py", 41),
        "reference_tensor = ref.view(*shape).cuda()",
        "draws references for a full batch, and stops at a last one that is not full",
        "draw as many as there are images",
        "maps of three images where batches of four were planned",
        "stand-in; Lines(FromPool())",
        _short_batch,
    ),
    Discrepancy(
        "the image of the next batch",
        Place(LPI, "generation_by_optimization/activation_atlas.py", 58),
        "batch_sta = (batch_id-1)*test_batch_size",
        "counts batches from minus one, so that the stored reference is the image one batch after the chosen one",
        "store the one that was chosen",
        "row of the reference of five images in batches of two",
        "stand-in; local_references()",
        _next_batch,
        also=(Place(LPI, "generation_by_optimization/activation_atlas.py", 24),),
    ),
    Discrepancy(
        "densities of the last cluster",
        Place(LPI, "distribution_estimation.py", 217),
        "f_name = os.path.join(f_name, 'kmeans_density')",
        "writes the densities of every cluster to one file; the program then reads another, `density.npy`",
        "keep those of each cluster",
        "larger density of a cluster of three and one",
        "stand-in: the other cluster's; local_references()",
        _last_densities,
    ),
    Discrepancy(
        "rows that change between passes",
        Place(LPI, "distribution_estimation.py", 69),
        "shuffle=True, num_workers=6, pin_memory=False, drop_last=False)",
        "numbers the images of CIFAR in one shuffled pass and looks them up in another",
        "keep their order",
        "share of images with the same number in both passes",
        "stand-in: DataLoader(shuffle=True); DataLoader()",
        _shuffled,
        also=(Place(LPI, "distribution_estimation.py", 86),),
    ),
)
