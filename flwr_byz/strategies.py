"""What the strategies of both APIs have in common; neither API is known here."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from logging import ERROR
from typing import Any, Generic, TypeVar

from flwr.supercore import log

from . import hardening
from .audit import RoundRecord, Verdict
from .checks import check_function
from .hardening import Asked, Evaluated, Trained
from .identity import identity_order
from .logs import escaped
from .options import check_options, own_options, picked
from .payload import Model
from .robust_server import RobustServer
from .round import Rejections, Reply, model_of
from .rounds import Arrays, BestBy, RoundEnd, RoundOptions, Rounds, StopWhen, StrPath
from .settings import Settings, of_the_paper
from .state import State, attributes, restore, state_of
from .wrapped import clips_at_server, option

Kind = TypeVar("Kind")  # of strategies, in an API


class GuardedBase:
    """The rounds of a strategy of Flower's, around the one behind it."""

    _least = 0  # clients that a round needs, whatever the options say
    _other_api: tuple[tuple[str, ...], str]  # methods of it, and where they are found

    def __init__(self, rounds: RoundOptions, **options: Any) -> None:
        super().__init__(**options)
        self._rounds = Rounds(rounds)

    def _behind(self) -> Any:
        """Return the strategy behind, which configures the rounds: the next base class."""
        return super()

    @abstractmethod
    def _aggregate(self, server_round: int, replies: Iterable[Reply]) -> Trained:
        """Return the new model, None where the old one is kept, and the metrics of the round."""

    @abstractmethod
    def _evaluate(self, server_round: int, replies: Iterable[Reply], asked: Asked) -> Evaluated:
        """Return what comes of an evaluation by clients."""

    def _state(self) -> State:
        """Return the state that a checkpoint has to hold beside the model."""
        return State()

    def _restore(self, state: State) -> None:
        """Go on from the state of a checkpoint."""

    def _needed(self, *minimums: str) -> int:
        """Return how many clients a round needs, by these options and by the rule."""
        needed: int = max(self._least, *(option(self, name, 0) for name in minimums))
        return needed

    def _own_class(self) -> str:
        """Return the name of the class of this package that the strategy is made from."""
        own = __name__.partition(".")[0] + "."
        return next(k.__name__ for k in type(self).__mro__ if k.__module__.startswith(own))

    def __getattr__(self, name: str) -> Any:
        kind, (methods, where) = self._own_class(), self._other_api
        text = f"{kind!r} object has no attribute {name!r}"
        raise AttributeError(text + (where.format(kind) if name in methods else ""))


class HardenedBase(GuardedBase, Generic[Kind, Arrays]):
    """Any strategy behind the checks of `hardening`."""

    _custom: tuple[str, str]  # options that aggregate the metrics of training and evaluation
    _rebuilt: Callable[[Reply], Any]  # makes a result for the strategy of a reply with a model

    def __init__(
        self,
        strategy: Kind,
        *,
        num_byzantine: int | None = None,
        checkpoints: StrPath | None = None,
        audit: StrPath | None = None,
        on_round_end: RoundEnd[Arrays] | None = None,
        stop_when: StopWhen | None = None,
        best_by: BestBy | None = None,
        exclude_above: float | None = None,
    ) -> None:
        given = locals()
        self._check(strategy)
        super().__init__(picked(RoundOptions, given))
        self.strategy = strategy
        self._least = 2 * num_byzantine + 1 if num_byzantine else 0
        self._as_given = attributes(strategy)

    @abstractmethod
    def _check(self, strategy: Kind) -> None:
        """Raise TypeError where an object is no strategy of the API that can be wrapped."""

    @abstractmethod
    def _form_of(self, custom: str) -> hardening.FormOf | None:
        """Return what replies have to have in common; an option `custom` aggregates metrics."""

    @abstractmethod
    def _step(self, server_round: int, results: list[Any]) -> Trained:
        """Return what the strategy behind makes of results of training."""

    @abstractmethod
    def _metrics(self, server_round: int, results: list[Any]) -> Evaluated:
        """Return what the strategy behind makes of results of an evaluation."""

    def _behind(self) -> Kind:
        return self.strategy

    def _aggregate(self, server_round: int, replies: Iterable[Reply]) -> Trained:
        rounds, rejections, form_of = self._rounds, Rejections(), self._form_of(self._custom[0])
        asked, usable = hardening.accepted(replies, rounds.asked, rejections, form_of)
        if rounds.sent is not None and clips_at_server(self.strategy):
            usable = hardening.moved(usable, rounds.sent, rejections)
        counts = rounds.counts(asked, [reply.client for reply in usable], rejections)
        model, metrics = None, dict[str, Any]()
        if hardening.may_step(rounds, [model_of(reply) for reply in usable]):
            model, metrics = hardening.attempted(
                lambda: self._step(server_round, [self._rebuilt(reply) for reply in usable]),
                self.strategy,
                rounds,
            )
        verdicts = dict.fromkeys(sorted(asked, key=identity_order), Verdict("silent"))
        verdicts |= rejections.verdicts
        verdicts |= hardening.judged(usable, model if rounds.are_judged else None, rounds.weights)
        rounds.record(server_round, RoundRecord(model is None, None, [], verdicts))
        rounds.history.train[server_round] = report = metrics | counts
        return model, report

    def _evaluate(self, server_round: int, replies: Iterable[Reply], asked: Asked) -> Evaluated:
        rejections, form_of = Rejections(), self._form_of(self._custom[1])
        asked, usable = hardening.accepted(replies, asked, rejections, form_of)
        counts = self._rounds.counts(asked, [reply.client for reply in usable], rejections)
        loss, metrics = None, dict[str, Any]()
        if usable:
            try:
                loss, metrics = self._metrics(server_round, [reply.payload for reply in usable])
            except Exception as error:  # of another's code, fed with clients' replies
                log(ERROR, "the strategy failed, no metrics are reported: %s", escaped(repr(error)))
        return loss, metrics | counts

    def _state(self) -> State:
        return state_of(self.strategy, self._as_given)

    def _restore(self, state: State) -> None:
        restore(self.strategy, state)


