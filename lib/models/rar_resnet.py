"""The residual network that Chen et al. (NeurIPS 2019) train on GTSRB and Flower: it standardises each image."""

import math
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from lib.seeds import seeded

CHANNELS = (16, 16, 32, 64)


class Standardize(nn.Module):
    """(255 x - mean) / max(std, 1/sqrt(N)) over all N values of each image.

    So f(c x) = f(x) for c > 0 while the deviation exceeds 1/sqrt(N): the gradient at c x is that at x over c, and IG
    from black is x times the gradient, up to a factor.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = 255 * x
        flat = x.flatten(1)
        std = flat.std(1, correction=0).clamp(min=1 / math.sqrt(flat.shape[1]))
        return (x - flat.mean(1)[:, None, None, None]) / std[:, None, None, None]


class Block(nn.Module):
    """A pre-activation residual block: act, conv 3x3, act, conv 3x3; the shortcut is pooled and its channels padded.

    `shared`: the shortcut starts after the first activation.
    """

    def __init__(self, before: int, after: int, stride: int, *, shared: bool):
        super().__init__()
        self.stride, self.shared = stride, shared
        # As TensorFlow pads "SAME": on even sizes at stride 2, below and to the right only.
        self.pad = nn.ZeroPad2d((0, 1, 0, 1) if stride == 2 else 1)
        self.acts = nn.ModuleList([nn.LeakyReLU(0.1), nn.LeakyReLU(0.1)])
        self.first = nn.Conv2d(before, after, 3, stride, bias=False)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.acts[0](x)
        shortcut = activated if self.shared else x
        if self.stride == 2:
            missing = self.first.out_channels - shortcut.shape[1]
            shortcut = functional.avg_pool2d(shortcut, 2)
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, missing // 2, missing - missing // 2))
        return shortcut + self.second(self.acts[1](self.first(self.pad(activated))))


def rar_network(*, classes: int, blocks: int = 1, seed: int = 0) -> nn.Sequential:
    """The untrained network, in eval mode and frozen: (B, 3, H, W) in [0, 1], H and W multiples of 4, to logits.

    blocks: of each of the three stages, 1 for Flower (128 x 128, 17 classes), 2 for GTSRB (32 x 32, 43 classes).
    Without batch norms; initial weights depend on `seed` alone, their variance 2/(9 c_out).
    """
    with seeded(seed):
        layers: list[nn.Module] = [Standardize(), nn.Conv2d(3, CHANNELS[0], 3, padding=1, bias=False)]
        for stage, (before, after) in enumerate(pairwise(CHANNELS)):
            for block in range(blocks):
                first = block == 0
                stride = 2 if first and stage > 0 else 1
                layers.append(Block(before if first else after, after, stride, shared=first and stage == 0))
        layers += [nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS[-1], classes)]
        model = nn.Sequential(*layers)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=math.sqrt(2 / (9 * layer.out_channels)))
            if isinstance(layer, nn.Linear):
                bound = math.sqrt(3 / layer.in_features)
                nn.init.uniform_(layer.weight, -bound, bound)
                nn.init.zeros_(layer.bias)
    return model.eval().requires_grad_(False)
