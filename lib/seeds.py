"""Random numbers that do not depend on batch, order or company."""

import contextlib
import hashlib

import torch


def image_generator(seed: int, image: str, method: str) -> torch.Generator:
    """A CPU generator that depends on seed, image id and method only, never on batch or order."""
    digest = hashlib.sha256(f"{seed}/{image}/{method}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@contextlib.contextmanager
def seeded(seed: int):
    """Torch's default CPU generator starts from `seed` inside, and goes on afterwards as if nothing had happened."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
