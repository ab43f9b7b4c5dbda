"""Networks and their twins without biases: one unit of images of the X-DNN study.

A model here is a pair, named as in PAIRS; `twin` says which of the two: regular, or x for the one without biases.
"""

from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from lib import InputError
from lib.attribution import Riemann, Straight, attribute
from lib.attribution.gradients import x_gradient
from lib.data.digits import digits
from lib.data.imagenet import Photograph, photographs
from lib.experiments import subjects
from lib.experiments.subjects import Item, Key, Subject, score_rows
from lib.models.homogeneity import origin, remove_biases
from lib.models.layers import Normalize
from lib.models.recipes import IMAGENET, TWINS
from lib.models.tf32 import in_tf32
from lib.models.twins import bare_network, network
from lib.models.zoo import Network, best_device
from lib.seeds import image_generator
from lib.training.fit import digit_network

PAIRS = {"mnist": (subjects.DIGITS, subjects.DIGITS_WITHOUT_BIASES)} | {name: (name, x) for name, x in TWINS.items()}
BATCH = {"ig_difference": 16, "expected_gradients": 2}  # of the released code, whose results depend on it
DITHER = 1e-6  # of pixels, to break ties


def twin_units(model: str, **settings) -> dict[str, dict[str, Callable[[], Subject]]]:
    """{twin: {unit: what loads its subject}} of a pair of PAIRS, or of a network without a twin: see
    `subjects.units`.
    """
    return {twin: subjects.subject_units(name, load=network, **settings) for twin, name in twins(model).items()}


def twins(model: str) -> dict[str, str]:
    """{twin: network} of a pair of PAIRS; a network that has no twin is its own regular one."""
    return dict(zip(("regular", "x"), PAIRS.get(model, (model,)), strict=False))


def untrained_units(
    model: str, *, images: str, limit: int, group: int, cache: Path | None = None
) -> dict[str, dict[str, Callable[[], Subject]]]:
    """As `twin_units`, of a pair with its initial weights, for what needs no training; see `subjects.grouped`."""
    parts = subjects.grouped(photographs(images, limit or None), group, cache=cache)
    return {
        twin: {f"{name}-untrained-{part[0].id}-{len(part)}": partial(_untrained, name, part) for part in parts}
        for twin, name in twins(model).items()
    }


def _untrained(name: str, photos: list[Photograph]) -> Subject:
    torch.manual_seed(0)
    model = nn.Sequential(Normalize(*IMAGENET), bare_network(name)).eval().to(best_device()).requires_grad_(False)
    fresh = Network(name, model, 224, 256, "bilinear", *IMAGENET, "x-dnn")
    x, target = subjects.batch(fresh, photos)
    return Subject(fresh, x, target, [photo.id for photo in photos], x[:0], [-1] * len(photos))


def equivalence_rows(
    load: Callable[[], Subject], *, steps: int, sweep: Iterable[int] = (), precisions: list[str], finest: int = 300
) -> pd.DataFrame:
    """How far input times gradient is from integrated gradients of `steps` Gauss points, and how fast those converge.

    metric "ig_difference": mean |IG - x gradient| / mean |IG| of each image; in mode released of its batch of 16, as
    val.py:131-156. "convergence": mean |IG(n) - IG(finest)| for n in `sweep`; "relative_convergence": over mean
    |IG(finest)|. "evaluations": forward and backward passes an image. precisions: see `in_precision`.
    """
    of, rows = load(), []
    for precision in precisions:
        model, x = in_precision(of, precision)
        maps, spent = integrated(model, x, of.target, steps)
        apart, size = ((maps - x_gradient(model, x, of.target)).abs(), maps.abs())
        corrected = _mean(apart) / _mean(size)
        parts = zip(*(_mean(each).split(BATCH["ig_difference"]) for each in (apart, size)), strict=True)
        released = torch.cat([(a.mean() / (s.mean() + 1e-7)).expand(len(a)) for a, s in parts])
        for mode, value in (("corrected", corrected), ("released", released)):
            rows += _rows(of, ("none", "x_gradient", steps, mode), "ig_difference", value, precision)
        for key, passes in ((("none", "x_gradient", 1), 1), (("straight", "riemann", steps), spent)):
            rows += _rows(of, (*key, "corrected"), "evaluations", torch.full((len(x),), passes), precision)
    if sweep:
        rows += _convergence(of, sweep, finest)
    return pd.DataFrame(rows)


def in_precision(of: Subject, precision: str) -> tuple[nn.Module, Tensor]:
    """A subject's network and images in "float32", "tf32" (emulated), "float64", or "float64, dithered".

    Dithered: each pixel is moved by up to 1e-6 towards mid-grey. Where an image is constant, max-pooling chooses among
    equal values, and rounding decides which of them gets the gradient; dithered images have no such ties.
    Raises InputError for another precision.
    """
    if precision == "float32":
        return of.model, of.x
    if precision == "tf32":
        return in_tf32(of.model), of.x
    if precision not in ("float64", "float64, dithered"):
        raise InputError(f"precision {precision!r} is unknown; give float32, tf32, float64 or 'float64, dithered'")
    x = of.x.double()
    if precision != "float64":
        generators = [image_generator(0, image, "dither") for image in of.images]
        noise = torch.stack([torch.rand(x.shape[1:], generator=each, dtype=x.dtype) for each in generators])
        x = x + DITHER * noise.to(x.device) * torch.where(x > 0.5, -1, 1)  # within [0, 1]
    return deepcopy(of.model).double(), x


