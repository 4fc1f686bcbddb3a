"""One training run without Flower, to the bit what its engine gives.

The clients, the attacks and the server's round are the very ones that Flower's simulation runs;
only the network between them is left out. Replies are float32 arrays as the clients cast them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from clients.linear_regression import LinearRegression
from numpy.typing import NDArray

from clients.byzantine import Adversary, byzantine_reply
from clients.problem import Arrays, Problem
from flwr_byz import attacks
from flwr_byz.aggregation import geometric_median_of_means
from flwr_byz.attacks import Attack, FreshEachRound, Rotating, Schedule
from flwr_byz.payload import ArraySpec, Layout, Model
from flwr_byz.robust_server import RobustServer
from flwr_byz.round import Reply
from flwr_byz.rounds import RoundOptions, Rounds
from flwr_byz.settings import Settings
from flwr_byz.theory import step_size

from ..selection import mean_of_random_subset, mean_of_smallest_norms
from ..worst_case import candidates
from .away import AwayAmongShort, AwayFromTruth
from .problems import LogisticRegression, SummarisedRegression, logistic_curvature

ProblemName = Literal[
    "linear regression", "summarised regression", "uneven regression", "logistic regression"
]
RuleName = Literal["geometric median", "random subset", "small norms"]
Placement = Literal["one per batch", "packed", "fresh each round", "rotating"]

NOBODY = "nobody"
AWAY = "AwayFromTruth()"
AWAY_AMONG_SHORT = "AwayAmongShort()"
_MORE_ATTACKS = (
    attacks.BatchTakeover(10.0),
    attacks.BatchTakeover(100.0),
    attacks.InnerProductManipulation(100.0),
    attacks.ModelReplacement(10.0, server_learning_rate=0.5),
    attacks.ALittleIsEnough(),
)
ATTACKS = {repr(attack): attack for attack in (*candidates(), *_MORE_ATTACKS)}


RegressionProblem = LinearRegression | SummarisedRegression | LogisticRegression

_LOST = 1e30  # a model further off is not trained on


@dataclass(frozen=True)
class Cell:
    """What a run is, but for its seed.

    Attributes
    ----------
    problem : str
    m, k, q, n, d : int
        Clients, batches, Byzantine clients, samples per client, dimensions.
    attack : str
        One of `ATTACKS`, `AWAY` or `NOBODY`.
    placement, rule : str
    rounds : int
    trimmed : bool
        Batch means longer than twice the median norm are left out, and k is what the strategy
        chooses for q, as in the repository's other simulations. Algorithm 2 trims nothing.
    through : {"engine", "flower"}
        What carries the replies: this module, or Flower's simulation.
    """

    problem: ProblemName
    m: int
    k: int
    q: int
    n: int
    d: int
    attack: str
    rounds: int
    placement: Placement = "one per batch"
    rule: RuleName = "geometric median"
    trimmed: bool = False
    through: Literal["engine", "flower"] = "engine"

    def __post_init__(self) -> None:
        if self.attack not in (NOBODY, AWAY, AWAY_AMONG_SHORT, *ATTACKS):
            raise ValueError(f"attack is not known: {self.attack!r}")
        for name, allowed in (("problem", ProblemName), ("rule", RuleName)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(allowed))}, "
                    f"got {getattr(self, name)!r}"
                )

    @property
    def num_samples(self) -> int:
        """N."""
        return self.m * self.n

    @property
    def rate(self) -> float:
        """The paper's rate √(dk/N)."""
        return math.sqrt(self.d * self.k / self.num_samples)


