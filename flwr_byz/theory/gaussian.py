"""How far a batch strays from the true gradient of linear regression with Gaussian data.

There the gradient is affine in θ: a batch of n samples strays by (Ĥ − H)(θ − θ*) − ĝ, with Ĥ the
batch's Hessian and ĝ its gradient's deviation at θ*. So ‖ĝ‖ and ‖Ĥ − H‖ bound the deviation for all
θ at once, and no ε-net is needed, as the paper's Lemma 7 takes one. w ~ N(0, I) and ζ ~ N(0, σ²);
for w ~ N(0, H) with ‖H‖ = M, ‖ĝ‖ grows by √M at most, and ‖Ĥ − H‖ by M.

n > 0 is the number of samples of a batch, d the dimension, δ in (0, 1) a probability.
"""

from math import exp, log, sqrt

from .conditions import require_positive, require_sample

_STEPS = 8
_SPLITS = (0.01, 0.03, 0.1, 0.3)  # of δ, between two ways to fail


def gradient_radius(n: float, d: int, delta: float, sigma: float = 1.0) -> float:
    """Return r such that ‖ĝ‖ > r has probability at most δ.

    ĝ = Σ ζ_i w_i/n is N(0, I)·‖ζ‖/n for given ζ, so ‖ĝ‖² = σ²·χ²_n·χ²_d/n². Each factor is bounded
    by Chernoff's inequality, P(χ²_d ≥ ud) ≤ (u·e^(1 − u))^(d/2) for u ≥ 1, with parts of δ chosen
    for the smallest r.
    """
    require_sample(n, d, delta)
    require_positive(sigma=sigma)
    squares = (_chi_square(n, s * delta) * _chi_square(d, (1 - s) * delta) for s in _SPLITS)
    return sigma * sqrt(min(squares) * d / n)


def hessian_radius(n: float, d: int, delta: float) -> float:
    """Return r such that ‖Ĥ − I‖ > r has probability at most δ, by Davidson and Szarek.

    The singular values of n × d independent N(0, 1) numbers lie in √n ± (√d + t), each side with
    probability 1 − e^(−t²/2) (K. Davidson and S. Szarek, "Local operator theory, random matrices
    and Banach spaces", 2001, Theorem II.13). t differs between the sides, so that both give r.
    """
    require_sample(n, d, delta)
    radii = (_largest_above(n, d, (1 - s) * delta) for s in _SPLITS)
    enough = (r for r, s in zip(radii, _SPLITS, strict=True) if _fails_below(n, d, r) <= s * delta)
    return next(enough, _largest_above(n, d, delta / 2))


def _largest_above(n: float, d: int, delta: float) -> float:
    """Return the r that the largest eigenvalue leaves with probability at most δ."""
    return (1 + (sqrt(d) + sqrt(-2 * log(delta))) / sqrt(n)) ** 2 - 1


def _fails_below(n: float, d: int, r: float) -> float:
    """Return a bound on the probability with which the least eigenvalue is below 1 − r."""
    if r >= 1:
        return 0.0
    t = (1 - sqrt(1 - r)) * sqrt(n) - sqrt(d)
    return exp(-t * t / 2) if t > 0 else 1.0


def _chi_square(d: float, delta: float) -> float:
    """Return u ≥ 1 with (u·e^(1 − u))^(d/2) ≤ δ: χ²_d exceeds ud with at most this probability.

    Newton's method on the convex u − 1 − log(u) from the right stays there.
    """
    needed = -2 * log(delta) / d
    u = 1 + sqrt(2 * needed) + needed
    for _ in range(_STEPS):
        u -= (u - 1 - log(u) - needed) / (1 - 1 / u)
    return u * (1 + 1e-12)
