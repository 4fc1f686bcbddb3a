"""Search at random for colluders whose cancelling vectors lead further than the sharp bound.

``python -m tests.long.search_colluders`` prints such a round, and the exit code is 1 then.
"""

import logging
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from tests.support.colluders import draw


def main(
    cases: Annotated[int, typer.Option(min=1, help="Rounds to draw.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    most: Annotated[int, typer.Option(min=1, help="Violations after which to stop.")] = 20,
) -> None:
    """Search for violations of the sharp bound."""
    logging.getLogger("flwr").setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")
    rng, ran, found, closest = np.random.default_rng(seed), 0, 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        audit = Path(folder) / "audit.jsonl"
        for _ in track(range(cases), "rounds", console=Console(stderr=True)):
            ran, drawn = ran + 1, draw(rng)
            try:
                _, allowed, distance = drawn.play(audit)
            except Exception:
                traceback.print_exc(limit=-3)
                allowed, distance = 0.0, np.inf
            audit.unlink(missing_ok=True)
            if distance > allowed:
                found += 1
                print(f"{distance:.6g} > {allowed:.6g}: {drawn}", flush=True)
            elif 0 < allowed < np.inf:
                closest = max(closest, distance / allowed)
            if found >= most:
                break
    print(f"{ran} rounds, {found} violations, else at most {closest:.4f} of the bound")
    raise typer.Exit(1 if found else 0)


if __name__ == "__main__":
    typer.run(main)
