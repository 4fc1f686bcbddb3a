"""Strategies for Flower's Message API, as ``flwr.serverapp.strategy``."""

from flwr.serverapp.strategy import Result, Strategy

from .geometric_median_of_means import GeometricMedianOfMeans
from .hardened import Hardened
from .robust import robust

__all__ = ["GeometricMedianOfMeans", "Hardened", "Result", "Strategy", "robust"]
