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
from flwr.server import Server
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore import log
from numpy.typing import NDArray

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
    partitions : mapping of int to int
        Partition ids by node ids.

    Attributes
    ----------
    has_begun : bool
    initial, final : ndarray or None
        The float arrays of the first model that was sent and of the last one, end to end; None
        where there is none, or no such vector can be made of it.
    """

    def __init__(self, order: Order, tell: Tell, partitions: Mapping[int, int]) -> None:
        self.has_begun = False
        self.initial: Vector | None = None
        self.final: Vector | None = None
        self._order = order
        self._tell = tell
        self._partitions = partitions
        self._is_inside = False
        self._watched: list[object] = []

    def watch(self) -> None:
        """Watch ``Strategy.start`` and ``Server.fit``, also where a subclass has its own."""
        for base, name, run in ((Strategy, "start", self._start), (Server, "fit", self._fit)):
            for kind in _with_subclasses(base):
                if name in vars(kind):
                    setattr(kind, name, self._outermost(vars(kind)[name], run))

    def _outermost(self, loop: Callable[..., Any], run: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(loop)
        def watched(owner: Any, *args: Any, **kwargs: Any) -> Any:
            if self._is_inside:  # a subclass calls its parent's
                return loop(owner, *args, **kwargs)
            self._is_inside = True
            try:
                bound = inspect.signature(loop).bind(owner, *args, **kwargs)
                bound.apply_defaults()
                return run(owner, bound)
            finally:
                self._is_inside = False

        return watched

    # --- the Message API ---

    def _start(self, own: Strategy, bound: inspect.BoundArguments) -> Any:
        strategy, notes = own, list[str]()
        if self._order.play.strategy == "ours":
            strategy, notes = message_swap(own, self._order.play.num_byzantine)
        self._begin(type(own).__name__, notes, bound, 3)
        given = bound.arguments
        if given.get("evaluate_fn") is not None:
            given["evaluate_fn"] = partial(self._evaluate_fn, given["evaluate_fn"])
        if self._is_new(strategy):
            _around(strategy, "configure_train", self._configure_train)
            _around(strategy, "aggregate_train", self._aggregate_train)
            judge = None if strategy is own else own.aggregate_evaluate
            _around(strategy, "aggregate_evaluate", partial(self._aggregate_evaluate, judge))
        if self._order.is_reference:
            self._measure_start(lambda: self._evaluate_start(strategy, given))
        return strategy.start(*bound.args[1:], **bound.kwargs)

    def _evaluate_start(self, strategy: Strategy, given: Mapping[str, Any]) -> None:
        grid: Grid = given["grid"]
        config = ConfigRecord(dict(given.get("evaluate_config") or {}))
        asked = strategy.configure_evaluate(0, given["initial_arrays"], config, grid)
        replies = grid.send_and_receive(asked, timeout=given.get("timeout"))
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
        messages = list(configure(server_round, arrays, config, grid))
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

    def _fit(self, server: Server, bound: inspect.BoundArguments) -> Any:
        own, notes = server.strategy, list[str]()
        if self._order.play.strategy == "ours":
            strategy, notes = classic_swap(own, self._order.play.num_byzantine)
            server.set_strategy(strategy)
        self._begin(type(own).__name__, notes, bound, 1)
        if self._is_new(server.strategy):
            timeout = bound.arguments.get("timeout")
            configure = partial(self._configure_fit, server, timeout)
            _around(server.strategy, "configure_fit", configure)
            _around(server.strategy, "aggregate_fit", self._aggregate_fit)
            _around(server.strategy, "evaluate", self._evaluate)
            judge = None if server.strategy is own else own.aggregate_evaluate
            aggregate = partial(self._aggregate_evaluations, judge)
            _around(server.strategy, "aggregate_evaluate", aggregate)
        return type(server).fit(server, *bound.args[1:], **bound.kwargs)

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
        instructions = configure(
            server_round=server_round, parameters=parameters, client_manager=client_manager
        )
        self._asks(server_round, [int(client.cid) for client, _ in instructions])
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

    def _begin(
        self, name: str, notes: Sequence[str], bound: inspect.BoundArguments, default: int
    ) -> None:
        if self._order.play.num_rounds is not None and "num_rounds" in bound.arguments:
            bound.arguments["num_rounds"] = self._order.play.num_rounds
        num_rounds = int(bound.arguments.get("num_rounds", default))
        self.has_begun = True
        self._tell(
            {"event": "begun", "strategy": name, "notes": list(notes), "num_rounds": num_rounds}
        )

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

    def _asks(self, server_round: int, node_ids: Sequence[int]) -> None:
        asked = {self._partitions.get(node_id, -1) for node_id in node_ids}
        path = self._order.asked(server_round)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(sorted(asked & self._order.byzantine)), encoding="utf-8")

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
