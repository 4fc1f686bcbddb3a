"""The error that remains under the strongest attack: expected, not proved.

Around θ* the k batch means scatter about the gradient with a standard deviation of σ√(k/N) in each
coordinate: the unit here. The adversary takes the q batches whose means point most towards θ*, and
puts them far away on the other side. Where the model stands s units from θ* in a direction û, the
unit vectors of the k − q honest means that are left, with Gaussian scatter, add up along û to
k·(μ(s) + noise), and the model rests where this balances the q of the others:

    μ(s) = E[1{x ≤ c}·g],   g = (s + x)/√((s + x)² + χ²),   x ~ N(0, 1), χ² ~ χ²(d − 1),

with c the quantile of x at 1 − q/k. The noise along one direction has the variance v(s)/k of a
trimmed mean, v(s) = Var(1{x ≤ c}(g − E[g | x = c])). The adversary chooses the direction û, out of
d, in which the noise helps it most, so that s solves

    μ(s) − √((d − 1)·v(s)/k) = q/k.

Noise along û itself adds its variance v(s)/(k·μ′(s)²), and without an attack, where s is 0, that is
so in all d directions. In simulations of the limit (d from 1 to 50, k from 4 to 80, q/k up to 0.45)
the result is within 7 % of the error for d ≥ 3, within 10 % for d = 2 and 20 % for d = 1.

Skewed data add a bias. Where E[g‖g‖²] is not zero for a sample's centred gradient g, a median of
means of n = N/k samples is off their mean by b = ‖E[g‖g‖²]‖/(2nσ²(d + 2)) (to the first order in
1/n, by an Edgeworth expansion; in one dimension a sixth of the skewness over n). It is one more
part of the noise that the adversary uses: (d − 1)·v(s)/k + (μ′(s)·b)² takes the place of the first.

d, k and q are ``dim``, ``num_batches`` and ``num_byzantine``.
"""

from collections.abc import Callable
from functools import lru_cache
from math import hypot, inf, log, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from .conditions import require_honest_majority, require_positive

_ALONG, _ACROSS = 96, 24  # points of the integrals over x and over χ²
_HALVINGS = 40
_quantile = NormalDist().inv_cdf


@lru_cache(maxsize=4096)
def equilibrium(dim: int, num_batches: int, num_byzantine: int, bias: float = 0.0) -> float:
    """Return s, the root mean square distance from θ* in units of a batch mean's scatter.

    For q = 0 that of the geometric median without an attack. `bias` is b, in the same units. One or
    two batches are averaged. Raises ConditionFails where q/k ≥ 1/2.
    """
    require_positive(dim=dim)
    require_honest_majority(num_batches, num_byzantine)
    k, q = num_batches, num_byzantine
    if k <= 2:
        return sqrt(dim / k)
    balance = _balance(dim, q / k)

    def slope(s: float) -> float:
        width = 0.01 * max(s, 1.0)
        return (balance(s + width)[0] - balance(s - width)[0]) / (2 * width)

    def is_far_enough(s: float) -> bool:
        pull, variance = balance(s)
        return pull - hypot(sqrt((dim - 1) * variance / k), slope(s) * bias) >= q / k

    if q == 0:  # noise is noise in all directions, and the bias is where the model rests
        return hypot(bias, sqrt(dim * balance(0.0)[1] / k) / slope(0.0))
    s = _least(is_far_enough)
    return hypot(s, sqrt(balance(s)[1] / k) / slope(s))


def _least(is_far_enough: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    while not is_far_enough(high):
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_far_enough(middle) else (middle, high)
    return high


def _balance(dim: int, alpha: float) -> Callable[[float], tuple[float, float]]:
    """Return a function that maps s to μ(s) and v(s)."""
    kept = 1 - alpha
    if dim == 1:  # g is the sign of s + x
        below = NormalDist().cdf
        return lambda s: (kept - 2 * below(-s), 4 * below(-s) * below(s))
    along = np.array([_quantile(kept * (i + 0.5) / _ALONG) for i in range(_ALONG)])
    edge = _quantile(kept) if alpha else inf
    across = _chi_square(dim - 1)

    def balance(s: float) -> tuple[float, float]:
        left = _cosine(s + along[:, None], across)
        marginal = float(_cosine(s + edge, across).mean()) if alpha else 0.0
        influence = left - marginal
        mean = kept * float(influence.mean())
        return kept * float(left.mean()), kept * float((influence**2).mean()) - mean**2

    return balance


def _cosine(along: NDArray[np.float64] | float, across: NDArray[np.float64]) -> NDArray[np.float64]:
    return along / np.sqrt(np.square(along) + across)


def _chi_square(degrees: int) -> NDArray[np.float64]:
    """Return equally likely values of χ²: exact for one or two degrees of freedom."""
    shares = [(i + 0.5) / _ACROSS for i in range(_ACROSS)]
    if degrees == 1:
        return np.array([_quantile((1 + share) / 2) ** 2 for share in shares])
    if degrees == 2:
        return np.array([-2 * log(1 - share) for share in shares])
    return degrees * wilson_hilferty(degrees, np.array([_quantile(share) for share in shares]))


def wilson_hilferty(degrees: float, normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values of χ²/f of f degrees of freedom from those of a normal variable (1931)."""
    part = 2 / (9 * degrees)
    return np.maximum(1 - part + normal * sqrt(part), 0) ** 3
