"""The options that both strategies add to those of FedAvg's."""

from collections.abc import Mapping
from dataclasses import dataclass
from logging import WARNING
from math import inf
from typing import Any, Literal, get_args

from flwr.supercore import log

from .aggregation import num_batches
from .aggregation.batches import check_batches
from .aggregation.pre_aggregation import TrimNorm, check_trim_norm
from .aggregation.threads import num_threads
from .checks import check_choice, check_kind, check_number
from .options import parameters_of
from .theory import c_alpha, certified_c_alpha

ReplyKind = Literal["weights", "gradients"]


def check_reply_kind(reply: object) -> None:
    """Raise TypeError or ValueError unless clients can reply with it."""
    check_choice("reply", reply, get_args(ReplyKind))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options that both strategies add to FedAvg's, checked; see `GeometricMedianOfMeans`."""

    num_byzantine: int | None = None
    num_batches: int | None = None
    reply: ReplyKind = "weights"
    server_learning_rate: float = 1.0
    trim_norm: TrimNorm = None
    gamma: float = 1e-9
    group_by_key: str | None = None
    bucketing_seed: int | None = None
    streaming: bool = False

    def __post_init__(self) -> None:
        if self.num_byzantine is None and self.num_batches is None:
            raise ValueError("give num_byzantine, num_batches or both")
        check_batches(self.num_byzantine, self.num_batches)
        check_reply_kind(self.reply)
        check_number("server_learning_rate", self.server_learning_rate, above=0)
        check_trim_norm(self.trim_norm)
        check_number("gamma", self.gamma, above=0)
        check_kind("group_by_key", self.group_by_key, (str, type(None)), "the name of a metric")
        if self.bucketing_seed is not None:
            check_number("bucketing_seed", self.bucketing_seed, whole=True, least=0)
        check_choice("streaming", self.streaming, (True, False))
        if self.streaming and self.group_by_key is not None:
            raise ValueError(
                f"streaming=True and group_by_key={self.group_by_key!r} exclude each other: a "
                "reply can be added to its batch on arrival only where batches are known "
                "beforehand; give one of the two"
            )
        num_threads()  # an environment that names none is refused now, not in mid-round

    @property
    def min_clients(self) -> int:
        """The fewest clients with which the rule can hold: k where it is given, else 2q + 1."""
        return self.num_batches or 2 * (self.num_byzantine or 0) + 1

    def batches_for(self, num_clients: int) -> int:
        """Return the number of batches k for m ≥ 1 clients: m where the rule cannot hold."""
        if num_clients < self.min_clients:
            return num_clients
        return self.num_batches or num_batches(num_clients, self.num_byzantine or 0)

    def honest_majority(self, number: int) -> int:
        """Return how many of so many clients or batches have an honest majority.

        These are 2q + 1, and without q more than half.
        """
        return number // 2 + 1 if self.num_byzantine is None else 2 * self.num_byzantine + 1

    def with_minimums(self, options: Mapping[str, Any], strategy: type) -> dict[str, Any]:
        """Return the options of a strategy of Flower's with minimum numbers of clients.

        By default they are the fewest with which the rule can hold.
        """
        minimums = [name for name in parameters_of(strategy) if name.startswith("min_")]
        for name in ("min_train_nodes", "min_fit_clients"):
            if options.get(name, self.min_clients) < self.min_clients:
                text = "%s=%d is too low for %s: give at least %d; smaller rounds have no guarantee"
                log(WARNING, text, name, options[name], self._wanted, self.min_clients)
        return dict.fromkeys(minimums, max(2, self.min_clients)) | dict(options)

    @property
    def _wanted(self) -> str:
        """What asks for at least `min_clients`."""
        k, q = self.num_batches, self.num_byzantine
        return f"num_batches={k}" if k else f"num_byzantine={q} (2q + 1)"

    @property
    def step_size(self) -> float:
        """η of the step from the model sent: against a gradient, along an update."""
        return self.server_learning_rate * (-1.0 if self.reply == "gradients" else 1.0)

    def bound(self, num_kept: int, num_hidden: int, residual: float = 0.0) -> float:
        """Return the factor by which an attack can exceed the honest batches' largest distance.

        It is the sharp one, for q = `num_hidden` Byzantine batches among those that were kept;
        where q is not given, for the largest minority. `residual` is that of the median. Infinity
        without an honest majority.
        """
        alpha = self._hidden_among(num_kept, num_hidden) / num_kept
        return certified_c_alpha(alpha, residual) if residual < 1 - 2 * alpha else inf

    def guarantee(self, num_clients: int, num_kept: int, num_hidden: int) -> str:
        """Say how far attacks can move the aggregate, of so many clients and batches kept."""
        if num_clients < self.min_clients:
            text = f"{num_clients} clients are too few for {self._wanted}: there is no guarantee"
            return f"{text}; let at least {self.min_clients} take part"
        k, q = self.batches_for(num_clients), self._hidden_among(num_kept, num_hidden)
        if num_kept <= 2 * q:
            return f"{num_kept} of k={k} batches are kept: no honest majority over q={q}"
        kept = "" if num_kept == k else f", of which {num_kept} are kept"
        return (
            f"m={num_clients} clients in k={k} batches{kept}: with up to q={q} of them Byzantine, "
            f"an exact median is within {c_alpha(q / num_kept):.3g} times the largest honest "
            f"batch's distance from the true one (the paper's Lemma 1), and within "
            f"{self.bound(num_kept, num_hidden):.3g} times it (Minsker 2015, Lemma 2.1); byz-bound "
            "is the factor of each round's own median"
        )

    def summary(self) -> list[str]:
        """Lines for the log, in the style of Flower's strategies."""
        q, k = self.num_byzantine or 0, self.num_batches
        if self.num_byzantine is None:
            size = f"Batches: {k}"
        else:
            size = f"Byzantine clients: at most {q} "
            size += f"| batches: {k}" if k else "(k batches follow)"
        bucketing = "fixed" if self.bucketing_seed is None else "drawn afresh in each round"
        trim = "none" if self.trim_norm is None else self.trim_norm
        k = k or max(4 * q, 1)
        factor = f"{self.bound(k, q):.3g} times the largest distance of an honest batch"
        if self.trim_norm is not None:
            worst = self.bound(least := self.honest_majority(k), q)
            factor += f" ({worst:.3g} times where no more than {least} batches are kept)"
        return [
            "\t├──> GeometricMedianOfMeans settings:",
            f"\t│\t├── {size}",
            f"\t│\t├── Members of a batch: {bucketing}",
            f"\t│\t├── Replies: {self.reply} | server learning rate: {self.server_learning_rate}",
            f"\t│\t├── Norm trimming: {trim}",
            f"\t│\t├── Gap of the geometric median: at most {self.gamma}",
            f"\t│\t└── Guarantee of an exact median: within {factor}",
        ]

    def _hidden_among(self, num_kept: int, num_hidden: int) -> int:
        """Return how many batches may be Byzantine; without q, the largest minority."""
        return (num_kept - 1) // 2 if self.num_byzantine is None else num_hidden
