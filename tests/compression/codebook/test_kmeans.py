"""k-means on numbers against scikit-learn and brute force."""

import itertools

import numpy as np
import pytest
from sklearn.cluster import KMeans

from pocketpipe.compression.codebook.kmeans import assign, kmeans


def inertia(values: np.ndarray, centroids: np.ndarray) -> float:
    return float(((values[:, None] - centroids) ** 2).min(axis=1).sum())


@pytest.mark.parametrize("clusters", [2, 4, 16])
def test_it_ends_where_scikit_learn_ends(clusters: int) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, size=3000)  # no centroid is ever without members
    start = np.linspace(values.min(), values.max(), clusters).reshape(-1, 1)
    reference = KMeans(clusters, init=start, n_init=1, max_iter=1000, tol=0, algorithm="lloyd").fit(values[:, None])
    centroids = kmeans(values, clusters)
    assert np.allclose(centroids, np.sort(reference.cluster_centers_[:, 0]), atol=1e-6)
    assert inertia(values, centroids) == pytest.approx(reference.inertia_)


def test_centroids_without_members_move_as_usefully_as_scikit_learns() -> None:
    values = np.random.default_rng(1).laplace(size=3000)
    start = np.linspace(values.min(), values.max(), 32).reshape(-1, 1)
    reference = KMeans(32, init=start, n_init=1, max_iter=1000, tol=0, algorithm="lloyd").fit(values[:, None])
    centroids = kmeans(values, 32)
    assert len(np.unique(assign(values, centroids))) == 32
    assert inertia(values, centroids) < 1.1 * reference.inertia_


def test_seeds_drawn_by_distance_are_as_good_as_scikit_learns() -> None:
    values = np.random.default_rng(1).laplace(size=4000)
    ours = [inertia(values, kmeans(values, 16, "k-means++", seed)) for seed in range(5)]
    reference = KMeans(16, init="k-means++", n_init=5, random_state=0).fit(values[:, None]).inertia_
    assert min(ours) < 1.05 * reference
    assert len(set(ours)) > 1


def test_of_a_few_numbers_the_best_partition_is_a_fixed_point() -> None:
    """In one dimension the best clusters are intervals: all of them are tried."""
    values = np.array([-9.0, -8.5, -1.0, -0.5, 0.0, 3.0, 3.2, 7.0])
    cuts = itertools.combinations(range(1, len(values)), 2)
    best = min(
        (sum(((part - part.mean()) ** 2).sum() for part in np.split(values, cut)), cut) for cut in map(list, cuts)
    )
    found = min(inertia(values, kmeans(values, 3, "k-means++", seed)) for seed in range(8))
    assert found == pytest.approx(best[0])


def test_each_value_gets_its_nearest_centroid() -> None:
    rng = np.random.default_rng(2)
    values, centroids = rng.normal(size=500), np.sort(rng.normal(size=9))
    assert np.array_equal(assign(values, centroids), np.abs(values[:, None] - centroids).argmin(axis=1))


@pytest.mark.parametrize("initialization", ["linear", "k-means++"])
@pytest.mark.parametrize("values", [[], [2.0], [1.0, 1.0, 1.0], [0.0, 1.0]])
def test_fewer_values_than_centroids(values: list[float], initialization: str) -> None:
    centroids = kmeans(np.array(values), 8, initialization)  # type: ignore[arg-type]
    assert centroids.shape == (8,)
    assert np.isfinite(centroids).all()
    assert inertia(np.array(values), centroids) == 0


def test_the_same_seed_gives_the_same_centroids() -> None:
    values = np.random.default_rng(3).normal(size=1000)
    assert np.array_equal(kmeans(values, 8, "k-means++", 4), kmeans(values, 8, "k-means++", 4))
