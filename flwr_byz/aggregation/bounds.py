"""How far Byzantine rows can lead the result of a rule, whatever they are.

α is the fraction of rows that are arbitrary; ValueError is raised unless 0 ≤ α < 1/2.
"""

from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from ..checks import check_number


def c_alpha(alpha: float) -> float:
    """Return C_α = 2(1 − α)/(1 − 2α), equation (7).

    Where a fraction 1 − α of points or more lies within r of some point x, their geometric median
    lies within C_α·r of x, whatever the other points are (Lemma 1).
    """
    check_number("alpha", alpha, least=0, below=0.5)
    return 2 * (1 - alpha) / (1 - 2 * alpha)


def sharp_c_alpha(alpha: float) -> float:
    """Return (1 − α)/√(1 − 2α), the smallest factor that can replace C_α in a Hilbert space.

    It is at most half of the paper's `c_alpha`: S. Minsker, "Geometric median and robust estimation
    in Banach spaces", Bernoulli 21 (2015), Lemma 2.1.
    """
    check_number("alpha", alpha, least=0, below=0.5)
    return (1 - alpha) / sqrt(1 - 2 * alpha)


def certified_c_alpha(alpha: float, residual: float) -> float:
    """Return (1 − α)/√((1 − 2α − γ)(1 + γ)): the factor for a point of certified residual γ.

    Let a fraction 1 − α of points or more lie within r of x, and the mean of the unit vectors from
    a point y to all points be γ long at most. Then y lies within this factor times r of x, whatever
    the other points are and however far: if it is s > r away, each of the near points' unit vectors
    has a part of at least √(1 − r²/s²) along x − y, and together at most α + γ of it is balanced.
    For γ = 0 it is `sharp_c_alpha`. No norm has to be bounded, as it has to in Lemma 1.

    Raises ValueError unless 0 ≤ α < 1/2 and 0 ≤ γ < 1 − 2α.
    """
    check_number("alpha", alpha, least=0, below=0.5)
    check_number("residual", residual, least=0, below=1 - 2 * alpha)
    return (1 - alpha) / sqrt((1 - 2 * alpha - residual) * (1 + residual))


def mixed_kappa(kappa: float, num_rows: int, num_byzantine: int) -> float:
    """Return 8q/(k − q)·(1 + κ): of a rule with κ, after nearest-neighbour mixing.

    Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan 2023, "Fixing by Mixing". κ is
    of the rows before mixing, 0 ≤ q < k/2 of which are Byzantine.
    """
    return 8 * num_byzantine / (num_rows - num_byzantine) * (1 + kappa)


def filter_factor(num_rows: int, num_byzantine: int) -> float:
    """Return how many σ a `SpectralFilter` can be off the mean of any k − q rows, q < k/2.

    √(q/a)·(1 + max(√(2k(k − q))/a, (1 + 2√2)·√(2(k − q)/a))) with a = k − 2q and σ² the largest
    eigenvalue of those rows' covariance: of order √(q/k), without a factor of the dimension.

    Notes
    -----
    Let H be those rows, r_H and r_B what has been cut of them and of the others. *Progress*: while
    r_H ≤ r_B and λ > 2(k − q)σ²/a, a step cuts at most as much of H as of the others. (Along the
    eigenvector, with β the others' share of the weight W, H has at most (1 − β)(k − q)σ² + βWλ of
    the sum Wλ of weighted squares, and W(1 − 2β) ≥ a.) So less than 2q is cut before λ_g ≤
    2(k − q)σ²/a at some state g, at which and before which the factor of `resilience_factor` is at
    most √(q/a) for H, if not for all other k − q rows.
    *Choice*: the weights chosen, at c, have λ_c/W_c ≤ λ_g/W_g. If c is not after g, λ_c ≤
    2k(k − q)σ²/a². If it is after g, its weights are below those at g, so that the two have at
    least W_c/W_g in common, λ_c ≤ λ_g, and their means differ by at most 2√λ_g·√(2q/a). The
    argument takes λ as exact; of more than 64 rows the filter finds it approximately.
    """
    k, q, a = num_rows, num_byzantine, num_rows - 2 * num_byzantine
    before = sqrt(2 * k * (k - q)) / a
    after = (1 + 2 * sqrt(2)) * sqrt(2 * (k - q) / a)
    return sqrt(q / a) * (1 + max(before, after))


def resilience_factor(weights: NDArray[np.float64], num_byzantine: int) -> float:
    """Return √(δ/(1 − δ)), where δ is the most mass by which weights differ from an honest mean.

    Let h be equal weights on any k − q of the k rows, and 1 − δ the sum of min(wᵢ, hᵢ). Then the
    two weighted means differ by at most √(δ/(1 − δ))·(√λ + σ), with λ and σ² the largest
    eigenvalues of the two weighted covariances. For w = (1 − δ)m + δr with m the common part, along
    every unit vector the variance of w is at least δ/(1 − δ) times the square of the distance from
    its mean to that of m: that is at most √(λδ/(1 − δ)), and the same holds for h. δ is taken for
    the k − q rows for which it is largest. Infinity where they may have nothing in common.

    `weights` (k,) are nonnegative and sum to one; 0 ≤ q < k. The argument is that of robust
    statistics by resilience (Steinhardt, Charikar, Valiant 2018).
    """
    num_honest = len(weights) - num_byzantine
    common = float(np.sort(np.minimum(weights, 1 / num_honest))[:num_honest].sum())
    common = min(common, 1.0)
    return sqrt((1 - common) / common) if common > 0.0 else inf
