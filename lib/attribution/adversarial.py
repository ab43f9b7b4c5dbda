"""The adversarial path: from the image towards other classes (AGI, Pan et al. 2021)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.nodes import Node, Probe
from lib.attribution.paths import require_steps
from lib.seeds import image_generator


@dataclass(frozen=True, eq=False)
class Adversarial:
    """One line for each target class t: z_j = clamp(z_{j-1} + epsilon sign(grad f_t(z_{j-1})), 0, 1), z_0 = x.

    targets (B, T), for example of `other_classes`. The nodes are z_1 ... z_k, from the image outwards; their dx points
    back, z_{j-1} - z_j, so that the sum of gradient * dx approaches f(x) - f(z_k). Both gradients at a point come from
    one forward pass. The end of a line is not known beforehand: nodes have no `reference`.
    Differs from the released code: `restart=True` takes every step from the image, z_j = clamp(x + epsilon sign(grad
    f_t(z_{j-1}))), with dx = x - z_j (AR:adv_grad_integration.py:53-69). Its evaluation of the target's gradient at the
    un-normalised image is not repeated.
    """

    targets: Tensor
    steps: int = 5
    epsilon: float = 0.05
    restart: bool = False

    rules = ("left",)
    nested = ""

    def __post_init__(self):
        require_steps(self.steps)
        if not 0 < self.epsilon <= 1:
            raise InputError(f"epsilon is {self.epsilon!r}; give a step in pixel values, 0 < epsilon <= 1")

    def ends(self, x: Tensor):
        raise InputError("an adversarial path ends where its steps lead: its references are not known beforehand")

    def nodes(self, x: Tensor, probe: Probe) -> Iterator[Node]:
        lines = self.targets.shape[1]
        share = 1 / (self.steps * lines)
        part = share if self.restart else 1 / lines
        for line, towards in enumerate(self.targets.to(x.device).unbind(1)):
            point = x
            _, _, slope = probe(point[None], towards[None])
            for index in range(self.steps):
                before = x if self.restart else point
                point = (before + self.epsilon * slope[0].sign()).clamp(0, 1)
                last = index == self.steps - 1
                value, grad, *slopes = probe(point[None], None if last else towards[None])
                slope = slopes[0] if slopes else None
                dx = (before - point) * part
                yield Node(point, dx, grad[0], value[0], index, x, None, share, line, 1 / lines, tangent=True)


def other_classes(
    target: Tensor, classes: int, count: int, *, images: Sequence[str], seed: int = 0, released: bool = False
) -> Tensor:
    """`count` target classes for each image, drawn without repetition among those that are not its own: (B, count).

    Differs from the released code (AR:adv_grad_integration.py:23-30): `released=True` draws from 0 ... classes - 3
    and does not leave the image's own class out.
    Raises InputError for more targets than there are classes to draw from.
    """
    available = classes - 2 if released else classes - 1
    if not 1 <= count <= available:
        raise InputError(f"{count} adversarial targets are asked for; of {classes} classes, give 1 to {available}")
    rows = []
    for own, image in zip(target.tolist(), images, strict=True):
        order = torch.randperm(classes - 2 if released else classes, generator=image_generator(seed, image, "targets"))
        rows.append((order if released else order[order != own])[:count])
    return torch.stack(rows)
