"""A run: everything that identifies a training, and who attacks in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from flwr_byz import attacks
from flwr_byz.attacks import Attack, FreshEachRound, Rotating, Schedule
from flwr_byz.attacks.names import parse_attack, parse_call

from .away import AwayAmongShort, AwayFromTruth
from .byzantine import Adversary, Choice, Scheduled
from .greedy import Greedy, settled
from .latency import make_latency
from .momentum import WithMomentum
from .problem import Problem, make_problem
from .rules import RULES, KnownRule, batches_of, check_trusted_data, is_async, parse_rule

NO_ATTACK = "none"

Placement = Literal["spread", "one per batch", "packed", "fresh", "rotating", "greedy", "settled"]

_AWAY: Mapping[str, type[AwayFromTruth]] = {
    kind.__name__: kind for kind in (AwayFromTruth, AwayAmongShort)
}

_parsed = lru_cache(maxsize=256)(parse_attack)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training, from which it can be made anew in any process.

    Attributes
    ----------
    problem : str
        A class of this package and its options, as ``"LinearRegression(dim=20)"``.
    rule : str
        As in `clients.rules`, set for q.
    attack : str
        "none", or an attack and its options, as ``"SignFlip(scale=10)"``.
    num_clients, num_byzantine, num_rounds, seed : int
        m; q, for which the rule is set, and so many attack.
    split : str
        How data are spread, as in `clients.partition`; "" is the problem's own.
    placement : str
        Who is Byzantine: the same clients in every round, evenly spaced ("spread"), in the first
        batches ("packed") or "one per batch"; or others in each, "fresh", "rotating" or "greedy",
        which takes the q batches whose honest means lead nearest to θ*; or in every round the set
        that "greedy" ends with, "settled".
    momentum : float
        β of the clients; 0 sends updates as they are.
    api : {"message", "classic"}
    through : {"process", "flower"}
        What carries the messages: a loop in this process, or Flower's simulation.
    latency : str
        How long clients take, as in `clients.latency`; "" is as good as `Equal`, and no time is
        recorded.
    timing : str
        When Byzantine clients of an asynchronous rule reply: as their devices can ("own"), at once
        ("fast"), just before a step is made without them ("last"), or so late that their replies
        are as old as is still taken ("stale").
    """

    problem: str
    rule: str
    attack: str = NO_ATTACK
    num_clients: int
    num_byzantine: int
    num_rounds: int
    seed: int = 0
    split: str = ""
    placement: Placement = "spread"
    momentum: float = 0.0
    api: Literal["message", "classic"] = "message"
    through: Literal["process", "flower"] = "process"
    latency: str = ""
    timing: Literal["own", "fast", "last", "stale"] = "own"

    def check(self) -> None:
        """Raise ValueError where the run cannot be made."""
        m, q = self.num_clients, self.num_byzantine
        if self.momentum and self.through == "flower":
            raise ValueError('momentum needs through = "process"')
        if self.api == "classic" and self.through == "process":
            raise ValueError('api = "classic" needs through = "flower"')
        if not 0 <= q < m:
            raise ValueError(f"num_byzantine must be from 0 to {m - 1}, got {q}")
        name, _ = parse_rule(self.rule)
        has_classic = not is_async(name) and (name not in RULES or RULES[name].classic is not None)
        if self.api == "classic" and not has_classic:
            raise ValueError(f"{name} is a rule of the Message API alone")
        problem = problem_of(self)
        check_trusted_data(self.rule, problem)
        if self.attack != NO_ATTACK:
            attack_of(self.attack, problem)
        if self.momentum and is_async(self.rule):
            raise ValueError("momentum needs a rule that waits for all clients")
        if self.latency:
            make_latency(self.latency)
        if (self.latency or self.timing != "own") and self.through == "flower":
            raise ValueError('latency and timing need through = "process"')
        if self.timing != "own" and not is_async(self.rule):
            raise ValueError(f"timing = {self.timing!r} needs an asynchronous rule")
        adversary_of(self, problem)


def problem_of(run: Run) -> Problem:
    """Make the problem of a run, with its clients' momentum."""
    problem = make_problem(run.problem, run.num_clients, run.seed, run.split)
    return WithMomentum(problem, run.momentum) if run.momentum else problem


def adversary_of(run: Run, problem: Problem) -> Adversary | None:
    """Return who attacks in a run, and how; None where no client does."""
    if run.attack == NO_ATTACK or run.num_byzantine == 0:
        return None
    attack = attack_of(run.attack, problem)
    rule = KnownRule(run.rule, run.num_clients, run.num_byzantine)
    choose: Choice
    if run.placement in ("greedy", "settled"):
        optimum = _optimum(problem, f"the placement {run.placement}")
        choose = Greedy(problem, optimum, run.num_byzantine, rule.num_batches)
        if run.placement == "settled":
            choose = Scheduled(attacks.Fixed(settled(choose, attack, rule, run.num_rounds)))
    else:
        choose = Scheduled(_schedule(run))
    return Adversary(attack, choose, run.num_byzantine, rule)


def attack_of(text: str, problem: Problem) -> Attack:
    """Make an attack; those away from the truth are given the problem's θ*."""
    if text.partition("(")[0] not in _AWAY:
        return _parsed(text)
    name, options = parse_call(text, "an attack", "SignFlip(scale=10)")
    return _AWAY[name](_optimum(problem, text), **options)


def _optimum(problem: Problem, what: str) -> tuple[float, ...]:
    if not hasattr(problem, "optimum"):
        raise ValueError(f"{what} needs a problem with a known optimum")
    return tuple(problem.optimum().tolist())


def _schedule(run: Run) -> Schedule:
    m, q = run.num_clients, run.num_byzantine
    match run.placement:
        case "spread":
            return attacks.Fixed(client * m // q for client in range(q))
        case "one per batch":
            return attacks.one_per_batch(m, q, batches_of(run.rule, m, q))
        case "packed":
            return attacks.packed(m, q)
        case "fresh":
            return FreshEachRound(m, q, run.seed)
        case "rotating":
            return Rotating(m, q)
    raise ValueError(f"placement is not known: {run.placement!r}")
