"""The engine against independent implementations, on a real photograph and a trained network."""

import numpy as np
import pytest
import torch

from lib.attribution import Blur, Guided, Riemann, Straight, attribute
from lib.data.imagenet import load_image, photographs
from lib.models.zoo import load_network

STEPS = 6


@pytest.fixture(scope="module")
def subject():
    """EfficientNet-Lite0 in float64, a packaged photograph at 112 pixels, and its class."""
    network = load_network("efficientnet_lite0", device=torch.device("cpu"))
    photo = photographs()[-1]
    x = network.tensor(load_image(photo))[None].double()
    return network.model.double(), torch.nn.functional.avg_pool2d(x, 2), torch.tensor([photo.label])


def ours(subject, path, rule):
    model, x, target = subject
    return attribute(model, x, target, path=path, rules={"map": rule})["map"]


@pytest.fixture
def pair(subject, monkeypatch):
    """PAIR's library on today's numpy, and its way of asking a network for gradients."""
    saliency = pytest.importorskip("saliency.core")
    quantile = np.quantile

    def old_quantile(values, q, interpolation=None, **options):
        return quantile(values, q, method=interpolation or "linear", **options)

    monkeypatch.setattr(np, "quantile", old_quantile)
    model, _, target = subject

    def call_model(images, call_model_args, expected_keys):
        x = torch.tensor(np.asarray(images)).permute(0, 3, 1, 2).requires_grad_()
        model(x).softmax(1)[:, target.item()].sum().backward()
        return {saliency.INPUT_OUTPUT_GRADIENTS: x.grad.permute(0, 2, 3, 1).numpy()}

    return saliency, call_model


def as_pair(x):
    return x[0].permute(1, 2, 0).numpy()


def assert_same_map(mine, theirs):
    np.testing.assert_allclose(as_pair(mine), theirs, atol=1e-7 * np.abs(theirs).max(), rtol=1e-5)


@pytest.mark.parametrize(
    ("grid", "rule", "method"),
    [
        ("gauss", "gauss", "gausslegendre"),
        ("midpoint", "midpoint", "riemann_middle"),
        ("closed", "left", "riemann_left"),
        ("closed", "right", "riemann_right"),
    ],
)
def test_integrated_gradients_equal_captums(subject, grid, rule, method):
    captum = pytest.importorskip("captum.attr")
    model, x, target = subject
    oracle = captum.IntegratedGradients(lambda images: model(images).softmax(1))
    theirs = oracle.attribute(x, 0.0, target=target.item(), n_steps=STEPS, method=method)
    mine = ours(subject, Straight(STEPS, grid=grid), Riemann(rule))
    # Captum's step sizes are float32 whatever the input
    torch.testing.assert_close(mine, theirs.double(), atol=1e-6 * theirs.abs().max().item(), rtol=1e-4)


@pytest.mark.parametrize("options", [{"fraction": 0.25, "max_dist": 0.02}, {"fraction": 0.5, "max_dist": 1.0}])
def test_guided_ig_equals_pairs(subject, pair, options):
    saliency, call_model = pair
    _, x, _ = subject
    image = as_pair(x)
    theirs = saliency.GuidedIG().GetMask(image, call_model, x_steps=STEPS, x_baseline=np.zeros_like(image), **options)
    assert_same_map(ours(subject, Guided(STEPS, **options), Riemann("left")), theirs)


def test_released_blur_ig_equals_pairs(subject, pair):
    saliency, call_model = pair
    _, x, _ = subject
    theirs = saliency.BlurIG().GetMask(as_pair(x), call_model, max_sigma=10, steps=STEPS, batch_size=1)
    mine = ours(subject, Blur(STEPS, sigma_max=10.0, padding="zero", released=True), Riemann("left"))
    assert_same_map(mine, theirs)
