"""Flower's server optimizers on a robust aggregate."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import FedAvg, Strategy

from ...hardening import Asked, Evaluated, Trained
from ...payload import Model
from ...round import Reply
from ...strategies import RobustOptimizerBase
from ...wrapped import check_optimizer
from ..messages import of_replies, one_reply
from .hardened import Hardened


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
        As of `GeometricMedianOfMeans`; its options `trim_norm`, `gamma`, `pre_aggregation`,
        `group_by_key`, `bucketing_seed` and `streaming`, those of `Hardened`, and `rule` of
        `RobustFedAvg` in place of `trim_norm` and `gamma` can be given, too.
    **options
        Those of the class, such as ``eta=0.1``. Its minimum numbers of nodes are as of
        `GeometricMedianOfMeans`. Checkpoints hold the optimizer's moments.

    Returns a `Hardened` strategy; the optimizer is its attribute ``strategy``. Raises TypeError for
    another class or an unknown option, ValueError for one out of range.

    Examples
    --------
    >>> from flwr.serverapp.strategy import FedAdam
    >>> strategy = robust(FedAdam, num_byzantine=2, eta=0.1)
    """
    check_optimizer(strategy, FedAvg)
    return _RobustOptimizer(
        strategy, num_byzantine=num_byzantine, num_batches=num_batches, **options
    )


class _RobustOptimizer(RobustOptimizerBase[Strategy, ArrayRecord], Hardened):
    def _alone(self, aggregate: Model) -> Message:
        return one_reply(aggregate, self._sent_messages, self._arrays_key, self._weight_key)

    def _aggregate(self, server_round: int, replies: Iterable[Reply]) -> Trained:
        custom, ignored = of_replies(self._functions[0], self._weight_key), {self._weight_key}
        optimize = partial(self._optimized, server_round)
        return self._server.aggregate(server_round, replies, custom, ignored, optimize=optimize)

    def _evaluate(self, server_round: int, replies: Iterable[Reply], asked: Asked) -> Evaluated:
        custom = of_replies(self._functions[1], self._weight_key)
        return None, self._server.evaluate(replies, asked, custom, {self._weight_key})[1]
