"""Byzantine-robust federated learning for Flower.

The rooms carry Flower's names: swap ``flwr`` for ``flwr_byz`` in an import line.

- ``flwr_byz.serverapp.strategy.GeometricMedianOfMeans``: strategy for Flower's Message API.
- ``flwr_byz.server.strategy.GeometricMedianOfMeans``: strategy for ``NumPyClient`` apps.
- ``flwr_byz.aggregation``: the rule itself, on NumPy vectors.
- ``flwr_byz.attacks``: what a Byzantine client sends.
- ``flwr_byz.theory``: what the paper guarantees, and the settings that follow.

Source: Chen, Su, Xu, "Distributed Statistical Machine Learning in Adversarial Settings:
Byzantine Gradient Descent" (2017), called "the paper" in this package.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name):
        """Read ``__version__`` where it is asked for: pyproject.toml holds it."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        return version("flwr-byz")
