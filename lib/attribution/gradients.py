"""Maps from a single pass, or from none: baselines and controls."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lib import InputError
from lib.attribution.forward import scalar, values, values_and_gradients
from lib.attribution.nodes import Probe
from lib.models.homogeneity import origin
from lib.models.layers import Normalize
from lib.seeds import image_generator


def input_gradient(model, x: Tensor, target: Tensor, *, objective: str = "logit", budget: int | None = None) -> Tensor:
    """The gradient of the explained scalar, signed: dF/dx (Simonyan et al., 2014); (B, C, H, W), in pixel space.

    x (B, C, H, W) in [0, 1]; target (B,); at most `budget` images per pass.
    Raises InputError where a gradient is not finite.
    """
    return values_and_gradients(model, x, target, objective=objective, budget=budget)[1]


def input_x_gradient(
    model, x: Tensor, target: Tensor, *, objective: str = "logit", budget: int | None = None
) -> Tensor:
    """Input times gradient: x dF/dx (Shrikumar et al., 2016); (B, C, H, W), signed.

    x is in pixel space, so its implied reference is black, not the mean colour.
    """
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
    Raises InputError for fewer than 1 sample, ids that do not match x, and a gradient that is not finite.
    Differs from the released code: the range of each image in pixel space, not of the normalised batch
    (AR:smooth_grad.py:61), so that a map does not depend on its batch mates.
    """
    if samples < 1:
        raise InputError(f"samples is {samples}; give 1 or more")
    if len(images) != len(x):
        raise InputError(f"there are {len(images)} image ids for {len(x)} images; give one id per image")
    low, high = x.flatten(1).aminmax(dim=1)
    scale = sigma * (high - low).view(-1, 1, 1, 1)
    probe = Probe(model, target, objective, budget)
    together = probe.together(x)
    total, squares = torch.zeros_like(x), torch.zeros_like(x)
    for start in range(0, samples, together):
        draws = range(start, min(start + together, samples))
        _, gradients = probe(torch.stack([x + scale * _noise(x, images, seed, draw) for draw in draws]))
        for gradient in gradients:  # one by one, so that the order of the sum does not depend on the budget
            total += gradient
            squares += gradient.square()
    return total / samples, squares / samples


def gradcam(model, x: Tensor, target: Tensor, *, objective: str = "logit") -> Tensor:
    """Grad-CAM: relu(sum_c mean_hw(dF/dA_c) A_c), resized to the input (Selvaraju et al., 2017); (B, H, W), >= 0.

    A (B, C, h, w) is the output of the last convolution that is defined before the first linear layer, as in
    the released code (AR:grad_cam.py:22-27): in a residual network before the addition, in Inception one branch
    of the last block. Resized bilinearly, corner pixels on corner pixels.
    Raises InputError where no convolution comes before the first linear layer.
    """
    layer = None
    for candidate in model.modules():
        if isinstance(candidate, nn.Linear):
            break
        if isinstance(candidate, nn.Conv2d):
            layer = candidate
    if layer is None:
        raise InputError("the network has no Conv2d before its first Linear; Grad-CAM needs a convolutional network")
    _, [(_, features, gradient)] = _gradients_at(model, [layer], x, target, objective)
    weights = gradient.mean((2, 3), keepdim=True)
    return _resize((weights * features).sum(1).relu(), x)


def fullgrad(model, x: Tensor, target: Tensor, *, objective: str = "logit", normalised: bool = True) -> Tensor:
    """FullGrad: psi(input term) + sum over layers psi(bias term), Srinivas & Fleuret, 2019; (B, H, W), >= 0.

    The terms are those of `full_gradients`. psi(term) = sum_c resize(minmax(|term|)), where minmax maps the
    smallest value of an image's term to 0 and its largest to 1, over channels and pixels together (a constant
    term gives 0); `normalised=False` leaves minmax out. Bilinear resizing puts corner pixels on corner pixels.
    Terms without spatial extent (biases of linear layers) are left out, as in the paper.
    Raises InputError as `full_gradients`.
    Differs from the released code: no 1e-6 is added to the range (AR:fullgrad.py:125), which makes layers with
    small gradients count for less.
    """
    first, biases = full_gradients(model, x, target, objective=objective)
    total = torch.zeros_like(x[:, 0])
    for term in [first, *(term for term in biases if term.ndim == 4)]:
        magnitude = term.abs()
        if normalised:
            low, high = magnitude.amin((1, 2, 3), keepdim=True), magnitude.amax((1, 2, 3), keepdim=True)
            magnitude = (magnitude - low) / (high - low).where(high > low, 1)
        total += _resize(magnitude.sum(1), x)
    return total


