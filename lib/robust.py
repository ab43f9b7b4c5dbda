"""Training that makes attributions robust: PGD, IG-NORM and IG-SUM-NORM (Chen et al., NeurIPS 2019), on digits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lib import InputError, nearest
from lib.attacks.pgd import pgd
from lib.digits import digits
from lib.models import Network, best_device
from lib.provenance import unit_key
from lib.training import digit_cnn, digit_network, fit, kept, prepared_digits

KINDS = ("natural", "pgd", "ig_norm", "ig_sum_norm")


@dataclass(frozen=True)
class Schedule:
    """How a robust network is trained; the defaults are those of `laptop`, the released ones in brackets (MNIST).

    epsilon [.3], step [.01] and iterations [40] of the inner maximisation; m [50] points of IG in the outer update and
    m_inner [10] in the inner one; weight [lambda = 1 of IG-NORM, beta = .1 of IG-SUM-NORM]; epochs over 4,000 digits
    in batches of 50 [100,000 batches of 50], Adam from `learning_rate` [1e-4] down to 0 [constant], from the weights of
    the natural network [random ones]. The network is smaller, too: 16 and 32 channels and 256 hidden units [32, 64 and
    1024].
    """

    epsilon: float = 0.2
    step: float = 0.05
    iterations: int = 6
    m: int = 4
    m_inner: int = 2
    weight: float = 1.0
    epochs: int = 6
    learning_rate: float = 1e-3
    batch: int = 50


SCHEDULES = {
    "pgd": Schedule(),
    "ig_norm": Schedule(weight=1.0, epochs=3),
    "ig_sum_norm": Schedule(weight=0.1, epochs=3),
}


def loss_attribution(
    model: nn.Module, x: Tensor, other: Tensor, y: Tensor, *, m: int, create_graph: bool = True
) -> Tensor:
    """IG of the loss along the line from x to other, both (B, C, H, W): (B, C, H, W), signed.

    IG_j = (other_j - x_j) (1/m) sum_{t=1..m} d l(x + (t/m)(other - x), y) / dx_j, l the cross-entropy; their sum over j
    is about l(other) - l(x). All m points of all images in one pass. Can be differentiated with respect to `other` and
    to the weights unless create_graph=False.
    Differs from the released code: the softmax is not cut off at 1e-10 (RAR MNIST/model.py), where its gradient is 0.
    """
    points = torch.cat([x + (t / m) * (other - x) for t in range(1, m + 1)])
    if not points.requires_grad:
        points.requires_grad_()
    loss = cross_entropy(model(points), y.repeat(m), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, points, create_graph=create_graph)
    return (other - x) * gradient.unflatten(0, (m, len(x))).mean(0)


def robust_loss(kind: str, how: Schedule) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """The loss of a batch, for `lib.training.fit`: loss(model, x, y) -> scalar, the mean over images.

    pgd          l(x', y), x' maximising l within epsilon (Madry et al., 2018)
    ig_norm      l(x, y) + weight ||IG(x, x')||_1, x' maximising the norm ("ar" in the released code)
    ig_sum_norm  l(x', y) + weight ||IG(x, x')||_1, x' maximising this sum ("adv_ar")

    x' is found by `pgd` from a uniform start, with m_inner points for IG, and is a constant of the outer update, which
    uses m. Means where the released code has sums: Adam does not tell them apart.
    Raises InputError for another kind.
    """
    if kind not in KINDS[1:]:
        raise InputError(f"there is no robust training {kind!r}; {nearest(kind, KINDS[1:])}")

    def total(model: nn.Module, x: Tensor, other: Tensor, y: Tensor, m: int, inner: bool) -> Tensor:
        value = 0.0
        if kind != "ig_norm" or not inner:  # l(x) does not depend on x'
            value = cross_entropy(model(x if kind == "ig_norm" else other), y, reduction="sum")
        if kind != "pgd":
            value = value + how.weight * loss_attribution(model, x, other, y, m=m).abs().sum()
        return value

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        start = x + how.epsilon * (2 * torch.rand(x.shape) - 1).to(x)
        ball = {"epsilon": how.epsilon, "step": how.step, "iterations": how.iterations}
        other = pgd(lambda point: total(model, x, point, y, how.m_inner, True), x, start=start, **ball)
        return total(model, x, other, y, how.m, False) / len(x)

    return loss


def robust_digit_network(kind: str, *, cache: Path, seed: int = 0, schedule: Schedule | None = None) -> Network:
    """The `digit_cnn` trained on digits("train") as `kind` says, prepared for attribution, on the best device.

    kind: natural (`lib.training.digit_network`), pgd, ig_norm or ig_sum_norm. schedule: SCHEDULES[kind] unless given.
    The robust ones go on from the natural network of the same seed. Weights are kept in `cache`, as those of
    `digit_network`.
    Raises InputError for another kind.
    """
    if kind not in KINDS:
        raise InputError(f"there is no training {kind!r}; {nearest(kind, KINDS)}")
    natural = digit_network(cache=cache, seed=seed)
    if kind == "natural":
        return natural
    how = schedule or SCHEDULES[kind]
    loss = robust_loss(kind, how)
    name = f"mnist_cnn_{kind}"

    def trained() -> nn.Module:
        model = digit_cnn(seed=seed).to(best_device())
        model.load_state_dict(natural.model.state_dict())
        train = digits("train")
        options = {"epochs": how.epochs, "batch": how.batch, "learning_rate": how.learning_rate}
        return fit(model, train.x, train.y, seed=seed, loss=loss, label=name, **options)

    key = unit_key(name, ["lib.robust"], seed=seed, schedule=vars(how))
    return prepared_digits(name, kept(digit_cnn(), trained, cache=cache, key=key))
