"""The error to expect under the strongest attack, and the factor of a round: expected, not proved.

Without growth the error e0 is s·σ√(k/N)/L, with s of `flwr_byz.theory.equilibrium`, or that of
`flwr_byz.theory.anisotropic` where curvature and scatter of each direction are known. At a distance
e from θ*, σ² + growth²·e² replaces σ², so that e = e0/√(1 − (growth·e0/σ)²); where growth·e0 ≥ σ
the model diverges: with so few samples the scatter outgrows the gradient.

d, N, k and q are ``dim``, ``num_samples``, ``num_batches`` and ``num_byzantine``. All functions
raise ConditionFails where q/k ≥ 1/2.
"""

from math import inf, sqrt

from .anisotropic import directional_equilibrium
from .conditions import require_positive
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
    e0 = _without_growth(dim, num_samples, num_batches, num_byzantine, statistics)
    room = 1 - (statistics.growth * e0 / statistics.sigma) ** 2
    return e0 / sqrt(room) if room > 0 else inf


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
    """Return c^E + (1 − c^E)·growth·e0/σ, the factor of a round far from θ*.

    c is max(1 − ηL, ηM − 1) for a step η, L/(2M²) by default, and E = `local_steps` is how many
    of them clients take.
    """
    L, M = statistics.L, statistics.M
    e0 = _without_growth(dim, num_samples, num_batches, num_byzantine, statistics)
    kept = step_contraction(step_size(L, M) if step is None else step, L, M) ** local_steps
    return float(kept + (1 - kept) * statistics.growth * e0 / statistics.sigma)


def _without_growth(
    dim: int, num_samples: float, num_batches: int, num_byzantine: int, statistics: Statistics
) -> float:
    """Return e0, never less than without an attack."""
    require_positive(num_samples=num_samples)
    unit = sqrt(num_batches / num_samples)
    bias = unit * statistics.skewness / 2
    attacks = {0, num_byzantine}
    if statistics.curvatures is None or statistics.variances is None:
        unit *= statistics.sigma / statistics.L
        return unit * max(equilibrium(dim, num_batches, q, bias) for q in attacks)
    directions = statistics.curvatures, statistics.variances
    return unit * max(directional_equilibrium(*directions, num_batches, q, bias) for q in attacks)
