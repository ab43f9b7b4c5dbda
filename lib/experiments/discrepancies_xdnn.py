"""Where the code of Hesse et al. (NeurIPS 2021), and of the priors that it builds on, differs from the paper."""

import math

import torch
from torch import Tensor

from lib.attribution.gradients import input_x_gradient
from lib.attribution.references import drawn_from
from lib.experiments.discrepancies_record import PRIORS, XDNN, Discrepancy, Outcome, Place, run_or_nan
from lib.experiments.subjects import Subject, relative_difference
from lib.experiments.xdnn_masks import gradient_maps
from lib.metrics.masks import RADIUS, SIDE, SIGMA, backdrop, masks

METRICS, SPARSITY = "imagenet/attribution_metrics.py", "sparsity/run_sparsity_experiments.py"
KERNELS = ("released", "stated")
RATE = 0.01  # of the two optimisers


def _wide_blur() -> Outcome:
    """What a blurred dot has at the kernel's edge, as a share of its middle: exp(-(25 / 41)^2 / 2)."""
    x, middle = torch.zeros(1, 1, SIDE, SIDE), SIDE // 2
    x[0, 0, middle, middle] = 1
    blurs = (backdrop(x, kernel=kernel)[0, 0, :, middle] for kernel in KERNELS)
    return Outcome(
        *((blur[middle + RADIUS] / blur[middle]).item() for blur in blurs), math.exp(-0.5 * (RADIUS / SIGMA) ** 2)
    )


def _wide_blur_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    """The areas under KPM's curve, at three fractions of pixels, of input times gradient."""
    maps = input_x_gradient(of.model, of.x, of.target).mean(1, keepdim=True)
    asked = {"fractions": (0.05, 0.2, 0.8)}
    games = [masks(of.model, of.x, maps, of.target, kernel=kernel, **asked) for kernel in KERNELS]
    return games[0].area("keep_positive")[:, 0], games[1].area("keep_positive")[:, 0]


def _shared_reference() -> Outcome:
    """Different references of the two images of a batch."""
    drawn = [drawn_from(100, 1, images=images, own=[-1, -1]) for images in (["a", "a"], ["a", "b"])]
    return Outcome(*(float(len(each.unique())) for each in drawn), 2.0)


def _shared_reference_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    maps = gradient_maps(of, ["released", "corrected"], steps=1)
    return maps["dataset", "riemann", 1, "released"], maps["dataset", "riemann", 1, "corrected"]


def _denominator() -> Outcome:
    """Five images in batches of two, all of them right."""
    right = torch.ones(5)
    return Outcome((sum(batch.sum() for batch in right.split(2)) / (3 * 2)).item(), right.mean().item(), 1.0)


def _partial_batch() -> Outcome:
    """Images scored of three, the last of which is a batch of its own where batches of two were planned."""
    images, mask = torch.zeros(1, 3), torch.ones(4, 3)
    theirs = run_or_nan(lambda: len(images.repeat(int(mask.shape[0] / 2), 1)[mask.bool()]), IndexError)
    x = torch.linspace(0, 1, 48).view(3, 1, 4, 4)
    games = masks(lambda shown: shown.flatten(1)[:, :2], x, x, 0, fractions=[0.5], batch=2)
    return Outcome(theirs, float(len(games.logit)), 3.0)


def _batch_ratio() -> Outcome:
    """IG of 1 and 9 in two images, input times gradient of 0 and 9: wrong by all of it and by nothing."""
    ig, ixg = torch.tensor([[1.0], [9.0]]), torch.tensor([[0.0], [9.0]])
    theirs = (ig - ixg).abs().mean() / (ig.abs().mean() + 10e-8)
    return Outcome(theirs.item(), relative_difference(ixg, ig).mean().item(), 0.5)


def _logged_loss() -> Outcome:
    """A cross-entropy of .6819 and a prior of -.4687."""
    entropy, prior = torch.tensor(0.6819).double(), torch.tensor(-0.4687).double()
    loss = entropy.clone()
    whole = loss
    whole += prior
    ours = entropy.clone()
    _ = ours + prior
    return Outcome(loss.item(), ours.item(), torch.tensor(0.6819).item())


