"""A trial in which everything fails once: ``python -m trial.with_faults``."""

import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from .deployment import Deployment, round_of
from .picture import draw
from .proxy import Proxy

ROOT = Path(__file__).parents[1]
NUM_NODES = 7
ATTACKER, LATE, EXITING, CUT_OFF, KILLED, FROZEN, NEWCOMER = range(NUM_NODES)
FAULTS = {LATE: "late,raise,none,none,none", EXITING: "exit,flood,none,none,none"}  # by round


@contextmanager
def deployed(folder: Path, num_nodes: int = NUM_NODES) -> Iterator[tuple[Deployment, Proxy]]:
    """Bring up the nodes before the newcomer, and a network that reaches one of them."""
    deployment = Deployment(folder, num_nodes, ROOT, FAULTS, absent=range(NEWCOMER, num_nodes))
    with closing(Proxy(deployment.port)) as network:
        deployment.ports[CUT_OFF] = network.port
        with deployment:
            yield deployment, network


def options(num_rounds: int) -> dict[str, Any]:
    """Return the run config of a training."""
    attack = {"attack": "SignFlip(scale=10)", "num-byzantine": 1}
    return attack | {"num-clients": NUM_NODES, "num-rounds": num_rounds}


def fail(deployment: Deployment, network: Proxy, num_rounds: int) -> None:
    """Run a first round in which every honest node fails and one joins; kill the ServerApp."""
    deployment.await_nodes()
    run = deployment.run(options(num_rounds) | {"num-clients": NEWCOMER, "round-timeout": 10.0})
    next(filter(round_of, run))  # of round 0: the first one begins
    network.close()
    deployment.signal_node(KILLED, signal.SIGKILL)
    deployment.signal_node(FROZEN, signal.SIGSTOP)
    deployment.start_node(NEWCOMER)
    while not (deployment.checkpoints / "round-000001.npz").exists():
        time.sleep(0.1)
    deployment.kill_server()
    network.open()
    deployment.signal_node(FROZEN, signal.SIGCONT)
    deployment.stop_run()  # before the node that was killed is back


def main(
    results: Annotated[Path, typer.Argument(help="A new folder for results, logs and keys.")],
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of training.")] = 5,
) -> None:
    """Run the trial, which takes two minutes, and draw it."""
    if (results / "checkpoints").exists():
        raise typer.BadParameter(f"{results} holds a trial already; name a new folder")
    with deployed(results) as (deployment, network):
        fail(deployment, network, rounds)
        deployment.await_nodes()  # to be back
        for _ in deployment.run(options(rounds)):
            pass
    typer.echo(f"picture: {draw(deployment, {ATTACKER})}")


if __name__ == "__main__":
    typer.run(main)
