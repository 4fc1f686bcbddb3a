"""Pre-aggregation: linear maps of the rows before a rule, found from their inner products."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..checks import check_number
from .gram import Gram, distances_between, offset_products
from .row_map import RowMap, select
from .spectral_filter import filter_weights

TrimNorm = float | Literal["auto"] | None


class NoRowsLeft(ValueError):
    """No row is left for the rule."""


class PreAggregation(Protocol):
    """One map of the rows; several follow one another."""

    @property
    def needs_products(self) -> bool:
        """Whether the map depends on more than the norms."""

    def row_map(self, measured: Gram, num_byzantine: int | None, server_round: int) -> RowMap:
        """Return the map of the measured rows, all of them finite.

        q is `num_byzantine`; without it, the largest minority.
        """


@dataclass(frozen=True)
class NormTrimming:
    """Leave out rows whose norm is above τ (the paper's Remark 2).

    Nothing is left out where 2q rows or fewer would remain, or, without q, where more than
    (k − 1)//2 are too long: an honest majority has to remain.

    Parameters
    ----------
    norm : float or "auto", default "auto"
        τ > 0; "auto" is twice the median of the norms.

    Raises ValueError where `norm` is out of range.
    """

    norm: float | Literal["auto"] = "auto"

    needs_products: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_trim_norm(self.norm, "norm")

    def too_long(self, norms: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Mark the norms (k,) above τ; raises NoRowsLeft where all are."""
        with np.errstate(all="ignore"):
            limit = 2.0 * float(np.median(norms)) if self.norm == "auto" else self.norm
        marked: NDArray[np.bool_] = norms > limit
        if marked.all():
            shortest = f"the shortest batch mean has norm {norms.min():.6g}"
            raise NoRowsLeft(f"trim_norm = {self.norm} leaves no batch: {shortest}")
        return marked

    def row_map(self, measured: Gram, num_byzantine: int | None, server_round: int) -> RowMap:
        """Select the rows that are not too long."""
        kept = ~self.too_long(measured.norms)
        least = len(kept) // 2 + 1 if num_byzantine is None else 2 * num_byzantine + 1
        return select(kept) if kept.sum() >= least else None


@dataclass(frozen=True)
class NearestNeighborMixing:
    """Make each row the mean of its k − q nearest, itself included: for clients that differ.

    Rows of clients with unlike data come together, and the rule behind it can tell honest rows from
    Byzantine ones by less. It makes any (q, κ)-robust rule (q, 8q/(k − q)·(1 + κ))-robust (Allouah,
    Farhadkhani, Guerraoui, Gupta, Pinot, Stephan 2023, "Fixing by Mixing").
    """

    needs_products: ClassVar[bool] = True

    def row_map(self, measured: Gram, num_byzantine: int | None, server_round: int) -> RowMap:
        """Average the nearest rows; of rows equally near, the first count."""
        assert measured.products is not None
        distances = distances_between(measured.products)
        np.fill_diagonal(distances, -1.0)
        num_nearest = len(distances) - minority(len(distances), num_byzantine)
        nearest = np.argsort(distances, axis=1, kind="stable")[:, :num_nearest]
        mixing = np.zeros_like(distances)
        np.put_along_axis(mixing, nearest, 1 / num_nearest, axis=1)
        return mixing


@dataclass(frozen=True)
class AdaptiveClipping:
    """Clip the rows to the largest norm left when the ⌊2(q/k)(k − q)⌋ longest are cut.

    It bounds what a long row can do without a limit to choose, and keeps the robustness of the rule
    behind it (Allouah, Guerraoui, Gupta, Jellouli, Rizk, Stephan 2025, "Adaptive Gradient Clipping
    for Robust Federated Learning").
    """

    needs_products: ClassVar[bool] = True

    def row_map(self, measured: Gram, num_byzantine: int | None, server_round: int) -> RowMap:
        """Scale the longest rows down."""
        norms, k = measured.norms, len(measured.norms)
        q = minority(k, num_byzantine)
        num_clipped = 2 * q * (k - q) // k
        limit = np.sort(norms)[k - num_clipped - 1]
        is_longer = norms > limit
        factors = np.divide(limit, norms, out=np.ones(k), where=is_longer)
        return np.diag(factors) if is_longer.any() else None


@dataclass(frozen=True)
class FilteredClipping:
    """Clip the rows about the mean of a spectral filter, to the median of their distances from it.

    A row z becomes c + min(1, τ/‖z − c‖)(z − c): the centred clipping of Karimireddy, He and Jaggi
    2021, with a robust centre c and radius τ that the round itself gives. Before the filter itself
    it saves honest rows that lie far off, and cuts what Byzantine ones can do; outliers become
    inliers, too. It suits a server whose own data have the last word.
    """

    needs_products: ClassVar[bool] = True

    def row_map(self, measured: Gram, num_byzantine: int | None, server_round: int) -> RowMap:
        """Draw far rows to the filter's mean."""
        products = measured.products
        assert products is not None
        weights, _, _ = filter_weights(products, minority(len(products), num_byzantine))
        squares = offset_products(products, weights).diagonal()
        distances = np.sqrt(np.maximum(squares, 0.0))
        radius = np.median(distances)
        factors = np.divide(radius, distances, out=np.ones(len(products)), where=distances > radius)
        mapping: NDArray[np.float64] = np.diag(factors) + (1 - factors)[:, None] * weights
        return mapping


@dataclass(frozen=True)
class Bucketing:
    """Make rows the means of randomly drawn buckets of rows, drawn afresh in each round.

    For rules whose rows are single replies; `bucketing_seed` does the same for batches of clients.
    From Karimireddy, He and Jaggi 2022, "Byzantine-Robust Learning on Heterogeneous Datasets via
    Bucketing", Algorithm 1.

    Parameters
    ----------
    size : int, default 2
        Rows of a bucket, at least 1; the last one may hold fewer.
    seed : int, default 0
        What the buckets are drawn from, together with the round. Who knows it can choose the
        buckets that Byzantine clients fall in.

    Raises ValueError where an argument is out of range.
    """

    size: int = 2
    seed: int = 0

    needs_products: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("size", self.size, whole=True, least=1)
        check_number("seed", self.seed, whole=True, least=0)

    def row_map(self, measured: Gram, num_byzantine: int | None, server_round: int) -> RowMap:
        """Average the rows of each bucket."""
        k = len(measured.norms)
        order = np.random.default_rng([self.seed, server_round]).permutation(k)
        buckets = np.split(order, range(self.size, k, self.size))
        means = np.zeros((len(buckets), k))
        for row, bucket in zip(means, buckets, strict=True):
            row[bucket] = 1 / len(bucket)
        return means


def minority(num_rows: int, num_byzantine: int | None) -> int:
    """Return q, at most the largest minority of the rows; without q, that."""
    largest = (num_rows - 1) // 2
    return largest if num_byzantine is None else min(num_byzantine, largest)


def check_trim_norm(trim_norm: object, name: str, note: str = ' or "auto"') -> None:
    """Check that τ is a positive number or "auto"."""
    if not (isinstance(trim_norm, str) and trim_norm == "auto"):
        check_number(name, trim_norm, above=0, note=note)
