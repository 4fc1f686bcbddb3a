"""A plan: the settings of a training, and its expected error."""

from dataclasses import asdict, dataclass
from typing import Any

from ..json_lines import plain
from ..renamed import renamed
from .sharp import Bound


@renamed(error_in_peace="clean_error")
@dataclass(frozen=True, kw_only=True)
class TradeOff:
    """The expected errors for one number of batches, as of `Plan`.

    `floor` bounds the error that remains; None where a condition of the guarantee fails.
    """

    num_batches: int
    error_rate: float
    expected_error: float
    clean_error: float
    floor: float | None


@renamed(error_in_peace="clean_error")
@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings for a training, with its expected error and its guarantee.

    Expected errors follow from a model of the strongest attack (see `flwr_byz.theory.expected`) on
    clients whose data are alike: within 15 % in simulations of linear regression unless there are
    `doubts`, not proved. Other losses enter through `Statistics` alone, clients whose data differ
    not at all. The guarantee is a theorem: see `flwr_byz.theory.sharp`.

    Attributes
    ----------
    num_clients, num_byzantine, samples_per_client, dim, distance
        As given to `plan` or found: m, q, N/m, d and ‖θ0 − θ*‖.
    num_batches, gamma, step_size, local_steps : int, float, float, int or None
        k; γ = 1/N (Remark 2), at most 0.0005; η; local steps, None where clients reply gradients.
    trim_norm : float
        τ (Remark 2). With a guarantee no good batch is ever longer; else it is twice the root mean
        square norm of an honest batch's mean gradient at θ0.
    rounds, numbers_sent : int or None
        Rounds at `expected_contraction` that shrink ‖θ0 − θ*‖ to a tenth of `expected_error`, and
        the numbers that clients send in them, md in each; None where no number is enough.
    expected_error, clean_error, expected_contraction : float
        Root mean square of ‖θ − θ*‖ at the end, under the strongest attack and without one,
        infinity where samples are too few; and the factor of a round far from θ*, attacked.
    error_rate, minimax_rate : float
        √(dk/N), the order in which the paper's bound grows, and √(d/N).
    guarantee, guarantee_fails, samples_for_guarantee : Bound, str, int, or None
        The bound for the smallest batch, or the condition that fails; and the fewest samples per
        client with which there is one, None beyond 10^15 or where no precision is known.
    trade_off : tuple of TradeOff
        Over k, from 2q + 1 to m.
    doubts, hints : tuple of str
        Why the expected error may be off by more than 15 %, and what would help.
    """

    num_clients: int
    num_byzantine: int
    samples_per_client: int | tuple[int, ...]
    dim: int
    distance: float
    num_batches: int
    trim_norm: float
    gamma: float
    step_size: float
    local_steps: int | None
    rounds: int | None
    expected_error: float
    clean_error: float
    expected_contraction: float
    error_rate: float
    minimax_rate: float
    guarantee: Bound | None
    guarantee_fails: str | None
    samples_for_guarantee: int | None
    numbers_sent: int | None
    trade_off: tuple[TradeOff, ...]
    doubts: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    @property
    def fewest_samples(self) -> int:
        """Samples of the smallest client."""
        sizes = self.samples_per_client
        return sizes if isinstance(sizes, int) else min(sizes)

    def strategy_options(self) -> dict[str, Any]:
        """Return options for either strategy, as ``GeometricMedianOfMeans(**options)``.

        Clients reply gradients, as in the paper's Algorithm 2, and η and τ are for these; or with
        `local_steps` they reply weights, which are trimmed by ``trim_norm="auto"``.
        """
        options = {
            "num_byzantine": self.num_byzantine,
            "num_batches": self.num_batches,
            "gamma": self.gamma,
        }
        if self.local_steps is not None:
            return options | {"reply": "weights", "trim_norm": "auto"}
        steps = {"server_learning_rate": self.step_size, "trim_norm": self.trim_norm}
        return options | {"reply": "gradients"} | steps

    def to_dict(self) -> dict[str, Any]:
        """Return all fields in a form that JSON can hold, with null for infinite numbers."""
        made: dict[str, Any] = plain(asdict(self))
        return made
