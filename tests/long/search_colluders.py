"""Search at random for colluders whose cancelling vectors lead further than the sharp bound.

``python -m tests.long.search_colluders`` prints such a round, and the exit code is 1 then.
"""

import logging
import tempfile
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
) -> None:
    """Search for a violation of the sharp bound."""
    logging.getLogger("flwr").setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")
    rng, closest = np.random.default_rng(seed), 0.0
    with tempfile.TemporaryDirectory() as folder:
        audit = Path(folder) / "audit.jsonl"
        for _ in track(range(cases), "rounds", console=Console(stderr=True)):
            drawn = draw(rng)
            try:
                _, allowed, distance = drawn.play(audit)
                assert distance <= allowed, f"{distance:.6g} > {allowed:.6g}"
            except Exception:
                print(drawn)
                raise
            audit.unlink(missing_ok=True)
            if 0 < allowed < np.inf:
                closest = max(closest, distance / allowed)
    print(f"{cases} rounds, at most {closest:.4f} of the bound")


if __name__ == "__main__":
    typer.run(main)
