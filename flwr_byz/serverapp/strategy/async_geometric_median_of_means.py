"""Byzantine gradient descent that waits for nobody, as a strategy for Flower's Message API."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from logging import ERROR, INFO
from math import inf
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.supercore import log

from ...aggregation import GeometricMedian
from ...aggregation.batches import default_quorum
from ...at_work import AtWork
from ...checks import check_number, shown
from ...hardening import Trained
from ...identity import ClientId
from ...logs import escaped
from ...round import Reply, end
from ...sent_models import SentModels
from ...state import State
from ...transport import AsyncGrid
from .geometric_median_of_means import GeometricMedianOfMeans
from .guarded import ChosenNodes

_NOT_TAKEN = {
    "fraction_train": "concurrency says how many nodes train at a time",
    "min_train_nodes": "a step takes `quorum` batches",
    "fraction_evaluate": "nodes that train are not waited for; give start an evaluate_fn",
    "min_evaluate_nodes": "nodes are not asked to evaluate; give start an evaluate_fn",
    "evaluate_metrics_aggr_fn": "nodes are not asked to evaluate; give start an evaluate_fn",
    "streaming": "replies are always added up as they arrive",
    "group_by_key": "batches have to be known before the first reply",
}


class MedianOfClients(GeometricMedian):
    """The geometric median, of batches of one client each unless their number is given."""

    def num_batches(self, num_clients: int, num_byzantine: int) -> int:
        """Return m."""
        return num_clients


class AsyncGeometricMedianOfMeans(GeometricMedianOfMeans):
    """`GeometricMedianOfMeans` in steps that wait for a quorum of batches, not for all clients.

    Nodes train on the newest model that they were given. A reply is added to the batch of its
    client; once `quorum` batches are filled, that is hold new replies of half of their clients, the
    server steps by the geometric median of the batch means, and gives the new model to the nodes
    that are free. Replies of slower nodes count in a later step, as updates of the model from which
    they were trained.

    The batches are the buffers of BASGD (Yang, Li 2021) and FedBuff (Nguyen et al. 2022), with one
    difference: where a batch has no new reply, its last mean counts again, as in MIFA (Gu et al.
    2021). So slow clients take part in every step, and once all batches had a reply, Byzantine
    clients are at most q of k however fast they are.

    Parameters
    ----------
    num_byzantine : int
        q: at most so many clients were Byzantine when they made a reply that counts in a step.
    num_batches : int, optional
        k; by default m, every client for itself, so that what counts of a slow client is not
        replaced by a reply of another. The server holds k models.
    quorum : int, optional
        How many batches have to be filled, from 2q + 1 to k; by default more than half of them.
        Above k − q, clients that never reply hold up each step until `timeout`.
    concurrency : int, optional
        How many nodes train at a time, more than q; by default all. The one asked longest ago comes
        next. Slow nodes take up their share of them.
    max_staleness : int, default 100
        A reply is left out where the server has made more steps than that since it sent the model.
    staleness_exponent : float, default 0.5
        a: the update, or gradient, of a reply that is s steps old is multiplied by (1 + s)^(−a).
    keep_steps : int, default 100
        For how many steps the last mean of a batch counts; with 0, batches are empty at the
        beginning of each step. They are, too, where batches become others: when a node joins, is
        excluded or has been away for so long, and in each step with `bucketing_seed`.
    min_available_nodes : int, optional
        With how many nodes training begins: by default `num_batches`, or else the least number with
        which a step can be made.
    **options
        As of `GeometricMedianOfMeans`, except `fraction_train` and `min_train_nodes`, those of
        evaluation by nodes, and `group_by_key`. `streaming` is always the case.

    Raises TypeError for an option that is unknown or of a wrong kind, ValueError for a wrong value.

    Notes
    -----
    In `start`, `num_rounds` is the number of steps, and `timeout` limits both a step and a reply:
    the step is then made of the replies there are, if it can be, and a node that has not replied is
    given up and asked again. A server that was stopped goes on after the last step that has a
    checkpoint; batches are empty then, and all nodes are asked again.

    However fast a client answers, one reply of it counts in a step, for it is asked once a step.
    How old a reply is follows from what the server sent to whom, not from what the client says.
    Models that nodes still train on are kept in temporary files (in the folder ``TMPDIR``, or the
    system's) until the end of `start`.

    What holds, whenever Byzantine clients reply: each aggregate lies within "byz-bound" times the
    largest distance of the honest batch means from any point; these are means of scaled updates
    that began up to `max_staleness` steps before they came, and came up to `keep_steps` ago. What
    does not:

    - A q for each step alone, if other clients are Byzantine in each: what they sent in one step is
      kept for others. With `keep_steps=0` it counts in the step only in which it comes.
    - Equal weight: where clients' data differ, the model leans to those that reply more often, in
      batches of fast and slow clients and through the factor (1 + s)^(−a).
    - Convergence where an adversary delays honest replies, too: theorems for delayed steps (BASGD,
      FedBuff) assume a limit to staleness and steps that are small beside it.

    Of the metrics, "byz-clients" counts the clients whose replies came in the step, "byz-batches"
    also batches that count again, "byz-missing" nobody. "byz-training" is the number of nodes that
    were still at work, "byz-staleness" the age in steps of the oldest reply that came.

    Examples
    --------
    >>> from flwr_byz.serverapp.strategy import AsyncGeometricMedianOfMeans
    >>> strategy = AsyncGeometricMedianOfMeans(num_byzantine=2, quorum=6)
    """

    _grid_kind, _median = AsyncGrid, MedianOfClients

    def __init__(
        self,
        *,
        num_byzantine: int,
        quorum: int | None = None,
        concurrency: int | None = None,
        max_staleness: int = 100,
        staleness_exponent: float = 0.5,
        keep_steps: int = 100,
        min_available_nodes: int | None = None,
        **options: Any,
    ) -> None:
        for name, why in _NOT_TAKEN.items():
            if name in options:
                kind = type(self).__name__
                raise TypeError(f"{kind} has no option {name}={shown(options[name])}: {why}")
        check_number("num_byzantine", num_byzantine, whole=True, least=0)
        super().__init__(num_byzantine=num_byzantine, streaming=True, **options)
        self.fraction_evaluate = 0.0
        self.min_train_nodes = self.min_available_nodes = 0  # FedAvg takes what there is
        if quorum is not None:
            least, most = 2 * num_byzantine + 1, self.settings.num_batches or inf
            check_number("quorum", quorum, whole=True, least=least, most=most)
        if concurrency is not None:
            least, note = num_byzantine + 1, ": q nodes that never reply must leave room for one"
            check_number("concurrency", concurrency, whole=True, least=least, note=note)
        check_number("max_staleness", max_staleness, whole=True, least=0)
        check_number("staleness_exponent", staleness_exponent, least=0)
        check_number("keep_steps", keep_steps, whole=True, least=0)
        if min_available_nodes is not None:
            check_number("min_available_nodes", min_available_nodes, whole=True, least=0)
        self.quorum, self.concurrency = quorum, concurrency
        self.max_staleness, self.staleness_exponent = max_staleness, staleness_exponent
        self.keep_steps = keep_steps
        self._fewest = max(self.quorum or 0, 2 * num_byzantine + 1)  # that a step needs
        least = self.settings.min_clients if min_available_nodes is None else min_available_nodes
        self._first = max(self._fewest, least)  # that training needs
        self._grid: Any = None
        self._configure: Callable[[list[ClientId]], Iterable[Message]]
        self._forget_nodes()

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        at_a_time = self.concurrency or "all"
        text = "\t├──> Steps: quorum %s of the batches | nodes at a time: %s"
        log(INFO, text, self.quorum or "more than half", at_a_time)
        super().summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Give the model of a step to the nodes that are free.

        Raises TypeError where the grid does not carry replies over to later steps.
        """
        if not hasattr(grid, "send"):
            text = "replies come in later steps than their messages: give the grid as"
            raise TypeError(f"{text} flwr_byz.transport.AsyncGrid(grid)")
        self._keep_sent(server_round)
        self._step = server_round
        self._at_work.begin_step(server_round)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> None:
        """Aggregate nothing.

        Raises TypeError where nodes were asked to evaluate: replies of training would be among
        theirs.
        """
        if self.fraction_evaluate or self._sent_evaluations != []:
            raise TypeError(f"{self._own_class()}: {_NOT_TAKEN['fraction_evaluate']}")

    def _sent_by(
        self, configure: Callable[..., Any], grid: Grid, server_round: int, minimum: str
    ) -> list[Message]:
        """Return what the free nodes are sent, once there are enough nodes."""

        def begin(connected: ChosenNodes) -> list[Message]:
            self._at_work.connect(connected.get_node_ids(), self.keep_steps, self._rounds.excluded)
            self._configure = lambda nodes: configure(ChosenNodes(grid, nodes))
            self._grid = grid
            return self._given()

        return super()._sent_by(begin, grid, server_round, minimum)

    def _given(self) -> list[Message]:
        """Return messages with the model of the step to the nodes whose turn it is."""
        if not (free := self._at_work.free(self.concurrency)):
            return []
        messages = list(self._configure(free))
        sent = {message.metadata.dst_node_id for message in messages}
        self._at_work.give(node for node in free if node in sent)
        return messages

    def _needed(self, *minimums: str) -> int:
        return self._fewest if self._has_begun else self._first

    def _asked(self) -> Collection[ClientId]:
        return self._at_work.nodes

    def _waiting(self) -> dict[str, Any]:
        k = self.settings.batches_for(max(len(self._asked()), 1))
        quorum = self.quorum or default_quorum(k, self.settings.num_byzantine or 0)
        return {"quorum": min(quorum, k), "keep_steps": self.keep_steps}

    def _aggregate(self, server_round: int, replies: Iterable[Reply]) -> Trained:
        self._oldest = 0
        model, metrics = super()._aggregate(server_round, self._of_any_age(replies))
        metrics |= {"byz-training": len(self._at_work.training), "byz-staleness": self._oldest}
        return model, metrics

    def _of_any_age(self, replies: Iterable[Reply]) -> Iterator[Reply]:
        """Yield replies with what their updates count from; give free nodes the model."""
        try:
            for reply in replies:
                sent_in = self._at_work.reply(reply.client, is_error=reply.is_error)
                yield self._dated(reply, sent_in)
                del reply  # before the next one is waited for
                if messages := self._given():
                    self._grid.send(messages)
        finally:
            end(replies)

    def _dated(self, reply: Reply, sent_in: int | None) -> Reply:
        """Return a reply with the age that the server knows it to have."""
        if reply.reason:
            return reply
        if sent_in is None:
            return replace(reply, model=None, reason="it was not asked for")
        staleness, reason, base = self._step - sent_in, "", None
        if not staleness:
            return reply
        if staleness > self.max_staleness:
            reason = f"it is {staleness} steps old, max_staleness is {self.max_staleness}"
        elif self.settings.reply == "weights":
            try:
                base = self._models.floats(sent_in)
            except (KeyError, OSError):
                reason = "the model that it was trained from could not be kept"
        if reason:
            return replace(reply, model=None, reason=reason, is_error=True)
        self._oldest = max(self._oldest, staleness)
        return replace(reply, base=base, scale=(1 + staleness) ** -self.staleness_exponent)

    def _keep_sent(self, server_round: int) -> None:
        """Keep models of steps before this one while replies of nodes at work can count."""
        oldest = server_round - self.max_staleness
        wanted = {step for step in self._at_work.training.values() if step >= oldest}
        self._models.keep_only(wanted)
        if self._step not in wanted or self.settings.reply == "gradients":
            return
        assert self._rounds.sent is not None
        try:
            self._models.keep(self._step, self._rounds.sent)
        except OSError as error:
            log(ERROR, "the model of step %d is not kept: %s", self._step, escaped(str(error)))

    def _forget_nodes(self) -> None:
        """Begin a training, without a node at work."""
        self._step, self._oldest = 0, 0
        self._at_work, self._models = AtWork(), SentModels()

    def _end_training(self) -> None:
        super()._end_training()
        self._forget_nodes()

    def _restore(self, state: State) -> None:
        self._forget_nodes()
        self._server.forget_rows()
        super()._restore(state)
