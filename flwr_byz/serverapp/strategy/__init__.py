"""Strategies for Flower's Message API, as ``flwr.serverapp.strategy``."""

from .geometric_median_of_means import GeometricMedianOfMeans

__all__ = ["GeometricMedianOfMeans"]
