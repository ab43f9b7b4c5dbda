"""Fixup-ResNet-50: residual without normalisation layers (Zhang et al., 2019), with and without its constants."""

import math

import torch
from torch import Tensor, nn

BLOCKS, WIDTHS, EXPANSION = (3, 4, 6, 3), (64, 128, 256, 512), 4
INNER = ("bias1a", "bias1b", "bias2a", "bias2b", "bias3a", "bias3b")


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside a shortcut; scalars around each, which the X-variant does not have."""

    def __init__(self, inside: int, width: int, stride: int, *, first: bool, scalars: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.conv3 = nn.Conv2d(width, EXPANSION * width, 1, bias=False)
        self.downsample = nn.Conv2d(inside, EXPANSION * width, 1, stride, bias=False) if first else None
        self.relu = nn.ReLU()
        self.scalars = scalars
        if scalars:
            for name in INNER:
                self.register_parameter(name, nn.Parameter(torch.zeros(1)))
            self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        shifted = self._plus(x, "bias1a")
        u = self.relu(self._plus(self.conv1(shifted), "bias1b"))
        u = self.relu(self._plus(self.conv2(self._plus(u, "bias2a")), "bias2b"))
        u = self.conv3(self._plus(u, "bias3a"))
        u = u * self.scale + self.bias3b if self.scalars else u
        return self.relu(u + (x if self.downsample is None else self.downsample(shifted)))

    def _plus(self, x: Tensor, name: str) -> Tensor:
        return x + getattr(self, name) if self.scalars else x


class FixupResNet50(nn.Module):
    """Normalised images (B, 3, S, S) -> logits (B, 1000); without `scalars`, homogeneous of degree 1.

    The names of its parameters are those of the published checkpoints: 169 tensors and 25,504,026 numbers with
    scalars, 54 and 25,502,912 without. As in the released code the X-variant drops the scalar multipliers too, which
    homogeneity does not ask for. Initial weights by Fixup's rule for 16 blocks; the last layer and every block's last
    convolution start at zero, so that an untrained network answers 0.
    """

    def __init__(self, *, scalars: bool = True, classes: int = 1000):
        super().__init__()
        self.scalars = scalars
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False)
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        inside = WIDTHS[0]
        for number, (blocks, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True), 1):
            layers = []
            for block in range(blocks):
                stride = 2 if number > 1 and block == 0 else 1
                layers.append(Bottleneck(inside, width, stride, first=block == 0, scalars=scalars))
                inside = EXPANSION * width
            self.add_module(f"layer{number}", nn.Sequential(*layers))
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc = nn.Linear(inside, classes, bias=scalars)
        if scalars:
            self.bias1, self.bias2 = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.maxpool(self.relu(x + self.bias1 if self.scalars else x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.flatten(self.pool(x))
        return self.fc(x + self.bias2 if self.scalars else x)

    @torch.no_grad()
    def _initialise(self) -> None:
        for block in (layer for layer in self.modules() if isinstance(layer, Bottleneck)):
            for conv in filter(None, (block.conv1, block.conv2, block.downsample)):
                spread = math.sqrt(2 / (conv.out_channels * conv.weight[0, 0].numel()))
                shrink = 1 if conv is block.downsample else sum(BLOCKS) ** -0.25
                conv.weight.normal_(0, spread * shrink)
            block.conv3.weight.zero_()
        self.fc.weight.zero_()
        if self.fc.bias is not None:
            self.fc.bias.zero_()
