"""k-means on numbers (Lloyd 1982), exact and fast because they can be sorted.

In one dimension clusters are intervals: an assignment is a search for the midpoints between centroids, and sums within
a cluster are differences of prefix sums. An iteration takes K log N steps: millions of weights need no sampling.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Initialization = Literal["linear", "k-means++"]

MOST_ITERATIONS = 1000
SEEDED_FROM = 1 << 16
"""Values, evenly spaced in rank, from which k-means++ draws its seeds."""


def kmeans(values: Floats, clusters: int, initialization: Initialization = "linear", seed: int = 0) -> Floats:
    """Ascending centroids (clusters,) of `values` (N,): no single reassignment or mean makes the squared error less.

    `linear`: from evenly spaced centroids between the extremes (Han et al. 2016, "Deep Compression", section 3.2: rare
    large weights keep centroids of their own); `k-means++`: from values drawn by their squared distance (Arthur and
    Vassilvitskii 2007), with `seed`. A centroid without members goes where the squared error
    is large. No values: zeros.
    """
    if not len(values):
        return np.zeros(clusters)
    ordered = np.sort(values.astype(np.float64))
    if initialization == "linear":
        centroids = np.linspace(ordered[0], ordered[-1], clusters) if clusters > 1 else ordered.mean(keepdims=True)
    else:
        centroids = _drawn(ordered, clusters, seed)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(MOST_ITERATIONS):
        moved = _means(ordered, sums, centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids


def assign(values: Floats, centroids: Floats) -> NDArray[np.uint8]:
    """Index (N,) of the nearest of the ascending `centroids`; halfway between two, the lower one."""
    midpoints = (centroids[1:] + centroids[:-1]) / 2
    return np.searchsorted(midpoints, values, side="left").astype(np.uint8)


def updated(values: Floats, centroids: Floats) -> Floats:
    """Centroids after one iteration."""
    ordered = np.sort(values.astype(np.float64))
    return _means(ordered, np.concatenate([[0.0], np.cumsum(ordered)]), np.sort(centroids))


def _means(ordered: Floats, sums: Floats, centroids: Floats) -> Floats:
    """The mean of each centroid's members; `sums[i]` is the sum of the first i values."""
    midpoints = (centroids[1:] + centroids[:-1]) / 2
    ends = np.concatenate([[0], np.searchsorted(ordered, midpoints, side="right"), [len(ordered)]])
    counts = np.diff(ends)
    means: Floats = np.diff(sums[ends]) / np.maximum(counts, 1)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        means[empty] = np.resize(_within_the_widest(ordered, ends, counts), len(empty))
    return np.sort(means)


def _within_the_widest(ordered: Floats, ends: NDArray[np.int64], counts: NDArray[np.int64]) -> Floats:
    """A value from the upper half of each cluster, first of those that spread over most and have most members."""
    full = counts > 0
    spread = (ordered[ends[1:][full] - 1] - ordered[ends[:-1][full]]) ** 2 * counts[full]
    values: Floats = ordered[(ends[:-1] + (3 * counts) // 4)[full]]
    return values[np.argsort(-spread, kind="stable")]


def _drawn(ordered: Floats, clusters: int, seed: int) -> Floats:
    """k-means++ seeds, ascending."""
    rng = np.random.default_rng(seed)
    some = ordered[np.linspace(0, len(ordered) - 1, min(len(ordered), SEEDED_FROM)).astype(np.int64)]
    chosen = [rng.choice(some)]
    distances = (some - chosen[0]) ** 2
    while len(chosen) < clusters:
        total = distances.sum()
        chosen.append(rng.choice(some, p=distances / total) if total > 0 else chosen[0])
        distances = np.minimum(distances, (some - chosen[-1]) ** 2)
    return np.sort(np.asarray(chosen))
