"""Strategies for Flower's classic API, as ``flwr.server.strategy``."""

from .geometric_median_of_means import GeometricMedianOfMeans

__all__ = ["GeometricMedianOfMeans"]
