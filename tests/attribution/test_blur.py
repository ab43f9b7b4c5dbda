"""Blur by matrix products equals scipy's and torchvision's filters."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torchvision.transforms.functional import gaussian_blur as torchvision_blur

from lib.attribution.blur import gaussian_blur

IMAGE = torch.rand(2, 3, 37, 29, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.7, 15.0])
@pytest.mark.parametrize(("padding", "mode"), [("zero", "constant"), ("reflect", "mirror")])
def test_equals_scipy(sigma, padding, mode):
    expected = gaussian_filter(IMAGE.numpy(), sigma=(0, 0, sigma, sigma), mode=mode, truncate=4.0)
    np.testing.assert_allclose(gaussian_blur(IMAGE, sigma, padding=padding).numpy(), expected, atol=1e-14)


def test_equals_torchvision():
    expected = torchvision_blur(IMAGE, kernel_size=2 * round(4 * 2.0) + 1, sigma=2.0)
    torch.testing.assert_close(gaussian_blur(IMAGE, 2.0), expected, atol=1e-7, rtol=0)


def test_a_constant_stays_constant_and_mass_is_kept():
    grey = torch.full((1, 1, 8, 8), 0.25, dtype=torch.float64)
    torch.testing.assert_close(gaussian_blur(grey, 50.0), grey)
    assert gaussian_blur(grey, 50.0, padding="zero").max() < 0.01


@pytest.mark.parametrize("sigma", [0.0, 0.01, 0.12])
def test_a_kernel_of_radius_zero_is_the_identity(sigma):
    assert torch.equal(gaussian_blur(IMAGE, sigma), IMAGE)
