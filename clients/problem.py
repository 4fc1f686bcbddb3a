"""What a problem is: the model, and what each honest client replies. Everything else needs no more.

A problem is a small frozen dataclass that every process can make anew: data follow from its seed.
"""

from dataclasses import fields
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from flwr_byz.attacks.names import parse_call

Arrays = list[NDArray[Any]]
Measure = Literal["error", "accuracy"]

_MODULES = {
    "LinearRegression": "regression",
    "OneShotRegression": "regression",
    "PooledRegression": "pooled_regression",
    "SummarizedRegression": "summarized_regression",
    "LogisticRegression": "logistic_regression",
    "Digits": "digits",
    "Perceptron": "perceptron",
    "Convolution": "convolution",
}


class Problem(Protocol):
    """A federated learning problem."""

    @property
    def num_clients(self) -> int:
        """Number of clients m."""

    @property
    def seed(self) -> int:
        """Seed of the data and of everything random that follows."""

    @property
    def reply_kind(self) -> Literal["weights", "gradients"]:
        """What an honest client sends."""

    @property
    def measure(self) -> Measure:
        """Which number of `evaluate` a model is judged by."""

    @property
    def server_learning_rate(self) -> float:
        """The server's step η."""

    def initial_arrays(self) -> Arrays:
        """Return the model that the server starts from."""

    def reply(
        self, client: int, arrays: Arrays, server_round: int
    ) -> tuple[Arrays, int, dict[str, float]]:
        """Return what an honest client sends: arrays, number of examples, metrics.

        It depends on the arguments and the seed alone.
        """

    def relabelled(self) -> "Problem":
        """Return the problem with corrupted labels in the place of every client's own."""

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        """Return how good a model is, by the measure that the problem is reported in."""

    def evaluate_client(self, client: int, arrays: Arrays) -> tuple[float, int, dict[str, float]]:
        """Return loss, number of examples and metrics of a model on one client's data."""


class TrustedData(Problem, Protocol):
    """A problem whose server may hold data itself, which no client has."""

    @property
    def trusted(self) -> int:
        """How many samples the server holds; 0 for none, and then the rest raises ValueError."""

    def server_update(self, server_round: int, arrays: Arrays) -> Arrays:
        """Return what the server would reply itself, from its own data.

        It depends on the arguments and the seed alone.
        """

    def trusted_loss(self, arrays: Arrays) -> float:
        """Return a model's loss on the server's data; inf or NaN for one that is not finite."""


@lru_cache(maxsize=64)
def make_problem(text: str, num_clients: int, seed: int, split: str = "") -> Problem:
    """Make a problem from its class and options, such as ``"LinearRegression(dim=20)"``.

    Parameters
    ----------
    text : str
    num_clients, seed : int
    split : str
        How data are spread over the clients, as in `clients.partition`; "" is the problem's own.

    Raises
    ------
    ValueError
        Where the problem is not known, or does not take an option or a split.
    """
    name, options = parse_call(text, "a problem", "LinearRegression(dim=20)")
    if name not in _MODULES:
        raise ValueError(f"problem must be one of {', '.join(_MODULES)}, got {name!r}")
    kind = getattr(import_module(f"{__package__}.{_MODULES[name]}"), name)
    if split:
        from .partition import check_split  # which needs flwr-datasets

        options["split"] = check_split(split)
    known = {field.name for field in fields(kind)} - {"num_clients", "seed", "labels"}
    if unknown := set(options) - known:
        raise ValueError(
            f"{name} has no option {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}"
        )
    problem: Problem = kind(num_clients=num_clients, seed=seed, **options)
    return problem
