"""Where metrics of the code of Yang et al. (ICLR 2023) differ from DiffID, Sensitivity-n and sanity checks."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from lib import InputError
from lib.attribution import Riemann, Straight, attribute
from lib.experiments.discrepancies_record import RECALIBRATION, Discrepancy, Outcome, Place
from lib.experiments.subjects import Subject
from lib.metrics.diffid import area, diffid
from lib.metrics.sanity import randomised
from lib.metrics.selection import pixel_map
from lib.metrics.sensitivity_n import sensitivity_n

ONE = torch.ones(1, 1, 1, 1)
EVALUATOR = "evaluator.py"


def _sums(x: Tensor) -> Tensor:
    """Two logits: the sum of an image's values, and 0."""
    return torch.stack([x.flatten(1).sum(1), 0 * x.flatten(1).sum(1)], 1)


def _maps(of: Subject, steps: int) -> Tensor:
    """IG's maps (B, C, H, W) of the logit."""
    path, rules = Straight(steps // 2), {"a": Riemann()}
    return attribute(of.model, of.x, of.target, path=path, rules=rules, objective="logit")["a"]


def _areas(of: Subject, ranking: Tensor, remove: str = "elements") -> Tensor:
    """The areas (B, M) under DiffID's curves of maps (B, M, H, W)."""
    statistics = {"mean": of.network.mean, "std": of.network.std}
    return area(diffid(of.model, of.x, ranking, of.target, remove=remove, **statistics).diffid_logit)


def _absolute() -> Outcome:
    """A map of two pixels, 1 and -2: which of them ranks first?"""
    scores = torch.tensor([1.0, -2.0]).view(1, 1, 1, 2)
    return Outcome(*(float(pixel_map(scores, each).argmax()) for each in ("abs_sum", "signed_sum")), 0.0)


def _absolute_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    maps = _maps(of, steps)
    return tuple(_areas(of, torch.stack([pixel_map(maps, each) for each in ("abs_sum", "signed_sum")], 1)).unbind(1))


def _elements() -> Outcome:
    """A white and a black pixel of three channels; 40 % of two pixels is no pixel, of six elements it is two, which get
    the mean of the others, 1/4: the sum falls from 3 to 3/2."""
    x = torch.tensor([1.0, 0.0]).expand(1, 3, 1, 2).contiguous()
    games = [diffid(_sums, x, x[:, :1], 0, remove=each, ratios=[0.4]) for each in ("elements", "pixels")]
    return Outcome(*(each.deletion_logit.item() for each in games), 1.0)


def _elements_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    ranking = _maps(of, steps).sum(1, keepdim=True)
    return tuple(_areas(of, ranking, each)[:, 0] for each in ("elements", "pixels"))


def _by_substring() -> Outcome:
    """Layers that the stage `fc` draws anew in a network with an auxiliary classifier."""
    network = nn.Module()
    network.body, network.fc = nn.Linear(4, 4), nn.Linear(4, 3)
    network.AuxLogits = nn.Sequential(OrderedDict(fc=nn.Linear(4, 3)))
    weights = dict(network.named_parameters())
    drawn = dict(randomised(network, "fc", seed=0).named_parameters())
    ours = [name for name in weights if name.endswith("weight") and not torch.equal(weights[name], drawn[name])]
    theirs = [name for name in weights if "fc" in name and name.endswith("fc.weight")]
    return Outcome(float(len(theirs)), float(len(ours)), 1.0)


def _drawn_again() -> Outcome:
    """The share of the last layer's weights that two depths of randomisation have in common."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    shallow, deep = (randomised(network, stage, seed=0)[2].weight for stage in ("2", "0"))
    theirs = [network[2].weight.detach().clone().normal_() for _ in range(2)]
    return Outcome(*(float((a == b).double().mean()) for a, b in (theirs, (shallow, deep))), 1.0)


def _mean_fill() -> Outcome:
    """A flat image of .8, half of it masked: filled with the mean of the rest it is what it was."""
    x, shown = torch.full((1, 1, 8, 8), 0.8), []

    def network(points: Tensor) -> Tensor:
        shown.append(points.mean().item())
        return points.flatten(1)[:, :2]

    sensitivity_n(network, x, x, 0, images=["toy"], draws=3, fractions=[0.5], fill="mean", batch=1)
    mask = (torch.arange(64) < 32).view(x.shape).float()
    theirs = x * (1.0 - mask) / mask.sum()
    return Outcome(theirs.mean().item(), sum(shown) / len(shown), 0.8)


def _ten_draws() -> Outcome:
    """The spread of the correlation of two numbers that have nothing to do with each other: 1 / sqrt(draws - 1)."""
    x = torch.full((48, 1, 4, 4), 0.5)
    ranking = torch.zeros(48, 2, 4, 4)
    ranking[..., 2:] = 1  # the network looks at the other half

    def network(points: Tensor) -> Tensor:
        return _sums(points[..., :2])

    ids = [str(number) for number in range(48)]
    asked = {"images": ids, "fractions": [0.5], "draws": [10, 100]}
    spread = sensitivity_n(network, x, ranking, [0] * 48, **asked)[..., 0].std(0)
    return Outcome(*spread.tolist(), 99**-0.5)


class _Retrains(nn.Module):
    """A network whose forward pass puts it into training mode."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        self.train()
        return self.drop(x.flatten(1))


def _training() -> Outcome:
    """Is a map computed in training mode? Ours is not computed at all."""
    network = _Retrains().eval()
    network(ONE)
    theirs, ours = float(network.training), 1.0
    try:
        attribute(network.eval(), ONE, 0, path=Straight(2), rules={"a": Riemann()}, objective="logit")
    except InputError:
        ours = 0.0
    return Outcome(theirs, ours, 0.0)


RECORDS = (
    Discrepancy(
        "always absolute values",
        Place(RECALIBRATION, EVALUATOR, 88),
        "saliency_map = normalize_saliency_map(saliency_map)",
        "judges every map by its absolute values, signed maps among them, and has no option to do otherwise",
        "judge a signed map as it is, which is what the paper is about",
        "which of the scores 1 (pixel 0) and −2 (pixel 1) ranks first",
        'pixel_map("abs_sum"); pixel_map("signed_sum")',
        _absolute,
        _absolute_moves,
        also=(Place(RECALIBRATION, EVALUATOR, 17),),
    ),
    Discrepancy(
        "parts of a pixel",
        Place(RECALIBRATION, EVALUATOR, 102),
        "num_delete = int(num_elements * del_ratio)",
        "removes a share of all elements, so that the last pixel may lose one or two of its channels",
        "remove whole pixels, as pixel perturbation says",
        "logit that is left of a white and a black pixel, 40 % removed",
        'diffid(remove="elements"); diffid(remove="pixels")',
        _elements,
        _elements_moves,
        also=(Place(RECALIBRATION, EVALUATOR, 29),),
    ),
    Discrepancy(
        "layers by part of their name",
        Place(RECALIBRATION, "main.py", 301),
        "if p_name in name:",
        "finds layers by a part of their name: `fc` is in `AuxLogits.fc`, too, which evaluation does not use",
        "draw the stage that was asked for",
        "layers that are drawn for the stage `fc`",
        "stand-in; randomised()",
        _by_substring,
    ),
    Discrepancy(
        "drawn again at each depth",
        Place(RECALIBRATION, "main.py", 306),
        "param.data = param.data.normal_(mean=mean, std=std)",
        "draws all stages anew, without a seed, at each depth: steps of the cascade differ in more than one stage",
        "keep what was drawn above",
        "share of the last layer's weights that two depths have in common",
        "stand-in; randomised()",
        _drawn_again,
    ),
    Discrepancy(
        "a fill that empties the image",
        Place(RECALIBRATION, EVALUATOR, 247),
        "mean_ref = (image*(1.-mask)).view((image.shape[0], -1)) / torch.sum(mask.view((mask.shape[0], -1)))",
        "divides what is left of the image by the number of masked pixels of the batch, and shows that",
        "fill masked pixels with the mean of the others",
        "mean of a flat image of 0.8, half of it filled",
        'stand-in; sensitivity_n(fill="mean")',
        _mean_fill,
    ),
    Discrepancy(
        "ten draws",
        Place(RECALIBRATION, EVALUATOR, 236),
        "for sample_ind in range(10):",
        "correlates ten numbers with ten, where chance alone spreads over a third",
        "draw a hundred, for a tenth",
        "spread over images of a correlation of nothing with nothing",
        "sensitivity_n(draws=10); sensitivity_n(draws=100)",
        _ten_draws,
        tolerance=0.04,
    ),
    Discrepancy(
        "training mode in the forward pass",
        Place(RECALIBRATION, "networks/MLP.py", 47),
        "self.train()",
        "puts the network into training mode whenever it is used, which would matter with dropout or batch norm",
        "leave the mode alone; ours refuses such a network",
        "is a map computed in training mode?",
        "stand-in; attribute()",
        _training,
        also=(Place(RECALIBRATION, "networks/MLP.py", 34),),
    ),
)
