"""Byzantine gradient descent as a strategy for Flower's Message API."""

from collections.abc import Sequence
from typing import Any

from ...aggregation import GeometricMedian
from ...aggregation.pre_aggregation import PreAggregation, TrimNorm
from ...settings import of_the_paper
from .robust_fed_avg import RobustFedAvg


class GeometricMedianOfMeans(RobustFedAvg):
    """Byzantine gradient descent, in place of FedAvg: up to q clients may send anything.

    The step is the (1+γ)-approximate geometric median of k batch means, which can be trimmed by
    norm before (Chen, Su, Xu 2017, Algorithm 2 and Remark 2): `RobustFedAvg` with the rule
    ``GeometricMedian(gamma)``, whose options, checks and metrics it has.

    Parameters
    ----------
    trim_norm : float, "auto" or None, default None
        Batch means of norm above it are left out; norms of weights are taken from the model sent.
        "auto" takes twice the median norm. Nothing is trimmed where fewer than 2q + 1 batches would
        be left, or, where q is not given, where more than (k − 1) // 2 would be trimmed. It is a
        `NormTrimming` before the rest of `pre_aggregation`.
    gamma : float, optional
        γ of the approximate geometric median; each round's certified gap is at most that. By
        default as of ``flwr_byz.aggregation.GeometricMedian``: 1e-9 where no pre-aggregation mixes
        batches.
    pre_aggregation, **options
        As of `RobustFedAvg`, whose `rule` this one is.

    Raises TypeError for an option that is unknown or of a wrong kind, ValueError for a wrong value.
    """

    _median: type[GeometricMedian] = GeometricMedian

    def __init__(
        self,
        *,
        trim_norm: TrimNorm = None,
        gamma: float | None = None,
        pre_aggregation: Sequence[PreAggregation] = (),
        **options: Any,
    ) -> None:
        paper = of_the_paper(trim_norm, gamma, pre_aggregation, options)
        super().__init__(**paper | {"rule": self._median(gamma)}, **options)
