"""Any strategy of Flower's Message API behind checks that no reply gets around."""

from collections.abc import Iterable
from logging import INFO, WARNING
from typing import Any

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy
from flwr.supercore import log

from ... import hardening
from ...payload import Model, arrays_layout, read_arrays
from ...round import Reply
from ...rounds import BestBy, RoundEnd, RoundOptions, Rounds, StopWhen, StrPath
from ...state import State, attributes, restore, state_of
from ...wrapped import check_strategy
from ..messages import form_of, rebuilt
from .guarded import Guarded


class Hardened(Guarded):
    """Any strategy of Flower's, which no reply can take down any more.

    Flower's strategies end the run on one malformed reply. Behind this wrapper, malformed,
    non-finite, oversized, duplicate and forged replies never reach the strategy; it sees the others
    in the order of their node ids, with arrays in the order, shapes and dtypes of the model that
    was sent. Since Flower's strategies need it, replies are left out whose records and metrics have
    other names or types than those of most clients, or whose metrics are not finite. What the
    strategy raises is logged and keeps the model and its attributes, and so does an aggregate that
    is not finite or not of the model's names and shapes. Rounds close at their deadline. What
    well-formed replies do to the model, or keep the strategy from doing, is up to the strategy:
    ``Hardened(FedAvg())`` is as easily poisoned as ``FedAvg()``.

    Parameters
    ----------
    strategy : flwr.serverapp.strategy.Strategy
        Such as ``FedMedian()``, or a wrapper of Flower's around one. Its `start` is not called.
    num_byzantine : int, optional
        q, the most Byzantine clients in any one round: rounds in which no more than 2q replies pass
        the checks keep the model.
    checkpoints : path, optional
        A folder for a checkpoint after each round, from which `start` goes on: the rounds that are
        done are taken from the file, without clients. It holds the strategy's own state, too, such
        as an optimizer's moments, where that is numbers, text and arrays.
    audit : path, optional
        A file to which each round adds a line on what every client did (see `flwr_byz.audit`).
    on_round_end : function, optional
        ``on_round_end(server_round, arrays, metrics)`` is called after each round, with the model
        and its metrics by kind: ``metrics["train"]``, ``["evaluate"]`` (by clients), ``["server"]``
        (of `evaluate_fn`), each by name. What this function and the next two raise is logged.
    stop_when : function, optional
        ``stop_when(server_round, metrics) -> bool`` ends training after a round. Clients' metrics
        are what the strategy makes of what they claim: those of `evaluate_fn` are the server's own.
    best_by : function, optional
        ``best_by(metrics) -> float``: the model with the largest value so far is kept as
        ``best.npz`` beside the checkpoints.
    exclude_above : float, optional
        Clients whose suspicion (see `flwr_byz.audit.Suspicion`) stays above it, between 0 and 1,
        are not asked any more: at most q, and in every tenth round all are. Metrics of another form
        are no evidence.

    Raises TypeError or ValueError where an argument is none of these.

    Examples
    --------
    >>> from flwr.serverapp.strategy import FedMedian
    >>> strategy = Hardened(FedMedian(fraction_evaluate=0.5), num_byzantine=2)
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        num_byzantine: int | None = None,
        checkpoints: StrPath | None = None,
        audit: StrPath | None = None,
        on_round_end: RoundEnd[ArrayRecord] | None = None,
        stop_when: StopWhen | None = None,
        best_by: BestBy | None = None,
        exclude_above: float | None = None,
    ) -> None:
        check_strategy(strategy, Strategy)
        options = RoundOptions(
            num_byzantine=num_byzantine,
            checkpoints=checkpoints,
            audit=audit,
            on_round_end=on_round_end,
            stop_when=stop_when,
            best_by=best_by,
            exclude_above=exclude_above,
        )
        super().__init__(Rounds(options))
        self.strategy = strategy
        self._least_nodes = 2 * num_byzantine + 1 if num_byzantine else 0
        self._as_given: dict[str, Any] = attributes(strategy)
        if type(strategy).start is not Strategy.start and not isinstance(strategy, Guarded):
            text = "%s.start is not called: Hardened runs the rounds"
            log(WARNING, text, type(strategy).__name__)

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        log(INFO, "\t├──> Hardened: no reply can take %s down", type(self.strategy).__name__)
        self.strategy.summary()

    def _behind(self) -> Strategy:
        return self.strategy

    def _aggregate(
        self, server_round: int, replies: Iterable[Reply]
    ) -> tuple[Model | None, dict[str, Any]]:
        def rule(usable: list[Reply]) -> tuple[Model | None, dict[str, Any]]:
            messages = [rebuilt(reply) for reply in usable]
            arrays, metrics = self.strategy.aggregate_train(server_round, messages)
            model = None if arrays is None else read_arrays(arrays, arrays_layout(arrays))
            return model, dict(metrics or {})

        return hardening.aggregate(
            rule, self.strategy, self._rounds, server_round, replies, form_of
        )

    def _evaluate(
        self, server_round: int, replies: Iterable[Reply], asked: frozenset[int] | None
    ) -> dict[str, Any]:
        def rule(usable: list[Reply]) -> dict[str, Any]:
            messages = [rebuilt(reply) for reply in usable]
            return dict(self.strategy.aggregate_evaluate(server_round, messages) or {})

        return hardening.evaluate(rule, self._rounds, replies, asked, form_of)

    def _state(self) -> State:
        return state_of(self.strategy, self._as_given)

    def _restore(self, state: State) -> None:
        restore(self.strategy, state)
