"""One training loop with a pluggable loss, and the small digit classifiers it trains on the spot."""

import io
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from lib import InputError
from lib.data.digits import CLASSES, MEAN, STD, digits
from lib.models.checkpoints import load_weights
from lib.models.fold import prepare
from lib.models.homogeneity import remove_biases
from lib.models.layers import BATCH_NORMS, Normalize, require_autograd
from lib.models.zoo import Network, best_device
from lib.seeds import seeded
from lib.store.digest import content_key
from lib.store.kept import kept

MEMORISED = 0.95  # training accuracy on permuted labels that Adebayo et al. (NeurIPS 2018) ask for


Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Diverged(InputError):
    """A training whose loss became NaN or infinite: it has no result, and none may stand for it."""


def classification_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean over the batch of -log softmax_y f(x)."""
    return functional.cross_entropy(model(x), y)


def fit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    seed: int,
    loss: Loss | Sequence[Loss] = classification_loss,
    batch: int = 64,
    learning_rate: float = 1e-3,
    until: Callable[[nn.Module], bool] | None = None,
    label: str = "training",
) -> nn.Module:
    """Train `model` itself, and return it in eval mode on the best device.

    Adam; its learning rate falls linearly from `learning_rate` to 0, because after a constant one the test accuracy
    depends on which batches happened to come last.

    x (N, C, H, W); y (N,). loss(model, x, y) is a scalar for one batch, model in train mode. Of several losses each has
    an Adam of its own, and takes its step on a batch after the one before. until(model), model in eval mode, is asked
    after each epoch; True ends the training early.
    The batches depend on `seed` alone, so that different losses see the same ones; a loss, or a layer such as
    dropout, may draw from torch's default CPU generator, which is seeded here and restored afterwards.
    A single image that is left over joins the last batch where the network has batch norms, which need two.
    On a CPU two runs agree to the bit.
    Raises Diverged, an InputError, for a loss that is not finite; InputError unless there are as many labels as images,
    for a network with batch norms and batches of one image, and for weights made inside torch.inference_mode.
    """
    if not 0 < len(x) == len(y):
        raise InputError(f"{label} was given {len(x)} images and {len(y)} labels; give as many of each, at least one.")
    require_autograd(model)
    normed = any(isinstance(layer, BATCH_NORMS) for layer in model.modules())
    if normed and min(batch, len(x)) == 1:
        raise InputError(f"{label}: batch norms need batches of two images or more; {len(x)} images, batch={batch}.")
    device = best_device()
    model, x, y = model.to(device), x.to(device), y.to(device)
    sizes = [len(rows) for rows in torch.arange(len(x)).split(batch)]
    if normed and sizes[-1] == 1:
        sizes[-2:] = [batch + 1]
    steps = epochs * len(sizes)
    losses = loss if isinstance(loss, Sequence) else (loss,)
    optimisers = [torch.optim.Adam(model.parameters(), lr=learning_rate) for _ in losses]
    falling = partial(torch.optim.lr_scheduler.LinearLR, start_factor=1, end_factor=0, total_iters=steps)
    schedules = [falling(each) for each in optimisers]
    order = torch.Generator().manual_seed(seed)
    with (
        seeded(seed),
        tqdm(total=steps, desc=label, unit="batch", mininterval=0.5, leave=False, file=sys.stderr) as progress,
    ):
        for epoch in range(1, epochs + 1):
            model.train()
            for rows in torch.randperm(len(x), generator=order).to(device).split(sizes):
                for each, optimiser, schedule in zip(losses, optimisers, schedules, strict=True):
                    value = each(model, x[rows], y[rows])
                    if not value.isfinite():
                        raise Diverged(
                            f"{label}: the loss became {value.item()} in epoch {epoch} of {epochs}; lower "
                            f"learning_rate={learning_rate:g}, or the weight of what the loss adds to the "
                            "cross-entropy."
                        )
                    optimiser.zero_grad()
                    value.backward()
                    optimiser.step()
                    schedule.step()
                progress.update()
            if until is not None and until(model.eval()):
                break
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor, *, batch: int = 256) -> float:
    """Share of x (N, C, H, W) whose largest logit is that of y (N,), in [0, 1]; the model's mode is left as it is."""
    device = next(model.parameters()).device
    hits = [
        (model(images.to(device)).argmax(1) == labels.to(device)).sum().item()
        for images, labels in zip(x.split(batch), y.split(batch), strict=True)
    ]
    return sum(hits) / len(y)


