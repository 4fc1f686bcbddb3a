"""Plan a training: from m, q, N/m and d to its settings and its expected error."""

from bisect import bisect_left
from dataclasses import dataclass, replace
from math import exp, hypot, isfinite, sqrt

import numpy as np

from ..aggregation import num_batches
from ..checks import check_number
from .concentration import c_alpha
from .conditions import ConditionFails, require, require_positive
from .constants import LINEAR_REGRESSION, Constants, Statistics, linear_regression
from .descent import step_size
from .expected import expected_contraction, expected_error
from .plans import Plan, TradeOff
from .probability import exact_success_probability, success_probability
from .rates import communication, error_rate, minimax_rate, rounds_to_floor
from .theorems import Guarantee, theorem_4

_CURVE_POINTS = 40
_SAMPLES = [2**power for power in range(50)]  # per client: up to about 10^15
_LEAST_LOG_DELTA = -500.0  # exp of it, and its inverse, are float64 numbers


def plan(
    *,
    num_clients: int,
    num_byzantine: int,
    samples_per_client: int,
    dim: int,
    epsilon: float = 1.0,
    distance: float | None = None,
    statistics: Statistics | None = None,
    constants: Constants | None = None,
) -> Plan:
    """Choose k, τ, γ, η and the number of rounds, and predict the error.

    Parameters
    ----------
    num_clients, num_byzantine, epsilon : int, int, float
        m, q, the most Byzantine clients in any one round, and ε, as of `aggregation.num_batches`.
    samples_per_client, dim : int
        N/m ≥ 1, and d ≥ 1, the number of parameters.
    distance : float, optional
        ‖θ0 − θ*‖ > 0, or a bound on it; √d by default (θ0 = 0, coordinates of θ* of size 1).
    statistics : Statistics, optional
        Curvature and scatter of the problem's gradients, for the expected errors: by default the
        bounds that `constants` give, or else linear regression. See `estimate_statistics`.
    constants : Constants, optional
        The constants of Assumptions 1 to 4, for the guarantee. By default those of linear
        regression (Lemma 8), or with `statistics` no guarantee at all.

    Raises TypeError where an argument is no number, ValueError where one is out of range.
    """
    check_number("samples_per_client", samples_per_client, whole=True, least=1)
    check_number("dim", dim, whole=True, least=1)
    distance = sqrt(dim) if distance is None else distance
    require_positive(distance=distance)
    k = num_batches(num_clients, num_byzantine, epsilon=epsilon)
    setting = _Setting(
        num_clients, num_byzantine, samples_per_client, dim, distance, statistics, constants
    )
    chosen, num_samples, scatter = setting.trade_off(k), setting.num_samples, setting.scatter
    error, shares = chosen.expected_error, setting.shares(k)
    contraction = expected_contraction(dim, num_samples, k, num_byzantine, scatter)
    rounds = None
    if isfinite(error) and contraction < 1:
        rounds = max(rounds_to_floor(contraction, distance, error / 10), 1)
    guarantee, fails = setting.guarantee(k)
    return Plan(
        num_clients=num_clients,
        num_byzantine=num_byzantine,
        samples_per_client=samples_per_client,
        dim=dim,
        epsilon=epsilon,
        distance=distance,
        num_batches=k,
        trim_norm=setting.trim_norm(k),
        gamma=1 / num_samples,
        step_size=step_size(scatter.L, scatter.M),
        rounds=rounds,
        expected_error=error,
        clean_error=chosen.clean_error,
        expected_contraction=contraction,
        error_rate=chosen.error_rate,
        minimax_rate=minimax_rate(dim, num_samples),
        **shares,
        success_probability=success_probability(k, num_byzantine, **shares),
        exact_success_probability=exact_success_probability(k, num_byzantine, **shares),
        guarantee=guarantee,
        guarantee_fails=fails,
        samples_for_guarantee=setting.samples_for_guarantee(k),
        numbers_sent=None if rounds is None else int(communication(num_clients, dim, rounds)),
        trade_off=tuple(map(setting.trade_off, _curve(2 * num_byzantine + 1, k, num_clients))),
    )


