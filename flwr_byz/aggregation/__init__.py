"""Robust aggregation of float vectors. NumPy only; nothing here knows Flower."""

from .batches import num_batches, permute_clients, split_into_batches
from .geometric_median import GeometricMedian, geometric_median
from .median_of_means import GeometricMedianOfMeans, geometric_median_of_means, mean
from .selection import mean_of_random_subset, mean_of_smallest_norms

__all__ = [
    "GeometricMedian",
    "GeometricMedianOfMeans",
    "geometric_median",
    "geometric_median_of_means",
    "mean",
    "mean_of_random_subset",
    "mean_of_smallest_norms",
    "num_batches",
    "permute_clients",
    "split_into_batches",
]
