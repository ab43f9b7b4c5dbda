"""Density regularisation (Yang et al., ECCV 2024): penalties on the gradient of log densities that logits define.

Read as an energy model, logits f define p(x, y) = exp(f_y(x)) / Z, and so, up to constants of x,
log p(x, y) = f_y (joint), log p(y|x) = log softmax_y(f) (conditional) and log p(x) = logsumexp(f) (marginal). A penalty
is the squared norm of such a gradient with respect to the pixels, differentiable with respect to the weights.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lib import InputError, nearest
from lib.training.priors import Logits

DENSITIES = ("joint", "conditional", "marginal")
IMPLEMENTATIONS = ("exact", "detached", "finite_difference", "random_direction")
PENALTIES = {density: (density, "exact") for density in DENSITIES}  # of a training: which density, implemented how
PENALTIES |= {f"marginal_{each}": ("marginal", each) for each in IMPLEMENTATIONS[1:]}


def log_density(logits: Tensor, y: Tensor, density: str) -> Tensor:
    """The log density of each row up to a constant: (B, K) logits, (B,) labels -> (B,); the marginal ignores y.

    Raises InputError for another density.

    >>> z, y = torch.tensor([[1.0, 3.0]]), torch.tensor([1])
    >>> joint, conditional, marginal = (log_density(z, y, each) for each in DENSITIES)
    >>> bool(torch.isclose(joint, conditional + marginal))
    True
    """
    if density not in DENSITIES:
        raise InputError(f"there is no density {density!r}; {nearest(density, DENSITIES)}")
    total = logits.logsumexp(1)
    if density == "marginal":
        return total
    joint = logits.gather(1, y[:, None]).squeeze(1)
    return joint if density == "joint" else joint - total


def density_penalty(
    f: Logits, x: Tensor, y: Tensor, *, density: str = "marginal", by: str = "exact", step: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Logits (B, K) and ||grad_x log density||^2 of each image (B,), in pixel values, with their graph.

    by: how it is computed; with g the log density,
      exact              the gradient, differentiated again
      detached           the same, with the weights softmax(f) constant: the same value, another gradient
      finite_difference  [(g(x + h u) - g(x)) / h]^2 along u = grad g / ||grad g||, a constant; no second derivative
      random_direction   [(g(x + h v) - g(x)) / h]^2, v ~ N(0, I) from torch's default CPU generator; its mean is exact
                         as h -> 0, its standard deviation sqrt(2) times that; no derivative by x at all
    x (B, ...), whose rows f treats apart; step: h in pixel values, the length of the step along the gradient and the
    deviation of each pixel in a random direction. Where the gradient is 0, so are the penalty and its derivative. In a
    ReLU network a finite step sees the jumps of the gradient that it crosses, which second derivatives do not.
    The paper's exact form could not be found: a squared norm, and that the authors' implementation uses the softmax and
    a Taylor expansion, are all that is known of it. There is no released code.
    Raises InputError for another density or implementation, and a step that is not above 0.

    >>> half = lambda x: 0.5 * x  # its marginal has the gradient softmax / 2
    >>> density_penalty(half, torch.zeros(1, 2), torch.tensor([0]))[1]
    tensor([0.1250], grad_fn=<SumBackward1>)
    """
    if by not in IMPLEMENTATIONS:
        raise InputError(f"there is no implementation {by!r}; {nearest(by, IMPLEMENTATIONS)}")
    if not step > 0:
        raise InputError(f"step is {step!r}; give a distance in pixel values above 0, such as 0.01")
    points = x if by == "random_direction" or x.requires_grad else x.detach().requires_grad_()
    logits = f(points)
    value = log_density(logits, y, density)
    if by == "random_direction":
        direction = torch.randn(x.shape).to(x)
    else:
        twice = by in ("exact", "detached")
        scalar = _constant_weights(logits, y, density) if by == "detached" else value
        (gradient,) = torch.autograd.grad(scalar.sum(), points, create_graph=twice, retain_graph=True)
        if twice:
            return logits, gradient.square().flatten(1).sum(1)
        size = gradient.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))
        direction = gradient / size.where(size > 0, 1)
    there = log_density(f(x.detach() + step * direction), y, density)
    return logits, ((there - value) / step).square()


def density_loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    density: str,
    strength: float,
    by: str = "exact",
    step: float = 0.01,
) -> Tensor:
    """Cross-entropy + strength * mean over the batch of `density_penalty`, for `lib.training.fit.fit`."""
    logits, penalty = density_penalty(model, x, y, density=density, by=by, step=step)
    return cross_entropy(logits, y) + strength * penalty.mean()


def reweighted_loss(model: nn.Module, x: Tensor, groups: Tensor, *, counts: Sequence[int], classes: int) -> Tensor:
    """Cross-entropy whose groups weigh as if all had as many images: the baseline that is told the groups.

    groups (B,): of each image, class + classes * attribute; counts: images of each group in the training set. An image
    of group g weighs N / (G counts[g]), N images in G groups, whose mean over the training set is 1.
    Raises InputError for a group without images.
    """
    if min(counts) < 1:
        raise InputError(f"groups have {list(counts)} images; each needs one for its weight.")
    weights = torch.tensor([sum(counts) / (len(counts) * each) for each in counts], device=x.device)
    losses = cross_entropy(model(x), groups % classes, reduction="none")
    return (weights[groups] * losses).mean()


def penalised(penalty: str, strength: float, step: float = 0.01) -> dict[str, object]:
    """What `density_loss` takes for a named penalty of PENALTIES; raises InputError for another name.

    >>> penalised("marginal_detached", 0.1)
    {'density': 'marginal', 'by': 'detached', 'strength': 0.1, 'step': 0.01}
    """
    if penalty not in PENALTIES:
        raise InputError(f"there is no penalty {penalty!r}; {nearest(penalty, PENALTIES)}")
    density, by = PENALTIES[penalty]
    return {"density": density, "by": by, "strength": strength, "step": step}


def _constant_weights(logits: Tensor, y: Tensor, density: str) -> Tensor:
    """What has the log density's gradient by the logits, as a constant: sum_c w_c f_c of each row."""
    value = logits.detach().requires_grad_()
    (weights,) = torch.autograd.grad(log_density(value, y, density).sum(), value)
    return (weights * logits).sum(1)


def saved_bytes(update: Callable[[], Tensor]) -> int:
    """Bytes of all tensors that autograd holds for the backward pass of a scalar, update(): each storage once.

    Weights, and inputs that are held by the caller anyway, are counted too, for all losses alike.

    >>> x = torch.ones(4, requires_grad=True)
    >>> saved_bytes(lambda: x.square().sum())
    16
    """
    seen, kept = {}, []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)  # or its place could be given to another one
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        update()
    return sum(seen.values())
