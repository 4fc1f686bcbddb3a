"""Handwritten digits, split unevenly over clients that reply trained weights."""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import ClassVar

import numpy as np
import torch
from datasets import Dataset
from flwr_datasets.partitioner import DirichletPartitioner
from torch import nn

from .network import Data, Labels, NetworkProblem, arrays_of, chosen, train
from .pools import pool
from .problem import Arrays


@dataclass(frozen=True)
class Digits(NetworkProblem):
    """Classify scikit-learn's 8 × 8 images of digits with a small perceptron.

    A quarter of the 1797 images is held out for `evaluate`; the rest is split over the clients by
    flwr-datasets' Dirichlet partitioner.

    Parameters
    ----------
    num_clients : int
        m.
    alpha : float
        Concentration of the Dirichlet split: the smaller, the fewer classes a client sees.
    hidden : int
        Width of the hidden layer.
    epochs, batch_size, learning_rate
        Of the local training, by stochastic gradient descent.
    seed : int
    labels : {"true", "flipped"}
        Whether clients see c or 9 − c.
    """

    images: ClassVar[str] = "digits"

    num_clients: int = 20
    alpha: float = 10.0
    hidden: int = 32
    epochs: int = 4
    batch_size: int = 16
    learning_rate: float = 0.1
    seed: int = 0
    labels: Labels = "true"

    def reply(
        self, client: int, arrays: Arrays, server_round: int
    ) -> tuple[Arrays, int, dict[str, float]]:
        """Return the weights after training on the client's images."""
        data = self.samples(client)
        size = len(data[1])
        network = self.network(arrays)
        optimiser = torch.optim.SGD(network.parameters(), lr=self.learning_rate)
        entropy = np.random.SeedSequence([self.seed, client, server_round]).generate_state(1)
        generator = torch.Generator().manual_seed(int(entropy[0]))
        epochs = (torch.randperm(size, generator=generator) for _ in range(self.epochs))
        batches = chain.from_iterable(epoch.split(self.batch_size) for epoch in epochs)
        loss = train(network, optimiser, data, batches)
        return arrays_of(network), size, {"loss": loss}

    def samples(self, client: int) -> Data:
        """Return a client's own images and their labels."""
        return _partition(self, client)

    def layers(self) -> nn.Module:
        """Return the network, drawn as PyTorch does."""
        return nn.Sequential(nn.Linear(64, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 10))


@lru_cache(maxsize=1)
def _partitions(problem: Digits) -> list[np.ndarray]:
    """Split the training images: for each client, the indices of its own."""
    labels = pool("digits").labels
    partitioner = DirichletPartitioner(
        num_partitions=problem.num_clients,
        partition_by="label",
        alpha=problem.alpha,
        min_partition_size=problem.batch_size,
        seed=problem.seed,
    )
    partitioner.dataset = Dataset.from_dict({"label": labels, "index": np.arange(len(labels))})
    clients = range(problem.num_clients)
    return [np.array(partitioner.load_partition(client)["index"]) for client in clients]


@lru_cache(maxsize=1024)
def _partition(problem: Digits, client: int) -> Data:
    own = _partitions(replace(problem, labels="true"))[client]
    return chosen("digits", own, problem.labels)
