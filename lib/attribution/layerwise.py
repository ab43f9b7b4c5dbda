"""Maps from what the layers of a network hold: Grad-CAM and FullGrad."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lib import InputError
from lib.attribution.forward import derivatives, scalar
from lib.attribution.gate import Gated, gate
from lib.attribution.gradients import finite_maps
from lib.attribution.parts import in_parts
from lib.models.homogeneity import origin

CAM_COST = 2  # a layer's output and its gradient are held besides what a pass holds


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

    return finite_maps(in_parts(run, model, x, x, target, cost=CAM_COST))


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

    first, *biases = map(finite_maps, in_parts(run, model, x, x, target, cost=CAM_COST))
    return first, biases


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


def _resize(maps: Tensor, x: Tensor) -> Tensor:
    return interpolate(maps[:, None], size=x.shape[2:], mode="bilinear", align_corners=True)[:, 0]
