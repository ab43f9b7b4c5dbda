"""What all tests share: one thread, because networks are small here and several tests run at once."""

import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """The smoke run first: it takes the longest, and would be alone at the end."""
    items.sort(key=lambda item: item.path.stem != "test_notebooks")
