"""Re-calibration: points whose variation and gradient disagree in sign are left out, feature by feature.

The product of a node is share * delta * gradient, with delta one of three variations of the point x~ on the way from
the reference x' to the input x. On a straight line all have one sign, so that they share the mask and differ in weight:

    remaining     x - x~    (the released code at its head, AR:IG_SG.py:148-158)
    travelled     x~ - x'   (the authors' code at the time of the paper, before 14cb2c9)
    displacement  the node's own dx: x - x' on a straight line, the step on any other path
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.arguments import image_ids
from lib.attribution.nodes import Node, share_of
from lib.attribution.rules import Rule
from lib.seeds import image_generator

DELTAS = ("remaining", "travelled", "displacement")
NORMS = ("valid", "negatives", "all")


def product(node: Node, delta: str) -> Tensor:
    """share * delta * gradient of a node, (B, C, H, W).

    Raises InputError for the travelled distance on a path whose reference is not known beforehand.

    >>> one = torch.ones(1, 1, 1, 1)
    >>> node = Node(0.25 * one, one, 2 * one, one.flatten(), 0, input=one, reference=0 * one, share=0.5)
    >>> [product(node, delta).item() for delta in DELTAS]
    [0.75, 0.25, 2.0]
    """
    if delta == "displacement":
        return node.grad * node.dx
    if delta == "remaining":
        return (node.input - node.x) * node.grad * share_of(node.share)
    if node.reference is None:
        raise InputError("delta 'travelled' needs a reference, and this path has none known beforehand")
    return (node.x - node.reference) * node.grad * share_of(node.share)


class _OfProducts(Rule):
    """A rule made of the products of nodes with one `delta`."""

    delta: str

    def __post_init__(self):
        if self.delta not in DELTAS:
            raise InputError(f"delta {self.delta!r} is unknown; choose one of {', '.join(DELTAS)}")

    @property
    def at_input(self) -> bool:
        return self.delta != "remaining"


@dataclass(frozen=True)
class Recalibrated(_OfProducts):
    """Re-calibrated attributions (Yang et al. 2023): the mean over valid points of variation * gradient.

    by     "point": a point is valid for a feature where its product p is >= 0 (zeros count);
           "reference": the sum of p over a line is tested instead
    norm   what the sum S over valid points is divided by, in shares of all points: "valid", those that are valid;
           "negatives", those that are not, at least one point (65e5142 integrated_grad.py:211-220); "all": 1
    square p^2 is summed instead of p (IG-SQ)

    Every term is >= 0, so that maps have no sign to drop; no completeness is promised. No gradient is evaluated
    beyond the path's. The mask is constant where it is differentiable, so that with create_graph it acts as a constant.
    Differs from the released code: S there carries another factor 1/k, which changes no ranking.
    Raises InputError for options that do not exist.

    >>> from lib.attribution import Lines, attribute
    >>> from lib.attribution.references import Single
    >>> x, rules = torch.ones(1, 1, 1, 2), {"map": Recalibrated()}
    >>> # f_0 = 3a; at the midpoint half of the way remains
    >>> attribute(lambda x: 3 * x.flatten(1), x, 0, path=Lines(Single(), 1), rules=rules, objective="logit")["map"]
    tensor([[[[1.5000, 0.0000]]]])
    """

    by: str = "point"
    delta: str = "remaining"
    norm: str = "valid"
    square: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.by not in ("point", "reference") or self.norm not in NORMS:
            raise InputError(f"by {self.by!r}, norm {self.norm!r}: give point or reference, and {', '.join(NORMS)}")

    def __call__(self, node: Node, following: Node | None) -> dict[str, Tensor]:
        p = product(node, self.delta)
        if self.by == "point":
            return self._masked(p, node.share)
        return {"map": p, "share": torch.ones_like(node.value) * node.share}

    def close(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        return sums if self.by == "point" else self._masked(sums["map"], sums["share"])

    def finish(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.norm == "all":
            return sums
        count = sums["counted"]
        if self.norm == "negatives":
            count = torch.where(count > 0, count, 1 / sums["points"])
        return sums | {"map": sums["map"] / torch.where(count > 0, count, 1)}

    def _masked(self, p: Tensor, share: float | Tensor) -> dict[str, Tensor]:
        valid = p.detach() >= 0
        if self.square:
            squared = p.square() / share_of(share)
            p = torch.where(p == 0, 0, squared)  # a point of no share has no product either
        found = {"map": torch.where(valid, p, 0)}
        if self.norm != "all":
            counted = valid if self.norm == "valid" else ~valid
            found["counted"] = counted.to(p) * share_of(share)  # a bool times a number would be float32
            found["points"] = torch.ones((), dtype=p.dtype, device=p.device)
        return found


@dataclass(frozen=True)
class Weighted(_OfProducts):
    """Control: the mean of variation * gradient without any mask; what the weight by distance does alone, signed.

    With delta "travelled" on a black line this is what the released code calls IG (AR:integrated_grad.py:126-130), up
    to the factor k by which that grows with the number of points.

    >>> one = torch.ones(1, 1, 1, 1)
    >>> Weighted()(Node(0.25 * one, one, -2 * one, one.flatten(), 0, input=one, reference=0 * one, share=0.5), None)
    tensor([[[[-0.7500]]]])
    """

    delta: str = "remaining"

    def __call__(self, node: Node, following: Node | None) -> Tensor:
        return product(node, self.delta)


@dataclass(frozen=True)
class PointAbsolute(_OfProducts):
    """Control: the mean over points of |variation * gradient|; the sign is dropped point by point, none is left out.

    >>> one = torch.ones(1, 1, 1, 1)
    >>> node = Node(0.25 * one, one, -2 * one, one.flatten(), 0, input=one, reference=0 * one, share=0.5)
    >>> PointAbsolute()(node, None)
    tensor([[[[0.7500]]]])
    """

    delta: str = "remaining"

    def __call__(self, node: Node, following: Node | None) -> Tensor:
        return product(node, self.delta).abs()


@dataclass(frozen=True, eq=False)
class RandomMask(_OfProducts):
    """Control: as re-calibrated by point, but which features of a point are kept is drawn at random.

    At every point as large a share of an image's features is kept as is valid there. images, seed: what the draw
    depends on, with the point's place on the path. Raises InputError for ids that do not match the images.

    >>> one = torch.ones(1, 1, 1, 2)
    >>> grad = torch.tensor([[[[1.0, -1.0]]]])
    >>> node = Node(0 * one, one, grad, one[:, 0, 0, 0], 0, input=one, reference=0 * one, share=1.0)
    >>> RandomMask(["cat"])(node, None)["counted"].shape
    torch.Size([1, 1, 1, 2])
    """

    images: Sequence[str]
    delta: str = "remaining"
    seed: int = 0

    def __call__(self, node: Node, following: Node | None) -> dict[str, Tensor]:
        p = product(node, self.delta)
        density = (p >= 0).flatten(1).double().mean(1)
        place = f"mask/{node.line}/{node.index}"
        ids = image_ids(self.images, p)
        drawn = [torch.rand(p.shape[1:], generator=image_generator(self.seed, image, place)) for image in ids]
        kept = torch.stack(drawn).to(p) < share_of(density.to(p))
        return {"map": torch.where(kept, p, 0), "counted": kept.to(p) * share_of(node.share)}

    def finish(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        count = sums["counted"]
        return sums | {"map": sums["map"] / torch.where(count > 0, count, 1)}


@dataclass(frozen=True)
class SquaredMeanGradient(Rule):
    """IG-SQ: the mean over references of (x - x') * (mean gradient along the line)^2 (AR:IG_SQ.py:34-38).

    >>> from lib.attribution import Lines, attribute
    >>> from lib.attribution.references import Single
    >>> x, rules = torch.ones(1, 1, 1, 2), {"map": SquaredMeanGradient()}
    >>> attribute(lambda x: 3 * x.flatten(1), x, 0, path=Lines(Single(), 2), rules=rules, objective="logit")["map"]
    tensor([[[[9., 0.]]]])
    """

    def __call__(self, node: Node, following: Node | None) -> dict[str, Tensor]:
        share = share_of(node.share)
        return {
            "gradient": node.grad * share,
            "span": node.dx,
            "share": torch.ones_like(node.value) * node.share,
        }

    def close(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"map": sums["span"] * (sums["gradient"] / share_of(sums["share"])).square()}
