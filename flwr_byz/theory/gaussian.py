"""How far a batch strays from the true gradient of linear regression with Gaussian data.

There the gradient is affine in θ: a batch of n samples strays by (Ĥ − H)(θ − θ*) − ĝ, with Ĥ the
batch's Hessian and ĝ its gradient's deviation at θ*. So ‖ĝ‖ and ‖Ĥ − H‖ bound the deviation for all
θ at once, and no ε-net is needed, as the paper's Lemma 7 takes one. w ~ N(0, I) and ζ ~ N(0, σ²);
for w ~ N(0, H) with ‖H‖ = M, ‖ĝ‖ grows by √M at most, and ‖Ĥ − H‖ by M.

n > 0 is the number of samples of a batch, d the dimension, δ in (0, 1) a probability.
"""

from collections.abc import Callable
from math import exp, log, sqrt

from .conditions import require_positive, require_sample

_HALVINGS = 100
_SPLITS = (0.01, 0.03, 0.1, 0.3)  # of δ, between the noise and the features


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

    def is_enough(r: float) -> bool:
        above = _tail((sqrt(1 + r) - 1) * sqrt(n) - sqrt(d))
        below = _tail((1 - sqrt(1 - r)) * sqrt(n) - sqrt(d)) if r < 1 else 0.0
        return above + below <= delta

    return _least(is_enough, 0.0)


def _tail(t: float) -> float:
    return exp(-t * t / 2) if t > 0 else 1.0


def _chi_square(d: float, delta: float) -> float:
    """Return u ≥ 1 with (u·e^(1 − u))^(d/2) ≤ δ: χ²_d exceeds ud with at most this probability."""
    return _least(lambda u: d / 2 * (u - 1 - log(u)) >= -log(delta), 1.0)


def _least(is_enough: Callable[[float], bool], start: float) -> float:
    """Return the least number from `start` on that is enough, rounded up, by bisection."""
    width = 1.0
    while not is_enough(start + width):
        width *= 2
    low, high = start, start + width
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
