"""The adversarial path: from the image towards other classes (AGI, Pan et al. 2021)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.arguments import as_tensor, image_ids, whole_fields, whole_number
from lib.attribution.gate import class_labels
from lib.attribution.nodes import Node, Probe
from lib.attribution.paths import Path
from lib.seeds import image_generator


@dataclass(frozen=True, eq=False)
class Adversarial(Path):
    """One line for each target class t: z_j = clamp(z_{j-1} + epsilon sign(grad f_t(z_{j-1})), 0, 1), z_0 = x.

    targets (B, T), for example of `other_classes`. The nodes are z_1 ... z_k, from the image outwards; their dx points
    back, z_{j-1} - z_j, so that the sum of gradient * dx approaches f(x) - f(z_k). Both gradients at a point come from
    one forward pass. The end of a line is not known beforehand: nodes have no `reference`.
    Differs from the released code: `restart=True` takes every step from the image, z_j = clamp(x + epsilon sign(grad
    f_t(z_{j-1}))), with dx = x - z_j (AR:adv_grad_integration.py:53-69). Its evaluation of the target's gradient at the
    un-normalised image is not repeated.
    Raises InputError for options out of range, and targets of other images or beyond the network's classes.

    >>> from lib.attribution import walk
    >>> network, x = (lambda x: torch.cat([x.flatten(1), -x.flatten(1)], 1)), torch.full((1, 1, 1, 1), 0.5)
    >>> [round(node.x.item(), 2) for node in walk(network, Adversarial([[1]], steps=2, epsilon=0.1), x, 0)]
    [0.4, 0.3]
    """

    targets: Tensor
    steps: int = 5
    epsilon: float = 0.05
    restart: bool = False

    rules = ("left",)

    def __post_init__(self):
        whole_fields(self, "steps")
        if not 0 < self.epsilon <= 1:
            raise InputError(f"epsilon is {self.epsilon!r}; give a step in pixel values, 0 < epsilon <= 1")

    def ends(self, x: Tensor):
        raise InputError("an adversarial path ends where its steps lead: its references are not known beforehand")

    def nodes(self, x: Tensor, probe: Probe) -> Iterator[Node]:
        targets = self._targets(x)
        probe.model.asked_about(targets)
        lines = targets.shape[1]
        share = 1 / (self.steps * lines)
        part = share if self.restart else 1 / lines
        for line, towards in enumerate(targets.unbind(1)):
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

    def _targets(self, x: Tensor) -> Tensor:
        targets = as_tensor(self.targets, "targets", "class indices (images, lines)")
        if targets.ndim != 2 or len(targets) != len(x) or not targets.shape[1]:
            raise InputError(
                f"targets is {tuple(targets.shape)} for {len(x)} images; give class indices ({len(x)}, lines)"
            )
        return torch.stack([class_labels(each, x) for each in targets.unbind(1)], 1)


def other_classes(
    target: Tensor, classes: int, count: int, *, images: Sequence[str], seed: int = 0, released: bool = False
) -> Tensor:
    """`count` target classes for each image, drawn without repetition among those that are not its own: (B, count).

    Differs from the released code (AR:adv_grad_integration.py:23-30): `released=True` draws from 0 ... classes - 3
    and does not leave the image's own class out.
    target: see `class_labels`. The result is on the CPU.
    Raises InputError for more targets than there are classes to draw from, a class beyond them, and ids that do not
    match.

    >>> other_classes([1], 3, 2, images=["cat"]).sort().values
    tensor([[0, 2]])
    """
    images = image_ids(images)
    target = class_labels(target, torch.empty(len(images)))
    classes, count = whole_number(classes, "classes", least=2), whole_number(count, "count")
    if int(target.max()) >= classes:
        raise InputError(f"target holds {int(target.max())}; of {classes} classes, give 0 to {classes - 1}")
    available = classes - 2 if released else classes - 1
    if not 1 <= count <= available:
        raise InputError(f"{count} adversarial targets are asked for; of {classes} classes, give 1 to {available}")
    rows = []
    for own, image in zip(target.tolist(), images, strict=True):
        order = torch.randperm(classes - 2 if released else classes, generator=image_generator(seed, image, "targets"))
        rows.append((order if released else order[order != own])[:count])
    return torch.stack(rows)
