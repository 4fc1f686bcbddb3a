"""The model, a network of PyTorch."""

import torch
from flwr.app import ArrayRecord
from torch.nn.functional import cross_entropy

from .net import Net

torch.set_num_threads(1)


def initial_model():
    torch.manual_seed(0)
    return ArrayRecord(Net().state_dict())


def load(arrays, data):
    net, (images, labels) = Net(), data
    net.load_state_dict(arrays.to_torch_state_dict(), strict=False)
    return net, torch.tensor(images, dtype=torch.float32), torch.tensor(labels)


def train(arrays, data, epochs, lr):
    """Return the trained model and its loss."""
    net, images, labels = load(arrays, data)
    optimizer = torch.optim.Adam((p for p in net.parameters() if p.requires_grad), lr=0.03 * lr)
    for _ in range(4 * epochs):
        optimizer.zero_grad()
        loss = cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
    return ArrayRecord(net.state_dict()), loss.item()


def test(arrays, data):
    """Return loss and accuracy."""
    net, images, labels = load(arrays, data)
    with torch.no_grad():
        outputs = net.eval()(images)
    accuracy = (outputs.argmax(1) == labels).float().mean()
    return cross_entropy(outputs, labels).item(), accuracy.item()
