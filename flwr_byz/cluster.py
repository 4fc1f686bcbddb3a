"""The geometric median of means with its coordinates split over the workers of a Ray cluster.

Needs Ray, which Flower's simulation extra brings.
"""

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import ray
from numpy.typing import ArrayLike, NDArray

from .aggregation import GeometricMedianOfMeans, split_into_batches
from .aggregation._batch_means import BatchMeans, Block, Vector, find_centre
from .aggregation._vectors import as_vectors
from .aggregation.median_of_means import TrimNorm, aggregate_to_point, least_to_keep

_FLOAT64: np.dtype[np.floating] = np.dtype(np.float64)


def geometric_median_of_means(
    vectors: ArrayLike | Sequence[ArrayLike],
    num_batches: int,
    *,
    trim_norm: TrimNorm = None,
    gamma: float = 1e-9,
    num_shards: int | None = None,
) -> GeometricMedianOfMeans:
    """Aggregate as ``flwr_byz.aggregation.geometric_median_of_means``, on a Ray cluster.

    Every worker takes a range of coordinates of all vectors. It adds its part to the k × k inner
    products of the batch means, which is all that travels, and combines its own coordinates once
    the weights are known (the paper's footnote 3: parameter servers that share the parameters).
    Workers that die are Ray's to replace.

    Parameters
    ----------
    vectors, num_batches, trim_norm, gamma
        As in ``flwr_byz.aggregation.geometric_median_of_means``. Rows may be memory-mapped files.
    num_shards : int, optional
        Into how many ranges the coordinates are split; one for every core of the cluster by
        default, never more than d.

    Returns
    -------
    GeometricMedianOfMeans
        Equal to that of a single machine up to rounding.

    Raises
    ------
    ValueError
        Where an argument is out of range, or a vector is not finite or of another length (the
        message names its row).
    AllBatchesTrimmed
        A ValueError: where every batch mean is longer than `trim_norm`.

    Notes
    -----
    Input whose median the inner products cannot certify is aggregated on the calling machine.
    """
    rows = as_vectors(vectors, "vectors")
    batches = split_into_batches([(row,) for row in rows], num_batches)
    if not ray.is_initialized():
        ray.init()
    if num_shards is None:
        cores = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
        num_shards = max(int(cores), 1)
    if num_shards < 1:
        raise ValueError(f"num_shards must be at least 1, got {num_shards}")
    means = _ShardedMeans(batches, num_shards)
    return aggregate_to_point(means, trim_norm, gamma, least_to_keep(num_batches, None))


# The batches' vectors and the centre in a range of coordinates.
_Shard = tuple[Sequence[Sequence[Vector]], Vector | None]


class _ShardedMeans:
    """Batch means whose coordinates lie in the cluster's object store; see `BatchMeans`."""

    def __init__(self, batches: Sequence[Sequence[Vector]], num_shards: int) -> None:
        self.batches = batches
        self.dtype = _FLOAT64
        self.centre = find_centre(batches, _FLOAT64, None)
        whole = BatchMeans(batches, _FLOAT64, self.centre)
        self.dim = whole.dim
        self.rounding = whole.rounding
        cuts = np.linspace(0, self.dim, min(num_shards, max(self.dim, 1)) + 1, dtype=np.intp)
        self._columns = [slice(a, b) for a, b in pairwise(cuts.tolist())]

    def __len__(self) -> int:
        return len(self.batches)

    @cached_property
    def _shards(self) -> list[Any]:
        """References to the batches and the centre of each range of coordinates."""
        return [ray.put(self._cut(columns)) for columns in self._columns]

    def _cut(self, columns: slice) -> _Shard:
        batches: list[list[Vector]] = [
            [[vector[0][columns]] for vector in batch] for batch in self.batches
        ]
        return batches, None if self.centre is None else [self.centre[0][columns]]

    def gram(self, target: Vector | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Add up the shards' inner products; see `BatchMeans.gram`."""
        about = [None if target is None else [target[0][columns]] for columns in self._columns]
        parts = ray.get([_gram.remote(s, t) for s, t in zip(self._shards, about, strict=True)])
        with np.errstate(over="ignore", invalid="ignore"):
            gram, target_gram = (
                np.sum([part[0] for part in parts], axis=0),
                np.sum([part[1] for part in parts], axis=0),
            )
        return gram, target_gram

    def measure(
        self, weights: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Add up the shards' squared distances; see `BatchMeans.measure`."""
        parts = ray.get([_measure.remote(shard, weights) for shard in self._shards])
        with np.errstate(over="ignore", invalid="ignore"):
            distances, norms = (
                np.sqrt(np.sum([np.square(part[i]) for part in parts], axis=0)) for i in (0, 1)
            )
        return distances, norms, float(np.linalg.norm([part[2] for part in parts]))

    def combine(
        self,
        weights: NDArray[np.float64],
        write: Callable[[Block, NDArray[np.floating]], None],
    ) -> None:
        """Hand every shard's combination to `write`; see `BatchMeans.combine`."""
        parts = [_combine.remote(shard, weights) for shard in self._shards]
        for columns, part in zip(self._columns, parts, strict=True):
            write(Block(0, columns.start, columns.stop, 0), ray.get(part))


def _means(shard: _Shard) -> BatchMeans:
    os.environ["FLWR_BYZ_NUM_THREADS"] = "1"  # a worker has one core to itself
    return BatchMeans(shard[0], _FLOAT64, shard[1])


@ray.remote
def _gram(shard: Any, target: Vector | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return _means(shard).gram(target)


@ray.remote
def _measure(
    shard: Any, weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    return _means(shard).measure(weights)


@ray.remote
def _combine(shard: Any, weights: NDArray[np.float64]) -> NDArray[np.floating]:
    means = _means(shard)
    combination: NDArray[np.floating] = np.empty(means.dim)

    def write(block: Block, values: NDArray[np.floating]) -> None:
        combination[block.columns] = values

    means.combine(weights, write)
    return combination
