"""An app's training, watched from within the process that it runs in."""

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial, wraps
from logging import WARNING
from numbers import Real
from typing import Any, NoReturn

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.common import parameters_to_ndarrays
from flwr.server import Server, SimpleClientManager
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp.strategy import Strategy
from flwr.supercore import log
from numpy.typing import NDArray

from ..logs import escaped
from .attacked_app import seed_everything
from .runs import Run
from .swap import Refused, exchange, refuse_trees

Vector = NDArray[np.float64] | NDArray[np.complex128]
Function = Callable[..., Any]


class WatchedTraining:
    """What an app's strategy trains and measures, whichever API it uses.

    It records the events "begun", "metrics" and "round" of a run. Evaluations by clients are
    recorded as the app's own strategy aggregates them, whichever strategy trains: two strategies
    are compared by one measure. `initial` and `final` are the float arrays of the first model that
    was sent and of the last one, end to end; None without a model, or where they make no vector.
    """

    def __init__(self, run: Run) -> None:
        self.partitions: Mapping[int, int] = {}  # by node ids; to be set before any training
        self.has_begun = self.asked_byzantine = False
        self.initial: Vector | None = None
        self.final: Vector | None = None
        self._are_real: list[bool] = []
        self.run = run
        self._is_inside = False
        self._first_model: Any = None
        self._wrapped: list[object] = []
        self._evaluate_first_model: Function | None = None

    def watch(self) -> None:
        """Watch ``Strategy.start`` and ``Server.fit``, also of subclasses; refuse workflows."""
        for base, name, loop in ((Strategy, "start", self._start), (Server, "fit", self._fit)):
            known = inspect.signature(getattr(base, name))
            for kind in _with_subclasses(base):
                if name in vars(kind):
                    setattr(kind, name, self._outermost(vars(kind)[name], known, loop))
        for kind in _with_subclasses(DefaultWorkflow) | _with_subclasses(SecAggPlusWorkflow):
            setattr(kind, "__call__", _refuse_workflow)  # noqa: B010

    def evaluate_start(self) -> None:
        """Let clients evaluate the initial model with the app's own strategy, as in a round 0.

        It is for the time after the app, which it cannot change then; an error is logged.
        """
        try:
            if self._evaluate_first_model is not None:
                self._evaluate_first_model()
        except (Exception, SystemExit) as error:
            text = escaped(repr(error))
            log(WARNING, "clients did not evaluate the initial model (as round 0): %s", text)

    def _outermost(self, original: Function, known: inspect.Signature, loop: Function) -> Function:
        own = inspect.signature(original)
        signature = own if "num_rounds" in own.parameters else known  # not where it is **kwargs
        names = list(signature.parameters)[1:]

        @wraps(original)
        def watched(owner: Any, *args: Any, **kwargs: Any) -> Any:
            if self._is_inside:  # a subclass calls its parent's
                return original(owner, *args, **kwargs)
            given = {"num_rounds": signature.parameters["num_rounds"].default, **kwargs}
            given.update(zip(names, args, strict=False))
            given["num_rounds"] = self.run.num_rounds or given["num_rounds"]
            self._is_inside = True
            try:
                return loop(owner, given)
            finally:
                self._is_inside = False

        return watched

    def _start(self, own: Strategy, given: dict[str, Any]) -> Any:
        if given.get("evaluate_fn") is not None:
            given["evaluate_fn"] = partial(self._measure, "server", None, given["evaluate_fn"])

        def evaluate_first_model() -> None:
            config = ConfigRecord(dict(given.get("evaluate_config") or {}))
            asked = own.configure_evaluate(0, self._first_model, config, given["grid"])
            replies = given["grid"].send_and_receive(asked, timeout=given.get("timeout", 3600))
            own.aggregate_evaluate(0, replies)

        return self._begin(own, given["num_rounds"], evaluate_first_model).start(**given)

    def _fit(self, server: Server, given: dict[str, Any]) -> Any:
        manager = server.client_manager()
        if isinstance(manager, SimpleClientManager):  # in a run's own order they are drawn
            in_order = sorted(manager.clients.items(), key=lambda c: self.partitions[int(c[0])])
            manager.clients = dict(in_order)

        def evaluate_first_model() -> None:
            server.parameters = self._first_model
            server.evaluate_round(0, given.get("timeout"))

        own = server.strategy
        server.set_strategy(self._begin(own, given["num_rounds"], evaluate_first_model))
        return server.fit(**given)

    def _begin(self, own: Any, num_rounds: int, evaluate_first_model: Function) -> Any:
        """Record the start of a training, and return the strategy that is to train, watched."""
        refuse_trees(own)
        self._evaluate_first_model = self._evaluate_first_model or evaluate_first_model
        run, name = self.run, type(own).__name__
        swaps = run.strategy == "robust"
        strategy, notes = exchange(own, run.num_byzantine) if swaps else (own, [])
        run.record("begun", strategy=name, notes=notes, num_rounds=num_rounds)
        self.has_begun = True
        if any(strategy is each for each in self._wrapped):  # an app may train with it twice
            return strategy
        self._wrapped.append(strategy)
        judge = None if strategy is own else own.aggregate_evaluate
        wrappers: dict[str, Function] = {
            **dict.fromkeys(("configure_train", "configure_fit"), self._configure),
            **dict.fromkeys(("aggregate_train", "aggregate_fit"), self._aggregate),
            "configure_evaluate": self._seeded,
            "aggregate_evaluate": partial(self._measure, "evaluate", judge),
            "evaluate": partial(self._measure, "server", None),  # in the classic API alone
        }
        for name, wrapper in wrappers.items():
            if hasattr(strategy, name):
                setattr(strategy, name, partial(wrapper, getattr(strategy, name)))
        return strategy

    def _seeded(self, configure: Function, server_round: int, *args: Any, **named: Any) -> Any:
        """Draw the same clients in a round of every run: strategies are compared on the same."""
        seed_everything(self.run.seed, server_round)
        return configure(server_round, *args, **named)

    def _configure(self, configure: Function, server_round: int, *args: Any, **named: Any) -> Any:
        if self._first_model is None:
            self._first_model = next(iter((*args, *named.values())))
            self.initial = self.final = self._vector(self._first_model)
        requests = list(self._seeded(configure, server_round, *args, **named))
        nodes = [r.metadata.dst_node_id if isinstance(r, Message) else r[0].cid for r in requests]
        partitions = {self.partitions[int(node)] for node in nodes}
        byzantine = sorted(partitions & self.run.byzantine)
        self.asked_byzantine |= bool(byzantine)
        self.run.asked(server_round).write_text(json.dumps(byzantine), encoding="utf-8")
        return requests

    def _aggregate(self, aggregate: Function, server_round: int, *args: Any, **named: Any) -> Any:
        model, metrics = aggregate(server_round, *args, **named)
        if model is not None:
            self.final = self._vector(model)
        self.run.record("round")
        self._record_metrics("train", server_round, metrics)
        return model, metrics

    def _measure(
        self, source: str, judge: Any, function: Any, server_round: int, *args: Any, **named: Any
    ) -> Any:
        args = tuple(list(arg) if isinstance(arg, Iterator) else arg for arg in args)
        made = function(server_round, *args, **named)
        judged = judge(server_round, *args, **named) if judge else made
        self._record_metrics(source, server_round, judged)
        return made

    def _vector(self, model: Any) -> Vector | None:
        """Join the arrays that hold real numbers at first: FedAvg makes floats of counters, too."""
        try:
            is_record = isinstance(model, ArrayRecord)
            arrays = model.to_numpy_ndarrays() if is_record else parameters_to_ndarrays(model)
            self._are_real = self._are_real or [array.dtype.kind in "fc" for array in arrays]
            pairs = zip(arrays, self._are_real, strict=True)
            joined: Vector = np.concatenate([[], *(np.ravel(a) for a, real in pairs if real)])
        except Exception as error:  # a model that an attack has made is anything
            log(WARNING, "a model is no vector: %s", escaped(repr(error)))
            return None
        return joined

    def _record_metrics(self, source: str, server_round: int, made: Any) -> None:
        if isinstance(made, tuple):  # of the classic API
            made = {"loss": made[0], **(made[1] or {})}
        values = {
            name: float(value) if abs(value) <= sys.float_info.max else None  # JSON has no NaN
            for name, value in (made or {}).items()
            if issubclass(type(value), Real) and type(value) is not bool and name[:4] != "byz-"
        }
        if values:
            self.run.record("metrics", source=source, round=server_round, values=values)


def _refuse_workflow(workflow: object, *args: object, **kwargs: object) -> NoReturn:
    raise Refused(
        f"the app runs Flower's {type(workflow).__name__}, as for secure aggregation: a trial "
        "takes apps that train with a strategy's start or ServerAppComponents"
    )


def _with_subclasses(kind: type) -> set[type]:
    return {kind}.union(*map(_with_subclasses, kind.__subclasses__()))