def robust_settings(
    kind: type, own: type, strategy: type, given: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Settings, dict[str, Any]]:
    """Check the arguments of a `RobustFedAvg`; return its settings and the options for FedAvg's.

    `kind` is the class that is made, `own` the `RobustFedAvg` and `strategy` the FedAvg of its API;
    `given` are its named arguments and `options` the others. Raises TypeError or ValueError.
    """
    check_options(kind.__name__, options, strategy, {*own_options(own), *own_options(kind)})
    if given["server_update_fn"] is not None:
        check_function("server_update_fn", given["server_update_fn"])
    settings = picked(Settings, given)
    return settings, settings.with_minimums(options, strategy)


class RobustOptimizerBase(HardenedBase[Kind, Arrays]):
    """A server optimizer that sees one client, which replied the robust aggregate."""

    _not_taken: frozenset[str] = frozenset({"reply", "server_learning_rate"})  # of `Settings`

    def __init__(self, optimizer: type[Kind], /, **options: Any) -> None:
        of_rounds = {*signature(RoundOptions).parameters}
        paper = {"trim_norm", "gamma"}
        own = {*signature(Settings).parameters} - self._not_taken | of_rounds | paper
        given = {name: options.pop(name) for name in own & options.keys()}
        name = f"robust({optimizer.__name__})"
        if paper & given.keys():
            if "rule" in given:
                text = "takes no trim_norm and gamma beside a rule: give "
                text += "rule=GeometricMedian(gamma) and pre_aggregation=[NormTrimming(norm)]"
                raise TypeError(f"{name} {text}")
            trim_norm, gamma = (given.pop(name, None) for name in ("trim_norm", "gamma"))
            given |= of_the_paper(trim_norm, gamma, given.get("pre_aggregation", ()))
        check_options(name, options, optimizer, own)
        settings = picked(Settings, given)
        rest = settings.with_minimums(options, optimizer)
        self._functions = [rest.pop(name, None) for name in self._custom]
        super().__init__(optimizer(**rest), **{n: given[n] for n in of_rounds & given.keys()})
        self._server = RobustServer(settings, self._rounds)
        self._lets_go = settings.streaming

    @abstractmethod
    def _alone(self, aggregate: Model) -> Any:
        """Return a reply with the aggregate, as if there were one client only."""

    def _optimized(self, server_round: int, aggregate: Model) -> Model | None:
        """Return what the optimizer makes of the aggregate, None where it fails."""

        def make() -> Trained:
            model, metrics = self._step(server_round, [self._alone(aggregate)])
            return model and model.with_counters_of(aggregate), metrics

        return hardening.attempted(make, self.strategy, self._rounds)[0]
