"""Any strategy of Flower's classic API behind checks that no reply gets around."""

from collections.abc import Iterable
from typing import Any

from flwr.common import Parameters
from flwr.server.strategy import DifferentialPrivacyClientSideAdaptiveClipping, Strategy

from ... import hardening
from ...identity import ClientId
from ...payload import Model
from ...round import Reply
from ...rounds import BestBy, RoundEnd, RoundOptions, Rounds, StopWhen, StrPath
from ...state import State, attributes, restore, state_of
from ...wrapped import check_strategy, option
from ..results import read_model, rebuilt
from .guarded import Guarded


class Hardened(Guarded):
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

    Raises TypeError or ValueError where an argument is none of these.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        num_byzantine: int | None = None,
        checkpoints: StrPath | None = None,
        audit: StrPath | None = None,
        on_round_end: RoundEnd[Parameters] | None = None,
        stop_when: StopWhen | None = None,
        best_by: BestBy | None = None,
        exclude_above: float | None = None,
    ) -> None:
        check_strategy(strategy, Strategy)
        options = RoundOptions(
            num_byzantine=num_byzantine,
            checkpoints=checkpoints,
            audit=audit,
            on_round_end=on_round_end,
            stop_when=stop_when,
            best_by=best_by,
            exclude_above=exclude_above,
        )
        super().__init__(Rounds(options))
        self.strategy = strategy
        self._least_clients = 2 * num_byzantine + 1 if num_byzantine else 0
        self._as_given: dict[str, Any] = attributes(strategy)

    def __repr__(self) -> str:
        """Compute a string representation of the strategy."""
        return f"Hardened({self.strategy!r})"

    def _behind(self) -> Strategy:
        return self.strategy

    def _aggregate(
        self, server_round: int, replies: Iterable[Reply]
    ) -> tuple[Model | None, dict[str, Any]]:
        def rule(usable: list[Reply]) -> tuple[Model | None, dict[str, Any]]:
            results = [rebuilt(reply) for reply in usable]
            number = self._number(server_round)
            parameters, metrics = self.strategy.aggregate_fit(number, results, [])
            model = None if parameters is None else read_model(parameters)
            return model, dict(metrics or {})

        form_of = self._form_of("fit_metrics_aggregation_fn")
        return hardening.aggregate(
            rule, self.strategy, self._rounds, server_round, replies, form_of
        )

    def _evaluate(
        self, server_round: int, replies: Iterable[Reply], asked: frozenset[ClientId] | None
    ) -> tuple[float | None, dict[str, Any]]:
        loss: float | None = None

        def rule(usable: list[Reply]) -> dict[str, Any] | None:
            nonlocal loss
            results = [reply.payload for reply in usable]
            loss, metrics = self.strategy.aggregate_evaluate(server_round, results, [])
            return metrics

        form_of = self._form_of("evaluate_metrics_aggregation_fn")
        metrics = hardening.evaluate(rule, self._rounds, replies, asked, form_of)
        return loss, metrics

    def _number(self, server_round: int) -> int:
        """Return the round's number for the strategy: 1 until FedAvgM has begun its momentum.

        In later rounds it takes for granted that the first one made a step.
        """
        has_none = option(self, "momentum_vector", ()) is None
        return 1 if has_none and option(self, "server_momentum", 0.0) else server_round

    def _form_of(self, custom: str) -> hardening.FormOf | None:
        """Return what replies have to have in common, where the strategy looks at metrics."""
        looks = isinstance(self.strategy, DifferentialPrivacyClientSideAdaptiveClipping)
        looks = looks or option(self, custom, None) is not None
        return hardening.form_of_metrics if looks else None

    def _state(self) -> State:
        return state_of(self.strategy, self._as_given)

    def _restore(self, state: State) -> None:
        restore(self.strategy, state)
