"""The rounds of Flower's classic API with our checks around a strategy."""

from functools import partial
from logging import WARNING
from typing import Any

from flwr import common
from flwr.common import EvaluateIns, EvaluateRes, FitIns, FitRes, Parameters, Scalar
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import Strategy
from flwr.supercore import log

from ...hardening import Asked
from ...logs import escaped
from ...payload import MalformedReply, most_common_layout, to_parameters
from ...strategies import GuardedBase
from ...wrapped import option
from .. import results as opening
from ..clients import ChosenClients

Evaluation = tuple[float, dict[str, Scalar]]
Failures = list[tuple[ClientProxy, Any] | BaseException]


class Guarded(GuardedBase, Strategy):
    """What `Hardened` and `GeometricMedianOfMeans` share around the strategy behind them."""

    _other_api = (
        ("start", "configure_train", "aggregate_train"),
        ": this is the classic API's {0}, for ServerAppComponents; for strategy.start(grid, ...) "
        "import it from flwr_byz.serverapp.strategy",
    )
    _evaluated: Parameters | None = None
    _evaluating: Asked = None

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters | None:
        """Initialize global model parameters: those of the newest checkpoint, where there is one.

        Raises ValueError where the folder `checkpoints` holds another model, or damaged files only,
        or where another server uses it. This strategy uses it until it is initialised again or
        deleted.
        """
        given = self._behind().initialize_parameters(client_manager)
        history = self._rounds.resume(None if given is None else opening.numpy_arrays(given))
        self._restore(history.state)
        if history.finished >= 0:
            return common.ndarrays_to_parameters(list(history.arrays.values()))
        return opening.initial_parameters_of_a_client(client_manager) if given is None else given

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Configure the next round of training, and remember what is sent to whom."""
        if self._rounds.are_over(server_round):
            return self._replayed(server_round, FitIns(parameters, {}))
        clients = self._clients(client_manager, server_round, "min_fit_clients")
        instructions = self._behind().configure_fit(server_round, parameters, clients)
        model = None
        if parameters.tensors:
            try:
                model = opening.read_model(parameters)
            except MalformedReply as error:
                text = "the parameters sent are malformed (%s); clients decide"
                log(WARNING, text, escaped(error))
        self._rounds.begin(model, [client.cid for client, _ in instructions])
        return opening.guarded(instructions, parameters)

    def aggregate_fit(
        self, server_round: int, results: list[tuple[ClientProxy, FitRes]], failures: Failures
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Aggregate the replies that pass the checks: the new model, the metrics of the round.

        The model is None, which makes Flower keep the old one, where no step can be justified.
        """
        if self._rounds.are_over(server_round):
            return None, self._rounds.history.train.get(server_round, {})
        layouts = (opening.layout_of(result) for _, result in results)
        layout = self._rounds.layout or most_common_layout(layouts)
        replies = [opening.opened(*pair, layout) for pair in results]
        replies += [opening.failed(failure) for failure in failures]
        model, metrics = self._aggregate(server_round, replies)
        return None if model is None else to_parameters(model), metrics

    def evaluate(self, server_round: int, parameters: Parameters) -> Evaluation | None:
        """Evaluate the model at the server, where the strategy does."""
        history = self._rounds.history
        if self._rounds.are_over(server_round):
            known = history.server.get(server_round)
            return None if known is None else (known[0], known[1])
        evaluation: Evaluation | None = self._behind().evaluate(server_round, parameters)
        if evaluation is not None:
            history.server[server_round] = evaluation
        if server_round == 0:
            self._end(0, parameters)
        return evaluation

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Configure the next round of evaluation; the round ends here where no client is asked."""
        if self._rounds.are_over(server_round):
            return self._replayed(server_round, EvaluateIns(parameters, {}))
        instructions = []
        if option(self, "fraction_evaluate", 1.0) != 0.0:
            clients = self._clients(client_manager, server_round, "min_evaluate_clients")
            instructions = self._behind().configure_evaluate(server_round, parameters, clients)
        if not instructions:
            self._end(server_round, parameters)
        self._evaluated = parameters
        self._evaluating = frozenset(client.cid for client, _ in instructions)
        return opening.guarded(instructions, parameters)

    def aggregate_evaluate(
        self, server_round: int, results: list[tuple[ClientProxy, EvaluateRes]], failures: Failures
    ) -> tuple[float | None, dict[str, Scalar]]:
        """Aggregate the losses and metrics of the replies that pass the checks."""
        history = self._rounds.history
        if self._rounds.are_over(server_round):
            loss, metrics = history.evaluate.get(server_round, (None, {}))
            return loss, metrics
        replies = [opening.evaluated(*pair) for pair in results]
        replies += [opening.failed(failure) for failure in failures]
        loss, metrics = self._evaluate(server_round, replies, self._evaluating)
        history.evaluate[server_round] = loss, metrics
        if self._evaluated is not None:
            self._end(server_round, self._evaluated)
        return loss, metrics

    def _clients(self, manager: ClientManager, server_round: int, minimum: str) -> ChosenClients:
        """Wait for clients, and return those that may be asked in a round."""
        q = self._rounds.options.num_byzantine
        needed = self._needed("min_available_clients", minimum)
        chosen = ChosenClients(manager, frozenset(), q)
        chosen.wait_for(needed)
        cids = list(chosen.all())
        admitted = self._rounds.admitted(server_round, cids, needed)
        return ChosenClients(manager, frozenset(cids).difference(admitted), q)

    def _replayed(self, server_round: int, instruction: Any) -> list[tuple[ClientProxy, Any]]:
        """Return an instruction that lets Flower's `Server` take a finished round from the file."""
        is_finished = server_round <= self._rounds.history.finished
        return [(opening.NoClient(), instruction)] if is_finished else []

    def _end(self, server_round: int, parameters: Parameters) -> None:
        arrays = partial(opening.numpy_arrays, parameters)
        self._rounds.end(server_round, parameters, arrays, self._state)
