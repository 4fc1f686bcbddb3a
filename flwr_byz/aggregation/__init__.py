"""Robust aggregation of float vectors, with NumPy alone and without Flower."""

from .batches import num_batches as num_batches
from .batches import permute_clients as permute_clients
from .batches import split_into_batches as split_into_batches
from .geometric_median import GeometricMedian as GeometricMedian
from .geometric_median import geometric_median as geometric_median
from .median_of_means import GeometricMedianOfMeans as GeometricMedianOfMeans
from .median_of_means import geometric_median_of_means as geometric_median_of_means
from .median_of_means import mean as mean
