"""Robust federated averaging as a strategy for Flower's Message API."""

from collections.abc import Callable, Iterable, Sequence
from logging import INFO
from typing import Any, Literal

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg
from flwr.supercore import log

from ...aggregation import GeometricMedian
from ...aggregation.pre_aggregation import PreAggregation
from ...aggregation.rule import Rule
from ...hardening import Asked, Evaluated, Trained, last_word
from ...options import picked
from ...robust_server import RobustServer
from ...round import Reply
from ...rounds import BestBy, RoundEnd, RoundOptions, StopWhen, StrPath
from ...strategies import robust_settings
from ...wrapped import check_rule
from ..messages import of_replies, updated_model
from .guarded import Guarded


class RobustFedAvg(Guarded, FedAvg):
    """FedAvg with a robust rule in place of the mean: up to q clients may send anything.

    The clients asked in a round are ordered by identity and split into k batches; the replies of a
    batch are averaged; pre-aggregation maps the batch means; the rule combines them to a step.

    Parameters
    ----------
    num_byzantine : int, optional
        q, the most Byzantine clients in any one round; by default the largest minority of k
        batches, (k − 1) // 2. Give at least one of `num_byzantine` and `num_batches`.
    num_batches : int, optional
        k, more than 2q: 1 is the mean, the number m of clients asked the geometric median of the
        replies. By default what suits the rule: the smallest k ≥ 4q, at most m, for the geometric
        median, and m for the spectral filter.
    reply : {"weights", "gradients"}, default "weights"
        What clients return: trained weights, or gradients at the parameters that they were sent.
    server_learning_rate : float, default 1.0
        Step size η. With gradients: ``θ − η·A``. With weights: ``θ + η·(A − θ)``, so 1 takes A.
    rule : default ``GeometricMedian()``
        What combines the batch means: a rule of ``flwr_byz.aggregation``, such as
        ``SpectralFilter()`` for clients whose data differ.
    pre_aggregation : list, default ()
        What maps the batch means before the rule, one after the other: `NormTrimming`,
        `NearestNeighborMixing`, `AdaptiveClipping`, `FilteredClipping` and `Bucketing` of
        ``flwr_byz.aggregation``.
        Weights are taken as updates of the model sent.
    server_update_fn : callable, optional
        For a server that has a little data that it trusts: maps the round and a model to what the
        server makes of the model by training on its own data (an ArrayRecord, as `evaluate_fn`
        gets). Each round in which clients move the model ends with it: the server has the last
        word. Where it raises, or what it returns is not a finite model, the round goes on without.
    group_by_key : str, optional
        Simulation only: the metric under which clients report the id to be ordered by (such as
        "partition-id"), since Flower draws node ids anew in each run. A client can forge it.
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
    checkpoints, audit, on_round_end, stop_when, best_by, exclude_above
        As in `Hardened`.
    **options
        The options of Flower's ``FedAvg``. The minimum numbers of train, evaluate and available
        nodes are k by default, 2q + 1 where it is not given: fewer have no honest majority. By
        default a metric is the median of batch means over the clients that report it as finite
        numbers, where these have an honest majority (are more than 2q; with `num_batches` alone,
        more than half of those that answered). Metrics aggregation functions see as many metrics as
        can be chosen so that the clients that report all of them still have one, and these clients
        only. `weighted_by_key` names a claim of the client's: it has to be a positive finite number
        and weighs nothing.

    Raises TypeError for an option that is unknown or of a wrong kind, ValueError for a wrong value.

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
    aggregation function is not given), "byz-trimmed" (batches), "byz-bound" (of the rule, for q or
    the largest minority of the rows that it was given, if that is less), "byz-iterations" and
    "byz-aggregate-norm" (of the gradient, or of the update).

    Of a geometric median, "byz-bound" is by how many times the honest rows' largest distance from
    any point the aggregate can lie off it (see `flwr_byz.theory.certified_c_alpha`); rows are batch
    means, after pre-aggregation. "byz-gap" and "byz-residual" are certified, before the model is
    rounded to its dtypes (see `flwr_byz.aggregation.geometric_median`). Of a spectral filter, the
    aggregate lies within "byz-bound" times ("byz-spread" + σ) of the honest rows' mean (see
    `flwr_byz.aggregation.SpectralFilter`).
    Evaluation metrics hold "byz-clients", "byz-rejected" and "byz-missing".
    """

    def __init__(
        self,
        *,
        num_byzantine: int | None = None,
        num_batches: int | None = None,
        reply: Literal["weights", "gradients"] = "weights",
        server_learning_rate: float = 1.0,
        rule: Rule = GeometricMedian(),
        pre_aggregation: Sequence[PreAggregation] = (),
        server_update_fn: Callable[[int, ArrayRecord], ArrayRecord] | None = None,
        group_by_key: str | None = None,
        bucketing_seed: int | None = None,
        streaming: bool = False,
        checkpoints: StrPath | None = None,
        audit: StrPath | None = None,
        on_round_end: RoundEnd[ArrayRecord] | None = None,
        stop_when: StopWhen | None = None,
        best_by: BestBy | None = None,
        exclude_above: float | None = None,
        **options: Any,
    ) -> None:
        given = locals()
        settings, options = robust_settings(type(self), RobustFedAvg, FedAvg, given, options)
        self.settings, self.server_update_fn = settings, server_update_fn
        super().__init__(picked(RoundOptions, given), **options)
        self._server = RobustServer(settings, self._rounds)
        self._lets_go = streaming

    def _waiting(self) -> dict[str, Any]:
        """Return what `RobustServer.aggregate` needs to know of a step that waits for a quorum."""
        return {}

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        check_rule(cls, RobustFedAvg, "aggregate_train")

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        for line in self.settings.summary():
            log(INFO, "%s", line)
        super().summary()

    def _aggregate(self, server_round: int, replies: Iterable[Reply]) -> Trained:
        custom = of_replies(self.train_metrics_aggr_fn, self.weighted_by_key)
        return self._server.aggregate(
            server_round,
            replies,
            custom,
            {self.weighted_by_key},
            optimize=last_word(self.server_update_fn, updated_model, server_round),
            **self._waiting(),
        )

    def _evaluate(self, server_round: int, replies: Iterable[Reply], asked: Asked) -> Evaluated:
        custom = of_replies(self.evaluate_metrics_aggr_fn, self.weighted_by_key)
        return None, self._server.evaluate(replies, asked, custom, {self.weighted_by_key})[1]
