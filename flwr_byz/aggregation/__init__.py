"""Robust aggregation of float vectors, with NumPy alone and without Flower."""

from .batches import num_batches, permute_clients, split_into_batches
from .geometric_median import GeometricMedian, geometric_median
from .median_of_means import GeometricMedianOfMeans, geometric_median_of_means, mean

__all__ = [
    "GeometricMedian",
    "GeometricMedianOfMeans",
    "geometric_median",
    "geometric_median_of_means",
    "mean",
    "num_batches",
    "permute_clients",
    "split_into_batches",
]