def full_gradients(model, x: Tensor, target: Tensor, *, objective: str = "logit") -> tuple[Tensor, list[Tensor]]:
    """The full-gradient decomposition of F: its input term, and the bias term of each layer in order of running.

    F(x) = sum z dF/dz + sum_l sum b_l dF/db_l (Srinivas & Fleuret, 2019). z is the input after normalisation, so
    that the first term is (x - mean) dF/dx where the network has a Normalize and x dF/dx elsewhere. b is the bias
    of a convolution or linear layer, or what a 2-D batch norm in eval mode adds, beta - gamma mu / sqrt(var + eps);
    a layer's term is b times the gradient at its output. Input term (B, C, H, W); bias terms (B, c, h, w), those
    of linear layers (B, c).
    The sum is F(x) for a logit of networks whose other layers are piecewise linear through zero: ReLU, pooling.
    A ReLU6 that has reached its cap, a sigmoid or a constant added in a forward method is no bias that can be
    seen here; there, the sum is not F(x).
    Raises InputError for batch norms that hold their activation; `lib.models.fold.prepare` takes those apart.
    """
    layers = {}
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            if type(layer) is not nn.BatchNorm2d:
                raise InputError(
                    f"the network has a {type(layer).__name__}, whose bias lies before its activation; give it "
                    "folded: lib.models.fold.prepare(model)"
                )
            zero = torch.zeros_like(layer.running_mean).view(1, -1, 1, 1)
            layers[layer] = layer(zero).detach().flatten()
        elif isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            layers[layer] = layer.bias.detach()
    gradient, ran = _gradients_at(model, list(layers), x, target, objective)
    mean = next((layer.mean for layer in model.modules() if isinstance(layer, Normalize)), 0)
    biases = [layers[layer].view(-1, *(1 for _ in output.shape[2:])) * at_output for layer, output, at_output in ran]
    return (x - mean) * gradient, biases


def random_maps(images: list[str], shape: tuple[int, int], *, seed: int) -> Tensor:
    """Control: uniform [0, 1) scores, one map of `shape` (H, W) for each image id -> (B, H, W) on the CPU."""
    return torch.stack([torch.rand(shape, generator=image_generator(seed, image, "random")) for image in images])


def _noise(x: Tensor, images: list[str], seed: int, draw: int) -> Tensor:
    """Standard normal noise for each image: (B, C, H, W), the same values whatever x's precision."""
    generators = [image_generator(seed, image, f"smoothgrad/{draw}") for image in images]
    return torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in generators]).to(x)


def _gradients_at(
    model, layers: list[nn.Module], x: Tensor, target: Tensor, objective: str
) -> tuple[Tensor, list[tuple[nn.Module, Tensor, Tensor]]]:
    """The gradient at the input, and (layer, output, gradient at its output) in order of running: one pass each way."""
    ran = []

    def keep(layer, args, output):
        ran.append((layer, output))
        return output.clone()  # the next layer may work in place

    points = x.detach().requires_grad_()
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.enable_grad():
            value = scalar(model(points), target, objective)
    finally:
        for hook in hooks:
            hook.remove()
    gradient, *gradients = torch.autograd.grad(value.sum(), [points, *(output for _, output in ran)])
    return gradient, [(layer, output.detach(), g) for (layer, output), g in zip(ran, gradients, strict=True)]


def _resize(maps: Tensor, x: Tensor) -> Tensor:
    return interpolate(maps[:, None], size=x.shape[2:], mode="bilinear", align_corners=True)[:, 0]


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
    Raises InputError where a value or gradient is not finite.
    """
    grads = values_and_gradients(model, x, target, objective="logit", budget=budget, create_graph=create_graph)[1]
    return (x - origin(model)) * (grads if order == 1 else grads / order)


def completeness_error(model: nn.Module, x: Tensor, target: Tensor, maps: Tensor) -> Tensor:
    """Sum of a map minus F(x) - F(z), (B,) in float64; F(z) is 0 for a homogeneous network."""
    zero = (origin(model) + torch.zeros_like(x[:1])).to(x)
    risen = values(model, x, target, objective="logit").double()
    start = values(model, zero.expand_as(x), target, objective="logit").double()
    return maps.flatten(1).sum(1, dtype=torch.float64) - (risen - start)
