"""Strategies for Flower's classic API, as ``flwr.server.strategy``."""

from flwr.server.strategy import Strategy

from .geometric_median_of_means import GeometricMedianOfMeans
from .hardened import Hardened
from .robust import robust
from .robust_fed_avg import RobustFedAvg

__all__ = ["GeometricMedianOfMeans", "Hardened", "RobustFedAvg", "Strategy", "robust"]
