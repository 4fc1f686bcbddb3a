"""The expected error where curvature and scatter differ between directions.

It is the model of `flwr_byz.theory.equilibrium`, direction by direction. Along the i-th of the
Hessian's d eigenvectors F has the curvature h_i, a sample's gradient the variance λ_i, and θ − θ*
the root mean square e_i; û = e/‖e‖, and g_i = h_i·e_i is the true gradient. In units of √(k/N), let
a batch mean have the part z = ‖g‖ + √(Σ g_i²λ_i)/‖g‖·x along the gradient and the length
ℓ = √(z² + y), where y is a sum of χ² variables with the other variances, replaced by a multiple of
one χ² of the same mean and variance (F. Satterthwaite, 1946). Then, with the selection
s_i = φ(c)·λ_i·û_i/√(Σ û_j²λ_j)·E[y/ℓ³] of the adversary that takes the q batches that point most
along û, and the noise n_i = √(λ_i·W/k·E[y²/ℓ⁶]), W the variance of a trimmed mean,

    (1 − q/k)·E[z/ℓ]·g_i/‖g‖ = (q/k)·û_i + s_i + n_i·√(1 − û_i²)

in each direction. A bias is one more part of the noise, and noise along û itself adds its variance,
as there. For equal directions the result differs from `equilibrium` by up to 8 %, and that factor
is taken off.
"""

from functools import lru_cache
from math import hypot, inf, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from .equilibrium import equilibrium, wilson_hilferty

_ALONG, _ACROSS = 64, 48
_MOST_STEPS = 1000
_NORMAL = NormalDist()
_SHARES = [(i + 0.5) / _ACROSS for i in range(_ACROSS)]
_X = np.array([_NORMAL.inv_cdf((i + 0.5) / _ALONG) for i in range(_ALONG)])[:, None]
_Y = np.array([_NORMAL.inv_cdf(share) for share in _SHARES])
_SQUARES = np.array([_NORMAL.inv_cdf((1 + share) / 2) ** 2 for share in _SHARES])


def effective_dimension(variances: tuple[float, ...]) -> float:
    """Return (Σ λ_i)²/Σ λ_i², how many directions carry the scatter."""
    values = np.array(variances)
    return float(values.sum() ** 2 / np.square(values).sum())


@lru_cache(maxsize=1024)
def directional_equilibrium(
    curvatures: tuple[float, ...],
    variances: tuple[float, ...],
    num_batches: int,
    num_byzantine: int,
    bias: tuple[float, ...],
) -> tuple[float, float]:
    """Return ‖e‖, the root mean square distance from θ*, and its mean curvature Σ û_i²h_i.

    The distance is in units of √(k/N), as the `bias` of each direction is, and infinity where no
    equilibrium is found. In one dimension it is that of `equilibrium`.
    """
    k, q = num_batches, num_byzantine
    if len(curvatures) == 1:
        scatter = sqrt(variances[0])
        return scatter / curvatures[0] * equilibrium(1, k, q, bias[0] / scatter), curvatures[0]
    h, variance, shift = (np.array(values) for values in (curvatures, variances, bias))
    size, curvature = _mean_field(h, variance, shift, k, q)
    return _correction(len(h), k, q) * size, curvature


@lru_cache(maxsize=1024)
def _correction(dim: int, k: int, q: int) -> float:
    """Return the factor from the mean field of d equal directions to their `equilibrium`."""
    ones = np.ones(dim)
    return equilibrium(dim, k, q) / _mean_field(ones, ones, 0 * ones, k, q)[0]


def _mean_field(
    curvatures: NDArray[np.float64],
    variances: NDArray[np.float64],
    bias: NDArray[np.float64],
    k: int,
    q: int,
) -> tuple[float, float]:
    share, total = q / k, float(variances.sum())
    density, spread = 0.0, 1.0  # φ(c), and W
    if q:
        cut = _NORMAL.inv_cdf(1 - share)
        density = _NORMAL.pdf(cut)
        first, second = -density, (1 - share) - cut * density  # moments of x below c
        below = first - cut * (1 - share)
        spread = second - 2 * cut * first + cut**2 * (1 - share) - below**2
    scatter = np.sqrt(variances) / curvatures
    error, limit = scatter / sqrt(k), 1e6 * float(np.linalg.norm(scatter))
    for step in range(_MOST_STEPS):
        size = float(np.linalg.norm(error))
        towards, gradient = error / size, curvatures * error
        slope = float(np.linalg.norm(gradient))
        part = np.square(gradient / slope)
        rest = variances * (1 - part)
        along = slope + sqrt(float(part @ variances)) * _X
        across = _chi_square(float(rest.sum() ** 2 / np.square(rest).sum())) * rest.sum()
        square = np.square(along) + across + 1e-9 * total
        length = np.sqrt(square)
        pull = float((along / length).mean()) / slope
        turn = float((across / (square * length)).mean())
        noise = variances * spread / k * float((across**2 / square**3).mean())
        noise = np.sqrt(noise + np.square((1 - share) * turn * bias))
        reach = sqrt(float(np.square(towards) @ variances))
        pushed = (share + density * turn / reach * variances) * towards
        pushed += noise * np.sqrt(1 - np.square(towards))
        found = pushed / ((1 - share) * pull * curvatures)
        if float(np.abs(found - error).max()) < 1e-4 * size:
            break
        if not float(found.max()) < limit:
            return inf, 0.0
        error = found if step < 20 else (found + error) / 2
    curvature = float(np.square(towards) @ curvatures)
    along_error = float(np.linalg.norm(towards * noise)) / ((1 - share) * turn * curvature)
    return hypot(size, along_error), curvature


def _chi_square(degrees: float) -> NDArray[np.float64]:
    """Return equally likely values of χ²/f of f degrees of freedom.

    For fewer than two they pass to those of the square of a normal variable.
    """
    values = wilson_hilferty(degrees, _Y)
    return values if degrees >= 2 else (degrees - 1) * values + (2 - degrees) * _SQUARES
