"""Networks of one's own: as they were, made ready, or refused in a sentence."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from lib import InputError
from lib.attribution import Riemann, Straight, attribute
from lib.models.own_network import own_network
from lib.models.zoo import best_device

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_()
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()


def test_pixels_go_in_and_the_network_stays_as_it_was():
    model = small()
    network = own_network(model, name="mine", size=8, mean=MEAN, std=STD)
    x = torch.rand(2, 3, 8, 8, device=best_device())
    normalised = (x.cpu() - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.allclose(network.model(x).cpu(), model(normalised), atol=1e-5)
    assert isinstance(model[1], nn.BatchNorm2d)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.model.modules())
    assert all(each.requires_grad for each in model.parameters())
    assert not any(each.requires_grad for each in network.model.parameters())
    assert (network.name, network.size, network.resize, network.mean) == ("mine", 8, 9, MEAN)


def test_it_can_be_explained():
    network = own_network(small(), size=8)
    x = network.tensor(Image.linear_gradient("L")).to(best_device())[None]
    found = attribute(network.model, x, 0, path=Straight(64), rules={"ig": Riemann()}, objective="logit")
    assert found.completeness_error("ig").abs().item() < 0.01


def test_a_network_in_training_mode_is_refused():
    with pytest.raises(InputError, match=r"call model\.eval"):
        own_network(small().train())


def test_an_answer_that_is_an_object_is_wrapped():
    model = small().to(best_device())

    def theirs(x):
        return SimpleNamespace(logits=model(x))

    with pytest.raises(InputError, match="logits"):
        own_network(theirs, size=8)
    network = own_network(lambda x: theirs(x).logits, size=8, mean=MEAN, std=STD)
    assert network.model(torch.rand(1, 3, 8, 8, device=best_device())).shape == (1, 5)


def test_an_answer_that_is_no_row_of_logits_is_refused():
    with pytest.raises(InputError, match=r"answers with \(1,\)"):
        own_network(lambda x: x.mean((1, 2, 3)), size=8)


def test_a_preprocessing_of_ones_own():
    def halves(image):
        assert image.mode == "RGB"
        return torch.full((3, 8, 8), 0.5)

    network = own_network(small(), size=8, preprocess=halves)
    assert torch.equal(network.tensor(Image.new("L", (30, 20))), torch.full((3, 8, 8), 0.5))


@pytest.mark.parametrize("given", [torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 8), None])
def test_a_preprocessing_that_gives_no_image_is_refused(given):
    network = own_network(small(), size=8, preprocess=lambda image: given)
    with pytest.raises(InputError, match="floats"):
        network.tensor(Image.new("RGB", (30, 20)))
