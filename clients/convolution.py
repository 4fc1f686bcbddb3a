"""Signals classified by a small convolutional network; clients reply weights after local steps."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from .network import Data, Labels, NetworkProblem, arrays_of, chosen, train
from .partition import Indices, partition
from .pools import pool
from .problem import Arrays


@dataclass(frozen=True)
class Convolution(NetworkProblem):
    """Classify a pool of signals, split over clients, with three convolutions and a linear layer.

    The maximum over time before the linear layer makes the scores depend little on where in the
    signal a shape stands, which a perceptron would have to learn for each place.

    Parameters
    ----------
    images : str
        One of `pools.POOLS`; an image is taken as the signal of its pixels, row by row.
    num_clients : int
        m.
    split : str
        How labels are spread, as in `partition`.
    channels : int
        Of each convolution: 25 make 6710 parameters for ten classes.
    local_steps, batch_size, learning_rate, momentum
        Of the local stochastic gradient descent in a round. Every client makes as many steps,
        however many signals it has, and its momentum starts from zero.
    seed : int
    labels : {"true", "flipped"}
        Whether clients see c or C − 1 − c, of C classes.
    """

    images: str = "mnist1d"
    num_clients: int = 20
    split: str = "iid"
    channels: int = 25
    local_steps: int = 10
    batch_size: int = 32
    learning_rate: float = 0.1
    momentum: float = 0.9
    seed: int = 0
    labels: Labels = "true"

    def reply(
        self, client: int, arrays: Arrays, server_round: int
    ) -> tuple[Arrays, int, dict[str, float]]:
        """Return the weights after the client's local steps."""
        data = self.samples(client)
        size = len(data[1])
        network = self.network(arrays)
        optimiser = torch.optim.SGD(network.parameters(), self.learning_rate, self.momentum)
        rng = np.random.default_rng([self.seed, client, server_round])
        batches = torch.from_numpy(rng.integers(size, size=(self.local_steps, self.batch_size)))
        loss = train(network, optimiser, data, batches)
        return arrays_of(network), size, {"loss": loss}

    def samples(self, client: int) -> Data:
        """Return a client's own signals and their labels."""
        return _own(self, client)

    def layers(self) -> nn.Module:
        """Return the network, drawn as PyTorch does."""
        width, num_classes = self.channels, pool(self.images).num_classes
        return nn.Sequential(
            nn.Unflatten(1, (1, -1)),
            nn.Conv1d(1, width, kernel_size=5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv1d(width, width, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.Conv1d(width, width, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.AdaptiveMaxPool1d(1),
            nn.Flatten(),
            nn.Linear(width, num_classes),
        )


@lru_cache(maxsize=1)
def _partitions(problem: Convolution) -> list[Indices]:
    labels = pool(problem.images).labels
    return partition(labels, problem.num_clients, problem.split, problem.seed)


@lru_cache(maxsize=1024)
def _own(problem: Convolution, client: int) -> Data:
    own = _partitions(replace(problem, labels="true"))[client]
    return chosen(problem.images, own, problem.labels)
