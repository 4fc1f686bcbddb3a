"""Byzantine gradient descent as a strategy for Flower's Message API."""

import math
import os
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from logging import INFO, WARNING
from types import SimpleNamespace
from typing import Any, Literal, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from flwr.supercore import log

from ...aggregation.pre_aggregation import TrimNorm
from ...history import History
from ...payload import MalformedReply, arrays_layout, read_arrays, to_arrays
from ...robust_server import MetricsFunction, RobustServer
from ...settings import Settings
from ...transport import ArrivingGrid
from ..messages import array_record, metric_record, numpy_arrays, opened, with_metrics

_POLL_INTERVAL = 1.0


class GeometricMedianOfMeans(FedAvg):
    """Byzantine gradient descent: FedAvg's place, but up to q clients may send anything.

    The clients asked in a round are ordered by identity and split into k batches; the replies of a
    batch are averaged; batch means can be trimmed by norm; the step is the (1+γ)-approximate
    geometric median of the batch means (Chen, Su, Xu 2017, Algorithm 2 and Remark 2).

    Parameters
    ----------
    num_byzantine : int, optional
        q, the most Byzantine clients in any one round; by default as many as k batches outvote,
        (k − 1) // 2. Give at least one of `num_byzantine` and `num_batches`.
    num_batches : int, optional
        k, more than 2q: 1 is the mean, the number m of clients asked the geometric median of the
        replies. By default the smallest k ≥ 4q, at most m.
    reply : {"weights", "gradients"}, default "weights"
        What clients return: trained weights, or gradients at the parameters that they were sent.
    server_learning_rate : float, default 1.0
        Step size η. With gradients: ``θ − η·A``. With weights: ``θ + η·(A − θ)``, so 1 takes A.
    trim_norm : float, "auto" or None, default None
        Batch means of norm above it are left out; norms of weights are taken from the model sent.
        "auto" takes twice the median norm. Nothing is trimmed where fewer than 2q + 1 batches would
        be left, or, where q is not given, where more than (k − 1) // 2 would be trimmed.
    gamma : float, default 1e-9
        γ of the approximate geometric median; each round's certified gap is at most that.
    group_by_key : str, optional
        Simulation only: the metric under which clients report the id to be ordered by (such as
        "partition-id"), since Flower draws node ids anew in each run. A client can lie about it.
    bucketing_seed : int, optional
        Draws the batches afresh in each round, from the seed and the round's number alone, for
        clients whose data differ (Karimireddy, He, Jaggi 2022); by default they are fixed. Keep it
        secret (``secrets.randbits(64)`` draws one; give the same to go on from a checkpoint): who
        knows it can choose which colluders share a batch. Lemma 1 holds all the same: q clients are
        in at most q batches.
    streaming : bool, default False
        Whether replies are added up as they arrive and let go, so that k vectors are held however
        many clients there are. The order of arrival then shows in the last digits; integer and bool
        arrays are the lower median over one reply a batch; metrics aggregation functions see no
        arrays; `group_by_key` cannot be used.
    checkpoints : path, optional
        A folder for a checkpoint after each round, from which `start` goes on: the rounds that are
        done are played over from the file, without clients.
    audit : path, optional
        A file to which each round adds a line on what every client did (see `flwr_byz.audit`).
    **options
        The options of Flower's ``FedAvg``. The minimum numbers of train, evaluate and available
        nodes are k by default, 2q + 1 where it is not given: fewer cannot outvote q. By default a
        metric is the median of batch means over the clients that report it as finite numbers, where
        these outvote q (are more than 2q; with `num_batches` alone, more than half of those that
        answered). Metrics aggregation functions see as many metrics as can be chosen so that the
        clients that report all of them still outvote q, and these clients only. `weighted_by_key`
        names a claim of the client's: it has to be a positive finite number, and weighs nothing.

    Raises ValueError where an option is out of range.

    Notes
    -----
    A reply counts as no message where it is not exactly the model that was sent (names, shapes,
    real finite numbers within the range of its dtypes), where it is an error, or where it comes
    from a client that was not asked or answered twice. Integer and bool arrays are the lower median
    of the replies, entry by entry.

    Each round's training metrics hold, beside the clients' own (none where the model is kept; names
    that begin with "byz-" are ignored): "byz-clients" (m), "byz-batches" (with at least one reply),
    "byz-missing" (silent clients), "byz-rejected" (malformed and error replies),
    "byz-metrics-rejected" (accepted replies of which no metric is aggregated, or that a metrics
    aggregation function is not given), "byz-trimmed" (batches), "byz-bound" (by how many times the
    honest batches' largest distance from any point the aggregate can lie off it, see
    `flwr_byz.theory.sharp_c_alpha`: for q among the batches kept, less what has shown itself;
    without q, for the most that those outvote), "byz-gap" (certified, before the model is rounded
    to its dtypes), "byz-iterations" and "byz-aggregate-norm" (of the gradient, or of the update).
    """

    def __init__(
        self,
        *,
        num_byzantine: int | None = None,
        num_batches: int | None = None,
        reply: Literal["weights", "gradients"] = "weights",
        server_learning_rate: float = 1.0,
        trim_norm: TrimNorm = None,
        gamma: float = 1e-9,
        group_by_key: str | None = None,
        bucketing_seed: int | None = None,
        streaming: bool = False,
        checkpoints: str | os.PathLike[str] | None = None,
        audit: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        self.settings = Settings(
            num_byzantine=num_byzantine,
            num_batches=num_batches,
            reply=reply,
            server_learning_rate=server_learning_rate,
            trim_norm=trim_norm,
            gamma=gamma,
            group_by_key=group_by_key,
            bucketing_seed=bucketing_seed,
            streaming=streaming,
        )
        minimums = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")
        defaults: dict[str, Any] = dict.fromkeys(minimums, max(2, self.settings.min_clients))
        super().__init__(**(defaults | options))
        self._server = RobustServer(self.settings, audit, checkpoints)
        self._sent_messages: list[Message] = []
        self._sent_evaluations: list[Message] | None = None
        self._timeout, self._has_begun = 0.0, False

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        for line in self.settings.summary():
            log(INFO, "%s", line)
        super().summary()

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run rounds of training and evaluation, as ``flwr.serverapp.strategy.Strategy.start``.

        A round is over when all nodes asked have replied, or after `timeout` seconds; who has not
        replied by then is silent. No node can end the run, hold a round up for longer, or have the
        server read more than the model takes in float64 (see `ArrivingGrid`). A round for which too
        few nodes are connected by then keeps the model; only the first one waits without end, as
        Flower does.

        Raises ValueError where the folder `checkpoints` holds another model, a later round than
        `num_rounds`, or damaged files only, or where another server uses it.
        """
        self._timeout, self._has_begun = timeout, False
        with closing(self._server.resume(numpy_arrays(initial_arrays))) as history:
            if history.finished > num_rounds:
                raise ValueError(
                    f"the checkpoint in {history.folder} is of round {history.finished}, after "
                    f"num_rounds={num_rounds}"
                )
            if history.finished == num_rounds:
                log(WARNING, "all rounds are in %s: nothing is left to train", history.folder)

            def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
                if server_round <= history.finished:
                    return metric_record(history.server.get(server_round))
                metrics = evaluate_fn(server_round, arrays) if evaluate_fn else None
                if metrics is not None:
                    history.server[server_round] = dict(metrics)
                if history.folder is not None:
                    history.finish(server_round, numpy_arrays(arrays))
                return metrics

            initial = initial_arrays if history.finished < 0 else array_record(history.arrays)
            return super().start(
                grid=ArrivingGrid(grid),
                initial_arrays=initial,
                num_rounds=num_rounds,
                timeout=timeout,
                train_config=train_config,
                evaluate_config=evaluate_config,
                evaluate_fn=evaluate if evaluate_fn or history.folder else None,
            )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the next round of training, and remember what is sent to whom.

        Raises ValueError where the model holds an array that is not real, integer or bool, or not
        finite.
        """
        if server_round <= self._history.finished:
            return []
        try:
            model = read_arrays(arrays, arrays_layout(arrays))
            model.check_finite()
        except MalformedReply as error:
            raise ValueError(f"the model cannot be aggregated: {error}") from None
        nodes = self._nodes(grid, max(self.min_available_nodes, self.min_train_nodes))
        self._sent_messages = (
            list(super().configure_train(server_round, arrays, config, nodes)) if nodes else []
        )
        self._server.begin(model, [m.metadata.dst_node_id for m in self._sent_messages])
        return self._sent_messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the replies robustly: the new model, and the metrics of the round.

        The model is None, which makes Flower keep the old one, where no step can be justified.
        """
        if server_round <= self._history.finished:
            last = server_round == self._history.finished
            arrays = array_record(self._history.arrays) if last else None
            return arrays, metric_record(self._history.train.get(server_round))
        if (layout := self._server.layout) is None:
            raise RuntimeError("call configure_train before aggregate_train")
        keys = self.weighted_by_key, self.arrayrecord_key
        lets_go = self.settings.streaming
        received = opened(replies, self._sent_messages, *keys, layout, lets_go=lets_go)
        custom = self._of_replies(self.train_metrics_aggr_fn)
        ignored = {self.weighted_by_key}
        model, metrics = self._server.aggregate(server_round, received, custom, ignored)
        return None if model is None else to_arrays(model), MetricRecord(metrics)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the next round of federated evaluation."""
        self._sent_evaluations = []
        if server_round <= self._history.finished or self.fraction_evaluate == 0.0:
            return []
        nodes = self._nodes(grid, max(self.min_available_nodes, self.min_evaluate_nodes))
        if nodes is not None:
            sent = super().configure_evaluate(server_round, arrays, config, nodes)
            self._sent_evaluations = list(sent)
        return self._sent_evaluations

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Aggregate the evaluation metrics that most clients report.

        None where no more than 2q clients report any.
        """
        if server_round <= self._history.finished:
            return metric_record(self._history.evaluate.get(server_round))
        sent = self._sent_evaluations
        asked = None if sent is None else {m.metadata.dst_node_id for m in sent}
        received = opened(replies, sent or [], self.weighted_by_key)
        custom = self._of_replies(self.evaluate_metrics_aggr_fn)
        valid, metrics = self._server.evaluate(received, asked, custom, {self.weighted_by_key})
        if not valid:
            return None
        self._history.evaluate[server_round] = metrics
        return MetricRecord(metrics)

    @property
    def _history(self) -> History:
        return self._server.history

    def _nodes(self, grid: Grid, num_needed: int) -> Grid | None:
        """Wait for nodes: without end in the first round, later for `timeout` seconds."""
        since, limit = time.monotonic(), self._timeout if self._has_begun else math.inf
        while len(node_ids := list(grid.get_node_ids())) < num_needed:
            waited = time.monotonic() - since
            log(INFO, "Waiting for nodes: %d of %d are connected.", len(node_ids), num_needed)
            if waited >= limit:
                log(WARNING, "too few nodes came in %.0f s: the model is kept", waited)
                return None
            time.sleep(_POLL_INTERVAL)
        self._has_begun = True
        # As much of a grid as nodes are sampled from: nobody comes or goes meanwhile.
        return cast(Grid, SimpleNamespace(get_node_ids=lambda: node_ids))

    def _of_replies(
        self, aggregate: Callable[[list[RecordDict], str], MetricRecord]
    ) -> MetricsFunction | None:
        """Return a user's function of contents as one of replies and the metrics chosen of them."""
        if aggregate is aggregate_metricrecords:  # Flower's default, which one client can poison
            return None
        return lambda chosen: aggregate(
            [with_metrics(reply.payload, own) for reply, own in chosen], self.weighted_by_key
        )
