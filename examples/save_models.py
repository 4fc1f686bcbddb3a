"""Save the model after each round, as a file of NumPy's: ``python -m examples.save_models``.

With PyTorch, ``torch.save(arrays.to_torch_state_dict(), path)`` takes the place of `np.savez`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from flwr_byz.serverapp.strategy import GeometricMedianOfMeans

from .app import NUM_CLIENTS, initial_arrays, simulate

server_app = ServerApp()


def save_in(folder: Path) -> Callable[[int, ArrayRecord, Any], None]:
    """Return a function for `on_round_end` that saves models in a folder."""
    folder.mkdir(parents=True, exist_ok=True)

    def save(server_round: int, arrays: ArrayRecord, metrics: Any) -> None:
        path = folder / f"round-{server_round:03d}.npz"
        np.savez(path, **{name: array.numpy() for name, array in arrays.items()})

    return save


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for three rounds; "folder" of the run config is where the models go."""
    folder = Path(str(context.run_config.get("folder", "results/models")))
    strategy = GeometricMedianOfMeans(
        num_byzantine=2, min_available_nodes=NUM_CLIENTS, on_round_end=save_in(folder)
    )
    strategy.start(grid, initial_arrays(), num_rounds=3)


if __name__ == "__main__":
    simulate(server_app)
