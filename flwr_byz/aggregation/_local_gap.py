"""How near to optimal a combination is, from inner products known with an error."""

import numpy as np
from numpy.typing import NDArray

_SMALL = 0.01  # relative errors beyond it are too large for the bounds below


def local_gap(
    offset_products: NDArray[np.float64],
    distances: NDArray[np.float64],
    mass: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    errors: NDArray[np.float64],
    product_errors: NDArray[np.float64],
    moved: float,
) -> float:
    """Bound the gap of a point near y = Σ w_i z_i by the strong convexity of the objective there.

    Let f(x) = Σ a_i‖z_i − x‖, d_i = ‖z_i − y‖ and u_i = (z_i − y)/d_i. As Σ w_i(z_i − y) = 0, the
    gradient at y is Σ a_i u_i (w_i d_i/(a_i t) − 1) for any t, so its norm r is small where w_i is
    nearly proportional to a_i/d_i, and a relative error ε_i of d_i adds at most a_i ε_i to it. The
    Hessian at y is Σ (a_i/d_i)(I − u_i u_iᵀ); where it stays above μI in the ball of radius 2r/μ
    about y, the minimiser lies in that ball and f(y) − min f ≤ r²/(2μ). An error of the
    distances therefore enters squared: inner products in float32 can certify a gap of 1e-9.

    Parameters
    ----------
    offset_products : ndarray (n, n)
        ⟨z_i − y, z_j − y⟩, off by at most √(e_i e_j)·d_i·d_j, e_i the `product_errors`.
    distances : ndarray (n,)
        d_i, positive.
    mass, weights : ndarray (n,)
        a and w; each sums to one.
    errors : ndarray (n,)
        Bounds on the relative errors of the distances.
    product_errors : ndarray (n,)
    moved : float
        How far from y the point may be that is returned.

    Returns
    -------
    float
        g with f(point) ≤ (1 + g)·min f; infinity where no bound is found, as where the minimiser
        is one of the points, or where points lie on a line.
    """
    shortest = float(distances.min())
    largest_error = float(max(errors.max(), product_errors.max()))
    if largest_error > _SMALL or moved > _SMALL * shortest:
        return float("inf")
    ratios = weights * distances / mass
    ratios /= mass @ ratios
    gradient = float(mass @ (np.abs(ratios - 1.0) + ratios * errors))

    pulls = mass / distances
    pull = float(pulls.sum())
    root = np.sqrt(pulls / pull) / distances
    concentration = float(np.linalg.eigvalsh(offset_products * root * root[:, None])[-1])
    spread = 1.0 - concentration - float((pulls / pull) @ (product_errors + 2 * errors))
    # In a ball that is a share ρ of the shortest distance, no a_i/d_i shrinks by more than 1 + ρ
    # and no direction turns by more than 2ρ.
    curvature = 0.9 * pull * spread
    if curvature <= 0.0:
        return float("inf")
    ball = 2 * gradient / curvature / shortest
    if ball > _SMALL or 5 * ball + largest_error > 0.05 * spread:
        return float("inf")
    excess = gradient**2 / (2 * curvature) + gradient * moved + 0.55 * pull * moved**2
    optimum = float(mass @ distances) * (1.0 - float(errors.max())) - excess
    return excess / optimum if optimum > 0.0 else float("inf")


def ratio_gap(
    distances: NDArray[np.float64], mass: NDArray[np.float64], weights: NDArray[np.float64]
) -> float:
    """Bound the gap of y = Σ w_i z_i from its distances to the points alone.

    The vectors w_i(z_i − y)/(a_i s) with s = max w_i d_i/a_i sum to zero under the masses and are
    no longer than one, so that Σ w_i d_i²/s is a lower bound on the optimum (weak duality).

    Returns
    -------
    float
        g with f(y) ≤ (1 + g)·min f; infinity where y is one of the points.
    """
    lower_bound = float(weights @ np.square(distances))
    longest = float((weights * distances / mass).max())
    if not lower_bound > 0.0:
        return float("inf")
    return max(float(mass @ distances) * longest / lower_bound - 1.0, 0.0)