def digit_cnn(*, classes: int = CLASSES, bias: bool = True, seed: int = 0) -> nn.Sequential:
    """An untrained classifier of digits (B, 1, 28, 28) in [0, 1]; the initial weights depend on `seed` alone.

    Without biases, whose weights start as with them, f is homogeneous about the mean grey: f(z + c (x - z)) = c f(x)
    for c >= 0 and the pixel z that normalises to 0.
    """
    with seeded(seed):
        model = nn.Sequential(
            Normalize(MEAN, STD),
            nn.Conv2d(1, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),  # (B, 16, 12, 12)
            nn.Conv2d(16, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),  # (B, 32, 5, 5)
            nn.Flatten(),
            nn.Linear(32 * 5 * 5, 256),
            nn.ReLU(),
            nn.Linear(256, classes),
        )
    return model if bias else remove_biases(model).train()


def permuted_labels(y: Tensor, *, seed: int) -> Tensor:
    """The labels y (N,) in random order: as many of each class as before, unrelated to the images."""
    return y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]


def digit_network(
    *, cache: Path, permuted: bool = False, bias: bool = True, seed: int = 0, epochs: int | None = None
) -> Network:
    """The `digit_cnn` trained on digits("train"), prepared for attribution, on the best device.

    bias=False: its twin without biases, from the same initial weights and batches.
    permuted=True trains on `permuted_labels` of the same seed until MEMORISED of them are fitted, the network of
    the data randomisation test; a line on standard error says so where `epochs` did not suffice.
    epochs: 8 unless given, and at most 40 with permuted labels. The weights are kept as <cache>/<name>-<key>.pt (see
    `content_key`); a file that cannot be read is replaced, which a line on standard error says.
    """
    name = ("mnist_cnn" if bias else "mnist_xcnn") + ("_permuted" if permuted else "")
    epochs = epochs or (40 if permuted else 8)
    train = partial(_trained, permuted=permuted, bias=bias, seed=seed, epochs=epochs, label=name)
    network = kept_network(digit_cnn(bias=bias), train, cache=cache, key=content_key(name, train))
    return prepared(name, network, (1, 28, 28))


def prepared(name: str, model: nn.Module, shape: tuple[int, int, int]) -> Network:
    """A small trained network of images (C, S, S), prepared for attribution, on the best device."""
    model = prepare(model, shape=shape).to(best_device())
    grey, side = shape[0] == 1, shape[1]
    # Networks of colour images standardise each image themselves.
    mean, std, family = (MEAN, STD, "small-cnn") if grey else ((0.0,) * 3, (1.0,) * 3, "rar")
    return Network(name, model, side, side, "bilinear", mean, std, family)


def kept_network(model: nn.Module, train: Callable[[], nn.Module], *, cache: Path, key: str) -> nn.Module:
    """`model` with the weights in <cache>/<key>.pt, or what train() returns, whose weights stay there: see `kept`."""
    return kept(Path(cache) / f"{key}.pt", train, read=partial(load_weights, model), write=_weights)


def training_unit(load: Callable[[], Network]) -> pd.DataFrame:
    """A training as a unit of work, so that several are done at once: `load` trains a network and keeps its weights.

    Returns one row: the network's name and how many weights it has; none of one that diverged, which is said.
    """
    try:
        network = load()
    except Diverged as error:
        print(error, file=sys.stderr)
        return pd.DataFrame({"network": [f"diverged: {error}"], "weights": [0]})
    return pd.DataFrame(
        {"network": [network.name], "weights": [sum(each.numel() for each in network.model.parameters())]}
    )


def _weights(model: nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.save(model.cpu().state_dict(), buffer)
    return buffer.getvalue()


def _trained(*, permuted: bool, bias: bool, seed: int, epochs: int, label: str) -> nn.Module:
    train = digits("train")
    x, y = train.x, permuted_labels(train.y, seed=seed) if permuted else train.y

    def memorised(model: nn.Module) -> bool:
        return permuted and accuracy(model, x, y) >= MEMORISED

    learning_rate = 1e-3 if permuted else 2e-3  # at 2e-3 random labels are not memorised
    options = {"epochs": epochs, "batch": 32, "learning_rate": learning_rate, "until": memorised}
    model = fit(digit_cnn(bias=bias, seed=seed), x, y, seed=seed, label=label, **options)
    if permuted and not memorised(model):
        print(
            f"{label} fits {accuracy(model, x, y):.1%} of its permuted labels after {epochs} epochs, not "
            f"{MEMORISED:.0%}; give more epochs.",
            file=sys.stderr,
        )
    return model
