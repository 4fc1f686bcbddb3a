"""Byzantine gradient descent as a strategy for Flower's classic API."""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from logging import INFO, WARNING
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, Unpack, cast

from flwr.common import (
    Code,
    DisconnectRes,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
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

from ...aggregation.pre_aggregation import TrimNorm
from ...audit import AuditTrail
from ...history import History
from ...identity import ClientId
from ...logs import escaped
from ...metrics import Metrics, median_of_means
from ...payload import (
    Layout,
    MalformedReply,
    Model,
    check_num_examples,
    most_common_layout,
    parameters_layout,
    read_number,
    read_parameters,
    to_parameters,
)
from ...robust_server import RobustServer
from ...round import UNKNOWN, Reply
from ...settings import Settings
from ...transport import GuardedClient, room_for

Instruction = TypeVar("Instruction", FitIns, EvaluateIns)

_OK = Status(Code.OK, "")
_FIRST_ANSWER = 60.0  # seconds that a client has to give initial parameters
_LONG = 86_400  # seconds to wait for the first client, as Flower does


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
        The options of Flower's ``FedAvg``. Without `initial_parameters` they are taken from a
        client drawn at random, which may be Byzantine: give them. The minimum numbers of fit,
        evaluate and available clients are k by default, 2q + 1 where it is not given.
        `accept_failures=False` gives every client the power to veto a round. `inplace` changes
        nothing.

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
        self._server = RobustServer(
            self.settings,
            None if audit is None else AuditTrail(Path(audit)),
            None if checkpoints is None else Path(checkpoints),
        )
        self._evaluated: Parameters | None = None
        self._evaluating: frozenset[ClientId] | None = None
        if self.initial_parameters is not None:
            try:
                self._server.begin(_read_model(self.initial_parameters))
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
            Where the folder `checkpoints` holds another model, or damaged files only, or where
            another server uses it. This strategy uses it until it is initialised again or deleted.
        """
        self.summary()
        given = self.initial_parameters
        history = self._server.resume(None if given is None else _numpy_arrays(given))
        if history.finished >= 0:
            return ndarrays_to_parameters(list(history.arrays.values()))
        if self.initial_parameters is None:
            return _from_a_client(client_manager)
        return super().initialize_parameters(client_manager)

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Configure the next round of training, and remember what is sent to whom."""
        if server_round <= self._history.finished:
            return [(_Nobody(), FitIns(parameters, {}))]
        instructions = super().configure_fit(server_round, parameters, client_manager)
        model = None
        if parameters.tensors:
            try:
                model = _read_model(parameters)
            except MalformedReply as error:
                log(
                    WARNING,
                    "the parameters sent are malformed (%s); clients decide",
                    escaped(error),
                )
        self._server.begin(model, [client.cid for client, _ in instructions])
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
        if server_round <= self._history.finished:
            return None, self._history.train.get(server_round, {})
        layout = self._server.layout or most_common_layout([_layout_of(r) for _, r in results])
        replies = [_opened(client.cid, result, layout) for client, result in results]
        replies += [_failed(failure) for failure in failures]
        outcome = self._server.aggregate(server_round, replies)
        model = outcome.model
        if outcome.report["byz-rejected"] and not self.accept_failures:
            model = None
        metrics, num_rejected = self._metrics(
            self.fit_metrics_aggregation_fn, outcome.replies if model else []
        )
        metrics.update(outcome.report | {"byz-metrics-rejected": num_rejected})
        self._history.train[server_round] = metrics
        return None if model is None else to_parameters(model), metrics

    def evaluate(
        self, server_round: int, parameters: Parameters
    ) -> tuple[float, dict[str, Scalar]] | None:
        """Evaluate the model at the server, where `evaluate_fn` is given."""
        if server_round <= self._history.finished:
            told = self._history.server.get(server_round)
            return None if told is None else (told[0], told[1])
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
            return [(_Nobody(), EvaluateIns(parameters, {}))]
        instructions = super().configure_evaluate(server_round, parameters, client_manager)
        if not instructions:
            self._finish(server_round, parameters)
        self._evaluated = parameters
        self._evaluating = frozenset(client.cid for client, _ in instructions)
        return _guarded(instructions, parameters)

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
        evaluation = self._aggregate_evaluations(results, failures)
        self._history.evaluate[server_round] = evaluation
        if self._evaluated is not None:
            self._finish(server_round, self._evaluated)
        return evaluation

    @property
    def _history(self) -> History:
        return self._server.history

    def _finish(self, server_round: int, parameters: Parameters) -> None:
        if self._history.folder is not None:
            self._history.finish(server_round, _numpy_arrays(parameters))

    def _aggregate_evaluations(
        self,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: list[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[float | None, dict[str, Scalar]]:
        if not self.accept_failures and failures:
            return None, {}
        replies = [_evaluated(client.cid, result) for client, result in results]
        valid = self._server.evaluations(replies, self._evaluating)
        if not valid:
            return None, {}
        losses = [float(reply.payload.loss) for reply in valid]
        loss = float(median_of_means(losses, self.settings.batches_for(len(losses))))
        return loss, self._metrics(self.evaluate_metrics_aggregation_fn, valid)[0]

    def _metrics(
        self, custom: MetricsAggregationFn | None, replies: Sequence[Reply]
    ) -> tuple[dict[str, Scalar], int]:
        """Aggregate metrics that enough clients report; also count those left out."""

        def given(chosen: Sequence[Metrics | None]) -> Mapping[str, Scalar]:
            assert custom is not None
            return custom(
                [
                    (reply.payload.num_examples, cast(dict[str, Scalar], metrics))
                    for reply, metrics in zip(replies, chosen, strict=True)
                    if metrics is not None
                ]
            )

        return self._server.metrics(replies, None if custom is None else given)


def _from_a_client(client_manager: ClientManager) -> Parameters:
    """Ask clients in random order for initial parameters until one gives a usable model."""
    log(
        WARNING,
        "initial_parameters are not given: they are taken from a client drawn at random, which may "
        "be Byzantine",
    )
    client_manager.wait_for(1, _LONG)
    clients = list(client_manager.all().values())
    for client in random.sample(clients, len(clients)):
        try:
            answer = client.get_parameters(GetParametersIns({}), _FIRST_ANSWER, 0)
            if answer.status.code == Code.OK and _read_model(answer.parameters).values:
                return answer.parameters
            reason: object = "it has none"
        except Exception as error:  # whatever the client makes Flower raise
            reason = error
        client_id, reason = escaped(client.cid), escaped(reason)
        log(WARNING, "no initial parameters from client %s: %s", client_id, reason)
    log(WARNING, "no client gave initial parameters: clients are sent none in the first round")
    return Parameters([], "")


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


def _layout_of(result: FitRes) -> Layout | None:
    try:
        return parameters_layout(result.parameters)
    except Exception:  # counted as malformed when it is opened
        return None


def _opened(client: ClientId, result: FitRes, layout: Layout | None) -> Reply:
    """Check a reply against the layout of the model; whatever it trips over is its own fault."""
    try:
        if layout is None:
            raise MalformedReply("no reply has readable arrays")
        model = read_parameters(result.parameters, layout)
        check_num_examples(result.num_examples, "num_examples")
        return Reply(client, model, _mapping(result.metrics), result)
    except Exception as error:
        return Reply(client, None, reason=str(error) or repr(error))


def _failed(failure: tuple[ClientProxy, FitRes] | BaseException) -> Reply:
    if isinstance(failure, BaseException):
        return Reply(UNKNOWN, None, reason="an error reply", is_error=True)
    return Reply(failure[0].cid, None, reason="an error reply", is_error=True)


def _evaluated(client: ClientId, result: EvaluateRes) -> Reply:
    try:
        check_num_examples(result.num_examples, "num_examples")
        read_number(result.loss, "the loss")
        return Reply(client, None, _mapping(result.metrics), result)
    except Exception as error:
        return Reply(client, None, reason=str(error) or repr(error))


def _mapping(metrics: object) -> Mapping[str, object]:
    return dict(metrics) if isinstance(metrics, Mapping) else {}  # what it raises, it raises here
