"""How far batch means stray from the true gradient (the paper's section 3.2), and their median.

n > 0 is the number of samples of a batch, N/k, d the dimension, and δ in (0, 1) a probability. The
fraction of points that are arbitrary is α; ValueError is raised unless 0 ≤ α < 1/2.
"""

from math import log, sqrt

from ..aggregation.bounds import c_alpha as c_alpha
from ..aggregation.bounds import certified_c_alpha as certified_c_alpha
from ..aggregation.bounds import sharp_c_alpha as sharp_c_alpha
from .conditions import require, require_nonnegative, require_positive, require_sample


def median_radius(
    alpha: float, radius: float, *, gamma: float = 0.0, largest: float = 0.0
) -> float:
    """Return C_α·r + γ·max‖z_i‖/(1 − 2α), how far a (1+γ)-approximate geometric median can be.

    All distances and norms are taken from one point x, as in Lemma 1: r, the `radius`, is the
    largest distance of the other points, and max‖z_i‖, `largest`, is over all points, the arbitrary
    ones included. It is needed where γ > 0; trimming by norm bounds it (Remark 2).
    """
    require_nonnegative(radius=radius, gamma=gamma, largest=largest)
    if gamma > 0 and largest < radius:
        raise ValueError(f"largest must be at least radius = {radius}, got {largest}")
    return c_alpha(alpha) * radius + gamma * largest / (1 - 2 * alpha)


def delta_1(n: float, d: int, delta: float, sigma: float) -> float:
    """Return Δ1 = √2·σ·√((d log 6 + log(3/δ))/n): (22) with σ1, and Δ1′ (25) with σ2.

    A batch mean of gradients at θ* strays by more than 2Δ1 with probability at most δ/3 (Lemma 6),
    where Δ1 ≤ σ1²/α1; see `check_delta`. σ1 and σ2 are those of Assumptions 2 and 3.
    """
    require_sample(n, d, delta)
    require_positive(sigma=sigma)
    return sqrt(2) * sigma * sqrt((d * log(6) + log(3 / delta)) / n)


def delta_2(
    n: float,
    d: int,
    delta: float,
    *,
    sigma_1: float,
    sigma_2: float,
    alpha_2: float,
    M: float,
    M_prime: float,
    r: float,
) -> float:
    """Return Δ2 = σ2·√(2/n)·√(d log(18(M∨M′)/σ2) + d/2·log(n/d) + log(6σ2²r√n/(α2σ1δ))) (26).

    The constants are those of `Constants`; the parameters stay within r√d of θ*. The proof takes
    ℓ* = 2σ2²r√n/(α2σ1), a number of shells, to be an integer; otherwise take the next larger r that
    makes it one. Raises ConditionFails where 3(M∨M′)√(n/d) < σ2: the covers of the proof would be
    coarser than the sets they cover.
    """
    require_sample(n, d, delta)
    require_positive(sigma_1=sigma_1, sigma_2=sigma_2, alpha_2=alpha_2, M=M, M_prime=M_prime, r=r)
    largest = max(M, M_prime)
    limit = 3 * largest * sqrt(n / d)
    require(sigma_2 <= limit, "σ2 ≤ 3(M∨M′)√(n/d)", sigma_2, limit)
    exponent = d * log(18 * largest / sigma_2) + d / 2 * log(n / d)
    exponent += log(6 * sigma_2**2 * r * sqrt(n) / (alpha_2 * sigma_1 * delta))
    require(exponent > 0, "r large enough that (26) has a root", exponent, 0.0)
    return sigma_2 * sqrt(2 / n) * sqrt(exponent)


def check_delta(name: str, value: float, sigma: float, alpha: float) -> None:
    """Raise ConditionFails unless Δ ≤ σ²/α, the condition of Lemmas 6 and 7 and Proposition 1.

    `name` is "1" or "2", `value` Δ1 or Δ2, and σ and α are its sub-exponential parameters.
    """
    condition, limit = f"Δ{name} ≤ σ{name}²/α{name}", sigma**2 / alpha
    require(value <= limit, condition, value, limit, "more samples in a batch help")


def xi_1(alpha: float, delta_1: float) -> float:
    """Return ξ1 = 4C_α·Δ1(N/k) of Theorem 3."""
    require_positive(delta_1=delta_1)
    return 4 * c_alpha(alpha) * delta_1


def xi_2(alpha: float, delta_2: float) -> float:
    """Return ξ2 = 8C_α·Δ2(N/k) of Theorem 3."""
    require_positive(delta_2=delta_2)
    return 8 * c_alpha(alpha) * delta_2
