"""The model, linear in the pixels."""

import numpy as np
from flwr.app import Array, ArrayRecord
from scipy.special import softmax


def initial_model():
    return ArrayRecord({"weights": Array(np.zeros((64, 10), np.float32))})


def probabilities(weights, images):
    return softmax(images @ weights.astype(np.float64), axis=1)


def train(arrays, data, epochs, lr):
    """Return the trained model and its loss."""
    weights, (images, labels) = arrays["weights"].numpy(), data
    for _ in range(epochs):
        error = probabilities(weights, images) - np.eye(10)[labels]
        weights = weights - lr * (images.T @ error / len(labels)).astype(np.float32)
    arrays = ArrayRecord({"weights": Array(weights)})
    return arrays, test(arrays, data)[0]


def test(arrays, data):
    """Return loss and accuracy."""
    images, labels = data
    guessed = probabilities(arrays["weights"].numpy(), images)
    loss = -np.log(guessed[np.arange(len(labels)), labels] + 1e-12).mean()
    return float(loss), float((guessed.argmax(axis=1) == labels).mean())
