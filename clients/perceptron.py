"""Images classified by a small perceptron; clients reply weights after a few local steps.

NumPy alone, all clients at once: a round of twenty clients takes milliseconds, so that thousands of
trainings can be compared.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from .partition import Indices, partition
from .pools import least_class, pool
from .problem import Arrays

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Perceptron:
    """Classify a pool of images, split over clients, with one hidden layer.

    Parameters
    ----------
    images : str
        One of `pools.POOLS`.
    num_clients : int
        m.
    split : str
        How labels are spread, as in `partition`.
    hidden : int
        Width of the hidden layer.
    local_steps, batch_size, learning_rate
        Of the local stochastic gradient descent in a round. Every client makes as many steps,
        however many images it has.
    seed : int
    labels : {"true", "flipped"}
        Whether clients see c or C − 1 − c, of C classes.
    trusted : int
        Images that the server holds and no client does, of all classes as many as nearly as can be.
    trusted_classes : int
        Of how many classes, the first ones, the server's images are; 0 for all.

    Raises
    ------
    ValueError
        Where `trusted` or `trusted_classes` is negative; and from the methods that train, where so
        many images of these classes are more than there are.
    """

    images: str = "digits"
    num_clients: int = 20
    split: str = "iid"
    hidden: int = 32
    local_steps: int = 5
    batch_size: int = 32
    learning_rate: float = 0.5
    seed: int = 0
    labels: Literal["true", "flipped"] = "true"
    trusted: int = 0
    trusted_classes: int = 0

    reply_kind: ClassVar[Literal["weights"]] = "weights"
    measure: ClassVar[Literal["accuracy"]] = "accuracy"
    server_learning_rate: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if min(self.trusted, self.trusted_classes) < 0:
            raise ValueError("trusted and trusted_classes must be at least 0")

    def initial_arrays(self) -> Arrays:
        """Return the weights and biases of both layers, drawn as He et al. (2015) do."""
        data = pool(self.images)
        rng = np.random.default_rng(self.seed)
        widths = (data.images.shape[1], self.hidden, data.num_classes)
        arrays: Arrays = []
        for inputs, outputs in pairwise(widths):
            drawn = rng.normal(scale=np.sqrt(2 / inputs), size=(inputs, outputs))
            arrays += [drawn.astype(np.float32), np.zeros(outputs, np.float32)]
        return arrays

    def reply(
        self, client: int, arrays: Arrays, server_round: int
    ) -> tuple[Arrays, int, dict[str, float]]:
        """Return the weights after the client's local steps."""
        model = tuple((array.tobytes(), array.shape) for array in arrays)
        stacks, losses = _trained(self, server_round, model)
        size = len(client_images(replace(self, labels="true"))[client])
        return [stack[client] for stack in stacks], size, {"loss": float(losses[client])}

    def relabelled(self) -> "Perceptron":
        """Return the problem in which every client sees C − 1 − c for c."""
        return replace(self, labels="flipped")

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        """Return the accuracy on the images held out, and on the worst of their classes.

        Zero for a model that is not finite.
        """
        data = pool(self.images)
        _, right = _measure(arrays, data.held_out, data.held_out_labels)
        least = least_class(right, data.held_out_labels)
        return {"accuracy": float(right.mean()), "least-class": least}

    def evaluate_client(self, client: int, arrays: Arrays) -> tuple[float, int, dict[str, float]]:
        """Return loss and accuracy on the client's own images."""
        own = client_images(replace(self, labels="true"))[client]
        loss, right = _measure(arrays, pool(self.images).images[own], self._seen()[own])
        return loss, len(own), {"accuracy": float(right.mean())}

    def server_update(self, server_round: int, arrays: Arrays) -> Arrays:
        """Return the weights after as many local steps on the server's images, labelled truly."""
        rng = np.random.default_rng([self.seed, self.num_clients, server_round])
        own = server_images(self)
        drawn = own[rng.integers(len(own), size=(self.local_steps, 1, self.batch_size))]
        stacks, _ = _descend(replace(self, labels="true"), arrays, drawn)
        return [stack[0] for stack in stacks]

    def trusted_loss(self, arrays: Arrays) -> float:
        """Return the loss on the server's images."""
        data, own = pool(self.images), server_images(self)
        return _measure(arrays, data.images[own], data.labels[own])[0]

    def _seen(self) -> NDArray[np.int64]:
        data = pool(self.images)
        return data.num_classes - 1 - data.labels if self.labels == "flipped" else data.labels


