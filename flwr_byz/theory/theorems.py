"""The main theorems (the paper's section 3.3), with every constant explicit."""

from dataclasses import dataclass
from math import ceil, sqrt

from .concentration import c_alpha, check_delta, delta_1, delta_2, xi_1, xi_2
from .conditions import require, require_nonnegative, require_positive
from .constants import Constants
from .descent import contraction, error_floor, population_contraction, rho, step_size
from .probability import exact_success_probability, success_probability


@dataclass(frozen=True, kw_only=True)
class ErrorBound:
    """‖θt − θ*‖ ≤ contraction^t·‖θ0 − θ*‖ + floor in every round t, for steps η = step_size."""

    contraction: float
    floor: float
    step_size: float

    def error_after(self, rounds: int, distance: float) -> float:
        """Return the bound on ‖θt − θ*‖ for t rounds from ‖θ0 − θ*‖ = distance."""
        require_nonnegative(rounds=rounds, distance=distance)
        return float(self.contraction**rounds * distance + self.floor)


@dataclass(frozen=True, kw_only=True)
class Guarantee(ErrorBound):
    """The bound of a theorem: ‖θt − θ*‖ ≤ contraction^t·‖θ0 − θ*‖ + floor in every round t ≥ 1.

    η = L/(2M²) is the `step_size`. The bound holds with at least the two probabilities: (19), by
    Chernoff's inequality, and (20). Δ1, Δ2, ξ1 and ξ2 are those of (22), (26) and Theorem 3.
    """

    success_probability: float
    exact_success_probability: float
    delta_1: float
    delta_2: float
    xi_1: float
    xi_2: float


def theorem_4(
    *,
    num_batches: int,
    num_byzantine: int,
    batch_samples: float,
    dim: int,
    alpha: float,
    delta: float,
    constants: Constants,
    r: float = 1.0,
    gamma: float = 0.0,
    trim_norm: float = 0.0,
) -> Guarantee:
    """Return the guarantee of Theorem 4, with the factor 1 − ρ and the floor ηξ1/ρ.

    Parameters
    ----------
    num_batches, num_byzantine, alpha, delta, constants
        As of `success_probability`, with δ < 1, and of `Constants`.
    batch_samples, dim : float, int
        N/k, where k does not divide m the samples of the smallest batch, and d.
    r : float, default 1.0
        All iterates stay within r√d of θ*. It is rounded up as `delta_2` asks.
    gamma, trim_norm : float, default 0.0
        γ ≥ 0 of the approximate median, and τ, the norm above which batch means are trimmed
        (Remark 2). By Lemma 1 the aggregate strays by up to γ·(τ + M‖θ − θ*‖)/(1 − 2α) more, which
        is added to ξ1 and ξ2. The caller has to make sure that no good batch is trimmed.

    Raises ConditionFails, naming the condition: q/k < α < 1/2, δ ≤ α − q/k, Δ1 ≤ σ1²/α1,
    Δ2 ≤ σ2²/α2, ρ > 0.
    """
    require_nonnegative(gamma=gamma, trim_norm=trim_norm)
    if gamma > 0 and trim_norm == 0:
        raise ValueError("gamma > 0 needs a trim_norm: nothing bounds γ·max‖z‖ otherwise")
    shared = _shared(num_batches, num_byzantine, batch_samples, dim, alpha, delta, constants, r)
    L, M = constants.L, constants.M
    shared["xi_1"] += gamma * trim_norm / (1 - 2 * alpha)
    shared["xi_2"] += gamma * M / (1 - 2 * alpha)
    floor = error_floor(L, M, xi_1=shared["xi_1"], xi_2=shared["xi_2"])
    return Guarantee(contraction=1 - rho(L, M, shared["xi_2"]), floor=floor, **shared)


def theorem_5(
    *,
    num_batches: int,
    num_byzantine: int,
    batch_samples: float,
    dim: int,
    alpha: float,
    delta: float,
    constants: Constants,
    r: float = 1.0,
) -> Guarantee:
    """Return the guarantee of Theorem 5 (informally, Theorem 1), with its c2 explicit.

    The factor is 1/2 + 1/2·√(1 − L²/(4M²)) and the floor, from its proof,
    L/(2M²)·8C_α·Δ1(N/k)/(1 − √(1 − L²/(4M²))). The theorem prints c2√(dk/N) with c2 "universal"; by
    the proof, Theorem 1 and Corollary 1, c2 is proportional to C_α.

    Parameters and errors are those of `theorem_4`, but for (33) in place of ρ > 0: the theorem's
    condition N/k ≥ c1·C_α²·d·log(N/k) stands for it, Δ1 ≤ σ1²/α1 and Δ2 ≤ σ2²/α2.
    """
    shared = _shared(num_batches, num_byzantine, batch_samples, dim, alpha, delta, constants, r)
    L, M = constants.L, constants.M
    left = 1 - population_contraction(L, M)
    limit = M**2 / (8 * c_alpha(alpha) * L) * left
    condition, large = "(33): Δ2 ≤ M²/(8C_α·L)·(1 − √(1 − L²/(4M²)))", shared["delta_2"]
    require(large <= limit, condition, large, limit, "more samples in a batch help")
    floor = step_size(L, M) * 8 * c_alpha(alpha) * shared["delta_1"] / left
    return Guarantee(contraction=contraction(L, M), floor=floor, **shared)


def _shared(
    k: int, q: int, n: float, d: int, alpha: float, delta: float, constants: Constants, r: float
) -> dict[str, float]:
    """Return what the theorems share of their guarantees, for an exact median, checked."""
    chernoff = success_probability(k, q, alpha=alpha, delta=delta)
    require_positive(r=r)
    require(n > 0, "N/k > 0", n, 0.0)
    c = constants
    small = delta_1(n, d, delta, c.sigma_1)
    check_delta("1", small, c.sigma_1, c.alpha_1)
    shells = 2 * c.sigma_2**2 * r * sqrt(n) / (c.alpha_2 * c.sigma_1)
    named = {name: getattr(c, name) for name in ("sigma_1", "sigma_2", "alpha_2", "M", "M_prime")}
    large = delta_2(n, d, delta, r=r * ceil(shells) / shells, **named)
    check_delta("2", large, c.sigma_2, c.alpha_2)
    return {
        "step_size": step_size(c.L, c.M),
        "success_probability": chernoff,
        "exact_success_probability": exact_success_probability(k, q, alpha=alpha, delta=delta),
        "delta_1": small,
        "delta_2": large,
        "xi_1": xi_1(alpha, small),
        "xi_2": xi_2(alpha, large),
    }
