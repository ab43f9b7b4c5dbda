"""TF32 emulated: which numbers it has, and where a network rounds."""

import torch
from torch import nn

from lib.models.tf32 import in_tf32, tf32


def test_ten_bits_and_ties_to_even():
    step = 2.0**-10  # between neighbours of TF32 in [1, 2)
    given = torch.tensor([1.0, 1 + step, 1 + step / 4, 1 + 3 * step / 4, 1 + step / 2, 1 + 3 * step / 2, -1 - step / 4])
    expected = torch.tensor([1.0, 1 + step, 1.0, 1 + step, 1.0, 1 + 2 * step, -1.0])
    assert torch.equal(tf32(given), expected)


def test_special_values_stay():
    x = torch.tensor([0.0, -0.0, torch.inf, -torch.inf])
    assert torch.equal(tf32(x), x)
    assert tf32(torch.tensor([torch.nan])).isnan().all()


def test_operands_are_rounded_forward_and_backward():
    layer = nn.Linear(3, 2, bias=False).requires_grad_(False)
    x = torch.rand(4, 3, requires_grad=True)
    weights = torch.rand(4, 2)
    out = in_tf32(nn.Sequential(layer))(x)
    torch.testing.assert_close(out, tf32(x.detach()) @ tf32(layer.weight).T, rtol=0, atol=1e-7)
    (grad,) = torch.autograd.grad((out * weights).sum(), x)
    torch.testing.assert_close(grad, tf32(weights) @ tf32(layer.weight), rtol=0, atol=1e-7)


def test_the_network_given_is_left_alone():
    network = nn.Sequential(nn.Linear(3, 2)).requires_grad_(False)
    before = network[0].weight.clone()
    in_tf32(network)
    assert torch.equal(network[0].weight, before) and not network[0]._forward_hooks
