"""BlockMNIST: what is where, and that it does not depend on how many are asked for."""

import pytest
import torch

from lib import InputError
from lib.data.blockmnist import block_mnist, null_block
from lib.data.digits import digits


def test_every_image_is_a_digit_and_the_null_block():
    found, of = block_mnist("test", limit=100), digits("test").take(slice(100))
    assert found.x.shape == (100, 1, 56, 28) and found.null.shape == (100, 56, 28)
    assert found.y.tolist() == of.y.tolist()
    for image, null, digit in zip(found.x[:, 0], found.null, of.x[:, 0], strict=True):
        torch.testing.assert_close(image[null].view(28, 28), null_block())
        torch.testing.assert_close(image[~null].view(28, 28), digit)
    assert {tuple(null.view(2, -1).float().mean(1).tolist()) for null in found.null} == {(0.0, 1.0), (1.0, 0.0)}


def test_the_order_of_the_blocks_tells_nothing_about_the_digit():
    found = block_mnist("train")
    above = found.null[:, 0, 0].float()
    shares = torch.stack([above[found.y == label].mean() for label in range(10)])
    assert (shares - 0.5).abs().max() < 0.15  # 300 digits of each class: three deviations are .09


def test_the_null_block_is_symmetric():
    block = null_block()
    for same in (block.flip(0), block.flip(1), block.T):
        torch.testing.assert_close(same, block)
    assert block[:4].sum() == 0 and block[4, 4:24].sum() == 20
    assert set(block.unique().tolist()) == {0.0, 1.0}


def test_parts_share_no_digit_and_a_prefix_is_a_prefix():
    parts = {part: block_mnist(part) for part in ("train", "valid", "test")}
    ids = [set(of.ids) for of in parts.values()]
    assert [len(each) for each in ids] == [3000, 1000, 1000]
    assert len(set.union(*ids)) == 5000
    few = block_mnist("valid", limit=30)
    assert few.ids == parts["valid"].ids[:30]
    torch.testing.assert_close(few.x, parts["valid"].x[:30])
    assert few.y.bincount().tolist() == [3] * 10


def test_what_is_refused():
    with pytest.raises(InputError, match="no part 'validation' of BlockMNIST; did you mean 'valid'"):
        block_mnist("validation")
    with pytest.raises(InputError, match="limit=-1"):
        block_mnist("test", limit=-1)
