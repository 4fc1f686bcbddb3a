"""Byzantine gradient descent that waits for nobody, as a strategy for Flower's Message API."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from logging import ERROR, INFO
from math import inf
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.supercore import log

from ...checks import check_number, shown
from ...hardening import Trained
from ...identity import ClientId, identity_order
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


class AsyncGeometricMedianOfMeans(GeometricMedianOfMeans):
    """`GeometricMedianOfMeans` in steps that wait for a quorum of batches, not for all clients.

    Nodes train on the newest model that they were given. A reply is added to the batch of its
    client; once `quorum` batches hold a reply the server steps by the geometric median of their
    means, empties them, and gives the new model to the nodes that are free. The replies of the
    others count in a later step, as updates of the model from which they were trained. The batches
    are the buffers of BASGD (Yang, Li 2023) and FedBuff (Nguyen et al. 2022).

    Parameters
    ----------
    num_byzantine : int
        q, the most Byzantine clients in any one step.
    quorum : int, optional
        How many batches have to hold a reply, at least 2q + 1 and at most k; by default k − q, so
        that q silent clients hold up no step, or 2q + 1 if that is more. So many slow or silent
        batches as there are beyond the quorum are never waited for.
    concurrency : int, optional
        How many nodes train at a time; by default all. Who was asked longest ago comes next.
    max_staleness : int, default 20
        A reply is left out where the server has made more steps than that since it sent the model.
    staleness_exponent : float, default 0.5
        a: the update of a reply that is s steps old is multiplied by (1 + s)^(−a).
    **options
        As of `GeometricMedianOfMeans`, except those of evaluation by nodes, `fraction_train`,
        `min_train_nodes`, `group_by_key` and `streaming`, which always is the case. Training begins
        with `min_available_nodes`: by default 2q + 1, or as many as `num_batches`.

    Raises TypeError for an option that is unknown or of a wrong kind, ValueError for a wrong value.

    Notes
    -----
    In `start`, `num_rounds` is the number of steps. `timeout` is the time after which a step is
    made, or the model kept, without a quorum, and after which a node that has not replied is given
    up and may be asked again. A restart goes on after the last step that has a checkpoint: what was
    in the batches is lost, and all nodes are asked again.

    However fast a client answers, at most one reply of it counts in a step, for no node is asked
    again before the step is made. How old a reply is follows from what the server sent to whom.
    Models that nodes still train on are kept in a temporary folder, not in memory.

    What holds: each aggregate lies within "byz-bound" times the largest distance of honest batch
    means from any point, however Byzantine clients time their replies; honest means are those of
    scaled updates of up to max_staleness steps ago. What does not: with clients whose data differ,
    those that answer in more steps weigh more, and the model leans to the fast ones; and an
    adversary that decides how long honest replies take, not its own alone, can lead training
    anywhere that stale updates lead, which no rule of this kind can tell.

    "byz-clients" counts the clients whose replies came in the step, "byz-training" those that were
    still at work, "byz-staleness" is the age in steps of the oldest reply used. "byz-missing" is 0.

    Examples
    --------
    >>> from flwr_byz.serverapp.strategy import AsyncGeometricMedianOfMeans
    >>> strategy = AsyncGeometricMedianOfMeans(num_byzantine=2, quorum=6)
    """

    _grid_kind = AsyncGrid

    def __init__(
        self,
        *,
        num_byzantine: int,
        quorum: int | None = None,
        concurrency: int | None = None,
        max_staleness: int = 20,
        staleness_exponent: float = 0.5,
        keep_steps: int = 20,
        min_available_nodes: int | None = None,
        **options: Any,
    ) -> None:
        for name, why in _NOT_TAKEN.items():
            if name in options:
                kind = type(self).__name__
                raise TypeError(f"{kind} has no option {name}={shown(options[name])}: {why}")
        super().__init__(
            num_byzantine=num_byzantine,
            streaming=True,
            fraction_evaluate=0.0,
            min_train_nodes=0,  # FedAvg takes what there is
            min_available_nodes=0,
            **options,
        )
        least = self.settings.min_clients
        if quorum is not None:
            most = self.settings.num_batches or inf
            check_number("quorum", quorum, whole=True, least=2 * num_byzantine + 1, most=most)
            least = max(least, quorum)
        if concurrency is not None:
            check_number("concurrency", concurrency, whole=True, least=1)
        check_number("max_staleness", max_staleness, whole=True, least=0)
        check_number("staleness_exponent", staleness_exponent, least=0)
        check_number("keep_steps", keep_steps, whole=True, least=0)
        if min_available_nodes is not None:
            check_number("min_available_nodes", min_available_nodes, whole=True, least=0)
        self.quorum, self.concurrency = quorum, concurrency
        self.max_staleness, self.staleness_exponent = max_staleness, staleness_exponent
        self.keep_steps = keep_steps
        self._least = max(2, least if min_available_nodes is None else min_available_nodes)
        self._forget_nodes()

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        quorum, at_a_time = self.quorum or "k − q", self.concurrency or "all"
        log(INFO, "\t├──> Steps: quorum %s batches | nodes at a time: %s", quorum, at_a_time)
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
        self._keep_sent()
        self._step = server_round
        self._replied.clear()
        return super().configure_train(server_round, arrays, config, grid)

    def _forget_nodes(self) -> None:
        """Begin without a node at work."""
        self._step = 0
        self._models = SentModels()
        self._nodes: Collection[ClientId] = ()  # that may reply in this step
        self._training: dict[ClientId, int] = {}  # nodes at work, and the step of their model
        self._replied: set[ClientId] = set()  # in this step
        self._last_asked: dict[ClientId, int] = {}
        self._give: Callable[[], list[Message]] = list
        self._send: Callable[[list[Message]], object] = list

    def _restore(self, state: State) -> None:
        self._forget_nodes()
        super()._restore(state)

    def _needed(self, *minimums: str) -> int:
        return 0 if self._has_begun else super()._needed(*minimums)

    def _asked(self) -> Collection[ClientId]:
        return self._nodes

    def _waiting(self) -> dict[str, Any]:
        k, q = self.settings.batches_for(max(len(self._nodes), 1)), self.settings.num_byzantine or 0
        return {"quorum": min(self.quorum or 2 * q + 1, k), "keep_steps": self.keep_steps}

    def _sent_by(
        self, configure: Callable[..., Any], grid: Grid, server_round: int, minimum: str
    ) -> list[Message]:
        """Return what the free nodes are sent; before the first step, wait for enough nodes."""

        def begin(connected: ChosenNodes) -> list[Message]:
            self._nodes = {*connected.get_node_ids(), *self._training}

            def give() -> list[Message]:
                free = self._free_nodes()
                messages = list(configure(ChosenNodes(grid, free))) if free else []
                for node in (message.metadata.dst_node_id for message in messages):
                    self._training[node] = self._last_asked[node] = self._step
                return messages

            self._give, self._send = give, grid.send  # type: ignore[attr-defined]
            return give()

        return super()._sent_by(begin, grid, server_round, minimum)

    def _free_nodes(self) -> list[ClientId]:
        """Return the nodes that are given the model now, those asked longest ago first."""
        free = set(self._nodes).difference(self._training, self._replied)
        ordered = sorted(free, key=lambda n: (self._last_asked.get(n, 0), identity_order(n)))
        if self.concurrency is None:
            return ordered
        return ordered[: max(self.concurrency - len(self._training), 0)]

    def _aggregate(self, server_round: int, replies: Iterable[Reply]) -> Trained:
        self._oldest = 0
        model, metrics = super()._aggregate(server_round, self._of_any_age(replies))
        oldest = {"byz-staleness": self._oldest} if metrics["byz-batches"] else {}
        metrics |= {"byz-training": len(self._training)} | oldest
        return model, metrics

    def _of_any_age(self, replies: Iterable[Reply]) -> Iterator[Reply]:
        """Yield replies with what their updates count from; give free nodes the model."""
        try:
            for reply in replies:
                sent_in = self._training.pop(reply.client, None)
                self._replied.add(reply.client)
                yield self._dated(reply, sent_in)
                del reply  # before the next one is waited for
                if messages := self._give():
                    self._send(messages)
        finally:
            end(replies)

    def _dated(self, reply: Reply, sent_in: int | None) -> Reply:
        """Return a reply with the age that the server knows it to have."""
        if reply.reason:
            return reply
        if sent_in is None:
            return replace(reply, model=None, reason="it was not asked for")
        staleness = self._step - sent_in
        reason = ""
        if staleness > self.max_staleness:
            reason = f"it is {staleness} steps old, max_staleness is {self.max_staleness}"
        elif staleness and self.settings.reply == "weights" and sent_in not in self._models:
            reason = "the model that it was trained from could not be kept"
        if reason:
            return replace(reply, model=None, reason=reason, is_error=True)
        if not staleness:
            return reply
        self._oldest = max(self._oldest, staleness)
        base = self._models.floats(sent_in) if self.settings.reply == "weights" else None
        return replace(reply, base=base, scale=(1 + staleness) ** -self.staleness_exponent)

    def _keep_sent(self) -> None:
        """Keep the model of the step before for the nodes that still train on it."""
        wanted = {s for s in self._training.values() if self._step - s <= self.max_staleness}
        self._models.keep_only(wanted)
        if self._rounds.sent is None or self._step not in wanted:
            return
        if self.settings.reply == "gradients" or self._step in self._models:
            return
        try:
            self._models.keep(self._step, self._rounds.sent)
        except OSError as error:
            log(ERROR, "the model of step %d is not kept: %s", self._step, escaped(str(error)))
