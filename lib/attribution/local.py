"""References near the explained image: training images chosen by clustering logits, weighted by their density."""

import io
import sys
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
from lib.provenance import write_atomically


@dataclass(frozen=True)
class LocalReferences:
    """The offline stage of LPI: for each of C clusters of logits, R training images and their densities.

    centres (C, K): mean logits; members (C, R) long: rows of the training set; densities (C, R) float64: share of
    the cluster that each member stands for, rows sum to 1.
    """

    centres: Tensor
    members: Tensor
    densities: Tensor

    def nearest(self, logits: Tensor) -> Tensor:
        """c* = argmin_c ||f(x) - centre_c||_2: logits (B, K) -> cluster (B,), on the CPU."""
        logits = logits.detach().to(self.centres)
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
    minibatch_above: int = 50_000,
    n_init: int = 3,
    max_iter: int = 600,
) -> LocalReferences:
    """Cluster the logits (N, K) of a training set, and choose R references in each cluster (Yang et al., AAAI 2023).

    k-means divides all logits into `clusters`, then each cluster into R = `references` sub-clusters. Reference r of a
    cluster is the member of sub-cluster r nearest (L2) to its centre; p_r = |sub-cluster r| / |cluster|.

    Sets of more than `minibatch_above` logits are clustered by mini-batches. `seed`, `n_init` and `max_iter` go to
    scikit-learn (3 and 600 in the released code; 11 clusters and 20 references in the paper's experiments).
    Raises InputError for logits that are not finite, fewer different logits than clusters, and a cluster with fewer
    (different) members than references.
    Differs from the released code: the reference is the chosen image, not the one a batch later (LPI:activation_atlas.py:24,
    58), it belongs to its own sub-cluster, and each cluster keeps its own densities instead of the last one's
    (LPI:distribution_estimation.py:217).
    """
    if clusters < 1 or references < 1:
        raise InputError(f"clusters={clusters} and references={references} leave nothing to choose; give 1 or more.")
    if logits.ndim != 2 or not logits.isfinite().all():
        raise InputError(f"logits of shape {tuple(logits.shape)} must be finite and (images, classes); check the model.")
    points = logits.detach().cpu().numpy()

    def groups(points: numpy.ndarray, count: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        kind = MiniBatchKMeans if len(points) > minibatch_above else KMeans
        means = kind(count, n_init=n_init, max_iter=max_iter, random_state=seed)
        # On one thread, because several add up in any order. The warning is of empty groups, which callers refuse.
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            means.fit(points)
        return means.cluster_centers_, means.labels_
