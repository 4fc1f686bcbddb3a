"""Byzantine gradient descent as a strategy for Flower's classic API."""

from collections.abc import Callable, Mapping, Sequence
from logging import ERROR, INFO, WARNING
from typing import Literal, TypedDict, Unpack, cast

from flwr.app import MetricRecordValues
from flwr.common import (
    EvaluateRes,
    FitIns,
    FitRes,
    MetricsAggregationFn,
    NDArrays,
    Parameters,
    Scalar,
)
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg
from flwr.supercore import log

from ...aggregation.median_of_means import TrimNorm
from ...metrics import aggregate_metrics, agreed_metrics, median_of_means
from ...payload import (
    Layout,
    MalformedReply,
    Model,
    check_num_examples,
    parameters_layout,
    read_number,
    read_parameters,
    to_parameters,
)
from ...server_round import ServerRound
from ...settings import Settings


class FedAvgOptions(TypedDict, total=False):
    """The constructor options of ``flwr.server.strategy.FedAvg``."""

    fraction_fit: float
    fraction_evaluate: float
    min_fit_clients: int
    min_evaluate_clients: int
    min_available_clients: int
    evaluate_fn: (
        Callable[[int, NDArrays, dict[str, Scalar]], tuple[float, dict[str, Scalar]] | None] | None
    )
    on_fit_config_fn: Callable[[int], dict[str, Scalar]] | None
    on_evaluate_config_fn: Callable[[int], dict[str, Scalar]] | None
    accept_failures: bool
    initial_parameters: Parameters | None
    fit_metrics_aggregation_fn: MetricsAggregationFn | None
    evaluate_metrics_aggregation_fn: MetricsAggregationFn | None
    inplace: bool


class GeometricMedianOfMeans(FedAvg):
    """Byzantine gradient descent: FedAvg's place, but up to q clients may send anything.

    The rule, its options, its checks and the metrics of each round are those of
    `flwr_byz.serverapp.strategy.GeometricMedianOfMeans`; clients are ordered by their `cid`.

    Parameters
    ----------
    num_byzantine, num_batches, reply, server_learning_rate, trim_norm, gamma, group_by_key
        As in the Message API's strategy.
    **options
        The options of Flower's ``FedAvg``. Without `initial_parameters` Flower takes them from one
        client drawn at random, which may be Byzantine: give them. The minimum numbers of fit and
        available clients are 2q + 1 (or k) by default. `accept_failures=False` gives every client
        the power to veto a round. `inplace` changes nothing.

    Raises
    ------
    ValueError
        Where an option is out of range, or `initial_parameters` holds an array that is not real,
        integer or bool, or not finite.
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
        **options: Unpack[FedAvgOptions],
    ) -> None:
        self.settings = Settings(
            num_byzantine=num_byzantine,
            num_batches=num_batches,
            reply=reply,
            server_learning_rate=server_learning_rate,
            trim_norm=trim_norm,
            gamma=gamma,
            group_by_key=group_by_key,
        )
        defaults: FedAvgOptions = {
            "min_fit_clients": max(2, self.settings.min_clients),
            "min_available_clients": max(2, self.settings.min_clients),
        }
        super().__init__(**(defaults | options))
        self._round = ServerRound[FitRes](self.settings, _layout_of, _open)
        if self.initial_parameters is not None:
            try:
                self._round.sends(_read_model(self.initial_parameters))
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
        """Initialize global model parameters, and log the configuration."""
        self.summary()
        if self.initial_parameters is None:
            log(
                WARNING,
                "initial_parameters are not given: Flower will take them from one client drawn at "
                "random, and with them the word of a possibly Byzantine client",
            )
        return super().initialize_parameters(client_manager)

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Configure the next round of training, and remember what is sent to whom."""
        instructions = super().configure_fit(server_round, parameters, client_manager)
        model = None
        if parameters.tensors:
            try:
                model = _read_model(parameters)
            except MalformedReply as error:
                log(WARNING, "the parameters sent are malformed (%s); clients decide", error)
        self._round.sends(model, [client.cid for client, _ in instructions])
        return instructions

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Aggregate the replies robustly: the new model, and the metrics of the round.

        The model is None, which makes Flower keep the old one, where no step can be justified.
        """
        outcome = self._round.finish(
            [(client.cid, result) for client, result in results],
            [None if isinstance(f, BaseException) else f[0].cid for f in failures],
        )
        metrics, num_rejected = self._metrics(
            self.fit_metrics_aggregation_fn or self._aggregate_metrics,
            [(reply.payload.num_examples, reply.metrics) for reply in outcome.replies],
        )
        metrics.update(outcome.report | {"byz-metrics-rejected": num_rejected})
        if outcome.model is None or (outcome.report["byz-rejected"] and not self.accept_failures):
            return None, metrics
        return to_parameters(outcome.model), metrics

    def aggregate_evaluate(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: list[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[float | None, dict[str, Scalar]]:
        """Aggregate the losses and metrics that most clients report."""
        if not self.accept_failures and failures:
            return None, {}
        valid = self._round.open_metrics(
            [(client.cid, result) for client, result in results], _read_loss
        )
        if not valid:
            return None, {}
        losses = [float(result.loss) for result, _ in valid]
        loss = float(median_of_means(losses, self.settings.batches_for(len(losses))))
        metrics, _ = self._metrics(
            self.evaluate_metrics_aggregation_fn or self._aggregate_metrics,
            [(result.num_examples, result.metrics) for result, _ in valid],
        )
        return loss, metrics

    def _metrics(
        self,
        aggregate: MetricsAggregationFn,
        claims: Sequence[tuple[int, Mapping[str, object]]],
    ) -> tuple[dict[str, Scalar], int]:
        """Aggregate the metrics that most clients agree on; also count the clients that do not."""
        agreed = agreed_metrics([metrics for _, metrics in claims])
        kept = [
            (num_examples, cast(dict[str, Scalar], metrics))
            for (num_examples, _), metrics in zip(claims, agreed, strict=True)
            if metrics is not None
        ]
        num_rejected = len(claims) - len(kept)
        try:
            return dict(aggregate(kept)), num_rejected
        except Exception as error:  # a caller's function, fed with clients' claims
            log(ERROR, "the metrics of this round could not be aggregated: %r", error)
            return {}, num_rejected

    def _aggregate_metrics(self, claims: list[tuple[int, dict[str, Scalar]]]) -> dict[str, Scalar]:
        num_batches = self.settings.batches_for(len(claims)) if claims else 1
        metrics = [cast(dict[str, MetricRecordValues], metrics) for _, metrics in claims]
        aggregated = aggregate_metrics(metrics, num_batches)
        aggregated.pop(self.settings.group_by_key or "", None)
        return cast(dict[str, Scalar], aggregated)


def _read_model(parameters: Parameters) -> Model:
    model = read_parameters(parameters, parameters_layout(parameters))
    model.check_finite()
    return model


def _layout_of(result: FitRes) -> Layout:
    return parameters_layout(result.parameters)


def _open(result: FitRes, layout: Layout) -> tuple[Model, Mapping[str, object]]:
    model = read_parameters(result.parameters, layout)
    check_num_examples(result.num_examples, "num_examples")
    return model, result.metrics


def _read_loss(result: EvaluateRes) -> Mapping[str, object]:
    check_num_examples(result.num_examples, "num_examples")
    return {"loss": read_number(result.loss, "the loss")}
