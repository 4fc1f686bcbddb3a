"""Byzantine gradient descent as a strategy for Flower's Message API."""

from collections.abc import Iterable
from logging import INFO
from typing import Any, Literal

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg
from flwr.supercore import log

from ...aggregation.pre_aggregation import TrimNorm
from ...hardening import Asked, Evaluated, Trained
from ...options import check_options, picked
from ...robust_server import RobustServer
from ...round import Reply
from ...rounds import BestBy, RoundEnd, RoundOptions, StopWhen, StrPath
from ...settings import Settings
from ...wrapped import check_rule
from ..messages import of_replies
from .guarded import Guarded


class GeometricMedianOfMeans(Guarded, FedAvg):
    """Byzantine gradient descent, in place of FedAvg: up to q clients may send anything.

    The clients asked in a round are ordered by identity and split into k batches; the replies of a
    batch are averaged; batch means can be trimmed by norm; the step is the (1+γ)-approximate
    geometric median of the batch means (Chen, Su, Xu 2017, Algorithm 2 and Remark 2).

    Parameters
    ----------
    num_byzantine : int, optional
        q, the most Byzantine clients in any one round; by default the largest minority of k
        batches, (k − 1) // 2. Give at least one of `num_byzantine` and `num_batches`.
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
    aggregation function is not given), "byz-trimmed" (batches), "byz-bound" (by how many times the
    honest batches' largest distance from any point the aggregate can lie off it, see
    `flwr_byz.theory.certified_c_alpha`: for q among the batches kept, less what has shown itself;
    without q, for the largest minority), "byz-gap" and "byz-residual" (certified, before the model
    is rounded to its dtypes; see `flwr_byz.aggregation.geometric_median`), "byz-iterations" and
    "byz-aggregate-norm" (of the gradient, or of the update).
    Evaluation metrics hold "byz-clients", "byz-rejected" and "byz-missing".
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
        checkpoints: StrPath | None = None,
        audit: StrPath | None = None,
        on_round_end: RoundEnd[ArrayRecord] | None = None,
        stop_when: StopWhen | None = None,
        best_by: BestBy | None = None,
        exclude_above: float | None = None,
        **options: Any,
    ) -> None:
        given = locals()
        own = GeometricMedianOfMeans.__init__.__kwdefaults__ or ()
        check_options(type(self).__name__, options, FedAvg, own)
        self.settings = settings = picked(Settings, given)
        options = settings.with_minimums(options, FedAvg)
        super().__init__(picked(RoundOptions, given), **options)
        self._server = RobustServer(settings, self._rounds)
        self._lets_go = streaming

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        check_rule(cls, GeometricMedianOfMeans, "aggregate_train")

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        for line in self.settings.summary():
            log(INFO, "%s", line)
        super().summary()

    def _aggregate(self, server_round: int, replies: Iterable[Reply]) -> Trained:
        custom = of_replies(self.train_metrics_aggr_fn, self.weighted_by_key)
        return self._server.aggregate(server_round, replies, custom, {self.weighted_by_key})

    def _evaluate(self, server_round: int, replies: Iterable[Reply], asked: Asked) -> Evaluated:
        custom = of_replies(self.evaluate_metrics_aggr_fn, self.weighted_by_key)
        return None, self._server.evaluate(replies, asked, custom, {self.weighted_by_key})[1]
