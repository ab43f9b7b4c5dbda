"""SqueezeNet 1.1 from its package: the layout of its kernels, the order of its channels, and hostile pickles."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from scipy.signal import correlate

from lib import InputError
from lib.data.imagenet import load_image, photographs
from lib.models.keras_weights import LAYERS, squeezenet_weights
from lib.models.zoo import load_network
from lib.store.files import package_folder

FILE = package_folder("ndf") / "example_models" / "weights" / "squeezenet_weights.pkl"


@pytest.fixture(scope="module")
def network():
    return load_network("squeezenet1_1", device="cpu")


def written(tmp_path, content: object, name: str = "w.pkl"):
    (tmp_path / name).write_bytes(pickle.dumps(content, protocol=4))
    return tmp_path / name


def test_kernels_are_turned_and_red_comes_first(tmp_path):
    """kernel[h, w, in, out] of blue, green, red becomes weight[out, in, h, w] of red, green, blue."""
    kernel = np.arange(2 * 2 * 3 * 4, dtype=np.float32).reshape(2, 2, 3, 4)
    layers = {"conv1": [kernel, np.zeros(4, np.float32)], "fire2/squeeze1x1": [kernel, np.ones(4, np.float32)]}
    state = squeezenet_weights(written(tmp_path, layers))
    assert list(state) == [
        "features.0.weight",
        "features.0.bias",
        "features.3.squeeze.weight",
        "features.3.squeeze.bias",
    ]
    assert state["features.3.squeeze.weight"][3, 1, 0, 1] == kernel[0, 1, 1, 3]
    assert state["features.0.weight"][3, 0, 0, 1] == kernel[0, 1, 2, 3]
    assert state["features.0.weight"][3, 2, 0, 1] == kernel[0, 1, 0, 3]


def test_the_first_layer_is_that_of_the_file(network):
    """Computed by scipy from what the file says: 0 to 255, blue first, without the means, kernels as they lie."""
    x = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    with open(FILE, "rb") as opened:
        kernel, bias = pickle.load(opened)["conv1"]
    image = 255 * x[0].double().numpy()[::-1].transpose(1, 2, 0) - [103.939, 116.779, 123.68]
    expected = correlate(image, kernel[..., 5].astype(float), mode="valid")[::2, ::2, 0] + bias[5]
    bare = load_network("squeezenet1_1", device="cpu", prepared=False).model
    found = bare[1].features[0](bare[0](x))[0, 5]
    assert torch.allclose(found.double(), torch.tensor(expected), rtol=1e-4, atol=1e-3)


def test_all_layers_are_in_the_file_once():
    assert len(LAYERS) == 26 == len(set(LAYERS.values()))
    assert sum(each.numel() for each in squeezenet_weights(FILE).values()) == 1_235_496


def test_it_recognises_most_of_the_packaged_photographs(network):
    photos = photographs("packaged")
    with torch.no_grad():
        chances = network.model(torch.stack([network.tensor(load_image(photo)) for photo in photos])).softmax(1)
    right = chances.argmax(1) == torch.tensor([photo.label for photo in photos])
    assert (int(right.sum()), int((right & (chances.amax(1) > 0.8)).sum())) == (14, 8)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (Evil(), "could run code"),
        ({"conv1": [Evil(), Evil()]}, "could run code"),
        (OrderedDict(), "it names collections.OrderedDict, which could run code"),
        ([1, 2], "has no attribute"),
        ({"conv1": [np.zeros((3, 3, 3, 64), np.float32)]}, "not enough values"),
        ({"conv1": [np.zeros(3, np.float32), np.zeros(3, np.float32)]}, "axes"),
        ({"conv99": [np.zeros((1, 1, 1, 1)), np.zeros(1)]}, "conv99"),
        ({"conv1": ["a", "b"]}, "transpose"),
    ],
)
def test_what_holds_no_arrays_is_refused_and_runs_nothing(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"does not hold SqueezeNet's layers as arrays .*{said}.*install the package"):
        squeezenet_weights(written(tmp_path, content))
    assert not (tmp_path / "made-by-a-pickle").exists()


@pytest.mark.parametrize("kept", [0, 10, 100_000])
def test_a_truncated_file_is_one_sentence(tmp_path, kept):
    (tmp_path / "w.pkl").write_bytes(FILE.read_bytes()[:kept])
    with pytest.raises(InputError, match="install the package `ndf` again"):
        squeezenet_weights(tmp_path / "w.pkl")


def test_layers_of_another_network_do_not_fit(tmp_path):
    layers = {name: [np.zeros((1, 1, 3, 4), np.float32), np.zeros(4, np.float32)] for name in LAYERS}
    with pytest.raises(InputError, match="does not fit the network"):
        load_network("squeezenet1_1", weights=str(written(tmp_path, layers, "squeezenet_weights.pkl")))
