"""Any strategy of Flower's classic API behind checks that no reply gets around."""

from typing import Any

from flwr.common import FitRes, Parameters
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import DifferentialPrivacyClientSideAdaptiveClipping, Strategy

from ...hardening import Evaluated, FormOf, Trained, form_of_metrics
from ...strategies import HardenedBase
from ...wrapped import check_strategy, option
from ..results import read_model, rebuilt
from .guarded import Guarded


class Hardened(HardenedBase[Strategy, Parameters], Guarded):
    """Any strategy of Flower's, which no reply can take down any more.

    The checks and options are those of `flwr_byz.serverapp.strategy.Hardened`; clients are ordered
    by their `cid`. Failures are counted and logged, and never reach the strategy: its
    `accept_failures` changes nothing. Metrics count only where the strategy aggregates them. Each
    message waits as long as ``round_timeout`` of Flower's ``ServerConfig``, 12 hours by default.

    Parameters
    ----------
    strategy : flwr.server.strategy.Strategy
        Such as ``FedMedian(initial_parameters=...)``, or a wrapper of Flower's around one.
    num_byzantine, checkpoints, audit, on_round_end, stop_when, best_by, exclude_above
        As there; `on_round_end` gets the model as ``Parameters``.

    Raises TypeError where an argument is of a wrong kind, ValueError where it is out of range.
    """

    _custom = ("fit_metrics_aggregation_fn", "evaluate_metrics_aggregation_fn")
    _rebuilt = staticmethod(rebuilt)

    def __repr__(self) -> str:
        return f"Hardened({self.strategy!r})"

    def _check(self, strategy: Strategy) -> None:
        check_strategy(strategy, Strategy)

    def _step(self, server_round: int, results: list[tuple[ClientProxy, FitRes]]) -> Trained:
        number = self._number(server_round)
        parameters, metrics = self.strategy.aggregate_fit(number, results, [])
        return None if parameters is None else read_model(parameters), dict(metrics or {})

    def _metrics(self, server_round: int, results: list[Any]) -> Evaluated:
        loss, metrics = self.strategy.aggregate_evaluate(server_round, results, [])
        return loss, dict(metrics or {})

    def _number(self, server_round: int) -> int:
        """Return the round's number for the strategy: 1 until FedAvgM has begun its momentum.

        In later rounds it takes for granted that the first one made a step.
        """
        has_none = option(self, "momentum_vector", ()) is None
        return 1 if has_none and option(self, "server_momentum", 0.0) else server_round

    def _form_of(self, custom: str) -> FormOf | None:
        adapts = isinstance(self.strategy, DifferentialPrivacyClientSideAdaptiveClipping)
        return form_of_metrics if adapts or option(self, custom, None) is not None else None
