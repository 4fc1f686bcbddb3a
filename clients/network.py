"""What problems with a PyTorch network share: its arrays, local training and measures."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .partition import Indices
from .pools import least_class, pool
from .problem import Arrays

Data = tuple[torch.Tensor, torch.Tensor]
Labels = Literal["true", "flipped"]


class NetworkProblem(ABC):
    """What a problem with a PyTorch network has besides the network, the split and the training.

    A subclass is a frozen dataclass with `images`, one of `pools.POOLS`, `seed` and `labels`.
    """

    images: str
    seed: int

    reply_kind: ClassVar[Literal["weights"]] = "weights"
    measure: ClassVar[Literal["accuracy"]] = "accuracy"
    server_learning_rate: ClassVar[float] = 1.0

    @abstractmethod
    def layers(self) -> nn.Module:
        """Return the network, drawn as PyTorch does."""

    @abstractmethod
    def samples(self, client: int) -> Data:
        """Return a client's own samples and labels."""

    def initial_arrays(self) -> Arrays:
        """Return the weights and biases of all layers, as PyTorch draws them."""
        torch.manual_seed(self.seed)
        return arrays_of(self.layers())

    def network(self, arrays: Arrays) -> nn.Module:
        """Return the network of these weights and biases."""
        network = self.layers()
        values = (torch.from_numpy(np.array(array)) for array in arrays)  # which it does not share
        network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
        return network

    def relabelled(self) -> Self:
        """Return the problem in which every client sees C − 1 − c for c, of C classes."""
        return replace(self, labels="flipped")

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        """Return the accuracy on the samples held out, and on the worst of their classes.

        Zero for a model that is not finite.
        """
        data = pool(self.images)
        held_out = torch.from_numpy(data.held_out), torch.from_numpy(data.held_out_labels)
        right = loss_and_right(self.network(arrays), held_out)[1]
        least = least_class(right, data.held_out_labels)
        return {"accuracy": float(right.mean()), "least-class": least}

    def evaluate_client(self, client: int, arrays: Arrays) -> tuple[float, int, dict[str, float]]:
        """Return loss and accuracy on the client's own samples."""
        data = self.samples(client)
        loss, right = loss_and_right(self.network(arrays), data)
        return loss, len(data[1]), {"accuracy": float(right.mean())}


def arrays_of(network: nn.Module) -> Arrays:
    """Return a network's weights and biases, in the order of its layers."""
    return [value.numpy() for value in network.state_dict().values()]


def train(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    data: Data,
    batches: Iterable[torch.Tensor],
) -> float:
    """Make one step on the cross-entropy of each batch; return the last loss.

    Parameters
    ----------
    network, optimiser
        The optimiser holds the network's parameters.
    data : tuple of Tensor
        Samples (n, p) and labels (n,).
    batches : iterable of Tensor
        The indices of each batch's samples.
    """
    torch.set_num_threads(1)
    samples, labels = data
    loss = torch.zeros(())
    for batch in batches:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(network(samples[batch]), labels[batch])
        loss.backward()
        optimiser.step()
    return float(loss.detach())


def loss_and_right(network: nn.Module, data: Data) -> tuple[float, NDArray[np.bool_]]:
    """Return the loss, and which samples are classified rightly: none of scores not finite."""
    torch.set_num_threads(1)
    samples, labels = data
    with torch.no_grad():
        scores = network(samples)
    right = (scores.argmax(dim=1) == labels) & scores.isfinite().all(dim=1)
    return float(nn.functional.cross_entropy(scores, labels)), right.numpy()


def chosen(name: str, indices: Indices, labels: Labels) -> Data:
    """Return training samples of a pool; flipped labels are C − 1 − c for c, of C classes."""
    data = pool(name)
    true = data.labels[indices]
    seen = data.num_classes - 1 - true if labels == "flipped" else true
    return torch.from_numpy(data.images[indices]), torch.from_numpy(seen)
