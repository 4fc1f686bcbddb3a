"""What a plan is made of, for any number of batches k."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import hypot, isfinite

import numpy as np

from ..aggregation import num_batches as num_batches_of
from ..checks import check_number
from .advice import doubts, hints
from .conditions import ConditionFails, require
from .constants import Statistics
from .expected import expected_contraction, expected_error
from .plans import Plan, TradeOff
from .rates import communication, error_rate, minimax_rate, rounds_to_floor
from .sharp import Bound, Precision, sharp_bound

RESIDUAL = 1e-3  # of the median in every round, for the guarantee; half of it does for γ
_CURVE_POINTS = 40
_MOST_BATCHES = 1000  # that are chosen: the server's work grows with their square
_SAMPLES = [2**power for power in range(50)]  # per client: up to about 10^15


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The arguments of `flwr_byz.theory.plan`, with all sizes; the methods take k."""

    num_clients: int
    num_byzantine: int
    samples_per_client: int | tuple[int, ...]
    dim: int
    num_batches: int | None
    epsilon: float | None
    distance: float
    confidence: float
    step_size: float
    local_steps: int | None
    statistics: Statistics
    precision: Callable[[float], Precision] | None

    def __post_init__(self) -> None:
        m, q, sizes = self.num_clients, self.num_byzantine, self.samples_per_client
        num_batches_of(m, q, epsilon=1.0 if self.epsilon is None else self.epsilon)
        if self.num_batches is not None and self.epsilon is not None:
            raise TypeError("epsilon chooses num_batches: give one of them")
        if self.num_batches is not None:
            check_number("num_batches", self.num_batches, whole=True, least=2 * q + 1, most=m)
        if isinstance(sizes, tuple) and len(sizes) != m:
            raise ValueError(f"samples_per_client has {len(sizes)} sizes, num_clients is {m}")
        for size in sizes if isinstance(sizes, tuple) else [sizes]:
            check_number("samples_per_client", size, whole=True, least=1)

    @property
    def num_samples(self) -> float:
        """N, or with different sizes that of equal ones whose means scatter as much."""
        sizes = self.samples_per_client
        if isinstance(sizes, int):
            return self.num_clients * sizes
        return self.num_clients**2 / sum(1 / size for size in sizes)

    @property
    def chosen_batches(self) -> int:
        """k: the one that was given, that of ε, or the one of the least expected error."""
        m, q = self.num_clients, self.num_byzantine
        if self.num_batches is not None:
            return self.num_batches
        if self.epsilon is not None:
            return num_batches_of(m, q, epsilon=self.epsilon)
        if q == 0:
            return 1
        curve = _curve(2 * q + 1, min(m, max(_MOST_BATCHES, 4 * q)))
        steps = range(len(curve) - 1)  # along which errors fall, until they may rise

        def rises(step: int) -> bool:
            return self.expected_error(curve[step + 1]) > self.expected_error(curve[step])

        return curve[bisect_left(steps, True, key=rises)]

    def expected_error(self, k: int) -> float:
        """Return the expected error under attack."""
        return expected_error(self.dim, self.num_samples, k, self.num_byzantine, self.statistics)

    def guarantee(self, k: int) -> tuple[Bound, None] | tuple[None, str]:
        """Return the bound, or the condition that fails."""
        if self.local_steps is not None:
            return None, "it is for replies of gradients, not of weights after local steps"
        if self.precision is None:
            return None, "the precision of batches is not given"
        sizes = self.samples_per_client
        fewest = sizes if isinstance(sizes, int) else min(sizes)
        try:
            bound = sharp_bound(
                num_batches=k,
                num_byzantine=self.num_byzantine,
                confidence=self.confidence,
                precision=self.precision(self.num_clients // k * fewest),
                step_size=self.step_size,
                L=self.statistics.L,
                M=self.statistics.M,
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

        if self.precision is None or self.local_steps is not None:
            return None
        enough = next(filter(holds, _SAMPLES), None)
        return enough and bisect_left(range(enough), True, lo=enough // 2 + 1, key=holds)

    def trim_norm(self, k: int, guarantee: Bound | None) -> float:
        """Return τ: no good batch is ever longer, or with no guarantee twice the RMS of one."""
        gradient = self.statistics.M * self.distance
        if guarantee is not None:
            return guarantee.radius_1 + gradient + guarantee.radius_2 * self.distance
        # E‖mean‖² is at most ‖∇F‖² + d·variance/(N/k), and ‖∇F‖ at most M‖θ − θ*‖.
        deviation = hypot(self.statistics.sigma, self.statistics.growth * self.distance)
        return 2 * hypot(gradient, deviation * error_rate(self.dim, k, self.num_samples))

    def trade_off(self, k: int) -> TradeOff:
        """Return the errors for one k."""
        guarantee, _ = self.guarantee(k)
        return TradeOff(
            num_batches=k,
            error_rate=error_rate(self.dim, k, self.num_samples),
            expected_error=self.expected_error(k),
            clean_error=expected_error(self.dim, self.num_samples, k, 0, self.statistics),
            floor=None if guarantee is None else guarantee.floor,
        )

    def plan(self, k: int) -> Plan:
        """Return the plan with k batches."""
        q, num_samples = self.num_byzantine, self.num_samples
        curve = {each: self.trade_off(each) for each in _curve(2 * q + 1, self.num_clients, k)}
        chosen, (guarantee, fails) = curve[k], self.guarantee(k)
        contraction = expected_contraction(
            self.dim,
            num_samples,
            k,
            q,
            self.statistics,
            step=self.step_size,
            local_steps=self.local_steps or 1,
        )
        error, rounds = chosen.expected_error, None
        if isfinite(error) and contraction < 1:
            rounds = max(rounds_to_floor(contraction, self.distance, error / 10), 1)
        made = Plan(
            num_clients=self.num_clients,
            num_byzantine=q,
            samples_per_client=self.samples_per_client,
            dim=self.dim,
            distance=self.distance,
            num_batches=k,
            trim_norm=self.trim_norm(k, guarantee),
            gamma=min(1 / num_samples, RESIDUAL / 2),
            step_size=self.step_size,
            local_steps=self.local_steps,
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
            trade_off=tuple(curve.values()),
        )
        scatter = self.statistics
        constant = replace(self, statistics=replace(scatter, growth=0.0)).expected_error(k)
        reasons = doubts(made, scatter, error / constant)
        return replace(made, doubts=reasons, hints=hints(made, scatter))


def _curve(least: int, most: int, *chosen: int) -> list[int]:
    """Return up to 41 numbers of batches from the least to the most, with the chosen one."""
    if most - least < _CURVE_POINTS:
        return list(range(least, most + 1))
    spaced = np.geomspace(least, most, _CURVE_POINTS).round().astype(int)
    return sorted({*spaced.tolist(), *chosen})