@lru_cache(maxsize=2)
def _trained(
    problem: Perceptron, server_round: int, model: tuple[tuple[bytes, tuple[int, ...]], ...]
) -> tuple[list[Floats], Floats]:
    """Train all clients from one model: the stacks of their arrays, (m, ...), and last losses."""
    start = [np.frombuffer(data, np.float32).reshape(shape) for data, shape in model]
    clients = range(problem.num_clients)
    drawn = np.stack([_draw(problem, client, server_round) for client in clients], axis=1)
    return _descend(problem, start, drawn)


def _descend(problem: Perceptron, start: Arrays, drawn: Indices) -> tuple[list[Floats], Floats]:
    """Train m models from one, on the images drawn (local_steps, m, batch_size)."""
    m = drawn.shape[1]
    first, first_bias, second, second_bias = (np.repeat(a[None], m, axis=0) for a in start)
    images, labels = pool(problem.images).images, problem._seen()
    rows, columns = np.ogrid[:m, : problem.batch_size]
    losses = np.zeros(m, np.float32)
    rate = np.float32(problem.learning_rate)
    with np.errstate(all="ignore"):  # from a lost model, clients train in vain
        for batch in drawn:
            x, y = images[batch], labels[batch]
            before = x @ first + first_bias[:, None]
            active = np.maximum(before, 0)
            chances = _softmax(active @ second + second_bias[:, None])
            losses = -np.log(chances[rows, columns, y]).mean(axis=1)
            chances[rows, columns, y] -= 1
            chances /= problem.batch_size
            back = (chances @ second.transpose(0, 2, 1)) * (before > 0)
            second -= rate * (active.transpose(0, 2, 1) @ chances)
            second_bias -= rate * chances.sum(axis=1)
            first -= rate * (x.transpose(0, 2, 1) @ back)
            first_bias -= rate * back.sum(axis=1)
    return [first, first_bias, second, second_bias], losses


def _draw(problem: Perceptron, client: int, server_round: int) -> Indices:
    """Draw the images of a client's local steps, (local_steps, batch_size)."""
    own = client_images(replace(problem, labels="true"))[client]
    rng = np.random.default_rng([problem.seed, client, server_round])
    return own[rng.integers(len(own), size=(problem.local_steps, problem.batch_size))]


def _softmax(scores: Floats) -> Floats:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _measure(
    arrays: Arrays, images: Floats, labels: NDArray[np.int64]
) -> tuple[float, NDArray[np.bool_]]:
    """Return the loss, and which images are classified rightly."""
    first, first_bias, second, second_bias = arrays
    with np.errstate(all="ignore"):
        scores = np.maximum(images @ first + first_bias, 0) @ second + second_bias
        loss = -np.log(_softmax(scores)[np.arange(len(labels)), labels]).mean()
    right = (scores.argmax(axis=1) == labels) & np.isfinite(scores).all(axis=1)
    return float(loss), right


@lru_cache(maxsize=1)
def client_images(problem: Perceptron) -> list[Indices]:
    """Return which images of the pool each client has."""
    labels = pool(problem.images).labels
    left = np.arange(len(labels))
    if problem.trusted:
        left = np.setdiff1d(left, server_images(problem))
    split = partition(labels[left], problem.num_clients, problem.split, problem.seed)
    return [left[own] for own in split]


@lru_cache(maxsize=2)
def server_images(problem: Perceptron) -> Indices:
    """Return which images the server has: the first ones of each class in a random order."""
    data, wanted = pool(problem.images), problem.trusted
    order = np.random.default_rng([problem.seed, 1]).permutation(len(data.labels))
    allowed = order[data.labels[order] < (problem.trusted_classes or data.num_classes)]
    if not 0 < wanted <= len(allowed):
        raise ValueError(f"trusted must be from 1 to {len(allowed)} to train on, got {wanted}")
    labels = data.labels[allowed]
    turn = np.zeros(len(labels), np.int64)  # how many of its class come before an image
    for label in range(data.num_classes):
        turn[labels == label] = np.arange((labels == label).sum())
    return np.asarray(allowed[np.argsort(turn, kind="stable")[:wanted]])
