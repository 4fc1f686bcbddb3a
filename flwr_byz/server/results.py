"""Flower's results of the classic API, opened: replies to checked models and metrics."""

import random
from collections.abc import Mapping
from logging import WARNING
from typing import Any, TypeVar

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
    Parameters,
    Status,
    parameters_to_ndarrays,
)
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.supercore import log
from numpy.typing import NDArray

from ..identity import ClientId
from ..logs import escaped
from ..payload import (
    Layout,
    MalformedReply,
    Model,
    check_num_examples,
    parameters_layout,
    read_number,
    read_parameters,
)
from ..round import UNKNOWN, Reply
from ..transport import GuardedClient, room_for

Instruction = TypeVar("Instruction", FitIns, EvaluateIns)

_OK = Status(Code.OK, "")
_FIRST_ANSWER = 60.0  # seconds that a client has to give initial parameters
_LONG = 86_400  # seconds to wait for the first client, as Flower does


def initial_parameters_of_a_client(client_manager: ClientManager) -> Parameters:
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
            if answer.status.code == Code.OK and read_model(answer.parameters).values:
                return answer.parameters
            reason: object = "it has none"
        except Exception as error:  # whatever the client makes Flower raise
            reason = error
        client_id, reason = escaped(client.cid), escaped(reason)
        log(WARNING, "no initial parameters from client %s: %s", client_id, reason)
    log(WARNING, "no client gave initial parameters: clients are sent none in the first round")
    return Parameters([], "")


class Nobody(ClientProxy):
    """Stands for the clients of a round that is replayed from a checkpoint: none is asked again."""

    def __init__(self) -> None:
        super().__init__("nobody")

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        """Return an empty result."""
        return FitRes(_OK, Parameters([], ""), 0, {})

    def evaluate(
        self, ins: EvaluateIns, timeout: float | None, group_id: int | None
    ) -> EvaluateRes:
        """Return an empty result."""
        return EvaluateRes(_OK, 0.0, 0, {})

    def get_properties(self, *_: object) -> GetPropertiesRes:
        """Return none."""
        return GetPropertiesRes(_OK, {})

    def get_parameters(self, *_: object) -> GetParametersRes:
        """Return none."""
        return GetParametersRes(_OK, Parameters([], ""))

    def reconnect(self, *_: object) -> DisconnectRes:
        """Do nothing."""
        return DisconnectRes("")


def guarded(
    instructions: list[tuple[ClientProxy, Instruction]], parameters: Parameters
) -> list[tuple[ClientProxy, Instruction]]:
    """Guard the clients, where it is known what their replies may take."""
    try:
        room = room_for(spec.size for spec in parameters_layout(parameters).arrays)
    except MalformedReply:
        return instructions
    return [(GuardedClient(client, room), instruction) for client, instruction in instructions]


def numpy_arrays(parameters: Parameters) -> dict[str, NDArray[Any]]:
    """Return the arrays of parameters by number."""
    arrays = enumerate(parameters_to_ndarrays(parameters))
    return {str(number): array for number, array in arrays}


def read_model(parameters: Parameters) -> Model:
    """Check parameters that the server sends.

    Raises
    ------
    MalformedReply
        Where an array is not real, integer or bool, or not finite.
    """
    model = read_parameters(parameters, parameters_layout(parameters))
    model.check_finite()
    return model


def layout_of(result: FitRes) -> Layout | None:
    """Return the layout of a result; None where it cannot be read."""
    try:
        return parameters_layout(result.parameters)
    except Exception:  # counted as malformed when it is opened
        return None


def opened(client: ClientId, result: FitRes, layout: Layout | None) -> Reply:
    """Check a reply against the layout of the model; whatever it trips over is its own fault."""
    try:
        if layout is None:
            raise MalformedReply("no reply has readable arrays")
        model = read_parameters(result.parameters, layout)
        check_num_examples(result.num_examples, "num_examples")
        return Reply(client, model, _mapping(result.metrics), result)
    except Exception as error:
        return Reply(client, None, reason=str(error) or repr(error))


def failed(failure: tuple[ClientProxy, FitRes] | BaseException) -> Reply:
    """Return the reply that a failure counts as."""
    if isinstance(failure, BaseException):
        return Reply(UNKNOWN, None, reason="an error reply", is_error=True)
    return Reply(failure[0].cid, None, reason="an error reply", is_error=True)


def evaluated(client: ClientId, result: EvaluateRes) -> Reply:
    """Check a reply to a request to evaluate; what it trips over is its own fault."""
    try:
        check_num_examples(result.num_examples, "num_examples")
        read_number(result.loss, "the loss")
        return Reply(client, None, _mapping(result.metrics), result)
    except Exception as error:
        return Reply(client, None, reason=str(error) or repr(error))


def _mapping(metrics: object) -> Mapping[str, object]:
    return dict(metrics) if isinstance(metrics, Mapping) else {}  # what it raises, it raises here
