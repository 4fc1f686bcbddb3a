import numpy as np
import pytest

from flwr_byz.theory import estimate_statistics

ONES = np.ones((2, 2, 3))
APART = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])


def test_the_statistics_of_a_quadratic_are_found_along_its_axes():
    parameters = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 3.0]])
    offsets = np.array([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
    gradients = (parameters * [2.0, 5.0])[:, None, :] + offsets
    found = estimate_statistics(parameters, gradients, samples_per_gradient=9)
    sigma = 3 * np.sqrt(4 / 3)  # offsets of ±1, n − 1 = 3
    assert (found.L, found.M, found.sigma, found.growth) == pytest.approx((2, 5, sigma, 0))


def test_the_growth_is_the_fastest_that_shows():
    """Two samples at ±1 of the mean in 0 and 1, at ±3 in 2: differences of 0, ±2 and ±2."""
    parameters = np.array([[0.0], [1.0], [2.0]])
    scatter = np.array([[[1.0], [-1.0]], [[1.0], [-1.0]], [[3.0], [-3.0]]])
    gradients = parameters[:, None, :] + scatter
    found = estimate_statistics(parameters, gradients, samples_per_gradient=4)
    assert found.growth == pytest.approx(4 * np.sqrt(2))  # over a distance of 1, n − 1 = 1
    assert found.sigma == pytest.approx(2 * np.sqrt(2))  # at 0, where the mean gradient is 0


@pytest.mark.parametrize(
    ("parameters", "gradients", "message"),
    [
        (np.zeros(3), np.zeros((3, 2, 1)), "parameters must have shape"),
        (np.zeros((1, 3)), np.zeros((1, 2, 3)), "parameters must have shape"),
        (APART, np.zeros((2, 2, 4)), "gradients must have shape"),
        (APART, np.zeros((2, 1, 3)), "gradients must have shape"),
        (np.zeros((2, 3)), ONES, "equal"),
        (np.full((2, 3), np.nan), ONES, "finite"),
        (APART, np.nan * ONES, "finite"),
        (APART, -APART[:, None] * ONES, "strongly convex"),
    ],
)
def test_gradients_without_statistics_are_refused(parameters, gradients, message):
    with pytest.raises(ValueError, match=message):
        estimate_statistics(parameters, gradients)
