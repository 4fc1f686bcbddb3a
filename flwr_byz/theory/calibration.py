"""What the error comes to in linear regression under the strongest attack: calibrated, not proved.

The paper's explicit constants are safe and loose by orders of magnitude. Here the order is kept and
the constants come from where the rule settles. Around θ*, the k batch means scatter about the
gradient with a root mean square distance of σ√(dk/N). Let q of them stand far away on one side. In
many dimensions the geometric median then moves by α/√(1 − 2α) of that distance, α = q/k: it settles
where the pull of the honest means, (1 − α)·s/√(1 + s²) for a move of s distances, equals α. The
other k − q means average to within σ√(d/N)·√(k/(k − q)) of the gradient. An adversary that knows
θ* pushes where that noise points already, so the two add up to

    σ·x,  x = c·√(d/N)·(√(k/(k − q)) + q/√(k − 2q)),

at a distance e from θ* with σ² + growth²·e² in the place of σ². The model stays where the gradient,
of length L·e at least, equals this: e = σx/√(L² − growth²x²); where growth·x ≥ L it is driven off.
For fixed q the second term is √(dq/N) times a function of k/q: the paper's rate.

c makes up for few dimensions. It is measured by Monte Carlo with the real rule and stored in
``calibration.jsonl``, which ``python -m simulations.calibrate`` computes again.
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
from .rates import error_rate

TABLE = "calibration.jsonl"
DIMS = (1, 2, 4, 8, 16, 32, 64)
SHARES = (0.0, 0.125, 0.25, 0.375, 0.45)  # q/k
NUM_BATCHES = 40
_STRENGTH = 0.15  # x at which c is measured: small enough that terms of second order are
_REACH = 1e3  # norm of a Byzantine mean, in distances of honest means: as good as infinity
_ROUNDS = 12


def attack_strength(dim: int, num_samples: float, num_batches: int, num_byzantine: int) -> float:
    """Return √(d/N)·(√(k/(k − q)) + q/√(k − 2q)), x before calibration.

    Raises
    ------
    ConditionFails
        Where q/k ≥ 1/2.
    """
    require_positive(dim=dim, num_samples=num_samples)
    require_batches(num_batches, num_byzantine)
    k, q = num_batches, num_byzantine
    return sqrt(dim / num_samples) * (sqrt(k / (k - q)) + q / sqrt(k - 2 * q))


def correction(dim: int, num_batches: int, num_byzantine: int) -> float:
    """Return c for d, k and q, interpolated in log d and q/k in the table, constant beyond it.

    One and two batches are averaged, so c is 1 for them.
    """
    require_batches(num_batches, num_byzantine)
    if num_batches <= 2:
        return 1.0
    table = _table()
    of_share = [float(np.interp(log(dim), [log(d) for d in DIMS], row)) for row in table]
    return float(np.interp(num_byzantine / num_batches, SHARES, of_share))


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
        e = σx/√(L² − growth²x²); infinity where growth·x ≥ L.

    Raises
    ------
    ConditionFails
        Where q/k ≥ 1/2.
    """
    x = _calibrated_strength(dim, num_samples, num_batches, num_byzantine)
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
    """
    L, M = statistics.L, statistics.M
    x = _calibrated_strength(dim, num_samples, num_batches, num_byzantine)
    return sharp_population_contraction(L, M) + step_size(L, M) * statistics.growth * x


def _calibrated_strength(
    dim: int, num_samples: float, num_batches: int, num_byzantine: int
) -> float:
    x = attack_strength(dim, num_samples, num_batches, num_byzantine)
    return correction(dim, num_batches, num_byzantine) * x


@lru_cache(maxsize=1)
def _table() -> tuple[tuple[float, ...], ...]:
    """Return c by share, then by dimension."""
    lines = files(__package__).joinpath(TABLE).read_text(encoding="utf-8").splitlines()
    cells = {(cell["byzantine_share"], cell["dim"]): cell["c"] for cell in map(json.loads, lines)}
    return tuple(tuple(cells[share, dim] for dim in DIMS) for share in SHARES)


# --- how the table is made ------------------------------------------------------------------------


def num_seeds(dim: int) -> int:
    """Return how many runs a cell of the table takes: more in few dimensions, where runs differ."""
    return max(2400 // dim, 40)


def measure_correction(dim: int, share: float, seeds: Sequence[int]) -> tuple[float, float]:
    """Measure c for d and q/k by Monte Carlo: the root mean square error of runs, over its formula.

    Parameters
    ----------
    dim : int
        d.
    share : float
        q/k, a multiple of 1/40.
    seeds : sequence of int
        One run each.

    Returns
    -------
    c, standard_error : float
    """
    num_byzantine = round(share * NUM_BATCHES)
    at_one_sample = attack_strength(dim, NUM_BATCHES, NUM_BATCHES, num_byzantine)
    batch_samples = round((at_one_sample / _STRENGTH) ** 2)
    num_samples = batch_samples * NUM_BATCHES
    x = attack_strength(dim, num_samples, NUM_BATCHES, num_byzantine)
    final = [
        descend(
            num_clients=NUM_BATCHES,
            num_byzantine=num_byzantine,
            num_batches=NUM_BATCHES,
            samples_per_client=batch_samples,
            dim=dim,
            rounds=_ROUNDS,
            distance=x,
            reach=_REACH * error_rate(dim, NUM_BATCHES, num_samples),
            seed=seed,
        )[-1]
        for seed in seeds
    ]
    error, standard_error = root_mean_square(np.array(final))
    # e = cx/√(1 − c²x²), solved for c.
    return error / sqrt(1 + error**2) / x, standard_error / sqrt(1 + error**2) ** 3 / x
