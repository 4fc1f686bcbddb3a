"""A trial in which everything fails once: ``python -m trial.with_faults``."""

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from flwr_byz import audit

from .deployment import Deployment, round_of
from .picture import draw
from .proxy import Proxy

NUM_NODES, NUM_ROUNDS, DEADLINE = 10, 5, 30.0
BYZANTINE = (0, 5)  # evenly spaced, as two of ten are
FAULTS = {1: "raise", 2: "none,late,none,none,none", 3: "none,none,exit,none,none", 4: "flood"}
ROOT = Path(__file__).parents[1]


def run(folder: Path) -> tuple[list[int], list[float]]:
    """Train on ten nodes; return their ids, and the error after each round.

    Nodes 0 and 5 attack; 1 to 4 fail as `FAULTS` says; after round 1 node 5 is cut off for a round,
    6 is killed, and comes back when the SuperLink lets it, and 7 joins; after round 3 the ServerApp
    is killed, and a second run goes on. The audit trail is ``audit.jsonl`` in the folder.

    Raises
    ------
    RuntimeError
        Where the second run does not complete.
    """
    options = {
        "attack": "sign-flip",
        "num-byzantine": len(BYZANTINE),
        "num-rounds": NUM_ROUNDS,
        "num-clients": NUM_NODES,
        "round-timeout": DEADLINE,
        "audit": str(folder / "audit.jsonl"),
        "checkpoints": str(folder / "checkpoints"),
    }
    errors: dict[int, float] = {}
    with (
        Deployment(folder, NUM_NODES, ROOT, FAULTS, absent=[5, 7]) as deployment,
        Proxy(deployment.port) as network,
    ):
        deployment.start_node(5, network.port)
        for number, error in _rounds(deployment, options):
            errors[number] = error
            if number == 1:
                deployment.signal_node(6, signal.SIGKILL)
                network.cut()
                deployment.start_node(7)
            if number == 2:
                network.mend()
            if number == 3:
                break
        for server in deployment.processes("flwr-serverapp"):
            server.kill()
        errors |= dict(_rounds(deployment, options))
        status = deployment.runs()[0]["status"]
    if status != "finished:completed":
        raise RuntimeError(f"the run ended as {status}; see {folder / 'logs'}")
    return deployment.node_ids, [errors[number] for number in sorted(errors)]


def _rounds(deployment: Deployment, options: Mapping[str, Any]) -> Iterator[tuple[int, float]]:
    """Run the app, and yield each round and its error as it ends."""
    lines = deployment.run(options).stdout
    assert lines is not None
    for found in filter(None, map(round_of, lines)):
        number, _, error = found
        yield number, error


def main(
    results: Annotated[Path, typer.Argument(help="A new folder for results, logs and keys.")],
) -> None:
    """Run the trial, which takes three minutes, and draw it."""
    if (results / "checkpoints").exists():
        raise typer.BadParameter(f"{results} holds a trial already")
    node_ids, errors = run(results)
    rounds = {line["round"]: line for line in audit.read(results / "audit.jsonl")}
    draw(list(rounds.values()), node_ids, BYZANTINE, errors, "error", results / "trial.png")
    typer.echo(f"picture: {results / 'trial.png'}")


if __name__ == "__main__":
    typer.run(main)
