"""Byzantine gradient descent as a strategy for Flower's classic API."""

import os
from collections.abc import Callable, Mapping, Sequence
from logging import ERROR, INFO, WARNING
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, Unpack, cast

from flwr.app import MetricRecordValues
from flwr.common import (
    Code,
    DisconnectRes,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersRes,
    GetPropertiesRes,
    MetricsAggregationFn,
    NDArrays,
    Parameters,
    Scalar,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg
from flwr.supercore import log
from numpy.typing import NDArray

from ...aggregation.median_of_means import TrimNorm
from ...audit import AuditTrail
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
from ...progress import Progress
from ...server_round import ServerRound
from ...settings import Settings
from ...transport import GuardedClient, room_for

Instruction = TypeVar("Instruction", FitIns, EvaluateIns)

_OK = Status(Code.OK, "")


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
    num_byzantine, num_batches, reply, server_learning_rate, trim_norm, gamma
        As in the Message API's strategy.
    group_by_key, bucketing_seed
        As there.
    checkpoints, audit
        The same; the rounds before a restart are played over from the file by Flower's `Server`.
    **options
        The options of Flower's ``FedAvg``. Without `initial_parameters` Flower takes them from one
        client drawn at random, which may be Byzantine: give them. The minimum numbers of fit,
        evaluate and available clients are 2q + 1 (or k) by default. `accept_failures=False` gives
        every client the power to veto a round. `inplace` changes nothing.

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
        bucketing_seed: int | None = None,
        checkpoints: str | os.PathLike[str] | None = None,
        audit: str | os.PathLike[str] | None = None,
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
            bucketing_seed=bucketing_seed,
        )
        defaults: FedAvgOptions = {
            "min_fit_clients": max(2, self.settings.min_clients),
            "min_evaluate_clients": max(2, self.settings.min_clients),
            "min_available_clients": max(2, self.settings.min_clients),
        }
        super().__init__(**(defaults | options))
        self.checkpoints = None if checkpoints is None else Path(checkpoints)
        self.audit = None if audit is None else AuditTrail(Path(audit))
        self._progress = Progress()
        self._evaluated: Parameters | None = None
        self._round = ServerRound[FitRes](
            self.settings, _layout_of, _open, audited=audit is not None
        )
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
        """Initialize global model parameters: those of the newest checkpoint, where there is one.

        Raises
        ------
        ValueError
            Where the folder `checkpoints` holds another model, or damaged files only.
        """
        self.summary()
        self._progress = Progress.resume(self.checkpoints)
        if self._progress.finished >= 0:
            if self.initial_parameters is not None:
                self._progress.check_fits(_numpy_arrays(self.initial_parameters))
            if self.audit is not None and self._progress.finished > 0:
                self.audit.resume(self._progress.finished)
            return ndarrays_to_parameters(list(self._progress.arrays.values()))
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
        if server_round <= self._progress.finished:
            return [(_Nobody(), FitIns(parameters, {}))]
        instructions = super().configure_fit(server_round, parameters, client_manager)
        model = None
        if parameters.tensors:
            try:
                model = _read_model(parameters)
            except MalformedReply as error:
                log(WARNING, "the parameters sent are malformed (%s); clients decide", error)
        self._round.sends(model, [client.cid for client, _ in instructions])
        return _guarded(instructions, parameters)

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Aggregate the replies robustly: the new model, and the metrics of the round.

        The model is None, which makes Flower keep the old one, where no step can be justified.
        """
        if server_round <= self._progress.finished:
            return None, self._progress.train.get(server_round, {})
        outcome = self._round.finish(
            server_round,
            [(client.cid, result) for client, result in results],
            [None if isinstance(f, BaseException) else f[0].cid for f in failures],
        )
        metrics, num_rejected = self._metrics(
            self.fit_metrics_aggregation_fn or self._aggregate_metrics,
            [(reply.payload.num_examples, reply.metrics) for reply in outcome.replies],
        )
        metrics.update(outcome.report | {"byz-metrics-rejected": num_rejected})
        self._progress.train[server_round] = metrics
        if self.audit is not None:
            self.audit.write(server_round, outcome.record)
        if outcome.model is None or (outcome.report["byz-rejected"] and not self.accept_failures):
            return None, metrics
        return to_parameters(outcome.model), metrics

    def evaluate(
        self, server_round: int, parameters: Parameters
    ) -> tuple[float, dict[str, Scalar]] | None:
        """Evaluate the model at the server, where `evaluate_fn` is given."""
        if server_round <= self._progress.finished:
            told = self._progress.server.get(server_round)
            return None if told is None else (told[0], told[1])
        evaluation = super().evaluate(server_round, parameters)
        if evaluation is not None:
            self._progress.server[server_round] = evaluation
        if server_round == 0:
            self._finish(0, parameters)
        return evaluation

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Configure the next round of evaluation; where there is none, the round is finished."""
        if server_round <= self._progress.finished:
            return [(_Nobody(), EvaluateIns(parameters, {}))]
        instructions = super().configure_evaluate(server_round, parameters, client_manager)
        if not instructions:
            self._finish(server_round, parameters)
        self._evaluated = parameters
        return _guarded(instructions, parameters)

    def aggregate_evaluate(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: list[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[float | None, dict[str, Scalar]]:
        """Aggregate the losses and metrics that most clients report."""
        if server_round <= self._progress.finished:
            loss, metrics = self._progress.evaluate.get(server_round, (None, {}))
            return loss, metrics
        evaluation = self._aggregate_evaluations(results, failures)
        self._progress.evaluate[server_round] = evaluation
        if self._evaluated is not None:
            self._finish(server_round, self._evaluated)
        return evaluation

    def _finish(self, server_round: int, parameters: Parameters) -> None:
        if self.checkpoints is not None:
            self._progress.finish(server_round, _numpy_arrays(parameters))

    def _aggregate_evaluations(
        self,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: list[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[float | None, dict[str, Scalar]]:
        if not self.accept_failures and failures:
            return None, {}
        valid = self._round.open_metrics(
            [(client.cid, result) for client, result in results], _read_loss
        )
        if not self.settings.outvotes(len(valid)):
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


class _Nobody(ClientProxy):
    """Stands for the clients of a round that is played over: none of them is asked again."""

    def __init__(self) -> None:
        super().__init__("nobody")

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        return FitRes(_OK, Parameters([], ""), 0, {})

    def evaluate(
        self, ins: EvaluateIns, timeout: float | None, group_id: int | None
    ) -> EvaluateRes:
        return EvaluateRes(_OK, 0.0, 0, {})

    def get_properties(self, *_: object) -> GetPropertiesRes:
        return GetPropertiesRes(Status(Code.GET_PROPERTIES_NOT_IMPLEMENTED, ""), {})

    def get_parameters(self, *_: object) -> GetParametersRes:
        status = Status(Code.GET_PARAMETERS_NOT_IMPLEMENTED, "")
        return GetParametersRes(status, Parameters([], ""))

    def reconnect(self, *_: object) -> DisconnectRes:
        return DisconnectRes("")


def _guarded(
    instructions: list[tuple[ClientProxy, Instruction]], parameters: Parameters
) -> list[tuple[ClientProxy, Instruction]]:
    """Guard the clients, where it is known what their replies may take."""
    try:
        room = room_for(spec.size for spec in parameters_layout(parameters).arrays)
    except MalformedReply:
        return instructions
    return [(GuardedClient(client, room), instruction) for client, instruction in instructions]


def _numpy_arrays(parameters: Parameters) -> dict[str, NDArray[Any]]:
    arrays = enumerate(parameters_to_ndarrays(parameters))
    return {str(number): array for number, array in arrays}


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
