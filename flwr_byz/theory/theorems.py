"""The main theorems (the paper's section 3.3), with every constant explicit."""

from dataclasses import dataclass, replace
from math import ceil, sqrt

from .concentration import check_delta, delta_1, delta_2, xi_1, xi_2
from .conditions import require, require_nonnegative, require_positive
from .constants import Constants
from .descent import contraction, error_floor, population_contraction, rho, step_size
from .median import c_alpha
from .probability import check_lemma_5, exact_success_probability, success_probability


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """The bound of a theorem: ‖θt − θ*‖ ≤ contraction^t·‖θ0 − θ*‖ + floor in every round t ≥ 1.

    Attributes
    ----------
    step_size : float
        η = L/(2M²).
    contraction : float
        Factor of a round.
    floor : float
        The error that may remain.
    success_probability, exact_success_probability : float
        Lower bounds on the probability that it holds: (19), by Chernoff's inequality, and (20).
    delta_1, delta_2, xi_1, xi_2 : float
        Of (22), (26) and Theorem 3.
    """

    step_size: float
    contraction: float
    floor: float
    success_probability: float
    exact_success_probability: float
    delta_1: float
    delta_2: float
    xi_1: float
    xi_2: float

    def error_after(self, rounds: int, distance: float) -> float:
        """Return the bound on ‖θt − θ*‖ for t rounds from ‖θ0 − θ*‖ = distance."""
        require_nonnegative(rounds=rounds, distance=distance)
        return float(self.contraction**rounds * distance + self.floor)


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
    """Return the guarantee of Theorem 4.

    The factor is 1 − ρ, the floor ηξ1/ρ, with ξ1 = 4C_α·Δ1(N/k) and ξ2 = 8C_α·Δ2(N/k).

    Parameters
    ----------
    num_batches, num_byzantine : int
        k and q.
    batch_samples : float
        N/k; where k does not divide m, the samples of the smallest batch.
    dim : int
        d.
    alpha, delta : float
        q/k < α < 1/2, 0 < δ ≤ α − q/k, δ < 1.
    constants : Constants
    r : float, default 1.0
        All iterates stay within r√d of θ*. It is rounded up until the proof's number of shells is
        an integer.
    gamma, trim_norm : float, default 0.0
        γ ≥ 0 of the approximate median, and τ, the norm above which batch means are trimmed
        (Remark 2). By Lemma 1 the aggregate strays by up to γ·(τ + M‖θ − θ*‖)/(1 − 2α) more, which
        is added to ξ1 and ξ2. The caller has to make sure that no good batch is trimmed.

    Raises
    ------
    ConditionFails
        Naming the condition: q/k < α < 1/2, δ ≤ α − q/k, Δ1 ≤ σ1²/α1, Δ2 ≤ σ2²/α2, ρ > 0.
    """
    require_nonnegative(gamma=gamma, trim_norm=trim_norm)
    if gamma > 0 and trim_norm == 0:
        raise ValueError("gamma > 0 needs a trim_norm: nothing bounds γ·max‖z‖ otherwise")
    check_lemma_5(num_batches, num_byzantine, alpha, delta)
    small, large = _deltas(batch_samples, dim, delta, constants, r)
    L, M = constants.L, constants.M
    strayed_1 = xi_1(alpha, small) + gamma * trim_norm / (1 - 2 * alpha)
    strayed_2 = xi_2(alpha, large) + gamma * M / (1 - 2 * alpha)
    shares = {"alpha": alpha, "delta": delta}
    return Guarantee(
        step_size=step_size(L, M),
        contraction=1 - rho(L, M, strayed_2),
        floor=error_floor(L, M, xi_1=strayed_1, xi_2=strayed_2),
        success_probability=success_probability(num_batches, num_byzantine, **shares),
        exact_success_probability=exact_success_probability(num_batches, num_byzantine, **shares),
        delta_1=small,
        delta_2=large,
        xi_1=strayed_1,
        xi_2=strayed_2,
    )


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
    L/(2M²)·8C_α·Δ1(N/k)/(1 − √(1 − L²/(4M²))). The condition N/k ≥ c1·C_α²·d·log(N/k) stands for
    Δ1 ≤ σ1²/α1, Δ2 ≤ σ2²/α2 and (33), which are checked. The theorem prints c2√(dk/N) with c2
    "universal"; by the proof, Theorem 1 and Corollary 1, c2 is proportional to C_α.

    Parameters and errors are those of `theorem_4`; in place of ρ > 0 it checks (33), which is
    stronger.
    """
    check_lemma_5(num_batches, num_byzantine, alpha, delta)
    small, large = _deltas(batch_samples, dim, delta, constants, r)
    L, M = constants.L, constants.M
    left = 1 - population_contraction(L, M)
    limit = M**2 / (8 * c_alpha(alpha) * L) * left
    condition = "(33): Δ2 ≤ M²/(8C_α·L)·(1 − √(1 − L²/(4M²)))"
    require(large <= limit, condition, large, limit, "more samples in a batch help")
    fourth = theorem_4(
        num_batches=num_batches,
        num_byzantine=num_byzantine,
        batch_samples=batch_samples,
        dim=dim,
        alpha=alpha,
        delta=delta,
        constants=constants,
        r=r,
    )
    floor = step_size(L, M) * 8 * c_alpha(alpha) * small / left
    return replace(fourth, contraction=contraction(L, M), floor=floor)


def _deltas(n: float, d: int, delta: float, constants: Constants, r: float) -> tuple[float, float]:
    """Return Δ1 and Δ2, checked."""
    require_positive(r=r)
    require(n > 0, "N/k > 0", n, 0.0)
    c = constants
    small = delta_1(n, d, delta, c.sigma_1)
    check_delta("1", small, c.sigma_1, c.alpha_1)
    shells = 2 * c.sigma_2**2 * r * sqrt(n) / (c.alpha_2 * c.sigma_1)
    large = delta_2(
        n,
        d,
        delta,
        sigma_1=c.sigma_1,
        sigma_2=c.sigma_2,
        alpha_2=c.alpha_2,
        M=c.M,
        M_prime=c.M_prime,
        r=r * ceil(shells) / shells,
    )
    check_delta("2", large, c.sigma_2, c.alpha_2)
    return small, large
