"""Where the code of LENS, and of the attacks that it builds on, differs from selections and attacks as written."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lib.attacks.goals import goal
from lib.attacks.noise import random_sign, random_walk, uniform_start
from lib.attribution import Riemann, Straight
from lib.experiments.discrepancies_record import (
    FRAGILITY,
    LENS,
    RAR,
    Discrepancy,
    Outcome,
    Place,
    photograph_maps,
)
from lib.experiments.subjects import Subject
from lib.metrics.selection import dilate, diverse_top_k

SELECTION, AWARE = "scripts/imagenet_topk_div_eps.py", "MNIST/ig_attack_with_lens.py"
FLOWER = "Flower/eval_with_lens_attribution_attack.py"
HIGHEST, LOOKED_AT = 1000, 6000  # pixels of a photograph that are chosen, and those that the code looks at for w = 1
EPSILON, STEP, ITERATIONS = 0.3, 0.01, 100  # of the released attack on MNIST


def _row(*scores: float) -> Tensor:
    return torch.tensor(scores).view(1, 1, -1)


def _second_pick() -> Outcome:
    """The highest pixels of a row of which no two are neighbours: 1, 3 and 5."""
    scores = _row(0.5, 9, 8, 7, 6, 5, 4, 3, 2)
    found = [diverse_top_k(scores, 3, 1, released=released)[0] for released in (True, False)]
    return Outcome(*(float(each.flatten().nonzero()[1]) for each in found), 3.0)


def _second_pick_moves(of: Subject, steps: int) -> tuple[Tensor, Tensor]:
    """LENS recall of the diverse pixels (w = 1) of IG's map after random signs of two grey levels."""
    noisy = replace(of, x=random_sign(of.x, epsilon=2 / 255, images=of.images))
    before, after = (photograph_maps(each, Straight(steps // 2), Riemann()).abs().cpu() for each in (of, noisy))
    scores = []
    for how in ({"released": True, "candidates": LOOKED_AT}, {}):
        (a, _), (b, found) = (diverse_top_k(each, HIGHEST, 1, **how) for each in (before, after))
        scores.append((dilate(a, 1) & b).sum((1, 2)) / found)
    return scores[0], scores[1]


def _first_pixel() -> Outcome:
    """Is the first pixel of a row chosen, whose score is the highest?"""
    scores = _row(9.0, 0, 8, 0, 7, 0, 6)
    found = [diverse_top_k(scores, 2, 1, released=released)[0] for released in (True, False)]
    return Outcome(*(float(each[0, 0, 0]) for each in found), 1.0)


def _aimed_at(top: tuple[int, int], mass: tuple[int, int]) -> Outcome:
    """The share of a map's mass, all of it at `mass`, that an attack on the neighbours of `top` aims at: none."""
    clean, raw = torch.zeros(1, 6, 6), torch.zeros(1, 1, 6, 6)
    clean[0, top[0], top[1]], raw[0, 0, mass[0], mass[1]] = 36.0, 1.0
    found = [goal("lens_top_k", clean, k=1, released=released)(raw).item() / -36 for released in (True, False)]
    return Outcome(*found, 0.0)


def _four_rows() -> Outcome:
    """Is the pixel three rows below within three rows?"""
    rows = (-4, -2, -1, 0, 1, 2, 4)  # x5 = x + 512 is four rows of 128 down
    theirs = 3 * 128 in [row * 128 + column for row in rows for column in range(-3, 4)]
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    mask[0, 4, 4] = True
    return Outcome(float(theirs), float(dilate(mask, 3)[0, 7, 4]), 1.0)


def _candidates() -> Outcome:
    """Two pixels of a row, more than two apart, whose three highest are neighbours."""
    scores = _row(9, 8, 7, 0.1, 0.1, 0.1, 0.1, 0.1)
    found = [diverse_top_k(scores, 2, 2, candidates=candidates)[1].item() for candidates in (3, None)]
    return Outcome(*map(float, found), 2.0)


def _truncated_centre() -> Outcome:
    """How far the centre of a map of two equal pixels is from itself, squared."""
    clean = torch.ones(1, 1, 2)
    return Outcome(
        *(goal("mass_centre", clean, k=1, released=each)(clean[:, None]).item() for each in (True, False)), 0.0
    )


def _walked_signs() -> Outcome:
    """The mean change of a pixel in units of epsilon; that of a walk is about step sqrt(2 iterations / pi)."""
    x = torch.full((1, 1, 28, 28), 0.5)
    change, walk = torch.zeros_like(x), random_walk(x, images=["toy"])
    for _ in range(ITERATIONS):
        change = (change + STEP * next(walk)).clamp(-EPSILON, EPSILON)
    shot = random_sign(x, epsilon=EPSILON, images=["toy"]) - x
    return Outcome(*(each.abs().mean().item() / EPSILON for each in (change, shot)), 1.0)


def _same_start() -> Outcome:
    """Different places from which three restarts begin."""
    x = torch.full((1, 1, 4, 4), 0.5)
    ours = [x, *(uniform_start(x, epsilon=EPSILON, images=["toy"], restart=restart) for restart in (1, 2))]
    return Outcome(*(float(len(torch.cat(each).unique(dim=0))) for each in ([x, x, x], ours)), 3.0)


def _cut_off() -> Outcome:
    """The slope of the loss in the true class's logit, 30 below the other: p - 1."""
    logits = torch.tensor([[0.0, 30.0]], requires_grad=True)
    cut = -logits.softmax(1).clamp(1e-10, 1.0)[0, 0].log()
    losses = cut, cross_entropy(logits, torch.tensor([0]))
    return Outcome(*(torch.autograd.grad(loss, logits, retain_graph=True)[0][0, 0].item() for loss in losses), -1.0)


def _left_over() -> Outcome:
    """How often the image at place 1 is seen in the two batches after a pass over five images in batches of two."""
    start, size, batches = 4, 2, []
    for _ in range(2):
        left = min(size, 5 - start)
        start = 0 if left < size else start
        batches.append(range(start, start + size))
        start += left
    ours = [place for batch in list(DataLoader(range(5), batch_size=2))[:2] for place in batch.tolist()]
    return Outcome(float(sum(1 in batch for batch in batches)), float(ours.count(1)), 1.0)


RECORDS = (
    Discrepancy(
        "the second diverse pixel",
        Place(LENS, SELECTION, 64),
        "oList = np.setdiff1d(oList, addwindowPx(oList[0]), assume_unique=True) ",
        "deletes the second pixel found without choosing it",
        "choose the second, too",
        "the second pixel chosen in a row",
        "diverse_top_k(released=True); diverse_top_k()",
        _second_pick,
        _second_pick_moves,
        also=(Place(LENS, FLOWER, 93),),
    ),
    Discrepancy(
        "the first pixel of the image",
        Place(LENS, SELECTION, 66),
        "oList = oList[oList > 0]",
        "leaves out the pixel whose index is 0",
        "take indices from 0 up",
        "is the first pixel chosen, whose score is the highest?",
        "diverse_top_k(released=True); diverse_top_k()",
        _first_pixel,
        also=(Place(LENS, SELECTION, 42), Place(LENS, SELECTION, 54)),
    ),
    Discrepancy(
        "windows around the edge",
        Place(LENS, AWARE, 81),
        "return [x2-1,x2,x2+1,x-1,x,x+1,x1-1,x1,x1+1]",
        "finds neighbours by their place in the flattened image, so that a row's last pixel has the next row's first",
        "end windows with the row",
        "share of a map's mass at the start of a row that the end of the row above is blamed for",
        "goal(released=True); goal()",
        lambda: _aimed_at((0, 5), (1, 0)),
        also=(Place(LENS, SELECTION, 50), Place(LENS, FLOWER, 43)),
    ),
    Discrepancy(
        "indices below 0",
        Place(LENS, AWARE, 96),
        "finalp= finalp[finalp < 784]",
        "keeps negative indices, which count from the end of the image",
        "leave them out",
        "share of a map's mass in the last pixel that the first one is blamed for",
        "goal(released=True); goal()",
        lambda: _aimed_at((0, 0), (5, 5)),
    ),
    Discrepancy(
        "four rows instead of three",
        Place(LENS, FLOWER, 59),
        "x5 = x + 512 ",
        "takes the fourth row above and below into a window of seven rows, and not the third",
        "take the third: 3 × 128 = 384",
        "is the pixel three rows below in the window?",
        "stand-in; dilate(radius=3)",
        _four_rows,
        also=(Place(LENS, FLOWER, 60),),
    ),
    Discrepancy(
        "too few to choose from",
        Place(LENS, SELECTION, 84),
        "eval_topk1=6000 # heuristic value used",
        "looks at so many highest pixels only, and stops with an IndexError where they are neighbours",
        "look at all",
        "pixels found of two",
        "diverse_top_k(candidates=3); diverse_top_k()",
        _candidates,
    ),
    Discrepancy(
        "a centre in whole pixels",
        Place(FRAGILITY, "utils.py", 102),
        "self.mass_center1 = self.run_model(self.sess, NET.mass_center, self.test_image, NET).astype(int)",
        "cuts the centre of the image's own map to whole pixels, which draws every attack towards the lower right",
        "keep the fraction",
        "squared distance of a map's centre from itself",
        "goal(released=True); goal()",
        _truncated_centre,
        also=(Place(LENS, AWARE, 114), Place(RAR, "MNIST/ig_attack.py", 100)),
    ),
    Discrepancy(
        "random signs that walk",
        Place(FRAGILITY, "utils.py", 123),
        "perturbation = np.random.normal(size=(w,h,c))",
        "takes steps of fresh signs, which mostly cancel, and keeps the worst of them",
        "change every pixel by ε once, as the words say",
        "mean change of a pixel, in units of ε",
        "random_walk(); random_sign()",
        _walked_signs,
        also=(Place(RAR, "MNIST/ig_attack.py", 131),),
    ),
    Discrepancy(
        "restarts that repeat",
        Place(LENS, AWARE, 244),
        "test_image_pert = self.test_image.copy()",
        "starts all three attacks from the image, so that those without noise are one attack, done three times",
        "start the others elsewhere in the ball",
        "different starts of three",
        "Attack(released=True); uniform_start(), as Attack() has it",
        _same_start,
    ),
    Discrepancy(
        "a loss without slope",
        Place(RAR, "MNIST/model.py", 60),
        "loss = …(tf.one_hot(self.label, 10), tf.log(tf.clip_by_value(softmax_output, 1e-10, 1.0))), axis = 1)",
        "cuts the softmax off, below which the attribution of the loss is 0 however wrong the network is",
        "take the cross-entropy of the logits",
        "slope of the loss in the true class's logit",
        "stand-in; cross_entropy, as loss_attribution() has it",
        _cut_off,
    ),
    Discrepancy(
        "images seen twice",
        Place(RAR, "Flower/flower_input.py", 132),
        "self.batch_start += actual_batch_size",
        "goes on, after a pass, by what was left of the last one: the next batch repeats the first one's images",
        "go on by the size of a batch",
        "times that the image at place 1 is seen in two batches",
        "stand-in; DataLoader()",
        _left_over,
        also=(Place(RAR, "GTSRB/gtsrb_input.py", 75),),
    ),
)