def _two_optimisers() -> Outcome:
    """A weight that the loss raises and the prior lowers, at a strength of .1: .9 against .1, and one step up."""
    strength = 0.1
    moved = []
    for apart in (True, False):
        weight = torch.zeros(1, requires_grad=True)
        parts = (1 - strength) * -weight, strength * weight
        for part in parts if apart else (sum(parts),):
            optimiser = torch.optim.Adam([weight], lr=RATE)
            part.backward()
            optimiser.step()
            weight.grad = None
        moved.append(weight.item())
    return Outcome(*moved, RATE)


RECORDS = (
    Discrepancy(
        "a blur that is too wide",
        Place(XDNN, METRICS, 138),
        "torch.exp(-((mgrid - mean) / (2 * std)) ** 2)",
        "squares the 2 of the Gaussian's exponent: σ is √2 times what is stated, and the kernel nearly a box",
        "divide by 2σ²",
        "weight at the kernel's edge over that in its middle",
        'backdrop(kernel="released"); backdrop()',
        _wide_blur,
        _wide_blur_moves,
    ),
    Discrepancy(
        "a reference for two",
        Place(XDNN, METRICS, 243),
        "APExp = AttributionPriorExplainer(val_data, batch_size=1,k=1, scale_by_inputs=True)",
        "lets the two images of a batch share reference and point, which are drawn from the images that are judged",
        "draw for each image",
        "different references of two images",
        'gradient_maps(modes=["released"]); gradient_maps(modes=["corrected"])',
        _shared_reference,
        _shared_reference_moves,
    ),
    Discrepancy(
        "batches as if they were full",
        Place(XDNN, "imagenet/val.py", 127),
        "print('Accuracy top-1: ', correct_top1 / (len(val_loader) * opts.val_batch_size))",
        "divides by batches times their size, more than the number of images where the last one is not full",
        "divide by the number of images",
        "accuracy of five images that are right, in batches of two",
        "stand-in; the mean over images",
        _denominator,
        also=(Place(XDNN, METRICS, 326), Place(XDNN, "imagenet/val.py", 171)),
    ),
    Discrepancy(
        "a last batch that stops",
        Place(XDNN, METRICS, 292),
        "images_masked_pt = images.clone().repeat(int(mask.shape[0]/val_batch_size), 1, 1, 1)",
        "repeats images by the planned size of a batch, and stops at a last one that is not full",
        "repeat by its own size",
        "images scored of three, in batches of two",
        "stand-in; masks()",
        _partial_batch,
    ),
    Discrepancy(
        "a ratio of batches",
        Place(XDNN, "imagenet/val.py", 153),
        "distance = torch.mean(torch.abs(attributions1 - attributions2)) / (torch.mean(torch.abs(attributions1)) + …)",
        "divides means over a batch: images with large maps decide, and which images share a batch matters",
        "take the ratio of each image",
        "relative difference of two images, one all wrong and one right",
        "stand-in; relative_difference()",
        _batch_ratio,
    ),
    Discrepancy(
        "a loss that is the objective",
        Place(XDNN, SPARSITY, 233),
        "total_loss += alpha*r",
        "adds the prior in place to the tensor that is logged as the loss",
        "log the loss without the prior",
        "loss that is logged",
        "stand-in, in place and not",
        _logged_loss,
        also=(Place(XDNN, SPARSITY, 227),),
    ),
    Discrepancy(
        "a strength without effect",
        Place(PRIORS, "attributionpriors/mnist/mnist_train.py", 104),
        "eg_train = tf.train.AdamOptimizer(learning_rate).minimize(FLAGS.lamb * eg_loss, global_step=global_step)",
        "gives the prior an Adam of its own, which divides a gradient by its size and with it the strength",
        "give both terms one optimiser",
        "where a weight goes in one step, at a strength of 0.1",
        'stand-in, as schedule="separate"; as schedule="joint"',
        _two_optimisers,
        also=(Place(PRIORS, "attributionpriors/mnist/mnist_train.py", 101),),
    ),
)
