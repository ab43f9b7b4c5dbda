"""Attacks on attribution maps: change the map, not the class, within an l_inf ball (Ghorbani et al., 2019)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib import InputError, nearest
from lib.attacks.goals import GOALS, goal
from lib.attacks.methods import Method, admitted, maps_and_finite, mean_one, pulled_back, require_finite
from lib.attacks.noise import random_walk, require_radius, uniform_start
from lib.attribution.arguments import image_ids, whole_fields, whole_number
from lib.attribution.gate import gate
from lib.attribution.parts import in_parts
from lib.metrics.lens import locality
from lib.models.softplus import softplus_twin

AIMS = (*GOALS, "random")
MEASURES = ("spearman", "top_k", "centre_shift", "kendall")


@dataclass(frozen=True, eq=False)
class Attack:
    """How to attack.

    aim         one of `lib.attacks.goals.goal`, or "random": signs of fresh noise in place of a gradient
    epsilon     the largest change of a pixel value in [0, 1];  step: of one iteration
    k           the top pixels that measure="top_k" counts;  attack_k: those an aim is about, k unless given
    measure     which iterate is kept: that of lowest rank correlation "spearman" (cheap), of least common "top_k", of
                largest "centre_shift", or of lowest "kendall". The released configurations choose by Kendall for every
                aim and every score reported; it sorts on the CPU, several milliseconds a map and iteration.
    restarts    the first starts from the image, the others from uniform noise in the ball ("random": other noise)
    radius, region  see `goal`
    released    every restart from the image, so that those of a gradient attack repeat the first one; and see `goal`
    levels      pixels are truncated to multiples of 1/levels after each step: 255 in the released code for images of
                0 ... 255, which draws them towards black

    Raises InputError for what does not exist or cannot be.

    >>> Attack("top_k", epsilon=8 / 255, step=1 / 255, iterations=50, k=1000).measure
    'spearman'
    """

    aim: str
    epsilon: float
    step: float
    iterations: int
    k: int
    attack_k: int | None = None
    measure: str = "spearman"
    restarts: int = 1
    radius: int = 1
    region: Tensor | None = None
    released: bool = False
    levels: int | None = None

    def __post_init__(self):
        for what, given, allowed in (("aim", self.aim, AIMS), ("measure", self.measure, MEASURES)):
            if given not in allowed:
                raise InputError(f"there is no {what} {given!r}; {nearest(given, allowed)}")
        require_radius(self.epsilon, self.step)
        optional = [name for name in ("attack_k", "levels") if getattr(self, name) is not None]
        whole_fields(self, "iterations", "k", "restarts", *optional)
        whole_number(self.radius, "radius", 0)


@dataclass(frozen=True)
class Attacked:
    """The outcome for B images.

    x (B, C, H, W) in [0, 1]: the perturbed images. score (B,): the measure between the map of the image and that of the
    perturbed one (centre_shift: minus the distance); 1 (0) where nothing better was found, and x is then the image.
    usable (B,): False where there was nothing to attack, because the network is wrong about the image or its map is
    constant; there x is the image and score NaN. evaluations: forward+backward passes for each image that was attacked,
    a product with the second derivatives counted as three, which is about what it costs.

    >>> x = torch.rand(1, 1, 2, 2)
    >>> Attacked(x, score=torch.ones(1), usable=torch.tensor([True]), evaluations=0).x is x
    True
    """

    x: Tensor
    score: Tensor
    usable: Tensor
    evaluations: int


def attack(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    method: Method,
    how: Attack,
    *,
    images: Sequence[str],
    surrogate: nn.Module | None = None,
    seed: int = 0,
    budget: int | None = None,
) -> Attacked:
    """Perturb x (B, C, H, W) in [0, 1] so that the map of class target (B,) is least like the image's own.

    The loop of Ghorbani et al. (2019) and Chen et al. (2019), all images and restarts in one batch:

        x' <- clip(x + clip(x' + step sign(direction) - x, -epsilon, epsilon), 0, 1), `iterations` times

    The iterate is kept that scores lowest by `how.measure`, over all restarts, among those that the network still takes
    for `target`; a walk goes on from where it does not. direction: the gradient of the goal of the map of `surrogate`
    (default: `softplus_twin(model)`). What is measured is always the map of `model`.
    What is random depends on seed, image id and restart only. images: the ids. budget: at most so many points at once.
    Raises InputError as `lib.attribution.gate.gate`, for ids that do not match x, k beyond the map's pixels, a network
    that has no softplus twin where none is given, and where a value or gradient is not finite.

    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).eval()
    >>> x = torch.rand(2, 1, 4, 4)
    >>> how = Attack("top_k", epsilon=0.1, step=0.05, iterations=2, k=4)
    >>> found = attack(network, x, network(x).argmax(1), Method("input_x_gradient"), how, images=["a", "b"])
    >>> (found.x - x).abs().max() < 0.1 + 1e-6
    tensor(True)
    """
    if not isinstance(how, Attack):
        raise InputError(f"how is {how!r}; give a lib.attacks.Attack, such as Attack('top_k', 8/255, 1/255, 50, k=9)")
    given, pixels = model, x
    model, x, target, method, budget = admitted(given, pixels, target, method, budget, "probability")
    images = image_ids(images, x)
    raw, finite = maps_and_finite(model, x, target, method, budget)
    require_finite(finite)
    smooth = surrogate
    if how.aim != "random":
        smooth = softplus_twin(given) if surrogate is None else surrogate
        smooth = gate(smooth, pixels, target, objective="probability")[0]
    clean = mean_one(raw)
    constant = locality(clean, clean, k=how.k, radii=())["spearman"].isnan().to(x.device)
    usable = _right(model, x, target, budget) & ~constant
    found, score = x.clone(), torch.full((len(x),), torch.nan, dtype=torch.float64)
    each = 1 if how.aim == "random" else 5  # passes a point: measuring; the direction's gradient and its product
    evaluations = how.iterations * how.restarts * len(method.alphas) * each
    if usable.any():
        chosen = [image for image, kept in zip(images, usable.tolist(), strict=True) if kept]
        task = (x[usable], target[usable], clean[usable])
        found[usable], score[usable.cpu()] = _search(model, smooth, *task, method, how, chosen, seed, budget)
    return Attacked(found, score, usable, evaluations)


def _search(model, smooth, x, target, clean, method, how, images, seed, budget) -> tuple[Tensor, Tensor]:
    """The best iterate of each image over restarts, and its score.

    The measure reads the maps on the CPU; there, and nowhere else, an iteration waits for the device.
    """
    directions = _directions(smooth, x, target, clean, method, how, images, seed, budget)
    start = torch.cat([_start(x, how, images, restart, seed) for restart in range(how.restarts)])
    origin, classes, maps = (each.repeat(how.restarts, *[1] * (each.ndim - 1)) for each in (x, target, clean))
    maps, low, high = maps.cpu(), (origin - how.epsilon).clamp(min=0), (origin + how.epsilon).clamp(max=1)
    best, point = origin.clone(), start
    lowest = torch.full((len(origin),), 0.0 if how.measure == "centre_shift" else 1.0, dtype=torch.float64)
    for iteration in range(how.iterations):
        direction = directions(point)
        point = torch.minimum(torch.maximum(point + how.step * direction.sign(), low), high)
        if how.levels:
            point = (point * how.levels + 1e-4).trunc() / how.levels  # 1e-4: a whole number may lie just below itself
        raw, finite = maps_and_finite(model, point, classes, method, budget)
        finite &= direction.isfinite().flatten(1).all(1)  # the sign of NaN is 0
        right, finite = torch.stack([_right(model, point, classes, budget), finite]).cpu()
        require_finite(finite.view(how.restarts, -1).all(0), f" that are attacked, in iteration {iteration + 1}")
        measured = _measured(maps, mean_one(raw).cpu(), how)
        better = (measured < lowest) & right  # NaN, of a constant map, is not
        lowest = measured.where(better, lowest)
        best = point.where(better.to(point.device)[:, None, None, None], best)
    lowest, best = lowest.unflatten(0, (how.restarts, -1)), best.unflatten(0, (how.restarts, -1))
    which, rows = lowest.argmin(0), torch.arange(len(x))
    return best[which.to(best.device), rows.to(best.device)], lowest[which, rows]


def _directions(smooth, x, target, clean, method, how, images, seed, budget) -> Callable[[Tensor], Tensor]:
    """The function from iterates (R B, C, H, W) to directions."""
    if how.aim == "random":
        walks = [random_walk(x, images=images, restart=restart, seed=seed) for restart in range(how.restarts)]
        return lambda point: torch.cat([next(walk) for walk in walks])
    classes, maps = target.repeat(how.restarts), clean.repeat(how.restarts, 1, 1)
    options = {"radius": how.radius, "region": how.region, "released": how.released}
    objective = goal(how.aim, maps, k=how.attack_k or how.k, **options)
    return lambda point: pulled_back(smooth, point, classes, method, budget, objective)


def _start(x: Tensor, how: Attack, images: Sequence[str], restart: int, seed: int) -> Tensor:
    if restart == 0 or how.released or how.aim == "random":
        return x
    return uniform_start(x, epsilon=how.epsilon, images=images, restart=restart, seed=seed)


def _measured(original: Tensor, perturbed: Tensor, how: Attack) -> Tensor:
    found = locality(original, perturbed, k=how.k, radii=(), kendall=how.measure == "kendall")[how.measure]
    return -found if how.measure == "centre_shift" else found


@torch.no_grad()
def _right(model, x: Tensor, target: Tensor, budget: int | None) -> Tensor:
    return in_parts(lambda part: model(part).argmax(1), model, x, x, budget=budget) == target
