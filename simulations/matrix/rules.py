"""The rules that are compared: each as a strategy, and as what an all-knowing adversary tries."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from clients.problem import Problem
from clients.server_rule import OURS, ServerRule
from clients.server_rule import RuleName as ServerRuleName

from ..rules import Plan, message_strategy
from ..selection import mean_of_random_subset, mean_of_smallest_norms
from .selection import Select, Selection

RuleName = Literal[
    "fedavg",
    "fedmedian",
    "fedtrimmedavg",
    "krum",
    "multi-krum",
    "bulyan",
    "random-subset",
    "small-norms",
    "geometric-median",
    "ours",
    "ours-rebucketed",
]
"""Of Flower; of the paper's section 6; of this package."""

STOCK: tuple[RuleName, ...] = get_args(RuleName)[:6]
OWN: tuple[RuleName, ...] = get_args(RuleName)[8:]

TITLES: Mapping[RuleName, str] = {
    "fedavg": "FedAvg",
    "fedmedian": "FedMedian",
    "fedtrimmedavg": "FedTrimmedAvg",
    "krum": "Krum",
    "multi-krum": "Multi-Krum",
    "bulyan": "Bulyan",
    "random-subset": "random subset",
    "small-norms": "smallest norms",
    "geometric-median": "ours, k = m",
    "ours": "ours",
    "ours-rebucketed": "ours, re-bucketed",
}


@dataclass(frozen=True)
class SelectionRule:
    """A selection rule as an adversary knows it: it cannot foresee a random subset.

    Parameters
    ----------
    name : str
    num_clients, num_byzantine : int
        m and q.
    """

    name: RuleName
    num_clients: int
    num_byzantine: int

    @property
    def num_batches(self) -> int:
        """Every client alone."""
        return self.num_clients

    def __call__(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Aggregate vectors, (m, d) to (d,)."""
        if self.name == "random-subset":
            return np.asarray(vectors.mean(axis=0))
        return mean_of_smallest_norms(vectors, self.num_clients - self.num_byzantine)


KnownRule = ServerRule | SelectionRule


def known_rule(name: RuleName, num_clients: int, num_byzantine: int) -> KnownRule:
    """Return what an adversary that knows everything takes the server's rule for."""
    if name in ("random-subset", "small-norms"):
        return SelectionRule(name, num_clients, num_byzantine)
    if name in STOCK:
        return ServerRule(name, num_clients, num_byzantine)
    return ServerRule(OURS, num_clients, num_byzantine, _batches(name, num_clients, num_byzantine))


def strategy_of(
    name: RuleName, problem: Problem, num_byzantine: int, step_size: float, seed: int
) -> Strategy:
    """Return a rule as a strategy of the Message API, set for q, with all clients in each round.

    Parameters
    ----------
    name : str
    problem : Problem
    num_byzantine : int
        q.
    step_size : float
        η.
    seed : int
        Of what the rule itself draws.
    """
    m = problem.num_clients
    if name in ("random-subset", "small-norms"):
        return Selection(
            _select(name, m - num_byzantine, seed),
            problem.reply_kind,
            step_size,
            fraction_evaluate=0.0,
            min_train_nodes=m,
            min_available_nodes=m,
        )
    ours: dict[str, Any] = {}
    if name in OWN:
        if k := _batches(name, m, num_byzantine):
            ours = {"num_byzantine": None, "num_batches": k}
        if name == "geometric-median":
            ours["trim_norm"] = None
        if name == "ours-rebucketed":
            ours["bucketing_seed"] = seed
    rule: ServerRuleName = OURS if name in OWN else name
    plan = Plan(rule, "message", num_byzantine, 0, step_size, ours=ours)
    return message_strategy(plan, problem)


def _batches(name: RuleName, num_clients: int, num_byzantine: int) -> int | None:
    """Return the k that is chosen; None where it follows from q."""
    if name == "geometric-median":
        return num_clients
    if name == "ours-rebucketed":  # two clients to a batch, where that outvotes q
        return max((num_clients + 1) // 2, 2 * num_byzantine + 1)
    return None


def _select(name: RuleName, num_selected: int, seed: int) -> Select:
    def smallest(vectors: NDArray[np.float64], server_round: int) -> NDArray[np.float64]:
        return mean_of_smallest_norms(vectors, min(num_selected, len(vectors)))

    def random(vectors: NDArray[np.float64], server_round: int) -> NDArray[np.float64]:
        own_seed = int(np.random.SeedSequence([seed, server_round]).generate_state(1)[0])
        return mean_of_random_subset(vectors, min(num_selected, len(vectors)), seed=own_seed)

    return smallest if name == "small-norms" else random
