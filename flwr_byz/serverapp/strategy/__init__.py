"""Strategies for Flower's Message API, as ``flwr.serverapp.strategy``."""

from flwr.serverapp.strategy import Result, Strategy

from .async_geometric_median_of_means import AsyncGeometricMedianOfMeans
from .geometric_median_of_means import GeometricMedianOfMeans
from .hardened import Hardened
from .robust import robust
from .robust_fed_avg import RobustFedAvg

__all__ = [
    "AsyncGeometricMedianOfMeans",
    "GeometricMedianOfMeans",
    "Hardened",
    "Result",
    "RobustFedAvg",
    "Strategy",
    "robust",
]
