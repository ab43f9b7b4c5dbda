"""References near the explained image: training images chosen by clustering logits, weighted by their density."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from lib import InputError
from lib.attribution.arguments import as_tensor, whole_number
from lib.attribution.gate import gate
from lib.attribution.parts import in_parts
from lib.store.kept import kept


@dataclass(frozen=True)
class LocalReferences:
    """The offline stage of LPI: for each of C clusters of logits, R training images and their densities.

    centres (C, K): mean logits; members (C, R) long: rows of the training set; densities (C, R) float64: share of
    the cluster that each member stands for, rows sum to 1.

    >>> found = LocalReferences(torch.tensor([[0.0, 0], [4, 0]]), torch.tensor([[5], [7]]), torch.ones(2, 1))
    >>> found.of(torch.tensor([[3.0, 1]]))
    (tensor([[7]]), tensor([[1.]]))
    """

    centres: Tensor
    members: Tensor
    densities: Tensor

    def nearest(self, logits: Tensor) -> Tensor:
        """c* = argmin_c ||f(x) - centre_c||_2: logits (B, K) -> cluster (B,), on the CPU.

        Raises InputError for logits of another number of classes.
        """
        logits = as_tensor(logits, "logits", "rows (images, classes)").detach().to(self.centres)
        if logits.ndim != 2 or logits.shape[1] != self.centres.shape[1]:
            raise InputError(f"logits is {tuple(logits.shape)}; give (images, {self.centres.shape[1]}), as the centres")
        # Not by ||a||² - 2ab + ||b||², whose rounding depends on the batch.
        return torch.cdist(logits, self.centres, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)

    def of(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Members and densities of the nearest cluster: logits (B, K) -> (B, R) long, (B, R) float64."""
        cluster = self.nearest(logits)
        return self.members[cluster], self.densities[cluster]


def local_references(
    logits: Tensor,
    *,
    clusters: int,
    references: int,
    seed: int = 0,
    fewest: int = 1,
    minibatch_above: int = 50_000,
    n_init: int = 3,
    max_iter: int = 600,
) -> LocalReferences:
    """Cluster a training set's logits (N, K), and choose R references in each cluster (Yang et al., AAAI 2023).

    k-means divides the logits into `clusters`, and each cluster into R = `references` sub-clusters. Reference r of
    a cluster is the member of sub-cluster r nearest (L2) to its centre; p_r = |sub-cluster r| / |cluster|.

    fewest: clusters with fewer members are dissolved, the smallest first, and their members go to the nearest of the
    other centres. The paper's training set needs none of this; of a small one, fewer clusters are left.
    More than `minibatch_above` logits are clustered by mini-batches. `seed`, `n_init` and `max_iter` go to
    scikit-learn; the released code's defaults are 3 and 600, its published files 1 cluster of 20 references.
    Raises InputError for logits that are not finite, fewer different logits than clusters, and a cluster with
    fewer different members than references.
    Differs from the released code: the reference is the chosen image instead of the one a batch later
    (LPI:activation_atlas.py:24,58) and always of its own sub-cluster; each cluster keeps its own densities instead
    of the last cluster's (LPI:distribution_estimation.py:217).

    >>> logits = torch.tensor([[0.0, 0], [0, 1], [0, 2], [9, 9]])
    >>> local_references(logits, clusters=2, references=1).members.sort(0).values
    tensor([[1],
            [3]])
    """
    clusters, references = whole_number(clusters, "clusters"), whole_number(references, "references")
    logits = as_tensor(logits, "logits", "rows (images, classes)")
    if logits.ndim != 2 or not logits.isfinite().all():
        raise InputError(
            f"logits of shape {tuple(logits.shape)} must be (images, classes) and finite; check the model."
        )
    points = logits.detach().cpu().numpy()
    options = {"n_init": n_init, "max_iter": max_iter, "random_state": seed}

    centres, labels = _k_means(points, clusters, minibatch_above, options)
    sizes = numpy.bincount(labels, minlength=clusters)
    if not sizes.all():
        different = numpy.count_nonzero(sizes)
        raise InputError(
            f"{len(points)} logits, {different} of them different, cannot form {clusters} clusters; "
            f"give clusters={different} or fewer."
        )
    if fewest > 1:
        centres, labels = _without_small(points, centres, labels, fewest)
        sizes, clusters = numpy.bincount(labels), len(centres)
    members = numpy.zeros((clusters, references), dtype=numpy.int64)
    densities = numpy.zeros((clusters, references))
    for cluster in sizes.argsort():  # the smallest first: it is the one that may have too few members
        rows = numpy.flatnonzero(labels == cluster)
        sub_centres, sub_labels = _k_means(points[rows], references, minibatch_above, options)
        sub_sizes = numpy.bincount(sub_labels, minlength=references)
        if not sub_sizes.all():
            different = numpy.count_nonzero(sub_sizes)
            raise InputError(
                f"cluster {cluster} of {clusters} has {len(rows)} members, {different} of them different, for "
                f"{references} references; give references={different} or fewer, or fewer clusters."
            )
        distances = numpy.linalg.norm(points[rows] - sub_centres[sub_labels], axis=1)  # of each to its own centre
        for sub in range(references):
            own = numpy.flatnonzero(sub_labels == sub)
            members[cluster, sub] = rows[own[distances[own].argmin()]]
        densities[cluster] = sub_sizes / len(rows)
    return LocalReferences(*map(torch.from_numpy, (centres, members, densities)))


