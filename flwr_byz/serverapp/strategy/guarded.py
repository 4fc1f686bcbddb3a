"""Flower's loop of the Message API with our checks around a strategy."""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, closing
from functools import cache, partial
from inspect import signature
from logging import INFO, WARNING
from math import inf
from numbers import Real
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from flwr.supercore import log

from ...checks import check_kind, check_number
from ...identity import ClientId
from ...payload import MalformedReply, arrays_layout, read_arrays, to_arrays
from ...rounds import RoundOptions
from ...strategies import GuardedBase
from ...transport import ArrivingGrid
from ...waiting import wait_for
from ...wrapped import option
from ..messages import array_record, metric_record, numpy_arrays, opened, records_of

_TIMEOUT = 3600.0  # seconds: Flower's default

_warn_once = cache(log)


class Guarded(GuardedBase, Strategy):
    """What `Hardened` and `GeometricMedianOfMeans` share around the strategy behind them."""

    _lets_go = False  # whether replies are emptied once they are aggregated
    _grid_kind = ArrivingGrid  # what replies come through
    _other_api = (
        ("initialize_parameters", "configure_fit", "aggregate_fit"),
        ": this is the Message API's {0}, which is started with strategy.start(grid, ...); for "
        "ServerAppComponents import it from flwr_byz.server.strategy",
    )

    def __init__(self, rounds: RoundOptions, **options: Any) -> None:
        super().__init__(rounds, **options)
        self._sent_messages: list[Message] = []
        self._sent_evaluations: list[Message] | None = None
        self._timeout, self._has_begun, self._is_running = _TIMEOUT, False, False

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = _TIMEOUT,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
        *more: Any,
        **named: Any,
    ) -> Result:
        """Run rounds of training and evaluation, as ``flwr.serverapp.strategy.Strategy.start``.

        A round is over when all nodes asked have replied, or after `timeout` seconds; who has not
        replied by then is silent. No node can end the run, hold a round up for longer, or have the
        server read more than the model takes in float64 (see `ArrivingGrid`). A round for which too
        few nodes are connected by then keeps the model; only the first one waits without end, as
        Flower does, and logs every 30 seconds what it waits for.

        Raises TypeError where an argument is of a wrong kind; ValueError where the folder
        `checkpoints` holds another model, a later round than `num_rounds`, or damaged files only,
        or where another server uses it. What the installed Flower takes beyond this, such as
        `should_stop`, is passed on.
        """
        examples = "ArrayRecord(model.state_dict()) or ArrayRecord(list_of_numpy_arrays)"
        check_kind("initial_arrays", initial_arrays, ArrayRecord, f"an ArrayRecord: {examples}")
        check_number("num_rounds", num_rounds, whole=True, least=0)
        check_kind("timeout", timeout, (Real, type(None)), "a number of seconds")
        self._timeout, self._has_begun = timeout, False
        resumed = self._rounds.resume(numpy_arrays(initial_arrays))
        with closing(resumed) as history, ExitStack() as at_end:
            self._is_running = True
            at_end.callback(self._end_training)
            if history.finished > num_rounds:
                text = f"the checkpoint in {history.folder} is of round {history.finished}, after"
                raise ValueError(f"{text} num_rounds={num_rounds}")
            if history.finished == num_rounds:
                log(WARNING, "all rounds are in %s: nothing is left to train", history.folder)
            self._restore(history.state)

            def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
                if self._rounds.are_over(server_round):
                    return metric_record(history.server.get(server_round))
                metrics = evaluate_fn(server_round, arrays) if evaluate_fn else None
                if metrics is not None:
                    history.server[server_round] = dict(metrics)
                self._rounds.end(server_round, arrays, lambda: numpy_arrays(arrays), self._state)
                return metrics

            names = list(signature(Strategy.start).parameters)  # of the installed Flower
            later = names[names.index("evaluate_fn") + 1 :]
            initial = self._of_checkpoint() if history.finished == 0 else initial_arrays
            result = super().start(
                grid=self._grid_kind.around(grid),
                initial_arrays=initial,
                num_rounds=num_rounds,
                timeout=timeout,
                train_config=train_config,
                evaluate_config=evaluate_config,
                evaluate_fn=evaluate if evaluate_fn or self._rounds.options.at_round_ends else None,
                **dict(zip(later, more, strict=False)),
                **named,
            )
        if not result.arrays:  # no step was made
            result.arrays = initial
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the next round of training, and remember what is sent to whom.

        Raises ValueError where the model has no entries, or holds an array that is not real,
        integer or bool, or not finite.
        """
        if self._rounds.are_over(server_round):
            return []
        try:
            model = read_arrays(arrays, arrays_layout(arrays))
            model.check_can_be_trained()
        except MalformedReply as error:
            raise ValueError(f"the model cannot be aggregated: {error}") from None
        self._warn_of_another_loop(grid)
        configure = partial(self._behind().configure_train, server_round, arrays, config)
        self._sent_messages = self._sent_by(configure, grid, server_round, "min_train_nodes")
        self._rounds.begin(model, self._asked())
        return self._sent_messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the replies that pass the checks: the new model, and the metrics of the round.

        The model is None, which makes Flower keep the old one, where no step can be justified.
        """
        history = self._rounds.history
        if self._rounds.are_over(server_round):
            arrays = self._of_checkpoint() if server_round == history.finished else None
            return arrays, metric_record(history.train.get(server_round))
        if (layout := self._rounds.layout) is None:
            raise RuntimeError("call configure_train before aggregate_train")
        keys = self._weight_key, self._arrays_key
        received = opened(replies, self._sent_messages, *keys, layout, lets_go=self._lets_go)
        model, metrics = self._aggregate(server_round, received)
        _log_counts("aggregate_train", metrics)
        return None if model is None else to_arrays(model), MetricRecord(metrics)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the next round of federated evaluation."""
        self._sent_evaluations = []
        never = option(self, "fraction_evaluate", 1.0) == 0.0
        if never or self._rounds.are_over(server_round):
            return []
        configure = partial(self._behind().configure_evaluate, server_round, arrays, config)
        self._sent_evaluations = self._sent_by(configure, grid, server_round, "min_evaluate_nodes")
        return self._sent_evaluations

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Aggregate the evaluation metrics of the replies that pass the checks.

        None where no client was asked.
        """
        history = self._rounds.history
        if self._rounds.are_over(server_round):
            return metric_record(history.evaluate.get(server_round))
        sent = self._sent_evaluations
        if sent == []:
            return None
        asked = None if sent is None else frozenset(m.metadata.dst_node_id for m in sent)
        received = opened(replies, sent or [], self._weight_key)
        _, metrics = self._evaluate(server_round, received, asked)
        history.evaluate[server_round] = metrics
        _log_counts("aggregate_evaluate", metrics)
        return MetricRecord(metrics)

    def _end_training(self) -> None:
        """Let go of what only a training that runs needs."""
        self._is_running = False

    def _of_checkpoint(self) -> ArrayRecord:
        """Return the model of the checkpoint that training goes on from, and hold it no longer."""
        history = self._rounds.history
        made, history.arrays = array_record(history.arrays), {}
        return made

    @property
    def _weight_key(self) -> str:
        return str(option(self, "weighted_by_key", ""))

    @property
    def _arrays_key(self) -> str:
        """Name of the model's record: the strategy's option, or as the strategy sends it."""
        contents = [message.content for message in self._sent_messages[:1]]
        sent = [name for content in contents for name in records_of(content, ArrayRecord)]
        return str(option(self, "arrayrecord_key", sent[0] if sent else "arrays"))

    def _asked(self) -> Collection[ClientId]:
        """Return the nodes whose replies may come in this round."""
        return [message.metadata.dst_node_id for message in self._sent_messages]

    def _sent_by(
        self, configure: Callable[..., Any], grid: Grid, server_round: int, minimum: str
    ) -> list[Message]:
        """Wait for nodes, and return what they are sent; in later rounds only until `timeout`."""
        needed = self._needed("min_available_nodes", minimum)
        node_ids: list[int] = []

        def count() -> int:
            node_ids[:] = grid.get_node_ids()
            return len(node_ids)

        limit = self._timeout if self._has_begun else inf
        if not wait_for(count, needed, self._rounds.options.num_byzantine, limit):
            return []
        self._has_begun = True
        admitted = self._rounds.admitted(server_round, node_ids, needed)
        return list(configure(ChosenNodes(grid, admitted)))

    def _warn_of_another_loop(self, grid: Grid) -> None:
        """Name the protections that cannot act where the loop is not that of `start`."""
        loop = f"the loop that runs is not {self._own_class()}.start"
        if not isinstance(grid.grid if isinstance(grid, ChosenNodes) else grid, ArrivingGrid):
            text = "replies may take any size, and rounds any time, unless it sends through"
            _warn_once(WARNING, f"{loop}: {text} flwr_byz.transport.ArrivingGrid(grid)")
        if not self._is_running and (idle := self._rounds.options.at_round_ends):
            _warn_once(WARNING, f"{loop}: no use of {', '.join(idle)}")


def _log_counts(what: str, metrics: dict[str, Any]) -> None:
    clients, rejected, missing = (metrics[f"byz-{n}"] for n in ("clients", "rejected", "missing"))
    received = clients - missing - rejected
    text = "%s: Received %s results and %s failures (%s clients are silent)"
    log(INFO, text, what, received, rejected, missing)


class ChosenNodes:
    """A grid of which only some nodes are seen: while they are sampled, no other comes or goes."""

    def __init__(self, grid: Grid, node_ids: Sequence[ClientId]) -> None:
        self.grid = grid
        self._node_ids = node_ids

    def get_node_ids(self) -> list[ClientId]:
        """Return the nodes that may be asked."""
        return list(self._node_ids)

    def __getattr__(self, name: str) -> Any:  # all else is the grid's
        return getattr(self.grid, name)
