"""What an explorer looks at: maps of a few images by one path and several rules, what they sum to, and their curves.

Every pass of the network is announced beforehand, so that whoever waits can be told how far it is, and can stop it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path as Folder

import torch
from PIL import Image
from torch import Tensor

from lib import InputError
from lib.attribution import Attribution, Guided, Path, Straight, attribute
from lib.experiments.cross_paths import Way, ways
from lib.experiments.subjects import Subject
from lib.metrics.insertion import Insertion, insertion
from lib.models.zoo import Network, best_device

REFERENCES = 4  # of paths with several lines
EVERY = 2 * REFERENCES  # numbers of steps are multiples of it, so that each line has an even number
CLUSTERS = 4  # of the neighbourhoods of LPI, among two dozen photographs
GRADIENT = 3  # what a forward and a backward pass count, in forward passes


@dataclass(frozen=True)
class Choice:
    """What is computed: see `lib.experiments.cross_paths` for the names of paths and rules.

    steps      of the whole path, a multiple of EVERY from 2 * EVERY up
    reference  where the straight and the guided path begin
    answer     the class explained is the network's first answer, its second, …
    curve      steps of the games of insertion and deletion
    """

    path: str = "straight"
    rules: tuple[str, ...] = ("riemann", "idgi", "recalibrated_point")
    steps: int = 32
    objective: str = "probability"
    reference: str = "black"
    answer: int = 1
    curve: int = 20


@dataclass(frozen=True)
class Explored:
    """What was found for B images and the R rules of a choice.

    of           the images, with the classes that were explained as their targets
    probability  (B,) of these classes;  classes: how many there are
    maps         {rule: (B, H, W)}, sums over channels
    sums         {rule: (B,)}: of the map; rise (B,): f(x) - f(x'), what a complete map sums to, None where the path has
                 no reference that is known beforehand
    evaluations  forward and backward passes an image, on the walk that all rules share; seconds: of this walk, in all
    curves       insertion of the highest scores first; deleted (B, R, S + 1): the probability when they go first
    """

    choice: Choice
    of: Subject
    probability: Tensor
    classes: int
    maps: Mapping[str, Tensor]
    sums: Mapping[str, Tensor]
    rise: Tensor | None
    evaluations: float
    seconds: float
    curves: Insertion
    deleted: Tensor


def subject_of(
    network: Network, images: Mapping[str, Callable[[], Image.Image]], pool: Subject | None = None
) -> Subject:
    """Images {id: what loads it} with the network's own answers as their classes, whatever labels they have.

    pool: whose images references are drawn from, an image's own excepted; the images themselves without one
    Raises InputError without images, and as whatever loads them.

    >>> from lib.models.own_network import own_network
    >>> means = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    >>> of = subject_of(own_network(means, size=8), {"red": lambda: Image.new("RGB", (9, 9), "red")})
    >>> of.x.shape, of.target.tolist()
    (torch.Size([1, 3, 8, 8]), [0])
    """
    if not images:
        raise InputError("no image is chosen; choose one or more")
    x = torch.stack([network.tensor(load()) for load in images.values()]).to(best_device())
    with torch.no_grad():
        target = network.model(x).argmax(1)
    others, shared = ([*images], x) if pool is None else (pool.images, pool.x)
    own = [others.index(each) if each in others else -1 for each in images]
    return Subject(network, x, target, [*images], shared, own)


def explored(
    of: Subject, choice: Choice, announce: Callable[[float], None] = lambda share: None, *, cache: Folder
) -> Explored:
    """The maps of the chosen path and rules, with their curves: `Explored`.

    announce: called before every pass with the share of the work that is done, from 0 to 1; what it raises ends the
    work. cache: where the clusters of the path "local" are kept.
    Raises InputError for a choice that does not exist or does not fit together, and as `lib.attribution.attribute`.
    """
    if not choice.rules:
        raise InputError("no rule is chosen; choose one or more")
    logits = of.answers()[0]
    if not 1 <= choice.answer <= logits.shape[1]:
        raise InputError(f"answer {choice.answer} is asked for; the network has {logits.shape[1]}, from 1 up")
    of = replace(of, target=logits.argsort(1, descending=True)[:, choice.answer - 1])
    way = _way(of, choice, cache)
    walk, games = GRADIENT * (way.evaluations + 1), 2 * len(choice.rules) * (choice.curve - 1) + 2
    model = _announced(of.model, announce, len(of.x) * (walk + games))
    rules = {rule: way.rules[rule] for rule in choice.rules}
    start = time.perf_counter()
    found = attribute(model, of.x, of.target, path=way.path, rules=rules, objective=choice.objective)
    rise, seconds = _rise(found), time.perf_counter() - start
    maps = {rule: found[rule].sum(1) for rule in rules}
    both = torch.stack([*maps.values(), *(-each for each in maps.values())], 1)
    game = insertion(model, of.x, both, of.target, steps=choice.curve)
    shown, others = game.probabilities.split(len(maps), 1)  # the lowest first: read backwards, the highest go first
    sums = {rule: each.double().sum((1, 2)).cpu() for rule, each in maps.items()}
    return Explored(
        choice,
        of,
        logits.softmax(1).gather(1, of.target[:, None])[:, 0].cpu(),
        logits.shape[1],
        {rule: each.cpu() for rule, each in maps.items()},
        sums,
        rise,
        found.evaluations / len(of.x),
        seconds,
        Insertion(game.fractions, shown),
        others.flip(-1),
    )


def _way(of: Subject, choice: Choice, cache: Folder) -> Way:
    if choice.steps % EVERY or choice.steps < 2 * EVERY:
        raise InputError(f"steps is {choice.steps}; give a multiple of {EVERY} from {2 * EVERY} up")
    sizes = {"points": choice.steps // REFERENCES, "references": REFERENCES, "clusters": CLUSTERS}
    (way,) = ways(of, paths=[choice.path], **sizes, cache=cache)
    if unfit := [rule for rule in choice.rules if rule not in way.rules]:
        raise InputError(f"rule {unfit[0]!r} is not for path {choice.path!r}; it takes {', '.join(way.rules)}")
    return way._replace(path=_from(way.path, choice.reference))


def _from(path: Path, reference: str) -> Path:
    return replace(path, reference=reference) if isinstance(path, Straight | Guided) else path


def _rise(found: Attribution) -> Tensor | None:
    try:
        return (found.value.double() - found.reference_value.double()).cpu()
    except InputError:  # of a path whose ends are not known beforehand
        return None


def _announced(model, announce: Callable[[float], None], total: float) -> Callable[[Tensor], Tensor]:
    """The network, which says before every pass how much of the work is done."""
    done = 0.0

    def answer(x: Tensor) -> Tensor:
        nonlocal done
        announce(min(1.0, done / total))
        done += len(x) * (GRADIENT if torch.is_grad_enabled() else 1)
        return model(x)

    return answer