def cached_local_references(
    logits_fn: Callable[[], Tensor],
    *,
    cache: Path,
    key: str,
    clusters: int,
    references: int,
    seed: int = 0,
    fewest: int = 1,
) -> LocalReferences:
    """`local_references` of logits_fn(), computed only where <cache>/<key>-c<clusters>r<references>s<seed>.npz is not.

    With `fewest` above 1 the name of that file ends in "m<fewest>".

    `key` changes with whatever decides the logits, see `lib.store.digest.content_key`. A file that cannot be read is
    replaced, which a line on standard error says. Raises InputError as `local_references`.

    >>> import tempfile
    >>> asked = {"cache": Path(tempfile.mkdtemp()), "key": "mine", "clusters": 1, "references": 1}
    >>> cached_local_references(lambda: torch.zeros(3, 2), **asked).densities
    tensor([[1.]], dtype=torch.float64)
    """
    file = Path(cache) / f"{key}-c{clusters}r{references}s{seed}{f'm{fewest}' if fewest > 1 else ''}.npz"
    asked = {"clusters": clusters, "references": references, "seed": seed, "fewest": fewest}
    return kept(file, lambda: local_references(logits_fn(), **asked), read=_read, write=_bytes)


def random_densities(densities: Tensor, *, seed: int) -> Tensor:
    """Rows of U(0, 1) divided by their sum, shaped like `densities` (C, R): the control of LPI's Sup. Fig. 3b.

    >>> random_densities(torch.ones(2, 3), seed=0).sum(1).round(decimals=4)
    tensor([1., 1.])
    """
    weights = torch.rand(densities.shape, generator=torch.Generator().manual_seed(seed), dtype=densities.dtype)
    return weights / weights.sum(-1, keepdim=True)


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor, *, batch: int = 256) -> Tensor:
    """Logits (N, K) on the CPU of images x (N, C, H, W), at most `batch` in one pass on the model's device.

    Raises InputError as `lib.attribution.gate.gate`.

    >>> logits_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval(), torch.rand(5, 1, 2, 2)).shape
    torch.Size([5, 3])
    """
    gated, x, _ = gate(model, x, 0)
    device = next(gated.parameters(), x).device
    like, batch = x[:1].to(device), whole_number(batch, "batch")
    return in_parts(lambda images: gated(images.to(device)).cpu(), model, like, x, budget=batch)


def _k_means(points: numpy.ndarray, count: int, minibatch_above: int, options: dict) -> tuple:
    """Centres (count, K) and labels (N,) of k-means; where too few points differ, some label stays unused."""
    if len(points) < count:
        return _k_means(points, len(points), minibatch_above, options)
    kind = MiniBatchKMeans if len(points) > minibatch_above else KMeans
    # On one thread, because several add up in any order. The warning is of unused labels, which callers refuse.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = kind(count, **options).fit(points)
    return means.cluster_centers_, means.labels_


def _without_small(points: numpy.ndarray, centres: numpy.ndarray, labels: numpy.ndarray, fewest: int) -> tuple:
    """Centres and labels without clusters of fewer than `fewest` points, whose points went to the nearest centres."""
    sizes = numpy.bincount(labels)
    while len(centres) > 1 and sizes.min() < fewest:
        smallest = sizes.argmin()
        centres, stray = numpy.delete(centres, smallest, axis=0), numpy.flatnonzero(labels == smallest)
        labels = labels - (labels > smallest)
        for row in stray:
            labels[row] = numpy.linalg.norm(centres - points[row], axis=1).argmin()
        sizes = numpy.bincount(labels, minlength=len(centres))
        centres = numpy.stack([points[labels == cluster].mean(0) for cluster in range(len(centres))])
    return centres, labels


def _read(file: Path) -> LocalReferences:
    try:
        with numpy.load(file, allow_pickle=False) as arrays:
            return LocalReferences(*(torch.from_numpy(arrays[field.name]) for field in fields(LocalReferences)))
    except Exception as error:  # NumPy raises many kinds for a damaged file; the cure is the same for all
        raise InputError(f"it is damaged ({type(error).__name__})") from error


def _bytes(found: LocalReferences) -> bytes:
    buffer = io.BytesIO()
    numpy.savez(buffer, **{field.name: getattr(found, field.name).numpy() for field in fields(found)})
    return buffer.getvalue()
