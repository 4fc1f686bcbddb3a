"""The geometric median of means on a Ray cluster; Flower's simulation extra brings Ray."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import ray
from numpy.typing import ArrayLike

from .aggregation.geometric_median import GeometricMedian
from .aggregation.gram import gram
from .aggregation.median_of_means import Aggregate, aggregate, as_batches, trimming
from .aggregation.pre_aggregation import PreAggregation, TrimNorm
from .aggregation.rows import Kernel, Part, Vector, form_rows
from .aggregation.rule import Rule
from .aggregation.vectors import check_finite
from .checks import check_number


def geometric_median_of_means(
    vectors: ArrayLike | Sequence[ArrayLike],
    num_batches: int,
    *,
    trim_norm: TrimNorm = None,
    gamma: float = 1e-9,
    pre_aggregation: Sequence[PreAggregation] = (),
    num_byzantine: int | None = None,
    num_shards: int | None = None,
) -> Aggregate:
    """Aggregate as ``flwr_byz.aggregation.geometric_median_of_means``, on a Ray cluster.

    Parameters and errors are those of that function, and of `robust_mean` here.
    """
    return robust_mean(
        vectors,
        num_batches,
        rule=GeometricMedian(gamma),
        pre_aggregation=(*trimming(trim_norm), *pre_aggregation),
        num_byzantine=num_byzantine,
        num_shards=num_shards,
    )


def robust_mean(
    vectors: ArrayLike | Sequence[ArrayLike],
    num_batches: int | None = None,
    *,
    rule: Rule,
    pre_aggregation: Sequence[PreAggregation] = (),
    num_byzantine: int | None = None,
    server_round: int = 0,
    num_shards: int | None = None,
) -> Aggregate:
    """Aggregate as ``flwr_byz.aggregation.robust_mean``, on a Ray cluster.

    Every worker takes a range of coordinates of all vectors, which may be memory-mapped files. It
    sends its part of the k × k inner products of the batch means, and combines its own coordinates
    once the weights are known (the paper's footnote 3: parameter servers that share the
    parameters). Ray replaces workers that die. The result is that of a single machine, to rounding.

    `num_shards` ≥ 1 is the number of ranges, by default one for every core, and at most d are used;
    other parameters and errors are those of ``flwr_byz.aggregation``.
    """
    if num_shards is not None:
        check_number("num_shards", num_shards, whole=True, least=1)
    vectors, batches = as_batches(vectors, num_batches, num_byzantine)
    if not ray.is_initialized():
        ray.init()
    cores = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
    dim, num_shards = len(vectors[0]), num_shards or max(int(cores), 1)
    cuts = np.linspace(0, dim, min(num_shards, max(dim, 1)) + 1, dtype=np.intp).tolist()
    shards = [
        ray.put([[[vector[start:stop]] for (vector,) in batch] for batch in batches])
        for start, stop in pairwise(cuts)
    ]
    rows = _ShardedRows(shards, len(batches), dim, np.dtype(np.float64))
    measured = gram(rows)
    if not measured.finite.all():
        check_finite(vectors, "vectors")
    return aggregate(
        rows,
        measured,
        rule=rule,
        pre_aggregation=pre_aggregation,
        num_byzantine=num_byzantine,
        server_round=server_round,
    )


@dataclass(frozen=True, eq=False)
class _ShardedRows:
    """Batch means, as `Rows`, with their ranges of coordinates in the cluster's object store."""

    shards: Sequence[Any]
    num_rows: int
    dim: int
    dtype: np.dtype[np.floating]

    def __len__(self) -> int:
        return self.num_rows

    def map(self, kernel: Kernel[Part]) -> Iterator[Part]:
        """Apply a kernel to every block of coordinates, at the worker that holds it."""
        references: list[Any] = [_map_shard.remote(shard, kernel) for shard in self.shards]
        return chain.from_iterable(map(ray.get, references))


@ray.remote
def _map_shard(batches: Sequence[Sequence[Vector]], kernel: Any) -> list[Any]:
    os.environ["FLWR_BYZ_NUM_THREADS"] = "1"  # a worker has one core to itself
    return list(form_rows(batches, np.dtype(np.float64)).map(kernel))
