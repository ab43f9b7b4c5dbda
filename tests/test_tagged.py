"""The pretended device catches what CUDA would refuse, and lets pass what CUDA lets pass."""

import numpy as np
import pytest
import torch
from tagged import MixedDevices, is_tagged, tagged_device
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

HOST = torch.arange(6.0).view(2, 3)
MIXING = {
    "made without device=": lambda x: x + torch.zeros(3),
    "a number of the device": lambda x: x.sum() * HOST,
    "mask of the host": lambda x: x.masked_fill(HOST > 2, 0.0),
    "condition of the host": lambda x: torch.where(HOST > 2, x, 0.0),
    "index of the device": lambda x: HOST[x[:, 0].long().clamp(max=1)],
    "rows gathered by the host": lambda x: x.gather(1, torch.zeros(2, 1, dtype=torch.long)),
    "one list": lambda x: torch.stack([x, HOST]),
    "a number in a list": lambda x: torch.stack([x[0, 0], torch.tensor(1.0)]),
    "product": lambda x: x @ HOST.T,
    "in place": lambda x: x.add_(HOST),
    "into the host": lambda x: HOST.clone().add_(x),
    "comparison": lambda x: torch.equal(x, HOST),
    "NumPy": lambda x: x + torch.from_numpy(np.ones((2, 3), np.float32)),
    "weights of the host": lambda x: nn.Linear(3, 2)(x),
    "generator of the host": lambda x: torch.rand(3, device=x.device, generator=torch.Generator()),
    "values put in": lambda x: x.index_put((torch.tensor([0]),), HOST[:1]),
}
FITTING = {
    "like": lambda x: x + torch.zeros_like(x) + x.new_ones(3) + torch.full_like(x, 2) + torch.rand_like(x) * 0,
    "device=": lambda x: x * torch.tensor([1.0, 2, 3], device=x.device) + torch.arange(3, device=x.device),
    "to": lambda x: x + HOST.to(x) + HOST.to(x.device) + HOST.double().to(x),
    "numbers": lambda x: x * 2 + torch.tensor(3.0) - np.float64(1),
    "indices of the host": lambda x: x[torch.tensor([1, 0])][:, torch.tensor([True, True, False])],
    "lists": lambda x: x[[1, 0]] + x[:, [2, 0, 1]] + x.new_tensor([1.0, 2, 3]),
    "copied": lambda x: torch.empty_like(x).copy_(HOST),
    "row put in": lambda x: x.clone().index_fill_(0, torch.tensor([0], device=x.device), 1.0),
    "slice set": lambda x: _set(x.clone()),
    "kept": lambda x: x.clone().view(-1)[x.flatten() > 2].sum(),
    "network": lambda x: nn.Linear(3, 2, device=x.device)(x) * 0,
    "through the host": lambda x: x.cpu().mul(2).to(x),
}


def _set(x):
    x[0] = HOST[0]
    x[:, 1] = 7
    return x


@pytest.mark.parametrize("name", MIXING)
def test_mixing_is_caught(name):
    with tagged_device() as on, pytest.raises(MixedDevices):
        MIXING[name](on(HOST))


@pytest.mark.parametrize("name", FITTING)
def test_what_a_gpu_lets_pass_gives_the_same_numbers(name):
    with tagged_device() as on:
        result = FITTING[name](on(HOST))
        assert is_tagged(result) and result.device != HOST.device
        torch.testing.assert_close(result.detach().cpu(), FITTING[name](HOST).detach())


def test_numbers_reach_the_host_only_when_asked():
    with tagged_device() as on:
        x = on(HOST)
        assert x.tolist() == HOST.tolist() and x.sum().item() == 15 and bool((x >= 0).all())
        with pytest.raises(MixedDevices):
            x.numpy()
    assert not is_tagged(x.cpu()) and torch.equal(x.cpu(), HOST)


def test_networks_and_derivatives_are_those_of_the_host():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
    ).eval()
    x, y = torch.rand(2, 3, 8, 8), torch.tensor([1, 4])

    def both(network, x, y):
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(cross_entropy(network(x), y), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        return first.detach(), second

    with tagged_device() as on:
        found = both(on(network), on(x), on(y))
        assert all(map(is_tagged, found))
        tokens = on(x).flatten(2)
        attended = scaled_dot_product_attention(tokens, tokens, tokens).cpu()
    for ours, host in zip(found, both(network, x, y), strict=True):
        torch.testing.assert_close(ours.cpu(), host)
    torch.testing.assert_close(attended, scaled_dot_product_attention(*[x.flatten(2)] * 3))
