"""The golden numbers of the reference implementations on a four-feature sigmoid, worked with PAIR's and IDGI's code."""

import pytest
import torch

from lib.attribution import IDGI, Blur, Guided, Riemann, Straight, attribute, walk

X = torch.tensor([1, 0.6, 0.5, 0.8], dtype=torch.float64).view(1, 4, 1, 1)
SIGNS = torch.tensor([1, 1, -1, 1], dtype=torch.float64)  # pixels lie in [0, 1], the third feature is -0.5
WEIGHTS = torch.tensor([1, -2, 0.5, 3], dtype=torch.float64)
TARGET = torch.tensor([1])


def sigmoid_of(u):
    """Logits whose softmax probability of class 1 is sigmoid(u)."""
    return torch.stack([torch.zeros_like(u), u], dim=1)


def model(x):
    """f = sigmoid(w.x + 1.5 x0 x1 - .8 x2^2 - 1), x (B, 4, 1, 1)."""
    x = SIGNS * x.flatten(1)
    return sigmoid_of(x @ WEIGHTS + 1.5 * x[:, 0] * x[:, 1] - 0.8 * x[:, 2] ** 2 - 1)


def near(actual, *expected):
    torch.testing.assert_close(actual.flatten(), torch.tensor(expected, dtype=torch.float64), atol=6e-7, rtol=0)


def maps(path, rules, steps=None):
    return attribute(model, X, TARGET, path=path, rules=rules, steps=steps)


def test_end_values():
    result = maps(Straight(4), {"idgi": IDGI()})
    near(result.value, 0.83889105)
    near(result.reference_value, 0.26894142)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (8, (0.299424, -0.163604, -0.092153, 0.505122)),
        (128, (0.310539, -0.167422, -0.095773, 0.521412)),
    ],
)
def test_pair_ig_is_a_rule_of_two_lines(nodes, expected):
    """PAIR averages the gradients of a closed grid, both ends included: a researcher's own rule over walk()."""
    gradients = [node.grad for node in walk(model, Straight(nodes, released=True), X, TARGET)]
    near(X * torch.stack(gradients).mean(0), *expected)


@pytest.mark.parametrize(
    ("steps", "n", "ig", "idgi"),
    [
        (
            8,
            8,
            (0.314111, -0.153271, -0.098296, 0.509872),
            (0.083942, 0.080114, 0.032382, 0.373512),
        ),
        (
            128,
            8,
            (0.283796, -0.150330, -0.087762, 0.473592),
            (0.071371, 0.076831, 0.026792, 0.335794),
        ),
        (
            128,
            128,
            (0.311436, -0.166882, -0.096140, 0.521802),
            (0.090849, 0.069730, 0.036189, 0.373181),
        ),
    ],
)
def test_released_ig_and_idgi(steps, n, ig, idgi):
    result = maps(Straight(steps, released=True), {"ig": Riemann("right"), "idgi": IDGI()}, steps=[n])
    near(result["ig", n], *ig)
    near(result["idgi", n], *idgi)


@pytest.mark.parametrize(
    ("steps", "fraction", "max_dist", "gig", "released", "corrected"),
    [
        (
            8,
            0.25,
            0.02,
            (0.306257, -0.180038, -0.094797, 0.534331),
            (0.068626, 0.072951, 0.026759, 0.324604),
            (0.086276, 0.075578, 0.034765, 0.373331),
        ),
        (
            8,
            0.5,
            1.0,
            (0.246852, -0.109845, -0.087335, 0.542065),
            (0.083579, 0.028421, 0.037669, 0.233727),
            (0.129551, 0.032871, 0.059190, 0.348338),
        ),
        (
            25,
            0.5,
            1.0,
            (0.265640, -0.114139, -0.092458, 0.514473),
            (0.124140, 0.030247, 0.054921, 0.313211),
            (0.135871, 0.031206, 0.060413, 0.342459),
        ),
    ],
)
def test_guided_ig_and_idgi(steps, fraction, max_dist, gig, released, corrected):
    rules = {"gig": Riemann("left"), "idgi": IDGI()}
    whole = maps(Guided(steps, fraction=fraction, max_dist=max_dist), rules)
    cut = maps(Guided(steps, fraction=fraction, max_dist=max_dist, released=True), rules)
    near(whole["gig"], *gig)
    near(cut["gig"], *gig)
    near(cut["idgi"], *released)
    near(whole["idgi"], *corrected)


def test_guided_path_rows():
    points = [SIGNS * node.x.flatten() for node in walk(model, Guided(8, fraction=0.5, max_dist=1.0), X, TARGET)]
    for step, row in {
        1: (0.2417, 0, -0.1208, 0),
        4: (0.8389, 0.2486, -0.3625, 0),
        7: (0.9392, 0.6, -0.5, 0.4983),
    }.items():
        torch.testing.assert_close(points[step], torch.tensor(row, dtype=torch.float64), atol=6e-5, rtol=0)


@pytest.mark.parametrize(
    ("steps", "total", "corner", "inner"),
    [(10, 0.320884, -0.021654, -0.088175), (100, -0.000022, -0.062560, -0.088452)],
)
def test_released_blur_ig(steps, total, corner, inner):
    numpy = pytest.importorskip("numpy")
    random = numpy.random.RandomState(0)
    image = torch.tensor(random.rand(8, 8, 1)[..., 0]).view(1, 1, 8, 8)
    weights = torch.tensor(random.randn(8, 8, 1)[..., 0])

    def linear(x):
        return sigmoid_of((x * weights).sum((1, 2, 3)))

    path = Blur(steps, padding="zero", released=True)
    result = attribute(linear, image, TARGET, path=path, rules={"blur": Riemann("left")})
    near(result["blur"].sum()[None], total)
    near(result["blur"][0, 0, 0, 0][None], corner)
    near(result["blur"][0, 0, 3, 4][None], inner)
    near((result.value - result.reference_value), 0.071673)
