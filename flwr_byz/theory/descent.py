"""Gradient descent with exact and with approximate gradients (the paper's section 3.1).

F is L-strongly convex and its gradient M-Lipschitz (Assumption 1), which implies 0 < L ≤ M.
"""

from math import sqrt

from .conditions import require_above, require_at_most, require_nonnegative, require_positive


def _check_curvature(L: float, M: float) -> None:
    require_positive(L=L, M=M)
    require_at_most("L ≤ M", L, M, "no function is more strongly convex than smooth")


def step_size(L: float, M: float) -> float:
    """Return η = L/(2M²), the step of Theorem 1.

    Raises
    ------
    ValueError
        Unless 0 < L ≤ M; so do all functions here.
    """
    _check_curvature(L, M)
    return L / (2 * M**2)


def population_contraction(L: float, M: float) -> float:
    """Return √(1 − L²/(4M²)), by which a step along the true gradient contracts (14), Lemma 3.

    See `sharp_population_contraction` for what the same proof can give.
    """
    _check_curvature(L, M)
    return sqrt(1 - L**2 / (4 * M**2))


def sharp_population_contraction(L: float, M: float) -> float:
    """Return √(1 − 3L²/(4M²)), a smaller factor that also bounds a step along the true gradient.

    Not in the paper. Its appendix B uses convexity in one of two inequalities where strong
    convexity holds too; with both, ‖θ′ − θ*‖² ≤ (1 + η²M² − 2ηL)‖θ − θ*‖², which is this. For
    L = M it is 1/2, which linear regression attains.
    """
    _check_curvature(L, M)
    return sqrt(1 - 3 * L**2 / (4 * M**2))


def contraction(L: float, M: float) -> float:
    """Return 1/2 + 1/2·√(1 − L²/(4M²)), the factor of Theorems 1 and 5 (9)."""
    return (1 + population_contraction(L, M)) / 2


def rho(L: float, M: float, xi_2: float) -> float:
    """Return ρ = 1 − √(1 − L²/(4M²)) − ξ2·L/(2M²) of Lemma 4; 1 − ρ is the factor of a round.

    Parameters
    ----------
    L, M : float
    xi_2 : float
        ξ2 ≥ 0: how fast the error of the gradient grows with ‖θ − θ*‖ (15).

    Raises
    ------
    ConditionFails
        Where ρ ≤ 0: nothing is promised then.
    """
    require_nonnegative(xi_2=xi_2)
    value = 1 - population_contraction(L, M) - xi_2 * step_size(L, M)
    largest = largest_xi_2(L, M)
    require_above("ρ > 0", value, 0.0, f"ξ2 is {xi_2:.4g} and must be below {largest:.4g}")
    return value


def largest_xi_2(L: float, M: float) -> float:
    """Return the ξ2 at which ρ is 0, so below which Lemma 4 holds."""
    return (1 - population_contraction(L, M)) / step_size(L, M)


def error_floor(L: float, M: float, *, xi_1: float, xi_2: float) -> float:
    """Return ηξ1/ρ, what is left of the bound (17) after many rounds.

    Raises
    ------
    ConditionFails
        Where ρ ≤ 0.
    """
    require_nonnegative(xi_1=xi_1)
    return step_size(L, M) * xi_1 / rho(L, M, xi_2)


def error_bound(
    rounds: int, distance: float, *, L: float, M: float, xi_1: float, xi_2: float
) -> float:
    """Return (1 − ρ)^t·‖θ0 − θ*‖ + ηξ1/ρ, the bound on ‖θt − θ*‖ of Theorem 2 (17).

    It holds where each round's aggregate is within ξ2·‖θ − θ*‖ + ξ1 of the true gradient. (The
    proof of Lemma 4 prints ‖·‖2 for ‖·‖ once.)

    Parameters
    ----------
    rounds : int
        t ≥ 0.
    distance : float
        ‖θ0 − θ*‖ ≥ 0.
    L, M : float
    xi_1, xi_2 : float
        The precision (15).

    Raises
    ------
    ConditionFails
        Where ρ ≤ 0.
    """
    require_nonnegative(rounds=rounds, distance=distance)
    floor = error_floor(L, M, xi_1=xi_1, xi_2=xi_2)
    return float((1 - rho(L, M, xi_2)) ** rounds * distance + floor)
