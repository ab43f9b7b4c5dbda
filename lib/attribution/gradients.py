"""Maps from a single pass, or from none: baselines and controls."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lib import InputError
from lib.attribution.forward import derivatives, in_parts, scalar, values, values_and_gradients
from lib.attribution.gate import Gated, gate, image_ids, whole_number
from lib.attribution.nodes import Probe
from lib.models.homogeneity import origin
from lib.seeds import image_generator

CAM_COST = 2  # a layer's output and its gradient are held besides what a pass holds


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
    _finite(answers[:, None])
    return _finite(total) / samples, squares / samples


def gradcam(model, x: Tensor, target: Tensor, *, objective: str = "logit") -> Tensor:
    """Grad-CAM: relu(sum_c mean_hw(dF/dA_c) A_c), resized to the input (Selvaraju et al., 2017); (B, H, W), >= 0.

    A (B, C, h, w) is the output of the last convolution that is defined before the first linear layer, as in
    the released code (AR:grad_cam.py:22-27): in a residual network before the addition, in Inception one branch
    of the last block. Resized bilinearly, corner pixels on corner pixels.
    Raises InputError as `lib.attribution.gate.gate`, where no convolution comes before the first linear layer or the
    convolution does not run exactly once on the way to the class, and for networks of tokens, such as ViT and Swin.

    >>> head = nn.Flatten(), nn.Linear(8, 3)
    >>> gradcam(nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), *head).eval(), torch.rand(1, 1, 5, 5), 0).shape
    torch.Size([1, 5, 5])
    """
    model, x, target = gate(model, x, target, objective=objective)
    layer = None
    for name, candidate in model.module.named_modules() if isinstance(model.module, nn.Module) else ():
        if isinstance(candidate, nn.Linear):
            break
        if isinstance(candidate, nn.Conv2d):
            where, layer = name, candidate
    if layer is None:
        raise InputError("the network has no Conv2d before its first Linear; Grad-CAM needs a convolutional network")

    def run(part: Tensor, classes: Tensor) -> Tensor:
        _, ran = _gradients_at(model, [layer], part, classes, objective)
        if len(ran) != 1:
            raise InputError(
                f"layer {where!r}, the last Conv2d before the first Linear, runs {len(ran)} times on the way to the "
                "class; Grad-CAM needs one that runs once"
            )
        [(_, features, gradient)] = ran
        weights = gradient.mean((2, 3), keepdim=True)
        return _resize((weights * features).sum(1).relu(), part)

    return _finite(in_parts(run, model, x, x, target, cost=CAM_COST))


def fullgrad(model, x: Tensor, target: Tensor, *, objective: str = "logit", normalised: bool = True) -> Tensor:
    """FullGrad: psi(input term) + sum over layers psi(bias term), Srinivas & Fleuret, 2019; (B, H, W), >= 0.

    The terms are those of `full_gradients`. psi(term) = sum_c resize(minmax(|term|)), where minmax maps the
    smallest value of an image's term to 0 and its largest to 1, over channels and pixels together (a constant
    term gives 0); `normalised=False` leaves minmax out. Bilinear resizing puts corner pixels on corner pixels.
    Terms without spatial extent (biases of linear layers) are left out, as in the paper.
    Raises InputError as `full_gradients`.

    >>> head = nn.Flatten(), nn.Linear(8, 3)
    >>> fullgrad(nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), *head).eval(), torch.rand(1, 1, 5, 5), 0).min() >= 0
    tensor(True)

    Differs from the released code: no 1e-6 is added to the range (AR:fullgrad.py:125), which makes layers with
    small gradients count for less.
    """
    model, x, target = gate(model, x, target, objective=objective)
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
    Raises InputError as `lib.attribution.gate.gate`, for networks of tokens, such as ViT and Swin, and for batch norms
    that hold their activation; `lib.models.fold.prepare` takes those apart.

    >>> network, x = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten()).eval(), torch.rand(1, 1, 2, 2)
    >>> first, [conv] = full_gradients(network, x, 0)
    >>> torch.allclose(first.sum() + conv.sum(), network(x)[0, 0])
    True
    """
    model, x, target = gate(model, x, target, objective=objective)
    layers = {}
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            if type(layer) is not nn.BatchNorm2d:
                raise InputError(
                    f"the network has a {type(layer).__name__}, whose bias lies before its activation; give it "
                    "folded: lib.models.fold.prepare(model)"
                )
            zero = torch.zeros_like(layer.running_mean).view(1, -1, 1, 1)
            with torch.no_grad():
                layers[layer] = layer(zero).flatten()
        elif isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            layers[layer] = layer.bias.detach()

    def run(part: Tensor, classes: Tensor) -> tuple[Tensor, ...]:
        gradient, ran = _gradients_at(model, list(layers), part, classes, objective)
        biases = [layers[layer].view(-1, *(1 for _ in output.shape[2:])) * at_out for layer, output, at_out in ran]
        return (part - origin(model)) * gradient, *biases

    first, *biases = map(_finite, in_parts(run, model, x, x, target, cost=CAM_COST))
    return first, biases


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


def _gradients_at(
    model: Gated, layers: list[nn.Module], x: Tensor, target: Tensor, objective: str
) -> tuple[Tensor, list[tuple[nn.Module, Tensor, Tensor]]]:
    """The gradient at the input, and (layer, output, gradient at its output) in order of running: one pass each way.

    Outputs which the class does not depend on are left out.
    """
    ran = []

    def keep(layer, args, output):
        ran.append((layer, output))
        return output.clone()  # the next layer may work in place

    def refuse_tokens(layer, args):
        if args[0].ndim != 2:
            raise InputError(
                f"a linear layer of the network takes {tuple(args[0].shape)}: it works on tokens or positions, and "
                "Grad-CAM and FullGrad are for convolutional networks with linear layers at their end"
            )

    points = x.detach().requires_grad_()
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(refuse_tokens) for layer in linear]
    hooks += [layer.register_forward_hook(keep) for layer in layers]
    with derivatives():
        try:
            value = scalar(model(points), target, objective)
        finally:
            for hook in hooks:
                hook.remove()
        outputs = [output for _, output in ran]
        gradient, *gradients = torch.autograd.grad(value.sum(), [points, *outputs], allow_unused=True)
        if gradient is None:
            gradient = torch.zeros_like(points)
    pairs = zip(ran, gradients, strict=True)
    return gradient, [(layer, output.detach().to(x), g.to(x)) for (layer, output), g in pairs if g is not None]


def _finite(maps: Tensor) -> Tensor:
    finite = maps.flatten(1).sum(1).isfinite()
    if not finite.all():
        raise InputError(
            f"the network's value or gradient is not finite for images {(~finite).nonzero().flatten().tolist()[:8]} of "
            "the batch; check its weights for NaN"
        )
    return maps


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
