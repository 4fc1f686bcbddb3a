"""How a pool of labelled samples is split over clients: flwr-datasets' partitioners, on labels."""

import warnings
from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from flwr_datasets.partitioner import (
    DirichletPartitioner,
    IidPartitioner,
    Partitioner,
    ShardPartitioner,
)
from numpy.typing import NDArray

Indices = NDArray[np.int64]

_LEAST = 8  # samples that even a Dirichlet split leaves every client


def check_split(split: str) -> str:
    """Return a split that is known.

    Raises
    ------
    ValueError
        Where it is none of "iid", "sorted" and "dirichlet-α" with a positive α.
    """
    _partitioner(split, 1, 0)
    return split


def partition(
    labels: Sequence[int] | Indices, num_clients: int, split: str, seed: int
) -> list[Indices]:
    """Split samples over clients by their labels.

    Parameters
    ----------
    labels : sequence of int
        Of all samples.
    num_clients : int
        m.
    split : str
        "iid": clients draw alike. "dirichlet-α", such as "dirichlet-0.3": of each label, clients
        get shares drawn from a Dirichlet distribution; the smaller α, the less alike (Hsu, Qi,
        Brown 2019). "sorted": samples are sorted by label and cut into m equal pieces; what is
        left over, fewer than m samples, is not used.
    seed : int

    Returns
    -------
    list of ndarray of int
        The samples of each client, by their place in `labels`.

    Raises
    ------
    ValueError
        Where `split` is not known.
    """
    partitioner = _partitioner(split, num_clients, seed)
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = Dataset.from_dict({"label": np.asarray(labels)[order], "index": order})
    with warnings.catch_warnings():  # that a split is drawn again where a client got too little
        warnings.simplefilter("ignore")
        partitioner.dataset = shuffled
        clients = range(num_clients)
        return [np.array(partitioner.load_partition(client)["index"]) for client in clients]


def _partitioner(split: str, num_clients: int, seed: int) -> Partitioner:
    if split == "iid":
        return IidPartitioner(num_clients)
    if split == "sorted":
        return ShardPartitioner(num_clients, "label", num_shards_per_partition=1, seed=seed)
    kind, _, alpha = split.partition("-")
    try:
        if kind == "dirichlet" and float(alpha) > 0:
            return DirichletPartitioner(
                num_clients, "label", float(alpha), min_partition_size=_LEAST, seed=seed
            )
    except ValueError:
        pass
    raise ValueError(f'split must be "iid", "sorted" or "dirichlet-α" with α > 0, got {split!r}')
