"""The rules of this package in the registry: `GMOM`, and every rule that `RobustFedAvg` takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flwr_byz import aggregation
from flwr_byz.aggregation import GeometricMedian, NormTrimming, SpectralFilter, robust_mean
from flwr_byz.aggregation.batches import default_quorum
from flwr_byz.aggregation.pre_aggregation import PreAggregation
from flwr_byz.aggregation.rule import Rule as AggregationRule

from .rule import ServerSide, Vectors

GMOM = "GeometricMedianOfMeans"
ROBUST = "RobustFedAvg"
ASYNC = "AsyncGeometricMedianOfMeans"

_NAMES = {
    "NearestNeighborMixing": "NNM",
    "AdaptiveClipping": "ARC",
    "NormTrimming": "trim",
    "Bucketing": "buckets",
    "FilteredClipping": "clipping about the filter",
    "SpectralFilter": "spectral filter",
    "GeometricMedian": "GM",
}


_OF_STEPS = {
    "quorum": "quorum {}",
    "concurrency": "{} at a time",
    "max_staleness": "at most {} steps old",
    "staleness_exponent": "exponent {}",
    "keep_steps": "means kept {} steps",
}


@dataclass(frozen=True, kw_only=True)
class OwnRule:
    """A rule of this package, as a text names it.

    Parameters
    ----------
    rule : str
        Of ``flwr_byz.aggregation``.
    pre_aggregation : str
        Classes of ``flwr_byz.aggregation``, in their order, with blanks between them.
    trusted : bool
        Whether the server's own data have the last word.
    num_batches, batch_size : int, optional
        k, or b for k = m/b, and at least 2q + 1 batches; else k follows from q.
    trim_norm : float, "auto" or None
        As of `GeometricMedianOfMeans`.
    rebucketed : bool
        Whether groups are drawn anew in every round.
    """

    known_options: ClassVar[tuple[str, ...]] = (
        *("rule", "pre_aggregation", "trusted", "num_batches", "batch_size", "trim_norm"),
        "rebucketed",
    )
    rule: str = "GeometricMedian"
    pre_aggregation: str = ""
    trusted: bool = False
    num_batches: int | None = None
    batch_size: int | None = None
    trim_norm: Any = None
    rebucketed: bool = False

    def __post_init__(self) -> None:
        for name in (self.rule, *self.pre_aggregation.split()):
            if name not in _NAMES:
                raise ValueError(f"a rule is made of {', '.join(_NAMES)}, got {name!r}")

    def made(self) -> tuple[AggregationRule, Sequence[PreAggregation]]:
        """Return the rule and its pre-aggregation."""
        entries = [getattr(aggregation, name)() for name in self.pre_aggregation.split()]
        if self.trim_norm is not None:
            entries.insert(0, NormTrimming(self.trim_norm))
        rule = SpectralFilter() if self.rule == "SpectralFilter" else GeometricMedian(1e-6)
        return rule, entries

    def batches(self, num_clients: int, num_byzantine: int) -> int:
        """Return k."""
        if self.batch_size is not None:
            wanted = -(-num_clients // self.batch_size)
            return min(num_clients, max(wanted, 2 * num_byzantine + 1))
        return self.num_batches or self.made()[0].num_batches(num_clients, num_byzantine)

    def aggregate(self, vectors: Vectors, q: int, server: ServerSide) -> Vectors:
        """Aggregate vectors as the strategy does, and let the server's own data go on from there.

        q counts for less than half of the vectors.
        """
        rule, entries = self.made()
        q = min(q, (len(vectors) - 1) // 2)
        k = min(self.batches(len(vectors), q), len(vectors))
        known = self.known(k, q)
        point = robust_mean(
            vectors, k, rule=rule, pre_aggregation=entries, num_byzantine=known
        ).point
        if self.trusted and server.trusted is not None:
            return server.trusted.after(point)
        return point

    @property
    def sets_batches(self) -> bool:
        """Whether k is given, and does not follow from q alone."""
        return self.num_batches is not None or self.batch_size is not None

    def known(self, num_batches: int, num_byzantine: int) -> int | None:
        """Return the q that the strategy is given; None where it is half of the batches."""
        return num_byzantine if 2 * num_byzantine < num_batches else None

    def options(self, num_clients: int, num_byzantine: int) -> dict[str, Any]:
        """Return the options of `RobustFedAvg`."""
        size: dict[str, Any] = {"num_byzantine": num_byzantine}
        if self.sets_batches:
            size["num_batches"] = self.batches(num_clients, num_byzantine)
        rule, entries = self.made()
        return size | {"rule": rule, "pre_aggregation": entries}

    def title(self) -> str:
        """Return a short name for tables and pictures."""
        named = [_NAMES[name] for name in (*self.pre_aggregation.split(), self.rule)]
        parts = [" + ".join(named)]
        if self.batch_size == 1:
            parts.append("k = m")
        elif self.batch_size is not None:
            parts.append(f"batches of {self.batch_size}")
        if self.num_batches is not None:
            parts.append(f"k = {self.num_batches}")
        if self.rebucketed:
            parts.append("re-bucketed")
        if self.trusted:
            parts.append("server last")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class PapersRule(OwnRule):
    """`GeometricMedianOfMeans`: where k is given, it stands for q, too, which the server lacks."""

    known_options: ClassVar[tuple[str, ...]] = (
        *("num_batches", "batch_size", "trim_norm", "rebucketed"),
    )
    name: ClassVar[str] = "GMoM"
    trim_norm: Any = "auto"

    def known(self, num_batches: int, num_byzantine: int) -> int | None:
        """Return the q that the strategy is given; None where k is given."""
        return None if self.sets_batches else super().known(num_batches, num_byzantine)

    def options(self, num_clients: int, num_byzantine: int) -> dict[str, Any]:
        """Return the options of the strategy."""
        size = {"num_byzantine": num_byzantine}
        if self.sets_batches:
            size = {"num_batches": self.batches(num_clients, num_byzantine)}
        return size | {"trim_norm": self.trim_norm}

    def title(self) -> str:
        """Return a short name for tables and pictures."""
        parts = ["k = m" if self.batch_size == 1 else f"batches of {self.batch_size}"]
        if self.batch_size is None:
            parts = [] if self.num_batches is None else [f"k = {self.num_batches}"]
        if self.trim_norm is None:
            parts.append("untrimmed")
        elif self.trim_norm != "auto":
            parts.append(f"trim {self.trim_norm}")
        if self.rebucketed:
            parts.append("re-bucketed")
        return ", ".join([self.name, *parts])


@dataclass(frozen=True, kw_only=True)
class AsyncRule(PapersRule):
    """`AsyncGeometricMedianOfMeans`, whose own options are those of the strategy."""

    name: ClassVar[str] = "async GMoM"
    known_options: ClassVar[tuple[str, ...]] = (
        *PapersRule.known_options,
        *_OF_STEPS,
    )
    quorum: int | None = None
    concurrency: int | None = None
    max_staleness: int = 100
    staleness_exponent: float = 0.5
    keep_steps: int = 100

    def batches(self, num_clients: int, num_byzantine: int) -> int:
        """Return k."""
        given = self.sets_batches
        return super().batches(num_clients, num_byzantine) if given else num_clients

    def options(self, num_clients: int, num_byzantine: int) -> dict[str, Any]:
        """Return the options of the strategy."""
        size: dict[str, Any] = {"num_byzantine": num_byzantine}
        if self.sets_batches:
            size["num_batches"] = self.batches(num_clients, num_byzantine)
        own = {*self.known_options} - {"num_batches", "batch_size", "rebucketed"}
        return size | {name: getattr(self, name) for name in own}

    def title(self) -> str:
        """Return a short name for tables and pictures."""
        parts = [
            text.format(value)
            for name, text in _OF_STEPS.items()
            if (value := getattr(self, name)) != getattr(type(self), name)
        ]
        return ", ".join([super().title(), *parts])

    def quorum_of(self, num_clients: int, num_byzantine: int) -> int:
        """Return how many batches a step waits for."""
        k = self.batches(num_clients, num_byzantine)
        return min(self.quorum or default_quorum(k, num_byzantine), k)


OWN: Mapping[str, type[OwnRule]] = {GMOM: PapersRule, ROBUST: OwnRule, ASYNC: AsyncRule}
"""The rules of this package."""
