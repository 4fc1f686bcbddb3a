"""Robust aggregation of float vectors, with NumPy alone and without Flower."""

from .. import renamed as _renamed
from .batches import num_batches as num_batches
from .batches import permute_clients as permute_clients
from .batches import split_into_batches as split_into_batches
from .careful import Median as Median
from .geometric_median import GeometricMedian as GeometricMedian
from .geometric_median import geometric_median as geometric_median
from .median_of_means import Aggregate as Aggregate
from .median_of_means import geometric_median_of_means as geometric_median_of_means
from .median_of_means import mean as mean
from .median_of_means import robust_mean as robust_mean
from .pre_aggregation import AdaptiveClipping as AdaptiveClipping
from .pre_aggregation import Bucketing as Bucketing
from .pre_aggregation import FilteredClipping as FilteredClipping
from .pre_aggregation import NearestNeighborMixing as NearestNeighborMixing
from .pre_aggregation import NormTrimming as NormTrimming
from .spectral_filter import SpectralFilter as SpectralFilter

_renamed.renamed_in(__name__, GeometricMedianOfMeans="Aggregate")
