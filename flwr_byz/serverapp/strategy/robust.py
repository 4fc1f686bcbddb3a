"""Flower's server optimizers on a robust aggregate."""

from collections.abc import Iterable
from typing import Any

from flwr.serverapp.strategy import FedAvg, Strategy

from ...hardening import attempted
from ...payload import Model, arrays_layout, read_arrays
from ...robust_server import RobustServer
from ...round import Reply
from ...settings import Settings, split_options
from ...wrapped import check_optimizer
from ..messages import of_replies, one_reply
from .hardened import Hardened

_CUSTOM = ("train_metrics_aggr_fn", "evaluate_metrics_aggr_fn")


def robust(
    strategy: type[FedAvg],
    *,
    num_byzantine: int | None = None,
    num_batches: int | None = None,
    **options: Any,
) -> Strategy:
    """Return a server optimizer of Flower's that steps along a robust aggregate.

    Replies are aggregated as by `GeometricMedianOfMeans`; the optimizer then sees one client, which
    replied the aggregate. Without Byzantine clients (``num_byzantine=0``) and with clients of as
    many examples it is, but for rounding, Flower's own class. Integer and bool arrays, of which an
    optimizer would make floats, are those of the aggregate.

    Parameters
    ----------
    strategy : type
        ``FedAdam``, ``FedAdagrad``, ``FedYogi``, ``FedAvgM``, ``FedProx``, ``FedAvg``, or a
        subclass of one of them that takes FedAvg's mean of the replies.
    num_byzantine, num_batches
        As of `GeometricMedianOfMeans`; its options `trim_norm`, `gamma`, `group_by_key`,
        `bucketing_seed` and `streaming`, and those of `Hardened`, can be given, too.
    **options
        Those of the class, such as ``eta=0.1``. Its minimum numbers of nodes are as of
        `GeometricMedianOfMeans`. Checkpoints hold the optimizer's moments.

    Returns
    -------
    Strategy
        A `Hardened` strategy; the optimizer is its attribute ``strategy``.

    Raises TypeError where `strategy` is none of these classes or an option is unknown, ValueError
    where one is out of range.

    Examples
    --------
    >>> from flwr.serverapp.strategy import FedAdam
    >>> strategy = robust(FedAdam, num_byzantine=2, eta=0.1)
    """
    check_optimizer(strategy, FedAvg)
    settings, of_rounds, rest = split_options(
        strategy, options | {"num_byzantine": num_byzantine, "num_batches": num_batches}
    )
    custom = {name: rest.pop(name, None) for name in _CUSTOM}
    return _RobustOptimizer(strategy(**rest), settings, custom, of_rounds)


class _RobustOptimizer(Hardened):
    """A server optimizer that sees one client, which replied the robust aggregate."""

    def __init__(
        self,
        strategy: Strategy,
        settings: Settings,
        custom: dict[str, Any],
        of_rounds: dict[str, Any],
    ) -> None:
        super().__init__(strategy, num_byzantine=settings.num_byzantine, **of_rounds)
        self._server = RobustServer(settings, self._rounds)
        self._lets_go = settings.streaming
        self._custom = {name: of_replies(custom[name], self._weight_key) for name in _CUSTOM}

    def _aggregate(
        self, server_round: int, replies: Iterable[Reply]
    ) -> tuple[Model | None, dict[str, Any]]:
        def optimize(aggregate: Model) -> Model | None:
            keys = self._arrays_key, self._weight_key
            reply = one_reply(aggregate, self._sent_messages, *keys)

            def make() -> Model | None:
                arrays, _ = self.strategy.aggregate_train(server_round, [reply])
                made = None if arrays is None else read_arrays(arrays, arrays_layout(arrays))
                return made and made.with_counters_of(aggregate)

            return attempted(make, self.strategy, self._rounds)

        custom, ignored = self._custom["train_metrics_aggr_fn"], {self._weight_key}
        return self._server.aggregate(server_round, replies, custom, ignored, optimize=optimize)

    def _evaluate(
        self, server_round: int, replies: Iterable[Reply], asked: frozenset[int] | None
    ) -> dict[str, Any]:
        custom = self._custom["evaluate_metrics_aggr_fn"]
        return self._server.evaluate(replies, asked, custom, {self._weight_key})[1]
