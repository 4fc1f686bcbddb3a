"""Byzantine gradient descent as a strategy for Flower's classic API."""

from collections.abc import Sequence
from typing import Any

from ...aggregation.pre_aggregation import PreAggregation, TrimNorm
from ...settings import of_the_paper
from .robust_fed_avg import RobustFedAvg


class GeometricMedianOfMeans(RobustFedAvg):
    """Byzantine gradient descent, in place of FedAvg: up to q clients may send anything.

    As `flwr_byz.serverapp.strategy.GeometricMedianOfMeans`: `RobustFedAvg` of this API with the
    rule ``GeometricMedian(gamma)``, and `trim_norm` before all other pre-aggregation.
    """

    def __init__(
        self,
        *,
        trim_norm: TrimNorm = None,
        gamma: float | None = None,
        pre_aggregation: Sequence[PreAggregation] = (),
        **options: Any,
    ) -> None:
        paper = of_the_paper(trim_norm, gamma, pre_aggregation, options)
        super().__init__(**paper, **options)
