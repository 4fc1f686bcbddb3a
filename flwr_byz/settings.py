"""The options that the strategies add to those of FedAvg's."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from logging import WARNING
from typing import Any, Literal, get_args

from flwr.supercore import log

from .aggregation import GeometricMedian, NearestNeighborMixing, NormTrimming
from .aggregation.batches import check_batches
from .aggregation.bounds import mixed_kappa
from .aggregation.median_of_means import trimming
from .aggregation.pre_aggregation import PreAggregation, TrimNorm, minority
from .aggregation.rule import Rule
from .aggregation.threads import num_threads
from .checks import check_choice, check_kind, check_number, wrong_kind
from .options import parameters_of

ReplyKind = Literal["weights", "gradients"]


def of_the_paper(
    trim_norm: TrimNorm,
    gamma: float | None,
    pre_aggregation: Sequence[PreAggregation],
    others: Collection[str] = (),
) -> dict[str, Any]:
    """Return rule and pre-aggregation of the geometric median of means.

    Raises TypeError where `others`, the names of other options, hold "rule".
    """
    if "rule" in others:
        raise TypeError(
            "GeometricMedianOfMeans has no option rule, it is one: give RobustFedAvg(rule=...)"
        )
    check_pre_aggregation(pre_aggregation)
    return {
        "rule": GeometricMedian(gamma),
        "pre_aggregation": (*trimming(trim_norm), *pre_aggregation),
    }


def check_pre_aggregation(entries: object) -> None:
    """Raise TypeError unless it is a list or tuple of pre-aggregations."""
    needed = "a list, such as [NearestNeighborMixing()]"
    check_kind("pre_aggregation", entries, (list, tuple), needed)
    assert isinstance(entries, list | tuple)
    for number, entry in enumerate(entries):
        if isinstance(entry, type) or not hasattr(entry, "row_map"):
            name, example = f"pre_aggregation[{number}]", "such as NearestNeighborMixing()"
            raise wrong_kind(name, f"a pre-aggregation, {example}", entry)


def check_reply_kind(reply: object) -> None:
    """Raise TypeError or ValueError unless clients can reply with it."""
    check_choice("reply", reply, get_args(ReplyKind))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options that the strategies add to FedAvg's, checked; see `RobustFedAvg`."""

    num_byzantine: int | None = None
    num_batches: int | None = None
    reply: ReplyKind = "weights"
    server_learning_rate: float = 1.0
    rule: Rule = GeometricMedian()
    pre_aggregation: Sequence[PreAggregation] = ()
    group_by_key: str | None = None
    bucketing_seed: int | None = None
    streaming: bool = False

    def __post_init__(self) -> None:
        if self.num_byzantine is None and self.num_batches is None:
            raise ValueError("give num_byzantine, num_batches or both")
        check_batches(self.num_byzantine, self.num_batches)
        check_reply_kind(self.reply)
        check_number("server_learning_rate", self.server_learning_rate, above=0)
        if isinstance(self.rule, type) or not hasattr(self.rule, "combine"):
            raise wrong_kind("rule", "a rule, such as SpectralFilter()", self.rule)
        check_pre_aggregation(self.pre_aggregation)
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
        return self.num_batches or self.rule.num_batches(num_clients, self.num_byzantine or 0)

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

    def guarantee(self, num_clients: int, num_rows: int) -> str:
        """Say how far attacks can move the aggregate, of so many clients and rows for the rule."""
        if num_clients < self.min_clients:
            text = f"{num_clients} clients are too few for {self._wanted}: there is no guarantee"
            return f"{text}; let at least {self.min_clients} take part"
        k, q = self.batches_for(num_clients), minority(num_rows, self.num_byzantine)
        kept = "" if num_rows == k else f", of which {num_rows} are kept"
        if any(not isinstance(entry, NormTrimming) for entry in self.pre_aggregation):
            kept = f", {num_rows} rows after pre-aggregation, which count as batches below"
        return (
            f"m={num_clients} clients in k={k} batches{kept}: with up to q={q} of them Byzantine, "
            f"{self.rule.guarantee(num_rows, q)}{self._after_mixing(num_rows, q)}"
        )

    def _after_mixing(self, num_rows: int, num_byzantine: int) -> str:
        """Say what is proved where the rows that the rule sees are mixed."""
        if not isinstance((None, *self.pre_aggregation)[-1], NearestNeighborMixing):
            return ""
        kappa = self.rule.kappa(num_rows, num_byzantine)
        after = mixed_kappa(kappa, num_rows, num_byzantine)
        return (
            f"; and the squared distance from the mean of the honest rows before mixing is at most "
            f"{after:.3g} times their mean squared one (Allouah et al. 2023)"
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
        k = k or max(4 * q, 1)
        names = " | ".join(map(str, self.pre_aggregation)) or "none"
        return [
            "\t├──> Robust aggregation settings:",
            f"\t│\t├── {size}",
            f"\t│\t├── Members of a batch: {bucketing}",
            f"\t│\t├── Replies: {self.reply} | server learning rate: {self.server_learning_rate}",
            f"\t│\t├── Pre-aggregation: {names}",
            f"\t│\t├── Rule: {self.rule}",
            f"\t│\t└── Guarantee: {self.rule.guarantee(k, minority(k, self.num_byzantine))}",
        ]