@dataclass(frozen=True)
class _Setting:
    """What `plan` is given, but for ε; the methods take k."""

    num_clients: int
    num_byzantine: int
    samples_per_client: int
    dim: int
    distance: float
    statistics: Statistics | None
    constants: Constants | None

    @property
    def num_samples(self) -> int:
        return self.num_clients * self.samples_per_client

    @property
    def scatter(self) -> Statistics:
        """The given statistics, or those that the constants bound: a variance is at most σ²."""
        if self.statistics is None and (c := self.constants) is not None:
            return Statistics(L=c.L, M=c.M, sigma=c.sigma_1, growth=c.sigma_2)
        return self.statistics or LINEAR_REGRESSION

    def trim_norm(self, k: int) -> float:
        # E‖mean‖² is at most ‖∇F‖² + d·variance/(N/k), and ‖∇F‖ at most M‖θ − θ*‖.
        gradient = self.scatter.M * self.distance
        deviation = hypot(self.scatter.sigma, self.scatter.growth * self.distance)
        return 2 * hypot(gradient, deviation * error_rate(self.dim, k, self.num_samples))

    def shares(self, k: int) -> dict[str, float]:
        """Return the α and δ of Lemma 5."""
        share = self.num_byzantine / k
        alpha = (share + 0.5) / 2
        return {"alpha": alpha, "delta": (alpha - share) * exp(max(-self.dim, _LEAST_LOG_DELTA))}

    def guarantee(self, k: int) -> tuple[Guarantee, None] | tuple[None, str]:
        """Return the guarantee of Theorem 4, or the condition that fails."""
        if self.statistics is not None and self.constants is None:
            return None, "the constants of Assumptions 1 to 4 are not given"
        shares, trim_norm = self.shares(k), self.trim_norm(k)
        batch_samples = self.num_clients // k * self.samples_per_client  # of the smallest batch
        constants = self.constants or linear_regression(batch_samples, self.dim, shares["delta"])
        try:
            guarantee = theorem_4(
                num_batches=k,
                num_byzantine=self.num_byzantine,
                batch_samples=batch_samples,
                dim=self.dim,
                **shares,
                constants=constants,
                r=self.distance / sqrt(self.dim),
                gamma=1 / self.num_samples,
                trim_norm=trim_norm,
            )
            floor = guarantee.floor  # not above the distance: the iterates stay within r√d of θ*
            require(floor <= self.distance, "ηξ1/ρ ≤ ‖θ0 − θ*‖", floor, self.distance)
            strayed = (guarantee.xi_1 + guarantee.xi_2 * self.distance) / c_alpha(shares["alpha"])
            longest = constants.M * self.distance + strayed
            require(longest <= trim_norm, "norms of good batches ≤ τ", longest, trim_norm)
        except ConditionFails as condition:
            return None, str(condition)
        return guarantee, None

    def samples_for_guarantee(self, k: int) -> int | None:
        """Return the fewest samples per client with which Theorem 4 applies, by bisection."""

        def holds(samples: int) -> bool:
            return replace(self, samples_per_client=samples).guarantee(k)[0] is not None

        enough = next(filter(holds, _SAMPLES), None)
        return enough and bisect_left(range(enough), True, lo=enough // 2 + 1, key=holds)

    def trade_off(self, k: int) -> TradeOff:
        d, samples, q = self.dim, self.num_samples, self.num_byzantine
        guarantee, _ = self.guarantee(k)
        return TradeOff(
            num_batches=k,
            error_rate=error_rate(d, k, samples),
            expected_error=expected_error(d, samples, k, q, self.scatter),
            clean_error=expected_error(d, samples, k, 0, self.scatter),
            floor=None if guarantee is None else guarantee.floor,
        )


def _curve(least: int, chosen: int, most: int) -> list[int]:
    """Return up to 41 numbers of batches from the least to the most, with the chosen one."""
    if most - least < _CURVE_POINTS:
        return list(range(least, most + 1))
    spaced = np.geomspace(least, most, _CURVE_POINTS).round().astype(int)
    return sorted({*spaced.tolist(), chosen})
