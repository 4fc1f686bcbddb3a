"""The model and its data."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

torch.set_num_threads(1)


class Adapted(nn.Module):
    """A frozen base, the same at every client, and a low-rank adapter of its last layer."""

    def __init__(self, rank=4):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.base = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
            self.lora_a = nn.Parameter(torch.randn(rank, 64) / 8)
        self.lora_b = nn.Parameter(torch.zeros(10, rank))
        self.base.requires_grad_(False)

    def forward(self, images):
        return self.base(images) + images @ self.lora_a.T @ self.lora_b.T

    def adapter(self):
        return {name: value for name, value in self.state_dict().items() if "lora" in name}


def load_data(partition, num_partitions):
    """Return the training and the test data of a partition."""
    images, labels = load_digits(return_X_y=True)
    own = np.random.default_rng(0).permutation(len(labels)) % num_partitions == partition
    images = torch.tensor(images[own], dtype=torch.float32) / 16
    labels, cut = torch.tensor(labels[own]), int(0.8 * own.sum())
    return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])


def train(model, data, lr, epochs=40):
    images, labels = data
    optimizer = torch.optim.Adam([model.lora_a, model.lora_b], lr=lr)
    for _ in range(epochs):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


def test(model, data):
    """Return loss and accuracy."""
    images, labels = data
    with torch.no_grad():
        outputs = model(images)
    accuracy = (outputs.argmax(1) == labels).float().mean()
    return nn.functional.cross_entropy(outputs, labels).item(), accuracy.item()
