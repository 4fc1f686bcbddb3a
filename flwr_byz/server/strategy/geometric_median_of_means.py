"""Byzantine gradient descent as a strategy for Flower's classic API."""

import os
from logging import INFO, WARNING
from typing import Any, Literal

from flwr.common import (
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    MetricsAggregationFn,
    Parameters,
    Scalar,
    ndarrays_to_parameters,
)
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg
from flwr.supercore import log

from ...aggregation.pre_aggregation import TrimNorm
from ...history import History
from ...identity import ClientId
from ...logs import escaped
from ...metrics import median_of_means
from ...payload import MalformedReply, most_common_layout, to_parameters
from ...robust_server import MetricsFunction, RobustServer
from ...settings import Settings
from ..results import (
    Nobody,
    evaluated,
    failed,
    guarded,
    initial_parameters_of_a_client,
    layout_of,
    numpy_arrays,
    opened,
    read_model,
)


class GeometricMedianOfMeans(FedAvg):
    """Byzantine gradient descent: FedAvg's place, but up to q clients may send anything.

    The rule, its options, its checks and the metrics of each round are those of
    `flwr_byz.serverapp.strategy.GeometricMedianOfMeans`; clients are ordered by their `cid`.

    Parameters
    ----------
    num_byzantine, num_batches, reply, server_learning_rate, trim_norm, gamma
        As there.
    group_by_key, bucketing_seed, checkpoints, audit
        As there; it is Flower's `Server` that plays over the rounds before a restart.
    **options
        The options of Flower's ``FedAvg``. Without `initial_parameters` they are taken from a
        client drawn at random, which may be Byzantine: give them. The minimum numbers of fit,
        evaluate and available clients are k by default, 2q + 1 where it is not given.
        `accept_failures=False` gives every client the power to veto a round. `inplace` changes
        nothing.

    Raises ValueError where an option is out of range, or `initial_parameters` holds an array that
    is not real, integer or bool, or not finite.
    """

    def __init__(
        self,
        *,
        num_byzantine: int | None = None,
        num_batches: int | None = None,
        reply: Literal["weights", "gradients"] = "weights",
        server_learning_rate: float = 1.0,
        trim_norm: TrimNorm = None,
        gamma: float = 1e-9,
        group_by_key: str | None = None,
        bucketing_seed: int | None = None,
        checkpoints: str | os.PathLike[str] | None = None,
        audit: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        self.settings = Settings(
            num_byzantine=num_byzantine,
            num_batches=num_batches,
            reply=reply,
            server_learning_rate=server_learning_rate,
            trim_norm=trim_norm,
            gamma=gamma,
            group_by_key=group_by_key,
            bucketing_seed=bucketing_seed,
        )
        minimums = ("min_fit_clients", "min_evaluate_clients", "min_available_clients")
        defaults: dict[str, Any] = dict.fromkeys(minimums, max(2, self.settings.min_clients))
        super().__init__(**(defaults | options))
        self._server = RobustServer(self.settings, audit, checkpoints)
        self._evaluated: Parameters | None = None
        self._evaluating: frozenset[ClientId] | None = None
        if self.initial_parameters is not None:
            try:
                self._server.begin(read_model(self.initial_parameters))
            except MalformedReply as error:
                raise ValueError(f"initial_parameters cannot be aggregated: {error}") from None

    def __repr__(self) -> str:
        """Compute a string representation of the strategy."""
        return (
            f"GeometricMedianOfMeans(num_byzantine={self.settings.num_byzantine}, "
            f"num_batches={self.settings.num_batches}, reply={self.settings.reply!r})"
        )

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        for line in self.settings.summary():
            log(INFO, "%s", line)

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters | None:
        """Initialize global model parameters: those of the newest checkpoint, where there is one.

        Raises ValueError where the folder `checkpoints` holds another model, or damaged files only,
        or where another server uses it. This strategy uses it until it is initialised again or
        deleted.
        """
        self.summary()
        given = self.initial_parameters
        history = self._server.resume(None if given is None else numpy_arrays(given))
        if history.finished >= 0:
            return ndarrays_to_parameters(list(history.arrays.values()))
        if self.initial_parameters is None:
            return initial_parameters_of_a_client(client_manager)
        return super().initialize_parameters(client_manager)

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Configure the next round of training, and remember what is sent to whom."""
        if server_round <= self._history.finished:
            return [(Nobody(), FitIns(parameters, {}))]
        instructions = super().configure_fit(server_round, parameters, client_manager)
        model = None
        if parameters.tensors:
            try:
                model = read_model(parameters)
            except MalformedReply as error:
                text = "the parameters sent are malformed (%s); clients decide"
                log(WARNING, text, escaped(error))
        self._server.begin(model, [client.cid for client, _ in instructions])
        return guarded(instructions, parameters)

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Aggregate the replies robustly: the new model, and the metrics of the round.

        The model is None, which makes Flower keep the old one, where no step can be justified.
        """
        if server_round <= self._history.finished:
            return None, self._history.train.get(server_round, {})
        layout = self._server.layout or most_common_layout([layout_of(r) for _, r in results])
        replies = [opened(client.cid, result, layout) for client, result in results]
        replies += [failed(failure) for failure in failures]
        custom = _of_replies(self.fit_metrics_aggregation_fn)
        model, metrics = self._server.aggregate(
            server_round, replies, custom, accept_failures=self.accept_failures
        )
        return None if model is None else to_parameters(model), metrics

    def evaluate(
        self, server_round: int, parameters: Parameters
    ) -> tuple[float, dict[str, Scalar]] | None:
        """Evaluate the model at the server, where `evaluate_fn` is given."""
        if server_round <= self._history.finished:
            known = self._history.server.get(server_round)
            return None if known is None else (known[0], known[1])
        evaluation = super().evaluate(server_round, parameters)
        if evaluation is not None:
            self._history.server[server_round] = evaluation
        if server_round == 0:
            self._finish(0, parameters)
        return evaluation

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Configure the next round of evaluation; where there is none, the round is finished."""
        if server_round <= self._history.finished:
            return [(Nobody(), EvaluateIns(parameters, {}))]
        instructions = super().configure_evaluate(server_round, parameters, client_manager)
        if not instructions:
            self._finish(server_round, parameters)
        self._evaluated = parameters
        self._evaluating = frozenset(client.cid for client, _ in instructions)
        return guarded(instructions, parameters)

    def aggregate_evaluate(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: list[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[float | None, dict[str, Scalar]]:
        """Aggregate the losses and metrics that most clients report."""
        if server_round <= self._history.finished:
            loss, metrics = self._history.evaluate.get(server_round, (None, {}))
            return loss, metrics
        replies = [evaluated(client.cid, result) for client, result in results]
        if failures and not self.accept_failures:
            replies = []
        custom = _of_replies(self.evaluate_metrics_aggregation_fn)
        valid, metrics = self._server.evaluate(replies, self._evaluating, custom)
        loss = None
        if valid:
            losses = [float(reply.payload.loss) for reply in valid]
            loss = float(median_of_means(losses, self.settings.batches_for(len(losses))))
        self._history.evaluate[server_round] = loss, metrics
        if self._evaluated is not None:
            self._finish(server_round, self._evaluated)
        return loss, metrics

    @property
    def _history(self) -> History:
        return self._server.history

    def _finish(self, server_round: int, parameters: Parameters) -> None:
        if self._history.folder is not None:
            self._history.finish(server_round, numpy_arrays(parameters))


def _of_replies(custom: MetricsAggregationFn | None) -> MetricsFunction | None:
    """Return a user's function of metrics as one of replies and the metrics chosen of them."""
    if custom is None:
        return None
    return lambda chosen: custom([(reply.payload.num_examples, own) for reply, own in chosen])
