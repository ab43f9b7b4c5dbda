"""Training that makes attributions robust: PGD, IG-NORM and IG-SUM-NORM (Chen et al., NeurIPS 2019)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lib import InputError, nearest
from lib.attacks.pgd import pgd
from lib.data.imagesets import SETS, image_set
from lib.models.rar_resnet import rar_network
from lib.models.zoo import Network, best_device
from lib.store.digest import content_key
from lib.training.fit import digit_cnn, digit_network, fit, kept_network, prepared

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


NATURAL = Schedule(epochs=8, batch=32)  # of the image sets that are not packaged; only its last three fields count
SCALED = {
    "pgd": Schedule(),
    "ig_norm": Schedule(weight=1.0, epochs=3),
    "ig_sum_norm": Schedule(weight=0.1, epochs=3),
}
_COLOUR = Schedule(8 / 255, 2 / 255, 7, 50, 5, batch=64)
RELEASED = {  # lambda and beta stand in WEIGHTS; epochs: released batches over the images of the part "train"
    "mnist": Schedule(0.3, 0.01, 40, 50, 10, epochs=83, learning_rate=1e-4),  # 100,000 batches
    "fashion_mnist": Schedule(0.1, 0.01, 20, 50, 10, epochs=83, learning_rate=1e-4),
    "gtsrb": replace(_COLOUR, epochs=168),  # 70,000 batches
    "flowers17": replace(_COLOUR, epochs=915, batch=16),
}
WEIGHTS = {  # (lambda of IG-NORM, beta of IG-SUM-NORM) where they are not those of MNIST
    "gtsrb": (1.0, 1.0),
    "flowers17": (0.1, 0.1),
    "flowers102": (0.1, 0.1),
}


def schedule(kind: str, data: str = "mnist_5k", scale: str = "scaled") -> Schedule:
    """The schedule of a kind of robust training on an image set.

    scale: "released" has the numbers of Chen et al. for the set (mnist_5k as mnist, flowers102 as flowers17), as far as
    a `Schedule` knows them: the optimiser stays Adam with a falling rate where theirs is SGD for colour, and their
    augmentation is missing. "scaled" has few steps, with the released ball and weights for colour images.
    Raises InputError for another kind, image set or scale.
    """
    asked = {"robust training": (kind, KINDS[1:]), "image set": (data, SETS), "scale": (scale, ("scaled", "released"))}
    for what, (given, allowed) in asked.items():
        if given not in allowed:
            raise InputError(f"there is no {what} {given!r}; {nearest(given, allowed)}")
    released = RELEASED[{"mnist_5k": "mnist", "flowers102": "flowers17"}.get(data, data)]
    weight = dict(zip(("ig_norm", "ig_sum_norm"), WEIGHTS.get(data, (1.0, 0.1)), strict=True)).get(kind, 1.0)
    if scale == "released":
        return replace(released, weight=weight)
    scaled = replace(SCALED[kind], weight=weight)
    if "mnist" in data and data != "fashion_mnist":
        return scaled  # a smaller ball than the released one, which six steps cannot defend
    return replace(scaled, epsilon=released.epsilon, step=released.epsilon / 4, batch=released.batch)


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
    """The loss of a batch, for `lib.training.fit.fit`: loss(model, x, y) -> scalar, the mean over images.

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


def trained_network(
    kind: str,
    data: str = "mnist_5k",
    *,
    root: str | Path = "",
    cache: Path,
    seed: int = 0,
    how: Schedule | None = None,
) -> Network:
    """A small network trained on an image set as `kind` says, prepared for attribution, on the best device.

    kind: natural, pgd, ig_norm or ig_sum_norm. data, root: see `lib.data.imagesets`. Grey images get `digit_cnn`,
    colour the `rar_network` of Chen et al. for their size. how: schedule(kind, data) unless given.
    The robust ones go on from the natural network of the same seed: `digit_network`, or eight epochs of Adam. Weights
    are kept in `cache`.
    Raises InputError for another kind, and as `image_set`.
    """
    if kind not in KINDS:
        raise InputError(f"there is no training {kind!r}; {nearest(kind, KINDS)}")
    if kind == "natural" and data == "mnist_5k":
        return digit_network(cache=cache, seed=seed)
    name = f"{'mnist_cnn' if data == 'mnist_5k' else data}_{kind}"
    how = how or (NATURAL if kind == "natural" else schedule(kind, data))
    train = partial(_trained, kind, data, root=root, cache=cache, seed=seed, how=how, label=name)
    model = kept_network(untrained_network(data), train, cache=cache, key=content_key(name, train))
    return prepared(name, model, SETS[data].shape)


def _trained(kind: str, data: str, *, root: str | Path, cache: Path, seed: int, how: Schedule, label: str) -> nn.Module:
    model = untrained_network(data, seed=seed).to(best_device())
    if kind != "natural":
        start = trained_network("natural", data, root=root, cache=cache, seed=seed)
        model.load_state_dict(start.model.state_dict())
    train = image_set(data, "train", root=root)
    loss = {} if kind == "natural" else {"loss": robust_loss(kind, how)}
    options = {"epochs": how.epochs, "batch": how.batch, "learning_rate": how.learning_rate}
    return fit(model.requires_grad_(True), train.x, train.y, seed=seed, label=label, **loss, **options)


def untrained_network(data: str, *, seed: int = 0) -> nn.Module:
    """The network of an image set with random weights."""
    of = SETS[data]
    if of.shape[0] == 1:
        return digit_cnn(classes=of.classes, seed=seed)
    return rar_network(classes=of.classes, blocks=2 if of.shape[1] == 32 else 1, seed=seed)
