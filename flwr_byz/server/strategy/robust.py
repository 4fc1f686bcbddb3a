"""Flower's server optimizers of the classic API on a robust aggregate."""

from collections.abc import Iterable
from typing import Any

from flwr.server.strategy import FedAvg, Strategy

from ...hardening import attempted
from ...identity import ClientId
from ...payload import Model
from ...robust_server import RobustServer
from ...round import Reply
from ...settings import Settings, split_options
from ...wrapped import check_optimizer
from ..results import evaluate_robustly, of_replies, one_result, read_model
from .hardened import Hardened

_CUSTOM = ("fit_metrics_aggregation_fn", "evaluate_metrics_aggregation_fn")


def robust(
    strategy: type[FedAvg],
    *,
    num_byzantine: int | None = None,
    num_batches: int | None = None,
    **options: Any,
) -> Strategy:
    """Return a server optimizer of Flower's that steps along a robust aggregate.

    As `flwr_byz.serverapp.strategy.robust`, for the classes of ``flwr.server.strategy``.

    Examples
    --------
    >>> from flwr.common import ndarrays_to_parameters
    >>> from flwr.server.strategy import FedAdam
    >>> import numpy as np
    >>> model = ndarrays_to_parameters([np.zeros(10)])
    >>> strategy = robust(FedAdam, num_byzantine=2, eta=0.1, initial_parameters=model)
    """
    check_optimizer(strategy, FedAvg)
    settings, of_rounds, rest = split_options(
        strategy, options | {"num_byzantine": num_byzantine, "num_batches": num_batches}
    )
    custom = {name: rest.pop(name, None) for name in _CUSTOM}
    return _RobustOptimizer(strategy(**rest), settings, custom, of_rounds)


class _RobustOptimizer(Hardened):
    """A server optimizer that sees one client, which replied the robust aggregate."""

    def __init__(
        self,
        strategy: Strategy,
        settings: Settings,
        custom: dict[str, Any],
        of_rounds: dict[str, Any],
    ) -> None:
        super().__init__(strategy, num_byzantine=settings.num_byzantine, **of_rounds)
        self._server = RobustServer(settings, self._rounds)
        self._custom = {name: of_replies(custom[name]) for name in _CUSTOM}

    def _aggregate(
        self, server_round: int, replies: Iterable[Reply]
    ) -> tuple[Model | None, dict[str, Any]]:
        def optimize(aggregate: Model) -> Model | None:
            def make() -> Model | None:
                results = [one_result(aggregate)]
                parameters, _ = self.strategy.aggregate_fit(self._number(server_round), results, [])
                made = None if parameters is None else read_model(parameters)
                return made and made.with_counters_of(aggregate)

            return attempted(make, self.strategy, self._rounds)

        custom = self._custom["fit_metrics_aggregation_fn"]
        return self._server.aggregate(server_round, replies, custom, optimize=optimize)

    def _evaluate(
        self, server_round: int, replies: Iterable[Reply], asked: frozenset[ClientId] | None
    ) -> tuple[float | None, dict[str, Any]]:
        custom = self._custom["evaluate_metrics_aggregation_fn"]
        return evaluate_robustly(self._server, replies, asked, custom)
