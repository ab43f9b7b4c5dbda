"""Maps from a single pass, or from none: baselines and controls."""

import torch
from torch import Tensor, nn

from lib import InputError
from lib.attribution.arguments import image_ids, whole_number
from lib.attribution.forward import values, values_and_gradients
from lib.attribution.gate import gate
from lib.attribution.nodes import Probe
from lib.models.homogeneity import origin
from lib.seeds import image_generator


def input_gradient(model, x: Tensor, target: Tensor, *, objective: str = "logit", budget: int | None = None) -> Tensor:
    """The gradient of the explained scalar, signed: dF/dx (Simonyan et al., 2014); (B, C, H, W), in pixel space.

    x (B, C, H, W) in [0, 1]; target (B,); at most `budget` images per pass.
    Raises InputError as `values_and_gradients`.

    >>> input_gradient(lambda x: 3 * x.flatten(1), torch.rand(1, 1, 1, 2), 1)
    tensor([[[[0., 3.]]]])
    """
    return values_and_gradients(model, x, target, objective=objective, budget=budget)[1]


def input_x_gradient(
    model, x: Tensor, target: Tensor, *, objective: str = "logit", budget: int | None = None
) -> Tensor:
    """Input times gradient: x dF/dx (Shrikumar et al., 2016); (B, C, H, W), signed.

    x is in pixel space, so its implied reference is black, not the mean colour.
    Raises InputError as `values_and_gradients`.

    >>> input_x_gradient(lambda x: 3 * x.flatten(1), torch.full((1, 1, 1, 2), 0.5), 1)
    tensor([[[[0.0000, 1.5000]]]])
    """
    model, x, target = gate(model, x, target, objective=objective)
    return x * input_gradient(model, x, target, objective=objective, budget=budget)


def smoothgrad(
    model,
    x: Tensor,
    target: Tensor,
    *,
    images: list[str],
    samples: int = 10,
    sigma: float = 0.15,
    seed: int = 0,
    objective: str = "logit",
    budget: int | None = None,
) -> tuple[Tensor, Tensor]:
    """SmoothGrad, the mean over n of dF/dx at x + e_n (Smilkov et al., 2017), signed, and SmoothGrad-Squared, that of
    its square (Hooker et al., 2019), never negative; (B, C, H, W) each, from the same gradients.

    e_n ~ N(0, (sigma (max x - min x))^2), the range being that of each image over pixels and channels; noisy
    images are not clamped. images: the ids that seed each image's noise. Memory does not grow with `samples`.
    Raises InputError for fewer than 1 sample, a sigma below 0, ids that do not match x, a gradient that is not finite
    and as `lib.attribution.gate.gate`.
    Differs from the released code: the range of each image in pixel space, not of the normalised batch
    (AR:smooth_grad.py:61), so that a map does not depend on its batch mates.

    >>> smoothgrad(lambda x: 3 * x.flatten(1), torch.rand(1, 1, 1, 2), 1, images=["cat"])
    (tensor([[[[0., 3.]]]]), tensor([[[[0., 9.]]]]))
    """
    model, x, target = gate(model, x, target, objective=objective)
    images, samples = image_ids(images, x), whole_number(samples, "samples")
    if not 0 <= sigma < float("inf"):
        raise InputError(f"sigma is {sigma!r}; give a share of the image's range, 0 or more")
    low, high = x.flatten(1).aminmax(dim=1)
    scale = sigma * (high - low).view(-1, 1, 1, 1)
    probe = Probe(model, target, objective, budget)
    together = probe.together(x)
    total, squares, answers = torch.zeros_like(x), torch.zeros_like(x), x.new_zeros(len(x))
    for start in range(0, samples, together):
        draws = range(start, min(start + together, samples))
        value, gradients = probe(torch.stack([x + scale * _noise(x, images, seed, draw) for draw in draws]))
        answers += value.sum(0)
        for gradient in gradients:  # one by one, so that the order of the sum does not depend on the budget
            total += gradient
            squares += gradient.square()
    finite_maps(answers[:, None])
    return finite_maps(total) / samples, squares / samples


def random_maps(images: list[str], shape: tuple[int, int], *, seed: int) -> Tensor:
    """Control: uniform [0, 1) scores, one map of `shape` (H, W) for each image id -> (B, H, W) on the CPU.

    >>> random_maps(["cat", "dog"], (4, 5), seed=0).shape
    torch.Size([2, 4, 5])
    """
    shape = [whole_number(each, "shape") for each in shape]
    drawn = [torch.rand(shape, generator=image_generator(seed, image, "random")) for image in image_ids(images)]
    return torch.stack(drawn)


def _noise(x: Tensor, images: list[str], seed: int, draw: int) -> Tensor:
    """Standard normal noise for each image: (B, C, H, W), the same values whatever x's precision."""
    generators = [image_generator(seed, image, f"smoothgrad/{draw}") for image in images]
    return torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in generators]).to(x)


def x_gradient(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    order: int = 1,
    create_graph: bool = False,
    budget: int | None = None,
) -> Tensor:
    """X-Gradient: (x - z) dF/dx / k from one forward and one backward pass; (B, C, H, W), signed (eq. 4).

    F is a logit. On a network that is homogeneous of degree k = `order` it equals integrated gradients from the origin
    z at any number of steps, and sums to F(x); on any other network it is input times gradient, which promises neither.
    x (B, C, H, W) in pixel space, target (B,). create_graph: it can be differentiated once more, with respect to the
    network's parameters (and to x, where x asks for it), so that priors on it can be trained.
    Whether the network qualifies is not checked here (that takes longer than the pass): see `check`.
    Raises InputError as `values_and_gradients`.

    >>> x_gradient(nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).eval(), torch.rand(1, 1, 1, 2), 0).shape
    torch.Size([1, 1, 1, 2])
    """
    model, x, target = gate(model, x, target, differentiable=create_graph)
    grads = values_and_gradients(model, x, target, objective="logit", budget=budget, create_graph=create_graph)[1]
    return (x - origin(model)) * (grads if order == 1 else grads / order)


def completeness_error(model: nn.Module, x: Tensor, target: Tensor, maps: Tensor) -> Tensor:
    """Sum of a map minus F(x) - F(z), (B,) in float64; F(z) is 0 for a homogeneous network.

    Raises InputError as `lib.attribution.gate.gate`, and for maps of another number of images.

    >>> network, x = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval(), torch.rand(1, 1, 1, 2)
    >>> completeness_error(network, x, 0, x_gradient(network, x, 0)).abs() < 1e-6
    tensor([True])
    """
    model, x, target = gate(model, x, target)
    if not isinstance(maps, Tensor) or len(maps) != len(x):
        raise InputError(f"maps is not a tensor of {len(x)} maps; give one for each image")
    zero = (origin(model) + torch.zeros_like(x[:1])).to(x)
    risen = values(model, x, target, objective="logit").double()
    start = values(model, zero.expand_as(x), target, objective="logit").double()
    return maps.flatten(1).sum(1, dtype=torch.float64) - (risen - start)


def finite_maps(maps: Tensor) -> Tensor:
    """The maps (B, ...); raises InputError, naming the images, where one holds NaN or infinity.

    >>> finite_maps(torch.zeros(1, 2))
    tensor([[0., 0.]])
    """
    finite = maps.flatten(1).sum(1).isfinite()
    if not finite.all():
        raise InputError(
            f"the network's value or gradient is not finite for images {(~finite).nonzero().flatten().tolist()[:8]} of "
            "the batch; check its weights for NaN"
        )
    return maps
