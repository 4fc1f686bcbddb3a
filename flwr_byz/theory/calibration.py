"""The error of linear regression under the strongest attack: calibrated, not proved.

The paper's explicit constants are safe and loose by orders of magnitude. Here the order is kept and
the constants follow from an equilibrium. Around θ*, the k batch means scatter about the gradient at
a root mean square distance of σ√(dk/N). Let q of them stand far away on one side, α = q/k. In many
dimensions the geometric median then moves by α/√(1 − 2α) of that distance: moved by s distances,
the subgradient (1 − α)·s/√(1 + s²) of the honest means balances the α of the others. The k − q
honest means average to within σ√(d/N)·√(k/(k − q)) of the gradient. An adversary that knows θ*
pushes in the direction of that noise, so the two add up to σ·x,

    x = √(d/N)·√(k/(k − q)) + c·α/√(1 − 2α)·√(dk/N),

and at a distance e from θ*, σ² + growth²·e² replaces σ². The model settles where the gradient, of
length at least L·e, equals this: e = σx/√(L² − growth²x²). For growth·x ≥ L it diverges: with so
few samples the scatter outgrows the gradient. For k = 2(1+ε)q the second term is √(dq/N) times a
constant: the paper's rate. Without an attack, x = a·√(d/N).

c corrects for few dimensions and for an adversary that takes the batches from which it gains most;
a is the loss of a median beside a mean. They are measured by Monte Carlo with the real rule, for
k = 40, and stored in ``calibration.jsonl``, which ``python -m simulations.calibrate`` makes. For
fewer than six batches c is somewhat too large.

d, N, k and q are ``dim``, ``num_samples``, ``num_batches`` and ``num_byzantine``. All functions of
k and q raise ConditionFails where q/k ≥ 1/2.
"""

import json
from functools import lru_cache
from importlib.resources import files
from math import inf, log, sqrt

import numpy as np

from .conditions import require_honest_majority, require_positive
from .constants import LINEAR_REGRESSION, Statistics
from .descent import sharp_population_contraction, step_size
from .rates import minimax_rate

TABLE = "calibration.jsonl"
DIMS = (1, 2, 4, 8, 16, 32, 64)
SHARES = (0.025, 0.125, 0.25, 0.375, 0.45)  # q/k


def error_strength(
    dim: int, num_samples: float, num_batches: int, num_byzantine: int, *, c: float = 1.0
) -> float:
    """Return x, the error for σ = L = 1 and no growth; c is 1 in many dimensions."""
    require_positive(dim=dim, num_samples=num_samples)
    require_honest_majority(num_batches, num_byzantine)
    k, q = num_batches, num_byzantine
    return sqrt(dim / num_samples) * (sqrt(k / (k - q)) + c * q / sqrt(k - 2 * q))


def attack_factor(dim: int, num_batches: int, num_byzantine: int) -> float:
    """Return c for d and q/k, interpolated in the table in log d and q/k, constant beyond it."""
    require_honest_majority(num_batches, num_byzantine)
    return float(np.interp(num_byzantine / num_batches, SHARES, _factors(dim)[1:]))


def median_factor(dim: int, num_batches: int) -> float:
    """Return a for d, interpolated in the table; 1 for one or two batches, which are averaged."""
    return 1.0 if num_batches <= 2 else _factors(dim)[0]


def _strength(dim: int, num_samples: float, num_batches: int, num_byzantine: int) -> float:
    """Return x, calibrated; never less than without an attack."""
    clean = median_factor(dim, num_batches) * minimax_rate(dim, num_samples)
    if num_byzantine == 0:
        return clean
    c = attack_factor(dim, num_batches, num_byzantine)
    return max(clean, error_strength(dim, num_samples, num_batches, num_byzantine, c=c))


def calibrated_error(
    dim: int,
    num_samples: float,
    num_batches: int,
    num_byzantine: int,
    statistics: Statistics = LINEAR_REGRESSION,
) -> float:
    """Return e, the root mean square error that remains under the strongest attack, calibrated.

    For q = 0 it is that of a clean run; infinity where growth·x ≥ L.
    """
    x = _strength(dim, num_samples, num_batches, num_byzantine)
    room = statistics.L**2 - (statistics.growth * x) ** 2
    return statistics.sigma * x / sqrt(room) if room > 0 else inf


def calibrated_contraction(
    dim: int,
    num_samples: float,
    num_batches: int,
    num_byzantine: int,
    statistics: Statistics = LINEAR_REGRESSION,
) -> float:
    """Return √(1 − 3L²/(4M²)) + η·growth·x, the contraction of a round far from θ*, calibrated."""
    L, M = statistics.L, statistics.M
    x = _strength(dim, num_samples, num_batches, num_byzantine)
    return sharp_population_contraction(L, M) + step_size(L, M) * statistics.growth * x


@lru_cache
def _factors(dim: int) -> list[float]:
    """Return a for d, and after it c for d and each of `SHARES`: the order of the table."""
    require_positive(dim=dim)
    lines = files(__package__).joinpath(TABLE).read_text(encoding="utf-8").splitlines()
    table = np.reshape([json.loads(line)["factor"] for line in lines], (-1, len(DIMS)))
    return [float(np.interp(log(dim), np.log(DIMS), factors)) for factors in table]
