"""An app's training, watched from within the process that it runs in."""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, wraps
from logging import WARNING
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common import Parameters, parameters_to_ndarrays
from flwr.server import Server, SimpleClientManager
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore import log
from numpy.typing import NDArray

from .attacked_app import seed_everything
from .order import Order
from .swap import classic_swap, message_swap

Vector = NDArray[np.float64] | NDArray[np.complex128]
Tell = Callable[[Mapping[str, Any]], None]


class WatchedTraining:
    """What an app's strategy trains and measures, whichever API it uses.

    Of evaluations by clients, it tells what the app's own strategy makes of the replies, whichever
    strategy trains: two strategies are compared by one measure.

    Parameters
    ----------
    order : Order
        It says whether ours takes the place of the app's own strategy, and who is Byzantine.
    tell : callable
        Called with each event: "begun", "metrics", "round".

    Attributes
    ----------
    partitions : mapping of int to int
        Partition ids by node ids; to be set before anything is trained.
    has_begun, asked_byzantine : bool
        Whether there was a round, and whether a Byzantine client was asked in one.
    initial, final : ndarray or None
        The float arrays of the first model that was sent and of the last one, end to end; None
        where there is none, or no such vector can be made of it.
    """

    def __init__(self, order: Order, tell: Tell) -> None:
        self.partitions: Mapping[int, int] = {}
        self.has_begun = self.asked_byzantine = False
        self.initial: Vector | None = None
        self.final: Vector | None = None
        self._order = order
        self._tell = tell
        self._is_inside = False
        self._watched: list[object] = []

    def watch(self) -> None:
        """Watch ``Strategy.start`` and ``Server.fit``, also where a subclass has its own."""
        for base, name, run in ((Strategy, "start", self._start), (Server, "fit", self._fit)):
            known = inspect.signature(getattr(base, name))
            for kind in _with_subclasses(base):
                if name in vars(kind):
                    setattr(kind, name, self._outermost(vars(kind)[name], known, run))

    def _outermost(
        self, loop: Callable[..., Any], known: inspect.Signature, run: Callable[..., Any]
    ) -> Callable[..., Any]:
        own = inspect.signature(loop)
        signature = own if "num_rounds" in own.parameters else known  # not where it is **kwargs

        @wraps(loop)
        def watched(owner: Any, *args: Any, **kwargs: Any) -> Any:
            if self._is_inside:  # a subclass calls its parent's
                return loop(owner, *args, **kwargs)
            self._is_inside = True
            try:
                given = signature.bind(owner, *args, **kwargs).arguments
                given.pop(next(iter(signature.parameters)))
                for name, parameter in signature.parameters.items():
                    if parameter.kind is parameter.VAR_KEYWORD:
                        given.update(given.pop(name, {}))
                if self._order.play.num_rounds is not None:
                    given["num_rounds"] = self._order.play.num_rounds
                default = signature.parameters["num_rounds"].default
                return run(owner, given, given.get("num_rounds", default))
            finally:
                self._is_inside = False

        return watched

    # --- the Message API ---

    def _start(self, own: Strategy, given: dict[str, Any], num_rounds: int) -> Any:
        strategy, notes = own, list[str]()
        if self._order.play.strategy == "ours":
            strategy, notes = message_swap(own, self._order.play.num_byzantine)
        self._begin(own, notes, num_rounds)
        if given.get("evaluate_fn") is not None:
            given["evaluate_fn"] = partial(self._evaluate_fn, given["evaluate_fn"])
        if self._is_new(strategy):
            _around(strategy, "configure_train", self._configure_train)
            _around(strategy, "configure_evaluate", self._seeded)
            _around(strategy, "aggregate_train", self._aggregate_train)
            judge = None if strategy is own else own.aggregate_evaluate
            _around(strategy, "aggregate_evaluate", partial(self._aggregate_evaluate, judge))
        if self._order.is_reference:
            self._measure_start(lambda: self._evaluate_start(strategy, given))
        return strategy.start(**given)

    def _evaluate_start(self, strategy: Strategy, given: Mapping[str, Any]) -> None:
        grid: Grid = given["grid"]
        config = ConfigRecord(dict(given.get("evaluate_config") or {}))
        asked = strategy.configure_evaluate(0, given["initial_arrays"], config, grid)
        replies = grid.send_and_receive(asked, timeout=given.get("timeout", 3600))
        strategy.aggregate_evaluate(0, replies)

    def _configure_train(
        self,
        configure: Callable[..., Iterable[Message]],
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> Iterable[Message]:
        self._sends(arrays.to_numpy_ndarrays)
        messages = list(self._seeded(configure, server_round, arrays, config, grid))
        self._asks(server_round, [message.metadata.dst_node_id for message in messages])
        return messages

    def _aggregate_train(
        self, aggregate: Callable[..., Any], server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = aggregate(server_round, replies)
        self._trained(None if arrays is None else arrays.to_numpy_ndarrays)
        self._measured("train", server_round, metrics)
        return arrays, metrics

    def _aggregate_evaluate(
        self,
        judge: Callable[..., Any] | None,
        aggregate: Callable[..., Any],
        server_round: int,
        replies: Iterable[Message],
    ) -> MetricRecord | None:
        replies = list(replies)
        metrics: MetricRecord | None = aggregate(server_round, replies)
        self._measured("evaluate", server_round, judge(server_round, replies) if judge else metrics)
        return metrics

    def _evaluate_fn(
        self, evaluate: Callable[..., Any], server_round: int, arrays: ArrayRecord
    ) -> Any:
        metrics = evaluate(server_round, arrays)
        self._measured("server", server_round, metrics)
        return metrics

    # --- the classic API ---

    def _fit(self, server: Server, given: dict[str, Any], num_rounds: int) -> Any:
        own, notes = server.strategy, list[str]()
        manager = server.client_manager()
        if isinstance(manager, SimpleClientManager):
            by_partition = sorted(manager.clients.items(), key=lambda c: self._partition(c[0]))
            manager.clients = dict(by_partition)  # in a run's own order they are drawn at random
        if self._order.play.strategy == "ours":
            strategy, notes = classic_swap(own, self._order.play.num_byzantine)
            server.set_strategy(strategy)
        self._begin(own, notes, num_rounds)
        if self._is_new(server.strategy):
            configure = partial(self._configure_fit, server, given.get("timeout"))
            _around(server.strategy, "configure_fit", configure)
            _around(server.strategy, "configure_evaluate", self._seeded)
            _around(server.strategy, "aggregate_fit", self._aggregate_fit)
            _around(server.strategy, "evaluate", self._evaluate)
            judge = None if server.strategy is own else own.aggregate_evaluate
            aggregate = partial(self._aggregate_evaluations, judge)
            _around(server.strategy, "aggregate_evaluate", aggregate)
        return server.fit(**given)

    def _configure_fit(
        self,
        server: Server,
        timeout: float | None,
        configure: Callable[..., Any],
        server_round: int,
        parameters: Parameters,
        client_manager: Any,
    ) -> Any:
        if self.initial is None and self._order.is_reference:
            self._measure_start(lambda: server.evaluate_round(0, timeout))
        self._sends(lambda: parameters_to_ndarrays(parameters))
        instructions = self._seeded(
            configure, server_round, parameters=parameters, client_manager=client_manager
        )
        self._asks(server_round, [client.cid for client, _ in instructions])
        return instructions

    def _aggregate_fit(
        self, aggregate: Callable[..., Any], server_round: int, results: Any, failures: Any
    ) -> Any:
        parameters, metrics = aggregate(server_round, results, failures)
        self._trained(None if parameters is None else lambda: parameters_to_ndarrays(parameters))
        self._measured("train", server_round, metrics)
        return parameters, metrics

    def _evaluate(
        self, evaluate: Callable[..., Any], server_round: int, parameters: Parameters
    ) -> Any:
        evaluation = evaluate(server_round, parameters=parameters)
        if evaluation is not None:
            self._measured("server", server_round, {"loss": evaluation[0], **evaluation[1]})
        return evaluation

    def _aggregate_evaluations(
        self,
        judge: Callable[..., Any] | None,
        aggregate: Callable[..., Any],
        server_round: int,
        results: Any,
        failures: Any,
    ) -> Any:
        evaluation = aggregate(server_round, results, failures)
        loss, metrics = judge(server_round, results, failures) if judge else evaluation
        losses = {} if loss is None else {"loss": loss}
        self._measured("evaluate", server_round, {**losses, **metrics})
        return evaluation

    # --- either ---

    def _begin(self, own: object, notes: Sequence[str], num_rounds: int) -> None:
        self.has_begun = True
        begun = {"strategy": type(own).__name__, "notes": list(notes), "num_rounds": num_rounds}
        self._tell({"event": "begun", **begun})

    def _seeded(
        self, configure: Callable[..., Any], server_round: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Draw the same clients in a round of every play: strategies are compared on the same."""
        seed_everything(self._order.play.seed, server_round)
        return configure(server_round, *args, **kwargs)

    def _is_new(self, strategy: object) -> bool:
        """Tell whether a strategy is not watched yet; an app may train with it twice."""
        if any(strategy is watched for watched in self._watched):
            return False
        self._watched.append(strategy)
        return True

    def _measure_start(self, evaluate: Callable[[], object]) -> None:
        """Let clients evaluate the initial model, which Flower's loops do not."""
        try:
            evaluate()
        except Exception as error:
            log(WARNING, "clients could not evaluate the initial model: %r", error)

    def _asks(self, server_round: int, node_ids: Sequence[int | str]) -> None:
        asked = {self._partition(node_id) for node_id in node_ids}
        path = self._order.asked(server_round)
        path.parent.mkdir(parents=True, exist_ok=True)
        byzantine = sorted(asked & self._order.byzantine)
        self.asked_byzantine |= bool(byzantine)
        path.write_text(json.dumps(byzantine), encoding="utf-8")

    def _partition(self, node_id: int | str) -> int:
        return self.partitions.get(int(node_id), -1)

    def _sends(self, read: Callable[[], Sequence[NDArray[Any]]]) -> None:
        if self.initial is None:
            self.initial = self.final = _vector(read)

    def _trained(self, read: Callable[[], Sequence[NDArray[Any]]] | None) -> None:
        if read is not None:
            self.final = _vector(read)
        self._tell({"event": "round"})

    def _measured(
        self, source: str, server_round: int, metrics: Mapping[str, object] | None
    ) -> None:
        values = {
            name: _finite(value)
            for name, value in (metrics or {}).items()
            if isinstance(value, int | float | np.number)
            and not isinstance(value, bool)
            and not name.startswith("byz-")
        }
        if values:
            self._tell(
                {"event": "metrics", "source": source, "round": server_round, "values": values}
            )


def _around(strategy: object, name: str, wrapper: Callable[..., Any]) -> None:
    """Put a function around a method of one strategy."""
    setattr(strategy, name, partial(wrapper, getattr(strategy, name)))


def _with_subclasses(kind: type) -> set[type]:
    below: list[type] = kind.__subclasses__()
    return {kind}.union(*map(_with_subclasses, below))


def _vector(read: Callable[[], Sequence[NDArray[Any]]]) -> Vector | None:
    try:
        parts = [np.ravel(array) for array in read() if array.dtype.kind in "fc"]
        dtype = np.result_type(np.float64, *parts) if parts else np.float64
        joined: Vector = np.concatenate([np.empty(0, dtype), *parts])
    except Exception as error:  # a model that an attack has made is anything
        log(WARNING, "a model is no vector: %r", error)
        return None
    return joined


def _finite(value: Any) -> float | None:
    """Return a number as JSON has a form for it: None where it is not finite."""
    try:
        number = float(value)
    except (OverflowError, TypeError):
        return None
    return number if np.isfinite(number) else None
