"""Robust federated averaging as a strategy for Flower's classic API."""

from collections.abc import Callable, Iterable, Sequence
from logging import INFO
from typing import Any, Literal

from flwr.common import NDArrays, Parameters
from flwr.server.client_manager import ClientManager
from flwr.server.strategy import FedAvg
from flwr.supercore import log

from ...aggregation import GeometricMedian
from ...aggregation.pre_aggregation import PreAggregation
from ...aggregation.rule import Rule
from ...checks import check_kind
from ...hardening import Asked, Evaluated, Trained, last_word
from ...options import picked
from ...payload import MalformedReply
from ...robust_server import RobustServer
from ...round import Reply
from ...rounds import BestBy, RoundEnd, RoundOptions, StopWhen, StrPath
from ...strategies import robust_settings
from ...wrapped import check_rule
from ..results import evaluate_robustly, of_replies, read_model, updated_model
from .guarded import Guarded


class RobustFedAvg(Guarded, FedAvg):
    """FedAvg with a robust rule in place of the mean: up to q clients may send anything.

    The rule, its options, its checks and the metrics of each round are those of
    `flwr_byz.serverapp.strategy.RobustFedAvg`; clients are ordered by their `cid`.

    Parameters
    ----------
    num_byzantine, num_batches, reply, server_learning_rate, rule, pre_aggregation
        As there.
    server_update_fn : callable, optional
        As there, with models as lists of NumPy arrays.
    group_by_key, bucketing_seed
        As there.
    checkpoints, audit, on_round_end, stop_when, best_by, exclude_above
        As in `Hardened`.
    **options
        The options of Flower's ``FedAvg``. Without `initial_parameters` they are taken from a
        client drawn at random, which may be Byzantine: give them. The minimum numbers of fit,
        evaluate and available clients are k by default, 2q + 1 where it is not given.
        `accept_failures=False` gives every client the power to veto a round. `inplace` changes
        nothing.

    Raises TypeError where an option is unknown or of a wrong kind, ValueError where one is out of
    range, or `initial_parameters` holds an array that is not real, integer or bool, or not finite.
    """

    def __init__(
        self,
        *,
        num_byzantine: int | None = None,
        num_batches: int | None = None,
        reply: Literal["weights", "gradients"] = "weights",
        server_learning_rate: float = 1.0,
        rule: Rule = GeometricMedian(),
        pre_aggregation: Sequence[PreAggregation] = (),
        server_update_fn: Callable[[int, NDArrays], NDArrays] | None = None,
        group_by_key: str | None = None,
        bucketing_seed: int | None = None,
        checkpoints: StrPath | None = None,
        audit: StrPath | None = None,
        on_round_end: RoundEnd[Parameters] | None = None,
        stop_when: StopWhen | None = None,
        best_by: BestBy | None = None,
        exclude_above: float | None = None,
        **options: Any,
    ) -> None:
        given = locals()
        settings, options = robust_settings(type(self), RobustFedAvg, FedAvg, given, options)
        self.settings, self.server_update_fn = settings, server_update_fn
        rounds = picked(RoundOptions, given)
        needed = "Parameters, such as ndarrays_to_parameters(arrays)"
        given_model = options.get("initial_parameters")
        check_kind("initial_parameters", given_model, (Parameters, type(None)), needed)
        super().__init__(rounds, **options)
        self._server = RobustServer(settings, self._rounds)
        if self.initial_parameters is not None:
            try:
                self._rounds.begin(read_model(self.initial_parameters))
            except MalformedReply as error:
                raise ValueError(f"initial_parameters cannot be aggregated: {error}") from None

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_byzantine={self.settings.num_byzantine}, "
            f"num_batches={self.settings.num_batches}, reply={self.settings.reply!r})"
        )

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        for line in self.settings.summary():
            log(INFO, "%s", line)

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        check_rule(cls, RobustFedAvg, "aggregate_fit")

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters | None:
        """Initialize global model parameters: those of the newest checkpoint, where there is one.

        Raises ValueError as `Hardened.initialize_parameters`.
        """
        self.summary()
        return super().initialize_parameters(client_manager)

    def _aggregate(self, server_round: int, replies: Iterable[Reply]) -> Trained:
        custom = of_replies(self.fit_metrics_aggregation_fn)
        return self._server.aggregate(
            server_round,
            replies,
            custom,
            accept_failures=self.accept_failures,
            optimize=last_word(self.server_update_fn, updated_model, server_round),
        )

    def _evaluate(self, server_round: int, replies: Iterable[Reply], asked: Asked) -> Evaluated:
        replies = list(replies)
        if not self.accept_failures and any(reply.is_error for reply in replies):
            replies = []
        custom = of_replies(self.evaluate_metrics_aggregation_fn)
        return evaluate_robustly(self._server, replies, asked, custom)
