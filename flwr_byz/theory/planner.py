"""Plan a training: from m, q, N/m and d to its settings, its expected error and its guarantee."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import hypot, isfinite, sqrt

import numpy as np

from ..aggregation import num_batches as num_batches_of
from ..checks import check_number
from .conditions import ConditionFails, require, require_positive
from .constants import LINEAR_REGRESSION, Statistics
from .descent import step_size
from .expected import expected_contraction, expected_error
from .plans import Plan, TradeOff
from .rates import communication, error_rate, minimax_rate, rounds_to_floor
from .sharp import Bound, Precision, gaussian_precision, sharp_bound

RESIDUAL = 1e-3  # of the median in every round, for the guarantee
_CURVE_POINTS = 40
_MOST_BATCHES = 1000  # that are chosen: the server's work grows with their square
_SAMPLES = [2**power for power in range(50)]  # per client: up to about 10^15


def plan(
    *,
    num_clients: int,
    num_byzantine: int,
    samples_per_client: int,
    dim: int,
    num_batches: int | None = None,
    epsilon: float | None = None,
    distance: float | None = None,
    confidence: float = 0.99,
    statistics: Statistics | None = None,
    precision: Callable[[float], Precision] | None = None,
) -> Plan:
    """Choose k, τ, γ, η and the number of rounds, predict the error, and bound it.

    Parameters
    ----------
    num_clients, num_byzantine : int
        m and q, the most Byzantine clients in any one round.
    samples_per_client, dim : int
        N/m ≥ 1, and d ≥ 1, the number of parameters.
    num_batches : int, optional
        k, from 2q + 1 to m; by default that of `epsilon`, or else the one of the least expected
        error, 1000 at most.
    epsilon : float, optional
        ε > 0 for the smallest k ≥ 2(1+ε)q, as of `aggregation.num_batches`.
    distance : float, optional
        ‖θ0 − θ*‖ > 0, or a bound on it; √d by default (θ0 = 0, coordinates of θ* of size 1).
    confidence : float, default 0.99
        The probability of the guarantee.
    statistics : Statistics, optional
        Curvature, scatter and skewness of the problem's gradients, for the expected errors: by
        default those of linear regression. See `estimate_statistics`.
    precision : callable, optional
        Maps the number of samples of a batch to its `Precision`, for the guarantee. By default that
        of linear regression with Gaussian data, or with `statistics` no guarantee at all.

    Raises TypeError where an argument is no number, ValueError where one is out of range.
    """
    check_number("samples_per_client", samples_per_client, whole=True, least=1)
    check_number("dim", dim, whole=True, least=1)
    check_number("confidence", confidence, above=0, below=1)
    distance = sqrt(dim) if distance is None else distance
    require_positive(distance=distance)
    least = num_batches_of(num_clients, num_byzantine, epsilon=1.0 if epsilon is None else epsilon)
    if num_batches is not None:
        check_number(
            "num_batches", num_batches, whole=True, least=2 * num_byzantine + 1, most=num_clients
        )
    if statistics is None and precision is None:

        def precision(batch_samples: float) -> Precision:
            return gaussian_precision(batch_samples, dim)

    setting = _Setting(
        int(num_clients),
        int(num_byzantine),
        int(samples_per_client),
        int(dim),
        distance,
        confidence,
        statistics or LINEAR_REGRESSION,
        precision,
    )
    k = num_batches or (setting.best_num_batches() if epsilon is None else least)
    return setting.plan(int(k))


@dataclass(frozen=True)
class _Setting:
    """What `plan` is given, but for the choice of k; the methods take k."""

    num_clients: int
    num_byzantine: int
    samples_per_client: int
    dim: int
    distance: float
    confidence: float
    statistics: Statistics
    precision: Callable[[float], Precision] | None

    @property
    def num_samples(self) -> int:
        return self.num_clients * self.samples_per_client

    def best_num_batches(self) -> int:
        if self.num_byzantine == 0:
            return 1
        most = min(self.num_clients, max(_MOST_BATCHES, 4 * self.num_byzantine))
        return min(_curve(2 * self.num_byzantine + 1, most), key=self.expected_error)

    def expected_error(self, k: int) -> float:
        return expected_error(self.dim, self.num_samples, k, self.num_byzantine, self.statistics)

    def plan(self, k: int) -> Plan:
        chosen, scatter, num_samples = self.trade_off(k), self.statistics, self.num_samples
        contraction = expected_contraction(self.dim, num_samples, k, self.num_byzantine, scatter)
        error, rounds = chosen.expected_error, None
        if isfinite(error) and contraction < 1:
            rounds = max(rounds_to_floor(contraction, self.distance, error / 10), 1)
        guarantee, fails = self.guarantee(k)
        curve = _curve(2 * self.num_byzantine + 1, self.num_clients, k)
        return Plan(
            num_clients=self.num_clients,
            num_byzantine=self.num_byzantine,
            samples_per_client=self.samples_per_client,
            dim=self.dim,
            distance=self.distance,
            num_batches=k,
            trim_norm=self.trim_norm(k, guarantee),
            gamma=1 / num_samples,
            step_size=step_size(scatter.L, scatter.M),
            rounds=rounds,
            expected_error=error,
            clean_error=chosen.clean_error,
            expected_contraction=contraction,
            error_rate=chosen.error_rate,
            minimax_rate=minimax_rate(self.dim, num_samples),
            guarantee=guarantee,
            guarantee_fails=fails,
            samples_for_guarantee=self.samples_for_guarantee(k),
            numbers_sent=rounds and int(communication(self.num_clients, self.dim, rounds)),
            trade_off=tuple(map(self.trade_off, curve)),
        )

    def trim_norm(self, k: int, guarantee: Bound | None) -> float:
        """Return τ: no good batch is ever longer, or with no guarantee twice the RMS of one."""
        gradient = self.statistics.M * self.distance
        if guarantee is not None:
            return guarantee.radius_1 + gradient + guarantee.radius_2 * self.distance
        # E‖mean‖² is at most ‖∇F‖² + d·variance/(N/k), and ‖∇F‖ at most M‖θ − θ*‖.
        deviation = hypot(self.statistics.sigma, self.statistics.growth * self.distance)
        return 2 * hypot(gradient, deviation * error_rate(self.dim, k, self.num_samples))

    def guarantee(self, k: int) -> tuple[Bound, None] | tuple[None, str]:
        """Return the bound, or the condition that fails."""
        if self.precision is None:
            return None, "the precision of batches is not given"
        L, M = self.statistics.L, self.statistics.M
        batch_samples = self.num_clients // k * self.samples_per_client  # of the smallest batch
        try:
            bound = sharp_bound(
                num_batches=k,
                num_byzantine=self.num_byzantine,
                confidence=self.confidence,
                precision=self.precision(batch_samples),
                step_size=step_size(L, M),
                L=L,
                M=M,
                residual=RESIDUAL,
            )
            require(bound.floor <= self.distance, "floor ≤ ‖θ0 − θ*‖", bound.floor, self.distance)
        except ConditionFails as condition:
            return None, str(condition)
        return bound, None

    def samples_for_guarantee(self, k: int) -> int | None:
        """Return the fewest samples per client with which there is a bound, by bisection."""

        def holds(samples: int) -> bool:
            return replace(self, samples_per_client=samples).guarantee(k)[0] is not None

        if self.precision is None:
            return None
        enough = next(filter(holds, _SAMPLES), None)
        return enough and bisect_left(range(enough), True, lo=enough // 2 + 1, key=holds)

    def trade_off(self, k: int) -> TradeOff:
        guarantee, _ = self.guarantee(k)
        return TradeOff(
            num_batches=k,
            error_rate=error_rate(self.dim, k, self.num_samples),
            expected_error=self.expected_error(k),
            clean_error=expected_error(self.dim, self.num_samples, k, 0, self.statistics),
            floor=None if guarantee is None else guarantee.floor,
        )


def _curve(least: int, most: int, *chosen: int) -> list[int]:
    """Return up to 41 numbers of batches from the least to the most, with the chosen one."""
    if most - least < _CURVE_POINTS:
        return list(range(least, most + 1))
    spaced = np.geomspace(least, most, _CURVE_POINTS).round().astype(int)
    return sorted({*spaced.tolist(), *chosen})
