"""What a plan says: the settings of a training, and what to expect of it."""

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal, TypedDict

from .theorems import Guarantee


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
    """What to expect of one number of batches.

    Attributes
    ----------
    num_batches : int
        k.
    error_rate : float
        √(dk/N), the order in which the paper's bound grows.
    expected_error : float
        Calibrated, under the strongest attack; infinity where samples are too few.
    error_in_peace : float
        Calibrated, in a clean run.
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
        Calibrated: root mean square of ‖θ − θ*‖ at the end, under the strongest attack and
        without one. Infinity where samples are too few to draw the model to θ*.
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


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite by None, in nested lists and dicts, too."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
