"""Flower's results of the classic API, opened: replies to checked models and metrics."""

import random
from collections.abc import Callable, Iterable, Mapping
from logging import WARNING
from typing import Any, TypeVar, cast

from flwr import common
from flwr.common import Code, FitRes, Parameters, Status
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.supercore import log
from numpy.typing import NDArray

from .. import payload
from ..hardening import Asked, Evaluated
from ..logs import escaped
from ..metrics import median_of_means
from ..payload import Layout, MalformedReply, Model
from ..robust_server import MetricsFunction, RobustServer
from ..round import UNKNOWN, Reply, model_of
from ..transport import GuardedClient, room_for

Instruction = TypeVar("Instruction", common.FitIns, common.EvaluateIns)

_FIRST_ANSWER = 60.0  # seconds that a client has to give initial parameters
_LONG = 86_400  # seconds to wait for the first client, as Flower does


def initial_parameters_of_a_client(client_manager: ClientManager) -> Parameters:
    """Ask clients in random order for initial parameters until one gives a usable model."""
    log(WARNING, "no initial_parameters: they are those of a random client, which may be Byzantine")
    client_manager.wait_for(1, _LONG)
    clients = list(client_manager.all().values())
    for client in random.sample(clients, len(clients)):
        try:
            answer = client.get_parameters(common.GetParametersIns({}), _FIRST_ANSWER, 0)
            if answer.status.code == Code.OK and read_model(answer.parameters).values:
                return answer.parameters
            raise MalformedReply("it has none")
        except Exception as error:  # whatever the client makes Flower raise
            reason = escaped(error)
            log(WARNING, "no initial parameters from client %s: %s", escaped(client.cid), reason)
    log(WARNING, "no client gave initial parameters: clients are sent none in the first round")
    return Parameters([], "")


class NoClient(ClientProxy):
    """Stands in for clients where a result does not come from one that was asked."""

    def __init__(self) -> None:
        super().__init__("")

    def _answer(self, *_: Any, **__: Any) -> Any:
        return FitRes(Status(Code.OK, ""), Parameters([], ""), 0, {})  # it is not read

    fit = evaluate = get_properties = get_parameters = reconnect = _answer

    @property
    def node_id(self) -> int:  # type: ignore[override]
        """A workflow asks for it, where Flower's Server asks the client."""
        raise RuntimeError(
            "a workflow cannot go on from checkpoints: give the strategy to ServerAppComponents, "
            "or leave checkpoints out"
        )


def guarded(
    instructions: list[tuple[ClientProxy, Instruction]], parameters: Parameters
) -> list[tuple[ClientProxy, Instruction]]:
    """Guard the clients, where it is known what their replies may take."""
    try:
        room = room_for(spec.size for spec in payload.parameters_layout(parameters).arrays)
    except MalformedReply:
        return instructions
    return [(GuardedClient(client, room), instruction) for client, instruction in instructions]


def numpy_arrays(parameters: Parameters) -> dict[str, NDArray[Any]]:
    """Return the arrays of parameters by number."""
    return {str(i): array for i, array in enumerate(common.parameters_to_ndarrays(parameters))}


def read_model(parameters: Parameters) -> Model:
    """Read what the server sends; raise MalformedReply where it is malformed or not finite."""
    model = payload.read_parameters(parameters, payload.parameters_layout(parameters))
    model.check_can_be_trained()
    return model


def layout_of(result: FitRes) -> Layout | None:
    """Return the layout of a result; None where it cannot be read."""
    try:
        return payload.parameters_layout(result.parameters)
    except Exception:  # counted as malformed when it is opened
        return None


def opened(client: ClientProxy, result: FitRes, layout: Layout | None) -> Reply:
    """Check a reply against the layout of the model; whatever it trips over is its own fault."""
    try:
        if layout is None:
            raise MalformedReply("no reply has readable arrays")
        model = payload.read_parameters(result.parameters, layout)
        payload.check_num_examples(result.num_examples, "num_examples")
        return Reply(client.cid, model, _mapping(result.metrics), (client, result))
    except Exception as error:
        return Reply(client.cid, None, reason=error)


def rebuilt(reply: Reply) -> tuple[ClientProxy, FitRes]:
    """Return the result of a reply, with its arrays as they were checked."""
    client, result = reply.payload
    tensors = result.parameters.tensors
    parts = zip(tensors, model_of(reply).items(), strict=True)
    data = [
        part if value.dtype == spec.dtype else common.ndarray_to_bytes(value.astype(spec.dtype))
        for part, (spec, value) in parts
    ]
    parameters = Parameters(data, "numpy.ndarray")
    metrics = cast(dict[str, common.Scalar], reply.metrics)
    return client, FitRes(Status(Code.OK, ""), parameters, result.num_examples, metrics)


def one_result(model: Model) -> tuple[ClientProxy, FitRes]:
    """Return a result with a model, as if there were one client only."""
    return NoClient(), FitRes(Status(Code.OK, ""), payload.to_parameters(model), 1, {})


def failed(failure: tuple[ClientProxy, Any] | BaseException) -> Reply:
    """Return the reply that a failure counts as."""
    if isinstance(failure, BaseException):
        return Reply(UNKNOWN, None, reason=f"an error: {failure}", is_error=True)
    client, result = failure
    reason = f"an error: {result.status.message}"
    return Reply(client.cid, None, reason=reason, is_error=True)


def evaluated(client: ClientProxy, result: common.EvaluateRes) -> Reply:
    """Check a reply to a request to evaluate; what it trips over is its own fault."""
    try:
        payload.check_num_examples(result.num_examples, "num_examples")
        payload.read_number(result.loss, "the loss")
        return Reply(client.cid, None, _mapping(result.metrics), (client, result))
    except Exception as error:
        return Reply(client.cid, None, reason=error)


def of_replies(custom: common.MetricsAggregationFn | None) -> MetricsFunction | None:
    """Return a user's function of metrics as one of replies and the metrics chosen of them."""
    if custom is None:
        return None
    return lambda chosen: custom([(reply.payload[1].num_examples, own) for reply, own in chosen])


def evaluate_robustly(
    server: RobustServer, replies: Iterable[Reply], asked: Asked, custom: MetricsFunction | None
) -> Evaluated:
    """Return the median of means of the losses that clients report, and their metrics."""
    usable, metrics = server.evaluate(replies, asked, custom)
    if not usable:
        return None, metrics
    losses = [float(reply.payload[1].loss) for reply in usable]
    return float(median_of_means(losses, server.settings.batches_for(len(losses)))), metrics


def _mapping(metrics: object) -> Mapping[str, object]:
    return dict(metrics) if isinstance(metrics, Mapping) else {}  # what it raises, it raises here


def updated_model(
    function: Callable[[int, common.NDArrays], common.NDArrays], server_round: int, model: Model
) -> Model:
    """Return what a caller's function makes of a model, as lists of NumPy arrays."""
    arrays = common.parameters_to_ndarrays(payload.to_parameters(model))
    made = common.ndarrays_to_parameters(function(server_round, arrays))
    return payload.read_parameters(made, model.layout)