@dataclass(frozen=True)
class KnownRule:
    """What the server makes of all clients' vectors, as an adversary tries it out.

    The random bits of a random subset are not known to it (section 6 of the paper): it tries the
    mean, which is what it gets on average.
    """

    cell: Cell

    @property
    def num_batches(self) -> int:
        """The number of batches k."""
        return self.cell.k

    def __call__(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Aggregate (m, d) to (d,)."""
        cell = self.cell
        if cell.rule == "small norms":
            return mean_of_smallest_norms(vectors, cell.m - cell.q)
        if cell.rule == "random subset":
            return np.asarray(vectors.mean(axis=0))
        trim_norm = "auto" if cell.trimmed else None
        return geometric_median_of_means(vectors, cell.k, trim_norm=trim_norm, gamma=1e-6).point


def problem_of(cell: Cell, seed: int) -> RegressionProblem:
    """Make the problem of a run."""
    size = (cell.m, cell.n, cell.d, seed)
    match cell.problem:
        case "linear regression":
            return LinearRegression(*size)
        case "summarised regression":
            return SummarisedRegression(*size)
        case "uneven regression":
            return SummarisedRegression(*size, unevenness=0.5)
        case "logistic regression":
            return LogisticRegression(*size)


def step_of(cell: Cell) -> float:
    """Return the paper's step size η = L/(2M²)."""
    if cell.problem == "logistic regression":
        return step_size(*logistic_curvature())
    return step_size(1.0, 1.0)


def adversary_of(cell: Cell, problem: RegressionProblem) -> Adversary | None:
    """Return who attacks in a run, and how."""
    if cell.attack == NOBODY or cell.q == 0:
        return None
    schedules: dict[Placement, Callable[[], Schedule]] = {
        "one per batch": lambda: attacks.one_per_batch(cell.m, cell.q, cell.k),
        "packed": lambda: attacks.packed(cell.m, cell.q),
        "fresh each round": lambda: FreshEachRound(cell.m, cell.q, problem.seed),
        "rotating": lambda: Rotating(cell.m, cell.q),
    }
    attack: Attack
    if cell.attack in (AWAY, AWAY_AMONG_SHORT):
        away = AwayFromTruth if cell.attack == AWAY else AwayAmongShort
        attack = away(tuple(problem.optimum().tolist()))
    else:
        attack = ATTACKS[cell.attack]
    return Adversary(attack, schedules[cell.placement](), cell.q, KnownRule(cell))


def play(cell: Cell, seed: int) -> list[float]:
    """Train, and return the error ‖θ − θ*‖ from round 0 on; infinity once the model is lost."""
    problem = problem_of(cell, seed)
    adversary = adversary_of(cell, problem)
    step = _server(cell, seed)
    arrays = problem.initial_arrays()
    errors = [problem.evaluate(arrays)["error"]]
    with np.errstate(all="ignore"):  # a model that is lost is a result, too
        for server_round in range(1, cell.rounds + 1):
            replies = _replies(problem, adversary, arrays, server_round)
            arrays = step(server_round, arrays, replies)
            error = problem.evaluate(arrays)["error"]
            if not error < _LOST:
                return errors + [math.inf] * (cell.rounds + 1 - len(errors))
            errors.append(error)
    return errors


def _replies(
    problem: Problem, adversary: Adversary | None, arrays: Arrays, server_round: int
) -> list[tuple[int, Arrays]]:
    """Return what each client sends; the silent ones are left out."""
    byzantine = adversary.when(server_round) if adversary else frozenset()
    replies = []
    for client in range(problem.num_clients):
        if adversary is not None and client in byzantine:
            made = byzantine_reply(problem, adversary, client, arrays, server_round)
        else:
            made = problem.reply(client, arrays, server_round)
        if made is not None:
            replies.append((client, made[0]))
    return replies


def _server(cell: Cell, seed: int) -> Callable[[int, Arrays, Sequence[tuple[int, Arrays]]], Arrays]:
    """Return the server's step: number of the round, model sent and replies to the new model."""
    if cell.rule == "geometric median":
        return _median_server(cell)

    def step(server_round: int, arrays: Arrays, replies: Sequence[tuple[int, Arrays]]) -> Arrays:
        vectors = np.stack([vector for _, (vector,) in replies])
        if cell.rule == "small norms":
            gradient = mean_of_smallest_norms(vectors, cell.m - cell.q)
        else:
            own_seed = int(np.random.SeedSequence([seed, server_round]).generate_state(1)[0])
            gradient = mean_of_random_subset(vectors, cell.m - cell.q, seed=own_seed)
        return [(arrays[0] - step_of(cell) * gradient).astype(arrays[0].dtype)]

    return step


def _median_server(
    cell: Cell,
) -> Callable[[int, Arrays, Sequence[tuple[int, Arrays]]], Arrays]:
    """Return the step of the strategies' own round, from replies that need no parsing."""
    layout = Layout((ArraySpec("theta", (cell.d,), np.dtype(np.float32)),))
    chosen: dict[str, Any] = {"num_batches": cell.k}
    if cell.trimmed:
        chosen = {"num_byzantine": cell.q, "trim_norm": "auto"}
    settings = Settings(reply="gradients", server_learning_rate=step_of(cell), **chosen)
    rounds = Rounds(RoundOptions())
    server = RobustServer(settings, rounds)

    def step(server_round: int, arrays: Arrays, replies: Sequence[tuple[int, Arrays]]) -> Arrays:
        rounds.begin(Model(layout, tuple(arrays)), range(cell.m))
        opened = [Reply(client, Model(layout, tuple(sent))) for client, sent in replies]
        model, _ = server.aggregate(server_round, opened)
        return arrays if model is None else list(model.values)

    return step
