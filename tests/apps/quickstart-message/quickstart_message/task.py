"""The model and its data."""

import json
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits


def initial_model():
    return np.zeros((65, 10), np.float32)


def load_data(partition, num_partitions):
    """Return the training and the test data of a partition."""
    images, labels = load_digits(return_X_y=True)
    own = np.random.default_rng(0).permutation(len(labels)) % num_partitions == partition
    images = np.hstack([images[own] / 16, np.ones((own.sum(), 1))])
    labels, cut = labels[own], int(0.8 * own.sum())
    return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])


def probabilities(weights, images):
    scores = images @ weights.astype(np.float64)
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def train(weights, data, epochs, lr):
    """Return the trained weights and their loss."""
    images, labels = data
    for _ in range(epochs):
        error = probabilities(weights, images) - np.eye(10)[labels]
        weights = weights - lr * (images.T @ error / len(labels)).astype(np.float32)
    return weights, test(weights, data)[0]


def test(weights, data):
    """Return loss and accuracy."""
    images, labels = data
    guessed = probabilities(weights, images)
    loss = -np.log(guessed[np.arange(len(labels)), labels] + 1e-12).mean()
    return float(loss), float((guessed.argmax(axis=1) == labels).mean())


def save(loss, accuracy):
    """Write the newest metrics to a file, and return them."""
    metrics = {"loss": loss, "accuracy": accuracy}
    Path("metrics.json").write_text(json.dumps(metrics))
    return metrics
