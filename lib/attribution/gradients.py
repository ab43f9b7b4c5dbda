"""Maps from a single pass, or from none: baselines and controls."""

import hashlib

import torch
from torch import Tensor


def image_generator(seed: int, image: str, method: str) -> torch.Generator:
    """A CPU generator that depends on seed, image id and method only, never on batch or order."""
    digest = hashlib.sha256(f"{seed}/{image}/{method}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def random_maps(images: list[str], shape: tuple[int, int], *, seed: int) -> Tensor:
    """Control: uniform [0, 1) scores, one map of `shape` (H, W) for each image id -> (B, H, W) on the CPU."""
    return torch.stack([torch.rand(shape, generator=image_generator(seed, image, "random")) for image in images])
