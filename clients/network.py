"""What problems with a PyTorch network share: its arrays, local training and measures."""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .partition import Indices
from .pools import least_class, pool
from .problem import Arrays

Data = tuple[torch.Tensor, torch.Tensor]
Labels = Literal["true", "flipped"]


def arrays_of(network: nn.Module) -> Arrays:
    """Return a network's weights and biases, in the order of its layers."""
    return [value.numpy() for value in network.state_dict().values()]


def set_arrays(network: nn.Module, arrays: Arrays) -> None:
    """Give a network the values of `arrays`, which it does not share."""
    values = (torch.from_numpy(np.array(array)) for array in arrays)
    network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))


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


def evaluated(network: nn.Module, name: str) -> dict[str, float]:
    """Return the accuracy on the samples of a pool that are held out, and on their worst class.

    Zero for a model that is not finite.
    """
    data = held_out(name)
    right = loss_and_right(network, data)[1]
    return {"accuracy": float(right.mean()), "least-class": least_class(right, data[1].numpy())}


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


def held_out(name: str) -> Data:
    """Return the samples of a pool that are held out."""
    data = pool(name)
    return torch.from_numpy(data.held_out), torch.from_numpy(data.held_out_labels)
