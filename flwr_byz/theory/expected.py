"""The error to expect under the strongest attack, and the factor of a round: expected, not proved.

Without growth the error e0 is s·σ√(k/N)/L, with s of `flwr_byz.theory.equilibrium`, or that of
`flwr_byz.theory.anisotropic` where curvature and scatter of each direction are known; there the
growth along a direction goes with the root of its curvature, as in linear models. At a distance e
from θ*, σ² + growth²·e² replaces σ², so that e = e0/√(1 − (growth·e0/σ)²); where growth·e0 ≥ σ
the model diverges: with so few samples the scatter outgrows the gradient.

d, N, k and q are ``dim``, ``num_samples``, ``num_batches`` and ``num_byzantine``. All functions
raise ConditionFails where q/k ≥ 1/2.
"""

from math import inf, sqrt

from .anisotropic import directional_equilibrium
from .conditions import require_honest_majority, require_positive
from .constants import LINEAR_REGRESSION, Statistics
from .descent import step_contraction, step_size
from .equilibrium import equilibrium


def expected_error(
    dim: int,
    num_samples: float,
    num_batches: int,
    num_byzantine: int,
    statistics: Statistics = LINEAR_REGRESSION,
) -> float:
    """Return e, the root mean square error that remains under the strongest attack.

    For q = 0 it is that of a clean run; infinity where growth·e0 ≥ σ.
    """
    e0, growth = _without_growth(dim, num_samples, num_batches, num_byzantine, statistics)
    share = growth * e0 / statistics.sigma
    return e0 / sqrt((1 - share) * (1 + share)) if share < 1 else inf


def expected_contraction(
    dim: int,
    num_samples: float,
    num_batches: int,
    num_byzantine: int,
    statistics: Statistics = LINEAR_REGRESSION,
    *,
    step: float | None = None,
    local_steps: int = 1,
) -> float:
    """Return c^E + (1 − c^E)·growth·e0/σ, the factor of a round far from θ*; infinity where e0 is.

    c is max(1 − ηL, ηM − 1) for a step η, L/(2M²) by default, and E = `local_steps` is how many
    of them clients take.
    """
    L, M = statistics.L, statistics.M
    e0, growth = _without_growth(dim, num_samples, num_batches, num_byzantine, statistics)
    if e0 == inf:
        return inf
    kept = step_contraction(step_size(L, M) if step is None else step, L, M) ** local_steps
    return float(kept + (1 - kept) * growth * e0 / statistics.sigma)


def _without_growth(
    dim: int, num_samples: float, num_batches: int, num_byzantine: int, statistics: Statistics
) -> tuple[float, float]:
    """Return e0, never less than without an attack, and the growth along the error."""
    require_positive(num_samples=num_samples)
    require_honest_majority(num_batches, num_byzantine)
    unit, of, attacks = sqrt(num_batches / num_samples), statistics, {0, num_byzantine}
    bias = unit * of.skewness / 2
    if of.curvatures is None or of.variances is None:
        s = max(equilibrium(dim, num_batches, q, bias) for q in attacks)
        return unit * of.sigma / of.L * s, of.growth
    biases = tuple(of.sigma * unit / 2 * value for value in of.skewnesses or [0.0] * dim)
    directions = of.curvatures, of.variances
    s, curvature = max(
        directional_equilibrium(*directions, num_batches, q, biases) for q in attacks
    )
    return unit * s, of.growth * sqrt(curvature * dim / sum(of.curvatures))
