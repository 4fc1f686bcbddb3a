"""A bound on the error of Byzantine gradient descent with constants that are small.

It follows the paper's path, Lemma 2, Lemma 4 and Lemma 5, with a sharper step at each:

- the median strays by (1 − α)/√(1 − 2α) radii, not 2(1 − α)/(1 − 2α) (`sharp_c_alpha`), and an
  approximate one is bounded by its certified residual, so that nothing has to be trimmed
  (`certified_c_alpha`);
- a step contracts by max(1 − ηL, ηM − 1) (`sharp_contraction`);
- where gradients are affine in θ, two norms bound a batch for all θ at once (`Precision`), with no
  ε-net;
- δ is the largest with which at most j batches are bad by chance, with the confidence asked for
  (`largest_delta`), and j is chosen for the smallest error.

The bound holds for every set of q Byzantine clients, another one in each round, that know
everything, as the paper's does.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike

from ..checks import check_number
from .concentration import certified_c_alpha
from .conditions import ConditionFails, require, require_honest_majority, require_nonnegative
from .descent import sharp_contraction, sharp_error_floor, step_contraction
from .gaussian import gradient_radius, hessian_radius
from .probability import largest_delta
from .theorems import ErrorBound

Precision = Callable[[float], Iterable[tuple[float, float]]]
"""Maps δ to pairs (r1, r2), each such that a batch strays from the true gradient by at most
r1 + r2‖θ − θ*‖ at every θ, with probability 1 − δ."""

_FEW = 8
_CONTRACTS = "max(1 − ηL, ηM − 1) + ηξ2 < 1"
_SHARES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9)  # of δ, between r1 and r2


@dataclass(frozen=True, kw_only=True)
class Bound(ErrorBound):
    """‖θt − θ*‖ ≤ contraction^t·‖θ0 − θ*‖ + floor in every round t, with the confidence given.

    Attributes
    ----------
    contraction, floor : float
        The factor of a round, and the error that may remain.
    step_size, confidence, residual : float
        η, the probability of the bound, and the largest residual that a round's median may have.
    num_bad, delta, alpha : int, float, float
        j, how many honest batches may be bad by chance; δ, the probability of each; (q + j)/k.
    xi_1, xi_2 : float
        The aggregate strays from the true gradient by at most ξ1 + ξ2‖θ − θ*‖ (15).
    radius_1, radius_2 : float
        The same of a good batch: r1 and r2.
    """

    confidence: float
    residual: float
    num_bad: int
    delta: float
    alpha: float
    xi_1: float
    xi_2: float
    radius_1: float
    radius_2: float


def sharp_bound(
    *,
    num_batches: int,
    num_byzantine: int,
    confidence: float,
    precision: Precision,
    step_size: float,
    L: float = 1.0,
    M: float = 1.0,
    residual: float = 0.0,
) -> Bound:
    """Return the bound with the smallest floor over a few j and over the pairs of a precision.

    j is any number below 8, or one of up to eight others, evenly spaced by their logarithms.

    Parameters
    ----------
    num_batches, num_byzantine : int
        k and q, the most Byzantine clients in any one round.
    confidence : float
        In (0, 1).
    precision : callable
        Of one batch; see `Precision`, `gaussian_precision`, `finite_variance_precision` and
        `measured_precision`.
    step_size, L, M : float
        η < 2/M; F is L-strongly convex, its gradient M-Lipschitz.
    residual : float, default 0.0
        A bound on the mean unit vector at the median, as `geometric_median` certifies it.

    Raises
    ------
    ConditionFails
        Where q/k ≥ 1/2, or batches stray by so much that no round is sure to come nearer: ξ2 ≥ L
        for η ≤ 2/(L + M).
    ValueError
        Where an argument is out of its range.
    """
    require_honest_majority(num_batches, num_byzantine)
    require_nonnegative(residual=residual)
    room = (1 - step_contraction(step_size, L, M)) / step_size
    require(room > 0, "max(1 − ηL, ηM − 1) < 1", step_size * M - 1, 1.0)
    best: Bound | None = None
    fails = [ConditionFails("γ < 1 − 2q/k", residual, 1 - 2 * num_byzantine / num_batches)]
    for num_bad in _counts((num_batches + 1) // 2 - num_byzantine):
        alpha = (num_byzantine + num_bad) / num_batches
        if residual >= 1 - 2 * alpha:
            break
        delta = largest_delta(num_batches, num_bad, confidence)
        pairs, factor = [*precision(delta)], certified_c_alpha(alpha, residual)
        floors = {
            radii: factor * radii[0] / (room - factor * radii[1])
            for radii in pairs
            if factor * radii[1] < room
        }
        if not floors:
            least = factor * min(second for _, second in pairs)
            fails.append(ConditionFails(_CONTRACTS, 1 - step_size * (room - least), 1.0))
        elif best is None or min(floors.values()) < best.floor:
            first, second = min(floors, key=lambda radii: floors[radii])
            xi_1, xi_2 = factor * first, factor * second
            best = Bound(
                contraction=sharp_contraction(step_size, L, M, xi_2),
                floor=sharp_error_floor(step_size, L, M, xi_1=xi_1, xi_2=xi_2),
                step_size=step_size,
                confidence=confidence,
                residual=residual,
                num_bad=num_bad,
                delta=delta,
                alpha=alpha,
                xi_1=xi_1,
                xi_2=xi_2,
                radius_1=first,
                radius_2=second,
            )
    if best is None:
        raise min(fails[1:] or fails, key=lambda condition: condition.value)
    return best


def _counts(below: int) -> list[int]:
    """Return numbers of bad batches to try: all that are few, and a few of the others."""
    spaced = np.geomspace(_FEW, below - 1, _FEW).astype(int).tolist() if below > _FEW else []
    return sorted({*range(min(below, _FEW)), *spaced})


def gaussian_precision(n: float, d: int, *, sigma: float = 1.0, M: float = 1.0) -> Precision:
    """Return the precision of n samples of linear regression with Gaussian data: a theorem.

    Features are N(0, H) with ‖H‖ = M, noise is N(0, σ²); see `gradient_radius`, `hessian_radius`.
    It holds as well for the mean of b clients' means of n/b samples or more: no sample weighs more
    than 1/n, with which the exponents of Chernoff's and Gordon's inequalities only grow.
    """

    def precision(delta: float) -> Iterator[tuple[float, float]]:
        for share in _SHARES:
            first = sqrt(M) * gradient_radius(n, d, (1 - share) * delta, sigma)
            yield first, M * hessian_radius(n, d, share * delta)

    return precision


def finite_variance_precision(
    n: float, gradient_variance: float, hessian_variance: float = 0.0
) -> Precision:
    """Return the precision of n samples whose gradients, affine in θ, have a variance: a theorem.

    By Chebyshev's inequality a mean of n strays by more than √(tr Σ/(nδ)) with probability at most
    δ, however heavy the tails. `gradient_variance` is tr Σ of one sample's gradient at θ*, and
    `hessian_variance` E‖h − H‖² of one sample's Hessian h, in the Frobenius norm.
    """
    require_nonnegative(gradient_variance=gradient_variance, hessian_variance=hessian_variance)
    check_number("n", n, above=0)

    def precision(delta: float) -> Iterator[tuple[float, float]]:
        for share in _SHARES if hessian_variance else (0.0,):
            first = sqrt(gradient_variance / (n * (1 - share) * delta))
            yield first, sqrt(hessian_variance / (n * share * delta)) if share else 0.0

    return precision


def measured_precision(gradient_norms: ArrayLike, hessian_norms: ArrayLike) -> Precision:
    """Return the precision of batches like p pilot batches: measured, no theorem.

    Parameters
    ----------
    gradient_norms, hessian_norms : array-like (p,)
        Of each pilot batch, ‖∇f̄(θ*) − ∇F(θ*)‖, and the largest ‖Z(θ) − Z(θ*)‖/‖θ − θ*‖ with
        Z = ∇f̄ − ∇F: ‖Ĥ − H‖ where gradients are affine in θ.

    Returns
    -------
    Precision
        Pairs that a share 1 − δ of the pilot batches keeps. Of fewer than 1/δ batches it is their
        largest norms, which says little of the tail.

    Raises ValueError where shapes differ or a norm is negative or not finite.
    """
    norms = np.array([gradient_norms, hessian_norms], dtype=np.float64)
    if norms.ndim != 2 or norms.shape[1] == 0:
        raise ValueError(f"norms must have the shape (p,) with p >= 1, got {norms.shape[1:]}")
    if not (np.isfinite(norms).all() and (norms >= 0).all()):
        raise ValueError("norms must be finite and at least 0")
    firsts, seconds = norms

    def precision(delta: float) -> Iterator[tuple[float, float]]:
        for share in _SHARES:
            second = float(np.quantile(seconds, 1 - share * delta, method="higher"))
            most = int(delta * len(firsts))  # batches that may leave the pair
            left = np.sort(firsts[seconds <= second])
            missing = most - (len(firsts) - len(left))
            yield float(left[-1 - max(missing, 0)]), second

    return precision
