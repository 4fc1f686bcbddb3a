"""Which nodes train on which model, and whose turn is next, where steps do not wait for all."""

from collections.abc import Collection, Container, Iterable
from itertools import count

from .identity import ClientId, identity_order


class AtWork:
    """The nodes of an asynchronous training.

    A node is given one model at a time, and none in a step in which it has replied already.

    Attributes
    ----------
    training : dict
        The step whose model each node at work was given.
    """

    def __init__(self) -> None:
        self.training: dict[ClientId, int] = {}
        self._step = 0
        self._connected: Collection[ClientId] = ()
        self._seen: dict[ClientId, int] = {}  # the last step in which it was connected
        self._replied: set[ClientId] = set()  # in this step
        self._turns, self._last_turn = count(), dict[ClientId, int]()

    @property
    def nodes(self) -> Collection[ClientId]:
        """Nodes that are connected or at work, or were not long ago."""
        return self._seen.keys()

    def begin_step(self, step: int) -> None:
        """Begin a step, in which no node has replied."""
        self._step, self._connected = step, ()
        self._replied.clear()

    def connect(
        self, connected: Collection[ClientId], patience: int, excluded: Container[str] = ()
    ) -> None:
        """Note who is connected.

        Forget who has been away for more steps than `patience`, and who is `excluded`, by the text
        of its id, and not at work.
        """
        self._connected = connected
        self._seen = {
            node: step
            for node, step in self._seen.items()
            if step >= self._step - patience and str(node) not in excluded
        }
        self._seen |= dict.fromkeys((*connected, *self.training), self._step)
        turns = self._last_turn
        first = min((turns[node] for node in self._seen if node in turns), default=0)
        for node in [node for node in turns if turns[node] < first]:
            del turns[node]  # without a turn it comes first, too

    def free(self, concurrency: int | None) -> list[ClientId]:
        """Return who is to be given the model, so that at most so many are at work.

        Those asked longest ago come first.
        """
        free = set(self._connected).difference(self.training, self._replied)
        ordered = sorted(free, key=lambda n: (self._last_turn.get(n, -1), identity_order(n)))
        return ordered[: None if concurrency is None else max(concurrency - len(self.training), 0)]

    def give(self, nodes: Iterable[ClientId]) -> None:
        """Note that nodes were given the model of the step, in this order."""
        for node in nodes:
            self.training[node], self._last_turn[node] = self._step, next(self._turns)

    def reply(self, node: ClientId, *, is_error: bool) -> int | None:
        """Note a reply; return the step whose model it was made from, None if from no one's.

        A node that failed at an earlier model is given that of this step, too.
        """
        step = self.training.pop(node, None)
        if not is_error or step == self._step:
            self._replied.add(node)
        return step
