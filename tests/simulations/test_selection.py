import numpy as np
import pytest

from simulations.selection import mean_of_random_subset, mean_of_smallest_norms

VECTORS = np.random.default_rng(0).normal(size=(12, 30))


def test_the_smallest_norms_are_averaged():
    vectors = np.diag([3.0, 1.0, 2.0, 1e300])
    assert np.allclose(mean_of_smallest_norms(vectors, 2), [0, 0.5, 1, 0])
    assert np.allclose(mean_of_smallest_norms(vectors, 3), [1, 1 / 3, 2 / 3, 0])


def test_a_random_subset_is_averaged_and_repeats_with_its_seed():
    draws = [mean_of_random_subset(VECTORS, 5, seed=s) for s in range(200)]
    assert np.array_equal(draws[3], mean_of_random_subset(VECTORS, 5, seed=3))
    assert np.allclose(np.mean(draws, axis=0), VECTORS.mean(axis=0), atol=0.15)
    assert np.allclose(mean_of_random_subset(VECTORS, 12, seed=0), VECTORS.mean(axis=0))


@pytest.mark.parametrize("size", [0, 13])
def test_a_subset_of_no_possible_size_is_refused(size):
    with pytest.raises(ValueError, match="num_selected"):
        mean_of_smallest_norms(VECTORS, size)
    with pytest.raises(ValueError, match="num_selected"):
        mean_of_random_subset(VECTORS, size, seed=0)
