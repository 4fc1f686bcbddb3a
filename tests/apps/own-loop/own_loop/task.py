"""The model and its data: iris flowers."""

import numpy as np
from sklearn.datasets import load_iris


def load_data(partition, num_partitions):
    """Return inputs, standardized, and labels of a partition."""
    inputs, labels = load_iris(return_X_y=True)
    inputs = np.hstack([(inputs - inputs.mean(0)) / inputs.std(0), np.ones((len(labels), 1))])
    own = np.random.default_rng(0).permutation(len(labels)) % num_partitions == partition
    return inputs[own], labels[own]


def probabilities(weights, inputs):
    scores = inputs @ weights
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def train(weights, data, lr, epochs=10):
    inputs, labels = data
    for _ in range(epochs):
        error = probabilities(weights, inputs) - np.eye(3)[labels]
        weights = weights - lr * inputs.T @ error / len(labels)
    return weights


def test(weights, data):
    """Return loss and accuracy."""
    inputs, labels = data
    guessed = probabilities(weights, inputs)
    loss = -np.log(guessed[np.arange(len(labels)), labels] + 1e-12).mean()
    return float(loss), float((guessed.argmax(axis=1) == labels).mean())
