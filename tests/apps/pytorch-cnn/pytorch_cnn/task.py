"""The model and its data."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 4 * 4, 10)

    def forward(self, images):
        features = torch.relu(self.norm(self.conv(images)))
        return self.head(torch.max_pool2d(features, 2).flatten(1))


def load_data(partition, num_partitions):
    """Return the training and the test data of a partition."""
    images, labels = load_digits(return_X_y=True)
    own = np.random.default_rng(0).permutation(len(labels)) % num_partitions == partition
    images = torch.tensor(images[own], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    labels, cut = torch.tensor(labels[own]), int(0.8 * own.sum())
    return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])


def train(model, data, lr, epochs=5, batch_size=16):
    """Return the mean loss of the last epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        losses = []
        for images, labels in zip(*(part.split(batch_size) for part in data), strict=True):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return float(np.mean(losses))


def test(model, data):
    """Return loss and accuracy."""
    images, labels = data
    model.eval()
    with torch.no_grad():
        outputs = model(images)
    accuracy = (outputs.argmax(1) == labels).float().mean()
    return nn.functional.cross_entropy(outputs, labels).item(), accuracy.item()
