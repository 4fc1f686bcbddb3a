"""The options that both strategies add to those of FedAvg's."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from inspect import signature
from logging import WARNING
from math import inf
from typing import Any, Literal, get_args

from flwr.supercore import log

from .aggregation import num_batches
from .aggregation.batches import check_count, check_honest_majority
from .aggregation.geometric_median import check_gamma
from .aggregation.pre_aggregation import TrimNorm, check_trim_norm
from .aggregation.threads import num_threads
from .options import check_options
from .rounds import RoundOptions
from .theory import c_alpha, sharp_c_alpha

ReplyKind = Literal["weights", "gradients"]


def check_reply_kind(reply: str) -> None:
    """Raise ValueError unless clients can reply with it."""
    if reply not in get_args(ReplyKind):
        raise ValueError(f'reply must be "weights" or "gradients", got {reply!r}')


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
        check_count("num_byzantine", self.num_byzantine, least=0)
        check_count("num_batches", self.num_batches, least=1)
        check_count("bucketing_seed", self.bucketing_seed, least=0)
        if self.num_batches is not None:
            check_honest_majority(self.num_byzantine, self.num_batches)
        check_reply_kind(self.reply)
        if not 0 < self.server_learning_rate < inf:
            raise ValueError(
                f"server_learning_rate must be positive and finite, got {self.server_learning_rate}"
            )
        check_trim_norm(self.trim_norm)
        check_gamma(self.gamma)
        if self.streaming and self.group_by_key is not None:
            raise ValueError(
                "streaming and group_by_key exclude each other: a reply can be added to its batch "
                "on arrival only where batches are known beforehand"
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

    def with_minimums(
        self, options: Mapping[str, Any], strategy: type, owner: str
    ) -> dict[str, Any]:
        """Return the options of a strategy of Flower's, checked, with minimum numbers of clients.

        By default they are the fewest with which the rule can hold. Raises as `check_options`.
        """
        known = signature(strategy).parameters
        own = [field.name for kind in (Settings, RoundOptions) for field in fields(kind)]
        check_options(owner, options, [*known, *own])
        minimums = [name for name in known if name.startswith("min_")]
        for name in ("min_train_nodes", "min_fit_clients"):
            if options.get(name, self.min_clients) < self.min_clients:
                text = "%s=%d: rounds of fewer than %d clients give no guarantee (%s)"
                why = f"num_byzantine={self.num_byzantine}, num_batches={self.num_batches}"
                log(WARNING, text, name, options[name], self.min_clients, why)
        return dict.fromkeys(minimums, max(2, self.min_clients)) | dict(options)

    @property
    def step_size(self) -> float:
        """η of the step from the model sent: against a gradient, along an update."""
        return self.server_learning_rate * (-1.0 if self.reply == "gradients" else 1.0)

    def bound(self, num_kept: int, num_hidden: int) -> float:
        """Return the factor by which an attack can exceed the honest batches' largest distance.

        It is the sharp one, for q = `num_hidden` Byzantine batches among those that were kept;
        where q is not given, for the largest minority. Infinity without an honest majority.
        """
        alpha = self._hidden_among(num_kept, num_hidden) / num_kept
        return sharp_c_alpha(alpha) if alpha < 0.5 else inf

    def guarantee(self, num_clients: int, num_kept: int, num_hidden: int) -> str:
        """Say how far attacks can move the aggregate, of so many clients and batches kept."""
        if num_clients < self.min_clients:
            return (
                f"{num_clients} clients are too few for these settings, which need "
                f"{self.min_clients}: there is no guarantee"
            )
        k, q = self.batches_for(num_clients), self._hidden_among(num_kept, num_hidden)
        if num_kept <= 2 * q:
            return f"{num_kept} of k={k} batches are kept: no honest majority over q={q}"
        kept = "" if num_kept == k else f", of which {num_kept} are kept"
        return (
            f"m={num_clients} clients in k={k} batches{kept}: with up to q={q} of them Byzantine, "
            f"the aggregate is within {c_alpha(q / num_kept):.3g} times the largest honest batch's "
            f"distance from the true one (the paper's Lemma 1), and within "
            f"{self.bound(num_kept, num_hidden):.3g} times it (Minsker 2015, Lemma 2.1)"
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
            f"\t│\t└── Guarantee: within {factor}",
        ]

    def _hidden_among(self, num_kept: int, num_hidden: int) -> int:
        """Return how many batches may be Byzantine; without q, the largest minority."""
        return (num_kept - 1) // 2 if self.num_byzantine is None else num_hidden


def split_options(
    strategy: type, options: Mapping[str, Any]
) -> tuple[Settings, dict[str, Any], dict[str, Any]]:
    """Split the options of a robust server optimizer into the rule's, the rounds', the optimizer's.

    The optimizer takes weights, and its step size is its own.
    """
    of_rule = {field.name for field in fields(Settings)} - {"reply", "server_learning_rate"}
    of_rounds = {field.name for field in fields(RoundOptions)} - {"num_byzantine"}
    settings = Settings(**{name: options[name] for name in options if name in of_rule})
    rounds = {name: options[name] for name in options if name in of_rounds}
    rest = {name: options[name] for name in options if name not in of_rule | of_rounds}
    return settings, rounds, settings.with_minimums(rest, strategy, f"robust({strategy.__name__})")
