"""Flower's server optimizers of the classic API on a robust aggregate."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from flwr.common import FitRes, Parameters
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg, Strategy

from ...hardening import Asked, Evaluated, Trained
from ...payload import Model
from ...round import Reply
from ...strategies import RobustOptimizerBase
from ...wrapped import check_optimizer
from ..results import evaluate_robustly, of_replies, one_result
from .hardened import Hardened


def robust(
    strategy: type[FedAvg],
    *,
    num_byzantine: int | None = None,
    num_batches: int | None = None,
    **options: Any,
) -> Strategy:
    """Return a server optimizer of Flower's that steps along a robust aggregate.

    As `flwr_byz.serverapp.strategy.robust`, for the classes of ``flwr.server.strategy``, without
    `streaming`.

    Examples
    --------
    >>> from flwr.common import ndarrays_to_parameters
    >>> from flwr.server.strategy import FedAdam
    >>> import numpy as np
    >>> model = ndarrays_to_parameters([np.zeros(10)])
    >>> strategy = robust(FedAdam, num_byzantine=2, eta=0.1, initial_parameters=model)
    """
    check_optimizer(strategy, FedAvg)
    return _RobustOptimizer(
        strategy, num_byzantine=num_byzantine, num_batches=num_batches, **options
    )


class _RobustOptimizer(RobustOptimizerBase[Strategy, Parameters], Hardened):
    _not_taken = RobustOptimizerBase._not_taken | {"streaming"}

    def _alone(self, aggregate: Model) -> tuple[ClientProxy, FitRes]:
        return one_result(aggregate)

    def _aggregate(self, server_round: int, replies: Iterable[Reply]) -> Trained:
        custom, optimize = of_replies(self._functions[0]), partial(self._optimized, server_round)
        return self._server.aggregate(server_round, replies, custom, optimize=optimize)

    def _evaluate(self, server_round: int, replies: Iterable[Reply], asked: Asked) -> Evaluated:
        custom = of_replies(self._functions[1])
        return evaluate_robustly(self._server, replies, asked, custom)
