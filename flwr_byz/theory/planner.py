"""From m, q, N/m and d to the settings of a training, and what to expect of it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import exp, hypot, isfinite, sqrt
from typing import Any, Literal, TypedDict

import numpy as np

from ..aggregation import num_batches
from .calibration import calibrated_contraction, calibrated_error
from .conditions import ConditionFails, require_at_most, require_count, require_positive
from .constants import LINEAR_REGRESSION, Constants, Statistics, linear_regression
from .descent import step_size
from .median import c_alpha
from .probability import exact_success_probability, success_probability
from .rates import communication, error_rate, minimax_rate, rounds_to_floor
from .theorems import Guarantee, theorem_4

_CURVE_POINTS = 40
_MOST_SAMPLES = 10**15
_LEAST_LOG_DELTA = -500.0  # e to it, and its inverse, are float64 numbers


class StrategyOptions(TypedDict):
    """What `Plan.strategy_options` returns: options that both strategies have."""

    num_byzantine: int
    num_batches: int
    reply: Literal["gradients"]
    server_learning_rate: float
    trim_norm: float
    gamma: float


@dataclass(frozen=True, kw_only=True)
class TradeOff:
    """What one number of batches comes to.

    Attributes
    ----------
    num_batches : int
        k.
    error_rate : float
        √(dk/N), the order in which the paper's bound grows.
    expected_error : float
        Calibrated, under the strongest attack; infinity where samples are too few.
    error_in_peace : float
        Calibrated, where nobody attacks.
    floor : float or None
        The bound of Theorem 4 on the error that stays; None where a condition fails.
    """

    num_batches: int
    error_rate: float
    expected_error: float
    error_in_peace: float
    floor: float | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings for a training, what is proved of them, and what is to be expected.

    What is expected is calibrated by Monte Carlo on linear regression with Gaussian features and
    noise and equally distributed clients (see `flwr_byz.theory.calibration`): tight there, and no
    proof. It knows nothing of other losses than through `Statistics`, nothing of clients whose data
    differ, of local epochs, nor of samples with heavy tails. What is proved is Theorem 4: safe, and
    mostly vacuous, since its constants ask for millions of samples.

    Attributes
    ----------
    num_clients, num_byzantine, samples_per_client, dim : int
        m, q, N/m and d.
    epsilon, distance : float
        ε, and ‖θ0 − θ*‖.
    num_batches : int
        k, the smallest ≥ 2(1+ε)q.
    trim_norm : float
        τ (Remark 2): twice the root mean square norm of an honest batch's mean gradient at θ0.
    gamma : float
        γ = 1/N (Remark 2).
    step_size : float
        η = L/(2M²).
    rounds : int or None
        After which what is left of ‖θ0 − θ*‖ is a tenth of `expected_error`, at
        `expected_contraction` a round; None where one is infinite or the other 1 or more.
    expected_error, error_in_peace : float
        Calibrated: root mean square of ‖θ − θ*‖ at the end, under the strongest attack and where
        nobody attacks. Infinity where samples are too few to draw the model to θ*.
    expected_contraction : float
        Calibrated factor of a round, far from θ* and under attack.
    error_rate, minimax_rate : float
        √(dk/N) and √(d/N).
    alpha, delta : float
        α, halfway between q/k and 1/2 (Remark 1), and δ = (α − q/k)·e^(−d), those of the guarantee.
    success_probability, exact_success_probability : float
        That of the event on which the guarantee holds, by (19) and by (20).
    guarantee : Guarantee or None
        What Theorem 4 promises; None where it does not apply.
    guarantee_fails : str or None
        The condition that fails there.
    samples_for_guarantee : int or None
        The samples per client from which on Theorem 4 applies; None beyond 10^15, or where the
        problem's constants are not known.
    numbers_sent : int or None
        md numbers a round, in all rounds.
    trade_off : tuple of TradeOff
        Over k, from 2q + 1 to m.
    """

    num_clients: int
    num_byzantine: int
    samples_per_client: int
    dim: int
    epsilon: float
    distance: float
    num_batches: int
    trim_norm: float
    gamma: float
    step_size: float
    rounds: int | None
    expected_error: float
    error_in_peace: float
    expected_contraction: float
    error_rate: float
    minimax_rate: float
    alpha: float
    delta: float
    success_probability: float
    exact_success_probability: float
    guarantee: Guarantee | None
    guarantee_fails: str | None
    samples_for_guarantee: int | None
    numbers_sent: int | None
    trade_off: tuple[TradeOff, ...]

    @property
    def num_samples(self) -> int:
        """N, the samples of all clients together."""
        return self.num_clients * self.samples_per_client

    def strategy_options(self) -> StrategyOptions:
        """Return the options for either strategy: ``GeometricMedianOfMeans(**these)``.

        They are the paper's Algorithm 2, so clients reply gradients. For clients that reply trained
        weights take `num_byzantine`, `num_batches` and `gamma` alone, with ``trim_norm="auto"``: τ
        and η are those of gradients.
        """
        return {
            "num_byzantine": self.num_byzantine,
            "num_batches": self.num_batches,
            "reply": "gradients",
            "server_learning_rate": self.step_size,
            "trim_norm": self.trim_norm,
            "gamma": self.gamma,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as what JSON can hold: null where a number is infinite."""
        fields: dict[str, Any] = _finite(asdict(self))
        return fields


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
    """Choose k, τ, γ, η and the number of rounds, and say what error they come to.

    Parameters
    ----------
    num_clients, num_byzantine : int
        m ≥ 1 and q, 0 ≤ 2q < m: the most Byzantine clients in any one round.
    samples_per_client : int
        N/m ≥ 1.
    dim : int
        d ≥ 1, the number of parameters.
    epsilon : float, default 1.0
        ε > 0: k is the smallest ≥ 2(1+ε)q.
    distance : float, optional
        ‖θ0 − θ*‖ > 0, or a bound on it; √d by default (θ0 = 0, coordinates of θ* of size 1).
    statistics : Statistics, optional
        How the problem's gradients curve and scatter, for what is expected: those of linear
        regression by default, or what `constants` bound them by. See `estimate_statistics`.
    constants : Constants, optional
        Those of Assumptions 1 to 4, for what is proved. Without them and without `statistics` they
        are those of linear regression (Lemma 8); without them alone, nothing is proved.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        Where an argument is out of range.

    Notes
    -----
    What is proved takes the smallest batch, the approximate median with trimming (Remark 2) and
    r = distance/√d into account; the iterates stay within r√d of θ* since the floor has to lie
    below `distance`.
    """
    require_count("num_clients", num_clients, least=1)
    require_count("num_byzantine", num_byzantine, least=0)
    require_count("samples_per_client", samples_per_client, least=1)
    require_count("dim", dim, least=1)
    distance = sqrt(dim) if distance is None else distance
    require_positive(distance=distance)
    k = num_batches(num_clients, num_byzantine, epsilon=epsilon)
    setting = _Setting(
        num_clients=num_clients,
        num_byzantine=num_byzantine,
        samples_per_client=samples_per_client,
        dim=dim,
        distance=distance,
        statistics=statistics or _implied(constants),
        constants_of=_constants_of(constants, statistics),
    )
    expected = setting.expected_error(k)
    contraction = setting.expected_contraction(k)
    rounds = None
    if isfinite(expected) and contraction < 1:
        rounds = max(rounds_to_floor(contraction, distance, expected / 10), 1)
    guarantee, fails = setting.guarantee(k)
    alpha, delta = setting.alpha_and_delta(k)
    return Plan(
        num_clients=num_clients,
        num_byzantine=num_byzantine,
        samples_per_client=samples_per_client,
        dim=dim,
        epsilon=epsilon,
        distance=distance,
        num_batches=k,
        trim_norm=setting.trim_norm(k),
        gamma=1 / setting.num_samples,
        step_size=step_size(setting.statistics.L, setting.statistics.M),
        rounds=rounds,
        expected_error=expected,
        error_in_peace=setting.error_in_peace(k),
        expected_contraction=contraction,
        error_rate=error_rate(dim, k, setting.num_samples),
        minimax_rate=minimax_rate(dim, setting.num_samples),
        alpha=alpha,
        delta=delta,
        success_probability=success_probability(k, num_byzantine, alpha=alpha, delta=delta),
        exact_success_probability=exact_success_probability(
            k, num_byzantine, alpha=alpha, delta=delta
        ),
        guarantee=guarantee,
        guarantee_fails=fails,
        samples_for_guarantee=setting.samples_for_guarantee(k),
        numbers_sent=None if rounds is None else int(communication(num_clients, dim, rounds)),
        trade_off=tuple(
            setting.trade_off(batches) for batches in _curve(2 * num_byzantine + 1, k, num_clients)
        ),
    )


ConstantsOf = Callable[[float, int, float], Constants]  # of N/k, d and δ


def _implied(constants: Constants | None) -> Statistics:
    """Return what the constants bound statistics by: a variance is at most σ²."""
    if constants is None:
        return LINEAR_REGRESSION
    return Statistics(
        L=constants.L, M=constants.M, sigma=constants.sigma_1, growth=constants.sigma_2
    )


def _constants_of(constants: Constants | None, statistics: Statistics | None) -> ConstantsOf | None:
    """Return the constants of the problem, which is linear regression where nothing is given."""
    if constants is not None:
        return lambda n, d, delta: constants
    return linear_regression if statistics is None else None


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """Everything but k."""

    num_clients: int
    num_byzantine: int
    samples_per_client: int
    dim: int
    distance: float
    statistics: Statistics
    constants_of: ConstantsOf | None

    @property
    def num_samples(self) -> int:
        return self.num_clients * self.samples_per_client

    def expected_error(self, k: int) -> float:
        return calibrated_error(self.dim, self.num_samples, k, self.num_byzantine, self.statistics)

    def error_in_peace(self, k: int) -> float:
        return calibrated_error(self.dim, self.num_samples, k, 0, self.statistics)

    def expected_contraction(self, k: int) -> float:
        return calibrated_contraction(
            self.dim, self.num_samples, k, self.num_byzantine, self.statistics
        )

    def trim_norm(self, k: int) -> float:
        # E‖mean‖² is at most ‖∇F‖² + d·variance/(N/k), and ‖∇F‖ at most M‖θ − θ*‖.
        gradient = self.statistics.M * self.distance
        deviation = hypot(self.statistics.sigma, self.statistics.growth * self.distance)
        return 2 * hypot(gradient, deviation * error_rate(self.dim, k, self.num_samples))

    def alpha_and_delta(self, k: int) -> tuple[float, float]:
        share = self.num_byzantine / k
        alpha = (share + 0.5) / 2
        return alpha, (alpha - share) * exp(max(-self.dim, _LEAST_LOG_DELTA))

    def guarantee(self, k: int) -> tuple[Guarantee, None] | tuple[None, str]:
        """Return what Theorem 4 promises, or the condition that fails."""
        if self.constants_of is None:
            return None, "the constants of Assumptions 1 to 4 are not given"
        alpha, delta = self.alpha_and_delta(k)
        batch_samples = self.num_clients // k * self.samples_per_client
        constants = self.constants_of(batch_samples, self.dim, delta)
        trim_norm = self.trim_norm(k)
        try:
            guarantee = theorem_4(
                num_batches=k,
                num_byzantine=self.num_byzantine,
                batch_samples=batch_samples,
                dim=self.dim,
                alpha=alpha,
                delta=delta,
                constants=constants,
                r=self.distance / sqrt(self.dim),
                gamma=1 / self.num_samples,
                trim_norm=trim_norm,
            )
            require_at_most("ηξ1/ρ ≤ ‖θ0 − θ*‖", guarantee.floor, self.distance)
            strayed = (guarantee.xi_1 + guarantee.xi_2 * self.distance) / c_alpha(alpha)
            longest = constants.M * self.distance + strayed
            require_at_most("norms of good batches ≤ τ", longest, trim_norm)
        except ConditionFails as condition:
            return None, str(condition)
        return guarantee, None

    def samples_for_guarantee(self, k: int) -> int | None:
        """Return the fewest samples per client with which Theorem 4 applies, by bisection."""

        def holds(samples: int) -> bool:
            return replace(self, samples_per_client=samples).guarantee(k)[0] is not None

        enough = 1
        while not holds(enough):
            enough *= 2
            if self.constants_of is None or enough > _MOST_SAMPLES:
                return None
        too_few = enough // 2
        while enough - too_few > 1:
            middle = (enough + too_few) // 2
            enough, too_few = (middle, too_few) if holds(middle) else (enough, middle)
        return enough

    def trade_off(self, k: int) -> TradeOff:
        guarantee, _ = self.guarantee(k)
        return TradeOff(
            num_batches=k,
            error_rate=error_rate(self.dim, k, self.num_samples),
            expected_error=self.expected_error(k),
            error_in_peace=self.error_in_peace(k),
            floor=None if guarantee is None else guarantee.floor,
        )


def _curve(least: int, chosen: int, most: int) -> list[int]:
    """Return up to 41 numbers of batches from the least to the most, the chosen one among them."""
    if most - least < _CURVE_POINTS:
        return list(range(least, most + 1))
    spaced = np.geomspace(least, most, _CURVE_POINTS).round().astype(int)
    return sorted({*spaced.tolist(), chosen})


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite by None, in nested lists and dicts, too."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
