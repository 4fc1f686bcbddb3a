"""What the error comes to in linear regression under the strongest attack: calibrated, not proved.

The paper's explicit constants are safe and loose by orders of magnitude. Here the order is kept and
the constants come from where the rule settles. Around θ*, the k batch means scatter about the
gradient with a root mean square distance of σ√(dk/N). Let q of them stand far away on one side. In
many dimensions the geometric median then moves by α/√(1 − 2α) of that distance, α = q/k: it settles
where the pull of the honest means, (1 − α)·s/√(1 + s²) for a move of s distances, equals α. The
other k − q means average to within σ√(d/N)·√(k/(k − q)) of the gradient. An adversary that knows
θ* pushes where that noise points already, so the two add up to σ·x,

    x = √(d/N)·√(k/(k − q)) + c·α/√(1 − 2α)·√(dk/N),

at a distance e from θ* with σ² + growth²·e² in the place of σ². The model stays where the gradient,
of length L·e at least, equals this: e = σx/√(L² − growth²x²); where growth·x ≥ L it is driven off.
For k = 2(1+ε)q the second term is √(dq/N) times a constant: the paper's rate. Where nobody attacks,
x = a·√(d/N).

c makes up for few dimensions and for an adversary that takes the batches which it gains most from;
a is what a median loses beside a mean. They are measured by Monte Carlo with the real rule, for
k = 40 (see `monte_carlo.descend`), and stored in ``calibration.jsonl``, which
``python -m simulations.calibrate`` makes. For fewer than six batches c is somewhat too large.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from math import inf, log, sqrt

import numpy as np

from .conditions import require_batches, require_positive
from .constants import LINEAR_REGRESSION, Statistics
from .descent import sharp_population_contraction, step_size
from .monte_carlo import descend, root_mean_square
from .rates import error_rate, minimax_rate

TABLE = "calibration.jsonl"
DIMS = (1, 2, 4, 8, 16, 32, 64)
SHARES = (0.025, 0.125, 0.25, 0.375, 0.45)  # q/k
NUM_BATCHES = 40
_STRENGTH = 0.15  # x at which c is measured, at most: what it does to σ² hardly counts
_LEAST_SAMPLES = 20  # of a batch, for each parameter, where c is measured
_REACH = 1e3  # norm of a Byzantine mean, in distances of honest means: as good as infinity
_ROUNDS = 8


def error_strength(
    dim: int, num_samples: float, num_batches: int, num_byzantine: int, *, c: float = 1.0
) -> float:
    """Return x = √(d/N)·(√(k/(k − q)) + c·q/√(k − 2q)), what stays for σ = L = 1 and no growth.

    Parameters
    ----------
    dim, num_samples, num_batches, num_byzantine : int
        d, N, k and q.
    c : float, default 1.0
        That of many dimensions; see `attack_factor`.

    Raises
    ------
    ConditionFails
        Where q/k ≥ 1/2.
    """
    require_positive(dim=dim, num_samples=num_samples)
    require_batches(num_batches, num_byzantine)
    k, q = num_batches, num_byzantine
    return sqrt(dim / num_samples) * (sqrt(k / (k - q)) + c * q / sqrt(k - 2 * q))


def attack_factor(dim: int, num_batches: int, num_byzantine: int) -> float:
    """Return c for d and q/k, interpolated in the table in log d and q/k, constant beyond it.

    Raises
    ------
    ConditionFails
        Where q/k ≥ 1/2.
    """
    require_batches(num_batches, num_byzantine)
    of_share = [_at_dim(dim, share) for share in SHARES]
    return float(np.interp(num_byzantine / num_batches, SHARES, of_share))


def median_factor(dim: int, num_batches: int) -> float:
    """Return a for d, interpolated in the table; 1 for one or two batches, which are averaged."""
    return 1.0 if num_batches <= 2 else _at_dim(dim, 0.0)


def calibrated_strength(
    dim: int, num_samples: float, num_batches: int, num_byzantine: int
) -> float:
    """Return x, calibrated; never less than where nobody attacks.

    Raises
    ------
    ConditionFails
        Where q/k ≥ 1/2.
    """
    in_peace = median_factor(dim, num_batches) * minimax_rate(dim, num_samples)
    if num_byzantine == 0:
        return in_peace
    c = attack_factor(dim, num_batches, num_byzantine)
    return max(in_peace, error_strength(dim, num_samples, num_batches, num_byzantine, c=c))


def calibrated_error(
    dim: int,
    num_samples: float,
    num_batches: int,
    num_byzantine: int,
    statistics: Statistics = LINEAR_REGRESSION,
) -> float:
    """Return the root mean square error that stays under the strongest attack, calibrated.

    Parameters
    ----------
    dim, num_samples, num_batches, num_byzantine : int
        d, N, k and q. q = 0 gives the error where nobody attacks.
    statistics : Statistics, default those of linear regression

    Returns
    -------
    float
        e = σx/√(L² − growth²x²); infinity where growth·x ≥ L: with so few samples the scatter
        outgrows the gradient, and nothing draws the model to θ*.

    Raises
    ------
    ConditionFails
        Where q/k ≥ 1/2.
    """
    x = calibrated_strength(dim, num_samples, num_batches, num_byzantine)
    room = statistics.L**2 - (statistics.growth * x) ** 2
    return statistics.sigma * x / sqrt(room) if room > 0 else inf


def calibrated_contraction(
    dim: int,
    num_samples: float,
    num_batches: int,
    num_byzantine: int,
    statistics: Statistics = LINEAR_REGRESSION,
) -> float:
    """Return the factor by which a round of step L/(2M²) contracts far from θ*, calibrated.

    It is √(1 − 3L²/(4M²)) + η·growth·x. At 1 and above, the model does not come nearer.

    Raises
    ------
    ConditionFails
        Where q/k ≥ 1/2.
    """
    L, M = statistics.L, statistics.M
    x = calibrated_strength(dim, num_samples, num_batches, num_byzantine)
    return sharp_population_contraction(L, M) + step_size(L, M) * statistics.growth * x


def _at_dim(dim: int, share: float) -> float:
    require_positive(dim=dim)
    table = _table()
    return float(np.interp(log(dim), np.log(DIMS), [table[share, of_dim] for of_dim in DIMS]))


@lru_cache(maxsize=1)
def _table() -> dict[tuple[float, int], float]:
    """Return the factor for each q/k and d: c, and a where q is 0."""
    lines = files(__package__).joinpath(TABLE).read_text(encoding="utf-8").splitlines()
    cells = map(json.loads, lines)
    return {(cell["byzantine_share"], cell["dim"]): cell["factor"] for cell in cells}


# --- how the table is made ------------------------------------------------------------------------


def num_runs(dim: int, byzantine_share: float) -> int:
    """Return how many runs a cell of the table takes: more where runs differ more.

    They do in few dimensions, and where few are Byzantine and noise is most of the error.
    """
    return max(800 // dim, 32) * (4 if byzantine_share < 0.1 else 1)


def measure_factor(dim: int, byzantine_share: float, seeds: Sequence[int]) -> tuple[float, float]:
    """Measure c by Monte Carlo, or a where nobody is Byzantine.

    Parameters
    ----------
    dim : int
        d.
    byzantine_share : float
        q/k, a multiple of 1/40.
    seeds : sequence of int
        One run each, at least two.

    Returns
    -------
    factor, standard_error : float
    """
    k, q = NUM_BATCHES, round(byzantine_share * NUM_BATCHES)
    needed = round((error_strength(dim, k, k, q) / _STRENGTH) ** 2)
    batch_samples = max(needed, _LEAST_SAMPLES * dim)
    num_samples = batch_samples * k
    final = [
        descend(
            num_clients=k,
            num_byzantine=q,
            num_batches=k,
            samples_per_client=batch_samples,
            dim=dim,
            rounds=_ROUNDS,
            distance=_STRENGTH,
            reach=_REACH * error_rate(dim, k, num_samples),
            seed=seed,
        )[-1]
        for seed in seeds
    ]
    error, standard_error = root_mean_square(np.array(final))
    # e = x/√(1 − x²), solved for x, and x for the factor.
    noise = minimax_rate(dim, num_samples)
    x = error / sqrt(1 + error**2)
    standard_error /= sqrt(1 + error**2) ** 3
    if q == 0:
        return x / noise, standard_error / noise
    attack = noise * q / sqrt(k - 2 * q)
    return (x - noise * sqrt(k / (k - q))) / attack, standard_error / attack