def _convergence(of: Subject, sweep: Iterable[int], finest: int) -> list[dict]:
    limit, rows = integrated(of.model, of.x, of.target, finest)[0], []
    for steps in sweep:
        apart = _mean((integrated(of.model, of.x, of.target, steps)[0] - limit).abs())
        key = ("straight", "riemann", steps, "corrected")
        rows += _rows(of, key, "convergence", apart)
        rows += _rows(of, key, "relative_convergence", apart / _mean(limit.abs()))
    return rows


def accuracy_rows(load: Callable[[], Subject], *, top: int = 1) -> pd.DataFrame:
    """Metric "accuracy": whether the label is among the `top` largest logits, image by image."""
    of = load()
    hits = (of.answers()[0].topk(top).indices == of.target[:, None]).any(1)
    return pd.DataFrame(_rows(of, ("none", "-", 0, "corrected"), "accuracy", hits))


def digit_answers(seed: int, *, cache: Path, limit: int = 0) -> pd.DataFrame:
    """Metric "accuracy" on the test digits of both twins trained with `seed`, and the regular one stripped of biases.

    Stripping a network that was trained with biases is not the method; it is the control of what training without does.
    """
    test = digits("test").take(slice(limit or None))
    regular, twin = (digit_network(cache=cache, bias=bias, seed=seed).model for bias in (True, False))
    rows = []
    for name, model in (("regular", regular), ("x", twin), ("stripped", remove_biases(regular))):
        with torch.no_grad():
            hits = model(test.x.to(best_device())).argmax(1).cpu() == test.y
        found = score_rows(
            map(Item, test.ids, test.y.tolist()), [("none", "-", 0, "corrected")], "accuracy", hits[:, None]
        )
        rows += [row | {"twin": name, "seed": seed} for row in found]
    return pd.DataFrame(rows).drop(columns="curve").assign(precision="float32", model="mnist")


def accuracy_cost(scores: pd.DataFrame) -> pd.DataFrame:
    """Metric "accuracy_cost": a network's accuracy minus its twin's on the same image, from the rows of `answers`."""
    accuracy = scores[scores["metric"] == "accuracy"]
    keys = [column for column in accuracy if column not in ("twin", "value")]
    wide = accuracy.pivot(index=keys, columns="twin", values="value").reset_index().rename_axis(columns=None)
    if "x" not in wide:
        return accuracy.iloc[:0]
    wide = wide.assign(value=wide["regular"] - wide["x"], metric="accuracy_cost", twin="x").dropna(subset="value")
    return wide[list(accuracy)]


def contrast(load: Callable[[], Subject], *, contrasts: list[float]) -> pd.DataFrame:
    """Metric "accuracy" at each contrast, and "changed": whether the prediction is another than at contrast 1.

    Contrast c: the normalised image is multiplied by c (val.py:158-171), so that pixels approach the mean colour.
    """
    of, rows = load(), []  # which may train a network
    zero = origin(of.model)
    with torch.no_grad():
        predictions = {c: of.model(zero + c * (of.x - zero)).argmax(1) for c in contrasts}
        first = of.model(of.x).argmax(1)
    for c, predicted in predictions.items():
        for metric, value in (("accuracy", predicted == of.target), ("changed", predicted != first)):
            found = _rows(of, ("none", "-", 0, "corrected"), metric, value)
            rows += [row | {"contrast": c} for row in found]
    return pd.DataFrame(rows).drop(columns=["path", "rule", "steps", "precision"])


def contrast_maps(of: Subject, contrast: float, *, steps: int) -> tuple[Tensor, Tensor]:
    """(X-Gradient, integrated gradients) of images (B, C, H, W) at a contrast, sums of absolute values (B, H, W)."""
    zero = origin(of.model)
    x = of.x if contrast == 1 else zero + contrast * (of.x - zero)  # rounding could leave [0, 1]
    return x_gradient(of.model, x, of.target).abs().sum(1), integrated(of.model, x, of.target, steps)[0].abs().sum(1)


def integrated(model: nn.Module, x: Tensor, target: Tensor, steps: int) -> tuple[Tensor, float]:
    """Integrated gradients of the logit from the origin, by Gauss-Legendre, and the evaluations an image."""
    path = Straight(steps, reference=torch.zeros_like(x[0]) + origin(model), grid="gauss")
    result = attribute(model, x, target, path=path, rules={"ig": Riemann("gauss")}, objective="logit")
    return result["ig"], result.evaluations / len(x)


def _mean(maps: Tensor) -> Tensor:
    return maps.flatten(1).mean(1)


def _rows(of: Subject, key: Key, metric: str, values: Tensor, precision: str = "float32") -> list[dict]:
    found = score_rows(of.items, [key], metric, values[:, None])
    return [{name: value for name, value in row.items() if name != "curve"} | {"precision": precision} for row in found]
