"""Pools of labelled images: some made on this machine, others that flwr-datasets downloads."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from datasets import Dataset
from flwr_datasets import FederatedDataset
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


@dataclass(frozen=True, eq=False)
class Pool:
    """Images to train on, and images held out; a signal is an image of one row.

    Attributes
    ----------
    images, held_out : ndarray (N, p), float32
        Pixels from 0 to 1; the values of signals have mean 0 and variance 1.
    labels, held_out_labels : ndarray (N,), int64
    num_classes : int
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    held_out: NDArray[np.float32]
    held_out_labels: NDArray[np.int64]

    @property
    def num_classes(self) -> int:
        """The number of labels."""
        return int(self.labels.max()) + 1


@dataclass(frozen=True)
class Hub:
    """A data set of images as the Hugging Face Hub, or a folder on this machine, holds it.

    Parameters
    ----------
    path : str
        Name on the hub, or folder.
    image, label : str
        Its columns.
    test : str or None
        The split held out; None holds out a quarter of "train".
    """

    path: str
    image: str = "image"
    label: str = "label"
    test: str | None = "test"

    def load(self) -> Pool:
        """Load it, from the hub once and from then on from the machine's cache."""
        data = FederatedDataset(dataset=self.path, partitioners={"train": 1}, shuffle=False)
        train = self._arrays(data.load_split("train"))
        if self.test is None:
            return _holding_out_a_quarter(*train)
        return Pool(*train, *self._arrays(data.load_split(self.test)))

    def _arrays(self, split: Dataset) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        pixels = np.stack([np.asarray(image, np.float32) for image in split[self.image]])
        return pixels.reshape(len(pixels), -1) / 255, np.array(split[self.label], np.int64)


def digits() -> Pool:
    """Return scikit-learn's 1797 images of digits, 8 × 8 pixels."""
    images, labels = load_digits(return_X_y=True)
    return _holding_out_a_quarter((images / 16).astype(np.float32), labels)


def mnist1d() -> Pool:
    """Return the 5000 signals of MNIST-1D (Greydanus 2020), 40 values each; a fifth is held out.

    Each is one of ten shapes, scaled, moved and with noise. The package draws them from a fixed
    seed of the global generators, whose states are restored.
    """
    from mnist1d.data import make_dataset  # here, as it imports pyplot

    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        made = make_dataset()
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
    signals, held_out = (made[key].astype(np.float32) for key in ("x", "x_test"))
    labels, held_out_labels = (made[key].astype(np.int64) for key in ("y", "y_test"))
    return Pool(signals, labels, held_out, held_out_labels)


POOLS: Mapping[str, Callable[[], Pool]] = {
    "digits": digits,
    "mnist1d": mnist1d,
    "mnist": Hub("ylecun/mnist").load,
    "cifar10": Hub("uoft-cs/cifar10", image="img").load,
    "femnist": Hub("flwrlabs/femnist", label="character", test=None).load,
}


@lru_cache(maxsize=1)
def pool(name: str) -> Pool:
    """Return a pool by its name, loaded once."""
    return POOLS[name]()


def least_class(right: NDArray[np.bool_], labels: NDArray[np.int64]) -> float:
    """Return the share of right answers in the class that has the fewest of them."""
    return float(min(right[labels == label].mean() for label in np.unique(labels)))


def _holding_out_a_quarter(images: NDArray[np.float32], labels: NDArray[np.int64]) -> Pool:
    train, held_out, train_labels, held_out_labels = train_test_split(
        images, labels, test_size=0.25, random_state=0, stratify=labels
    )
    return Pool(train, train_labels, held_out, held_out_labels)
