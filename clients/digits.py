"""Handwritten digits, split unevenly over clients that reply trained weights."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import torch
from datasets import Dataset
from flwr_datasets.partitioner import DirichletPartitioner
from torch import nn

from .pools import least_class, pool
from .problem import Arrays

Data = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Digits:
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

    num_clients: int = 20
    alpha: float = 10.0
    hidden: int = 32
    epochs: int = 4
    batch_size: int = 16
    learning_rate: float = 0.1
    seed: int = 0
    labels: Literal["true", "flipped"] = "true"

    reply_kind: ClassVar[Literal["weights"]] = "weights"
    measure: ClassVar[Literal["accuracy"]] = "accuracy"
    server_learning_rate: ClassVar[float] = 1.0

    def initial_arrays(self) -> Arrays:
        """Return the weights and biases of both layers, as PyTorch draws them."""
        torch.manual_seed(self.seed)
        return [value.numpy() for value in self._network().state_dict().values()]

    def reply(
        self, client: int, arrays: Arrays, server_round: int
    ) -> tuple[Arrays, int, dict[str, float]]:
        """Return the weights after training on the client's images."""
        images, labels = _partition(self, client)
        network = self._network(arrays)
        optimiser = torch.optim.SGD(network.parameters(), lr=self.learning_rate)
        entropy = np.random.SeedSequence([self.seed, client, server_round]).generate_state(1)
        generator = torch.Generator().manual_seed(int(entropy[0]))
        loss = torch.zeros(())
        for _ in range(self.epochs):
            for batch in torch.randperm(len(labels), generator=generator).split(self.batch_size):
                optimiser.zero_grad()
                loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
                loss.backward()
                optimiser.step()
        trained = [value.numpy() for value in network.state_dict().values()]
        return trained, len(labels), {"loss": float(loss.detach())}

    def relabelled(self) -> "Digits":
        """Return the problem in which every client sees 9 − c for c."""
        return replace(self, labels="flipped")

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        """Return the accuracy on the images held out, and on the worst of their classes.

        Zero for a model that is not finite.
        """
        data = _held_out()
        right = self._measure(arrays, data)[1].numpy()
        least = least_class(right, data[1].numpy())
        return {"accuracy": float(right.mean()), "least-class": least}

    def evaluate_client(self, client: int, arrays: Arrays) -> tuple[float, int, dict[str, float]]:
        """Return loss and accuracy on the client's own images."""
        data = _partition(self, client)
        loss, right = self._measure(arrays, data)
        return loss, len(data[1]), {"accuracy": float(right.float().mean())}

    def _measure(self, arrays: Arrays, data: Data) -> tuple[float, torch.Tensor]:
        """Return the loss, and which images are classified rightly."""
        images, labels = data
        with torch.no_grad():
            scores = self._network(arrays)(images)
        right = (scores.argmax(dim=1) == labels) & scores.isfinite().all(dim=1)
        return float(nn.functional.cross_entropy(scores, labels)), right

    def _network(self, arrays: Arrays | None = None) -> nn.Module:
        torch.set_num_threads(1)
        network = nn.Sequential(nn.Linear(64, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 10))
        if arrays is not None:
            names = network.state_dict()
            values = (torch.from_numpy(np.array(array)) for array in arrays)
            network.load_state_dict(dict(zip(names, values, strict=True)))
        return network


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
    data = pool("digits")
    own = _partitions(replace(problem, labels="true"))[client]
    labels = data.labels[own]
    seen = 9 - labels if problem.labels == "flipped" else labels
    return torch.from_numpy(data.images[own]), torch.from_numpy(seen)


@lru_cache(maxsize=1)
def _held_out() -> Data:
    data = pool("digits")
    return torch.from_numpy(data.held_out), torch.from_numpy(data.held_out_labels)
