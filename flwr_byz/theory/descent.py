"""Gradient descent with exact and with approximate gradients (the paper's section 3.1).

F is L-strongly convex and its gradient M-Lipschitz (Assumption 1). Each round's aggregate is within
ξ2·‖θ − θ*‖ + ξ1 of the true gradient (15). All functions raise ValueError unless 0 < L ≤ M and
ξ1, ξ2 ≥ 0.
"""

from math import sqrt

from .conditions import require, require_curvature, require_nonnegative, require_positive


def step_size(L: float, M: float) -> float:
    """Return η = L/(2M²), the step of Theorem 1."""
    require_curvature(L, M)
    return L / (2 * M**2)


def population_contraction(L: float, M: float) -> float:
    """Return √(1 − L²/(4M²)), the contraction of a step along the true gradient (14), Lemma 3."""
    require_curvature(L, M)
    return sqrt(1 - L**2 / (4 * M**2))


def contraction(L: float, M: float) -> float:
    """Return 1/2 + 1/2·√(1 − L²/(4M²)), the factor of Theorems 1 and 5 (9)."""
    return (1 + population_contraction(L, M)) / 2


def rho(L: float, M: float, xi_2: float) -> float:
    """Return ρ = 1 − √(1 − L²/(4M²)) − ξ2·L/(2M²) of Lemma 4; 1 − ρ is the factor of a round.

    Raises ConditionFails where ρ ≤ 0: the lemma guarantees nothing then.
    """
    require_nonnegative(xi_2=xi_2)
    value = 1 - population_contraction(L, M) - xi_2 * step_size(L, M)
    hint = f"ξ2 is {xi_2:.4g} and must be below {largest_xi_2(L, M):.4g}"
    require(value > 0, "ρ > 0", value, 0.0, hint)
    return value


def largest_xi_2(L: float, M: float) -> float:
    """Return the ξ2 at which ρ is 0; Lemma 4 holds below it."""
    return (1 - population_contraction(L, M)) / step_size(L, M)


def error_floor(L: float, M: float, *, xi_1: float, xi_2: float) -> float:
    """Return ηξ1/ρ, the limit of the bound (17) after many rounds; ConditionFails where ρ ≤ 0."""
    require_nonnegative(xi_1=xi_1)
    return step_size(L, M) * xi_1 / rho(L, M, xi_2)


def error_bound(
    rounds: int, distance: float, *, L: float, M: float, xi_1: float, xi_2: float
) -> float:
    """Return (1 − ρ)^t·‖θ0 − θ*‖ + ηξ1/ρ, the bound on ‖θt − θ*‖ of Theorem 2 (17).

    t = `rounds` ≥ 0, and `distance` is ‖θ0 − θ*‖ ≥ 0. Raises ConditionFails where ρ ≤ 0.
    """
    require_nonnegative(rounds=rounds, distance=distance)
    floor = error_floor(L, M, xi_1=xi_1, xi_2=xi_2)
    return float((1 - rho(L, M, xi_2)) ** rounds * distance + floor)


def longest_step(L: float, M: float) -> float:
    """Return 2/(L + M), the step whose contraction `step_contraction` is least."""
    require_curvature(L, M)
    return 2 / (L + M)


def step_contraction(step: float, L: float, M: float) -> float:
    """Return max(1 − ηL, ηM − 1), the contraction of a step η along the true gradient.

    It is less than 1 for η < 2/M, and no smaller factor holds for all F: a quadratic with the
    curvatures L and M attains it (B. Polyak, "Introduction to Optimization", 1987, section 1.4).
    """
    require_curvature(L, M)
    require_positive(step=step)
    return max(1 - step * L, step * M - 1)


def sharp_contraction(step: float, L: float, M: float, xi_2: float) -> float:
    """Return max(1 − ηL, ηM − 1) + ηξ2, the factor of a round; ConditionFails unless below 1.

    For η ≤ 2/(L + M) it is 1 − η(L − ξ2): below 1 exactly where ξ2 < L.
    """
    require_nonnegative(xi_2=xi_2)
    factor = step_contraction(step, L, M) + step * xi_2
    require(factor < 1, "max(1 − ηL, ηM − 1) + ηξ2 < 1", factor, 1.0)
    return factor


def sharp_error_floor(step: float, L: float, M: float, *, xi_1: float, xi_2: float) -> float:
    """Return ηξ1/(1 − factor), the error that may remain; factor is `sharp_contraction`.

    For η ≤ 2/(L + M) it is ξ1/(L − ξ2), whatever the step.
    """
    require_nonnegative(xi_1=xi_1)
    return step * xi_1 / (1 - sharp_contraction(step, L, M, xi_2))
