import numpy as np
import pytest

from flwr_byz.theory import Statistics, estimate_statistics


def test_the_statistics_of_a_quadratic_are_found_along_its_axes():
    curvatures = np.array([2.0, 5.0])
    parameters = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 3.0]])
    offsets = np.array([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
    gradients = (parameters * curvatures)[:, None, :] + offsets
    found = estimate_statistics(parameters, gradients, samples_per_gradient=9)
    assert pytest.approx(2.0) == found.L
    assert pytest.approx(5.0) == found.M
    assert found.sigma == pytest.approx(3 * np.sqrt(4 / 3))  # offsets of ±1, n − 1 = 3
    assert found.growth == pytest.approx(0.0)


def test_the_growth_is_the_fastest_that_shows():
    """Two samples at ±1 of the mean in 0 and 1, at ±3 in 2: differences of 0, ±2 and ±2."""
    parameters = np.array([[0.0], [1.0], [2.0]])
    gradients = parameters[:, None, :] + np.array(
        [[[1.0], [-1.0]], [[1.0], [-1.0]], [[3.0], [-3.0]]]
    )
    found = estimate_statistics(parameters, gradients)
    assert found.growth == pytest.approx(2 * np.sqrt(2))  # over a distance of 1, n − 1 = 1
    assert found.sigma == pytest.approx(np.sqrt(2))  # at 0, where the mean gradient is 0


def test_the_statistics_of_linear_regression_are_found_in_clients_gradients():
    rng = np.random.default_rng(0)
    clients, samples, dim = 400, 50, 10
    features = rng.normal(size=(clients, samples, dim))
    noise = rng.normal(size=(clients, samples))
    from_optimum = [0.01 * rng.normal(size=dim), rng.normal(size=dim), 2 * rng.normal(size=dim)]
    gradients = [
        np.einsum("cni,cn->ci", features, features @ u - noise) / samples for u in from_optimum
    ]
    found = estimate_statistics(from_optimum, gradients, samples_per_gradient=samples)
    assert pytest.approx(1.0, abs=0.05) == found.L
    assert pytest.approx(1.0, abs=0.05) == found.M
    assert found.sigma == pytest.approx(1.0, abs=0.05)
    assert found.growth == pytest.approx(1.0, abs=0.1)
    assert found.L <= found.M


def test_a_problem_that_is_not_convex_has_no_statistics():
    parameters = np.array([[0.0], [1.0]])
    with pytest.raises(ValueError, match="strongly convex"):
        estimate_statistics(parameters, -parameters[:, None, :] * np.ones((2, 3, 1)))


@pytest.mark.parametrize(
    ("parameters", "gradients", "message"),
    [
        (np.zeros(3), np.zeros((3, 2, 1)), "parameters must have shape"),
        (np.zeros((1, 3)), np.zeros((1, 2, 3)), "parameters must have shape"),
        (np.zeros((2, 3)), np.zeros((2, 2, 4)), "gradients must have shape"),
        (np.zeros((2, 3)), np.zeros((2, 1, 3)), "gradients must have shape"),
        (np.zeros((2, 3)), np.ones((2, 2, 3)), "equal"),
        (np.full((2, 3), np.nan), np.ones((2, 2, 3)), "finite"),
    ],
)
def test_gradients_of_another_shape_are_refused(parameters, gradients, message):
    with pytest.raises(ValueError, match=message):
        estimate_statistics(parameters, gradients)


@pytest.mark.parametrize("wrong", [{"L": 2.0}, {"sigma": 0.0}, {"growth": -1.0}, {"M": np.inf}])
def test_statistics_that_no_problem_has_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Statistics(**wrong)
