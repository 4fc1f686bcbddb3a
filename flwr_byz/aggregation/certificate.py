"""Upper bounds on the gap of a point to the optimum, by strong convexity or by duality.

Points z_i with masses a_i that sum to one, f(x) = Σ a_i‖z_i − x‖. At x, d_i = ‖z_i − x‖ and
u_i = (z_i − x)/d_i; the sum Σ a_i u_i is the residual, minus the gradient of f. Arguments are a_i
as `mass` (k,), d_i > 0 as `distances` (k,), a bound on their relative errors as `distance_error`,
and a bound on ‖y − x‖ for a point y near x as `moved`.
"""

import numpy as np
from numpy.typing import NDArray

_BALL = 0.1  # of the shortest distance: radius of the ball that must hold the minimiser
_ROUNDING = 2.0**-43  # of sums in float64, in any order


def residual_bound(
    distances: NDArray[np.float64],
    mass: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    distance_error: float = 0.0,
    moved: float = 0.0,
) -> float:
    """Bound ‖Σ a_i u_i‖ at a point x near y = Σ w_i z_i, from distances alone.

    Since Σ w_i(z_i − x) = y − x, the residual is Σ (a_i/d_i − t·w_i)(z_i − x) + t(y − x) for any t,
    and so at most Σ |a_i − t·w_i·d_i| + t‖y − x‖ long. The `weights` w (k,) sum to one.
    """
    scale = float(weights @ distances)
    shares = weights * distances / scale
    return float(np.abs(mass - shares).sum()) + distance_error + moved / scale


def curvature_gap(
    offset_products: NDArray[np.float64],
    distances: NDArray[np.float64],
    mass: NDArray[np.float64],
    product_errors: NDArray[np.float64],
    residual: float,
    distance_error: float,
    moved: float,
) -> float:
    """Bound the gap of x by the strong convexity of f in a ball about it.

    For every s, ‖z_i − x − s‖ ≥ d_i − ⟨u_i, s⟩ + (‖s‖² − ⟨u_i, s⟩²)/(2(d_i + ‖s‖)). Let
    T = Σ a_i/d_i, λ the largest eigenvalue of Σ a_i/(T·d_i) u_i u_iᵀ, c = 1 − λ, and r the norm of
    the residual. Then f(x + s) ≥ f(x) − r‖s‖ + c·T‖s‖²/(2(1 + ‖s‖/min d)). On a sphere of radius
    2r(1 + ρ)/(c·T) that is at least f(x). Where the radius is at most ρ·min d, the minimiser is
    therefore inside, and f(x) − min f ≤ r²(1 + ρ)/(2c·T). An error of the distances enters squared:
    inner products in float32 can certify a gap of 1e-9.

    λ is at most the largest row sum of a_j/(T·d_j)·|⟨u_i, u_j⟩|. The `offset_products` (k, k) are
    ⟨z_i − y, z_j − y⟩, their errors at most e_i·e_j with e the `product_errors` (k,), and r at most
    `residual`.

    The result is g with f(x) − min f ≤ g·min(min f, 1/T): even if some points are very far off, 1/T
    is the distance of the near ones. It is infinity where no bound is found, for example where the
    minimiser is one of the points, or the points are collinear.
    """
    inverse_weights = mass / distances
    total = float(inverse_weights.sum())
    shares = inverse_weights / total
    relative = product_errors / distances
    cosine_sums = np.abs(offset_products) @ (shares / distances) / distances
    concentration = float((cosine_sums + relative * (relative @ shares)).max())
    turned = 4 * distance_error + 5 * moved * float((shares / distances).sum())
    curvature = 1.0 - concentration - turned - _ROUNDING
    if not curvature > 0.0:
        return float("inf")
    radius = 2 * residual * (1 + _BALL) / (curvature * total)
    excess = residual**2 * (1 + _BALL) / (2 * curvature)  # times 1/T
    if radius > _BALL * float(distances.min()) * (1 - distance_error) or excess > 0.5:
        return float("inf")
    return excess / (1 - excess) * (1 + 2 * distance_error) + _ROUNDING


def duality_gap(
    objective: float, reached: float, *, residual: float, excluded_objective: float = 0.0
) -> float:
    """Bound the gap of a point x near y by weak duality: return g with f(x) ≤ (1 + g)·min f.

    Take the unit vectors u_i from y, but for the points of an excluded set J (such as those that
    coincide with y) any vectors of norm at most one. Let r be their mean. Then (u_i − r)/(1 + ‖r‖)
    have mean zero and norm at most one, so that their products with z_i − y add up to a lower bound
    on the optimum, which is at least (f(y)(1 − ‖r‖) − 2·f_J)/(1 + ‖r‖). Where it is not positive, g
    is infinity. `objective` is f(y), `reached` f(x), `residual` a bound on ‖r‖, and
    `excluded_objective` f_J, the part of f(y) that belongs to J.
    """
    if reached <= 0.0:
        return 0.0
    lower_bound = (objective * (1.0 - residual) - 2 * excluded_objective) / (1.0 + residual)
    return max(reached / lower_bound - 1.0, 0.0) if lower_bound > 0.0 else float("inf")
