"""The strongest attack and placement for given m, q and k: ``python -m simulations.worst_case``."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from clients.byzantine import Adversary, byzantine_reply
from clients.experiments import EXPERIMENTS
from clients.problem import Problem
from clients.server_rule import ServerRule
from flwr_byz import attacks
from flwr_byz.attacks import Attack, FreshEachRound, Rotating, Schedule
from flwr_byz.attacks.arrays import flatten, unflatten

_DIRECTIONS: tuple[attacks.Direction, ...] = ("mean", "spread", "sign")
_SHOWN = 12


@dataclass(frozen=True)
class Outcome:
    """What an attack from a placement comes to.

    Attributes
    ----------
    attack : Attack or None
        None where nobody attacks.
    placement : str
    final : float
        The problem's measure after the last round.
    """

    attack: Attack | None
    placement: str
    final: float


def candidates() -> Iterator[Attack]:
    """Yield the attacks that are tried, with their parameters."""
    for scale in (1.0, 3.0, 10.0):
        yield attacks.SignFlip(scale)
    for scale in (1.0, 10.0, 200.0):
        yield attacks.GaussianNoise(scale)
    for epsilon in (0.1, 0.5, 1.0, 3.0, 10.0):
        yield attacks.InnerProductManipulation(epsilon)
    for z in (0.5, 1.0, 1.5, 3.0):
        yield attacks.ALittleIsEnough(z)
    for direction in _DIRECTIONS:
        yield attacks.MinMax(direction)
        yield attacks.MinSum(direction)
        for radius in (0.5, 1.0, 2.0, 4.0):
            yield attacks.BatchTakeover(radius, direction)
    yield attacks.Mimic()
    yield attacks.FangTrimmedMean()
    yield attacks.FangKrum()
    yield attacks.LabelFlip()
    yield attacks.Constant()
    yield attacks.ModelReplacement()
    yield attacks.Adaptive()


def placements(m: int, q: int, k: int, seed: int) -> dict[str, Schedule]:
    """Return where the Byzantine clients can stand."""
    chosen: dict[str, Schedule] = {
        "packed": attacks.packed(m, q),
        "fresh each round": FreshEachRound(m, q, seed),
        "rotating": Rotating(m, q),
    }
    if q <= k:
        chosen["one per batch"] = attacks.one_per_batch(m, q, k)
    return chosen


def train(
    problem: Problem, adversary: Adversary | None, rule: ServerRule, rounds: int, step: float
) -> dict[str, float]:
    """Run rounds without Flower, and evaluate the model that comes of them.

    Clients, attacks and rule are those of the simulations; nothing is sent.
    """
    arrays = problem.initial_arrays()
    along = -step if problem.reply_kind == "gradients" else step
    for server_round in range(1, rounds + 1):
        byzantine = adversary.when(server_round) if adversary else frozenset()
        model = flatten(arrays)
        origin = model if problem.reply_kind == "weights" else 0.0
        vectors = []
        for client in range(problem.num_clients):
            if adversary is not None and client in byzantine:
                reply = byzantine_reply(problem, adversary, client, arrays, server_round)
                assert reply is not None
            else:
                reply = problem.reply(client, arrays, server_round)
            vectors.append(flatten(reply[0]) - origin)
        arrays = unflatten(model + along * rule(np.stack(vectors)), arrays)
    return problem.evaluate(arrays)


def main(
    experiment: Annotated[str, typer.Option(help="linear-regression or digits.")] = (
        "linear-regression"
    ),
    num_clients: Annotated[int, typer.Option("--m", min=1, help="Number of clients m.")] = 40,
    num_byzantine: Annotated[int, typer.Option("--q", min=1, help="Byzantine clients q.")] = 5,
    num_batches: Annotated[
        int, typer.Option("--k", min=0, help="Number of batches k; 0 is what q asks for.")
    ] = 0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of training.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Seed of data and attacks.")] = 0,
    results: Annotated[Path, typer.Option(help="Folder for the table.")] = Path("results"),
) -> None:
    """Try every attack from every placement against ours, and report the worst."""
    if experiment not in EXPERIMENTS:
        raise typer.BadParameter(f"experiment must be one of {', '.join(EXPERIMENTS)}")
    if 2 * num_byzantine >= num_clients:
        raise typer.BadParameter(f"q must be less than half of m = {num_clients}")
    if num_batches > num_clients:
        raise typer.BadParameter(f"k must be at most m = {num_clients}")
    setup = EXPERIMENTS[experiment]
    problem = setup.problem(num_clients, seed)
    m, q = num_clients, num_byzantine
    rule = ServerRule("geometric-median-of-means", m, q, num_batches or None)
    k = rule.num_batches
    console = Console()

    def outcome(attack: Attack | None, placement: str, when: Schedule | None) -> Outcome:
        adversary = None
        if attack is not None and when is not None:
            adversary = Adversary(attack, when, q, rule)
        with np.errstate(all="ignore"):
            measures = train(problem, adversary, rule, rounds, setup.server_learning_rate)
        value = measures[setup.measure]
        return Outcome(attack, placement, value if np.isfinite(value) else setup.worst)

    tried = [outcome(None, "", None)]
    plan = [(a, p, w) for p, w in placements(m, q, k, seed).items() for a in candidates()]
    for attack, placement, when in track(plan, description=experiment, console=console):
        tried.append(outcome(attack, placement, when))
    tried.sort(key=lambda o: o.final, reverse=setup.measure == "error")

    path = results / f"worst-case-{experiment}-m{m}-q{q}-k{k}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["attack", "placement", setup.measure])
        writer.writerows([_title(o.attack), o.placement, o.final] for o in tried)
    table = Table(title=f"{experiment}: m = {m}, q = {q}, k = {k}, {rounds} rounds, seed {seed}")
    for column in ("attack", "placement", f"final {setup.measure}"):
        table.add_column(column)
    calm = next(o for o in tried if o.attack is None)
    for o in [*tried[:_SHOWN], calm]:
        table.add_row(_title(o.attack), o.placement, f"{o.final:.4g}")
    console.print(table)
    if setup.measure == "error":
        samples = sum(problem.reply(c, problem.initial_arrays(), 1)[1] for c in range(m))
        rate = float(np.sqrt(flatten(problem.initial_arrays()).size * k / samples))
        console.print(
            f"the worst is {tried[0].final / rate:.2f} times the paper's rate √(dk/N) = "
            f"{rate:.3g}, and {tried[0].final / calm.final:.2f} times the error without attack"
        )
    console.print(f"all {len(tried)} runs: {path.resolve()}", soft_wrap=True)


def _title(attack: Attack | None) -> str:
    return "nobody attacks" if attack is None else repr(attack)


if __name__ == "__main__":
    typer.run(main)
