"""Any strategy of Flower's Message API behind checks that no reply gets around."""

from logging import INFO, WARNING

from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import Strategy
from flwr.supercore import log

from ...hardening import Evaluated, FormOf, Trained
from ...payload import arrays_layout, read_arrays
from ...strategies import HardenedBase
from ...transport import AsyncGrid
from ...wrapped import check_strategy
from ..messages import form_of, rebuilt
from .guarded import Guarded


class Hardened(HardenedBase[Strategy, ArrayRecord], Guarded):
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

    Raises TypeError where an argument is of a wrong kind, ValueError where it is out of range.

    Examples
    --------
    >>> from flwr.serverapp.strategy import FedMedian
    >>> strategy = Hardened(FedMedian(fraction_evaluate=0.5), num_byzantine=2)
    """

    _custom = ("train_metrics_aggr_fn", "evaluate_metrics_aggr_fn")
    _rebuilt = staticmethod(rebuilt)

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        log(INFO, "\t├──> Hardened: no reply can take %s down", type(self.strategy).__name__)
        self.strategy.summary()

    def _check(self, strategy: Strategy) -> None:
        check_strategy(strategy, Strategy)
        if isinstance(strategy, Guarded) and strategy._grid_kind is AsyncGrid:
            text = "has these checks itself, and Hardened waits for all nodes: start it as it is"
            raise TypeError(f"{type(strategy).__name__} {text}")
        if type(strategy).start is not Strategy.start and not isinstance(strategy, Guarded):
            text = "%s.start is not called: Hardened runs the rounds"
            log(WARNING, text, type(strategy).__name__)

    def _form_of(self, custom: str) -> FormOf:
        return form_of

    def _step(self, server_round: int, results: list[Message]) -> Trained:
        arrays, metrics = self.strategy.aggregate_train(server_round, results)
        model = None if arrays is None else read_arrays(arrays, arrays_layout(arrays))
        return model, dict(metrics or {})

    def _metrics(self, server_round: int, results: list[Message]) -> Evaluated:
        return None, dict(self.strategy.aggregate_evaluate(server_round, results) or {})
