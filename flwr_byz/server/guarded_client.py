"""A client as the classic API's server sees it, from which nothing worse than a failure comes."""

import math
from collections.abc import Callable
from typing import TypeVar

from flwr.common import (
    Code,
    DisconnectRes,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Parameters,
    ReconnectIns,
    Status,
)
from flwr.server.client_proxy import ClientProxy

from ..bounded_pull import at_most

Result = TypeVar("Result")


class GuardedClient(ClientProxy):
    """Another client, whose replies are of bounded size and whose failures bear its name.

    Flower's `Server` tells a strategy of an exception without saying which client it came from; a
    result that is not OK comes with its client.

    Parameters
    ----------
    client : ClientProxy
    num_bytes : int
        What a reply may take.
    """

    def __init__(self, client: ClientProxy, num_bytes: int) -> None:
        super().__init__(client.cid)
        self.properties = client.properties
        self._client = client
        self._num_bytes = num_bytes

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        """Train at the client."""
        return self._guarded(
            lambda: self._client.fit(ins, timeout, group_id),
            lambda failed: FitRes(failed, Parameters([], ""), 0, {}),
            timeout,
        )

    def evaluate(
        self, ins: EvaluateIns, timeout: float | None, group_id: int | None
    ) -> EvaluateRes:
        """Evaluate at the client."""
        return self._guarded(
            lambda: self._client.evaluate(ins, timeout, group_id),
            lambda failed: EvaluateRes(failed, 0.0, 0, {}),
            timeout,
        )

    def get_properties(
        self, ins: GetPropertiesIns, timeout: float | None, group_id: int | None
    ) -> GetPropertiesRes:
        """Return the client's properties."""
        return self._client.get_properties(ins, timeout, group_id)

    def get_parameters(
        self, ins: GetParametersIns, timeout: float | None, group_id: int | None
    ) -> GetParametersRes:
        """Return the client's parameters."""
        return self._client.get_parameters(ins, timeout, group_id)

    def reconnect(
        self, ins: ReconnectIns, timeout: float | None, group_id: int | None
    ) -> DisconnectRes:
        """Disconnect the client and let it reconnect later."""
        return self._client.reconnect(ins, timeout, group_id)

    def _guarded(
        self,
        ask: Callable[[], Result],
        fail: Callable[[Status], Result],
        timeout: float | None,
    ) -> Result:
        try:
            with at_most(self._num_bytes, timeout or math.inf):
                return ask()
        except Exception as error:  # whatever the client makes Flower raise
            reason = f"{type(error).__name__}: {error}"
            return fail(Status(Code.FIT_NOT_IMPLEMENTED, reason))
