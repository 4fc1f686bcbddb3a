"""Flower's rules, and those of the paper's sections 6 and 1.3."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.server import strategy as classic
from flwr.server.strategy.aggregate import aggregate_krum, aggregate_median, aggregate_trimmed_avg
from flwr.serverapp import strategy as message
from flwr.serverapp.strategy.bulyan import aggregate_n_closest_weights
from flwr.serverapp.strategy.multikrum import select_multikrum

from .rule import Rule, ServerSide, Settings, Vectors
from .selection import OneClient, RandomSubset, SmallestNorms, mean_of_smallest_norms


def _same(kind: str, **settings: Callable[[int, int], Any]) -> dict[str, Any]:
    """Return both APIs' strategies of one name and settings."""

    def of(module: Any) -> Callable[[int, int], Settings]:
        return lambda m, q: (getattr(module, kind), {k: of(m, q) for k, of in settings.items()})

    return {"message": of(message), "classic": of(classic)}


def _krum(num_selected: Callable[[int, int], int]) -> Callable[[Vectors, int, ServerSide], Vectors]:
    def aggregate(vectors: Vectors, q: int, _: ServerSide) -> Vectors:
        return _as_vector(aggregate_krum(_replies(vectors), q, num_selected(len(vectors), q)))

    return aggregate


def _bulyan(vectors: Vectors, q: int, _: ServerSide) -> Vectors:
    """Aggregate as `flwr.serverapp.strategy.Bulyan` does: of too few vectors, no step comes.

    Flower's classic Bulyan selects by Krum again and again instead of by Multi-Krum once.
    """
    if len(vectors) < 4 * q + 3:
        return np.zeros_like(vectors[0])
    replies = [RecordDict({"arrays": ArrayRecord({"vector": Array(v)})}) for v in vectors]
    num_selected = len(vectors) - 2 * q
    selected = [
        reply.array_records["arrays"].to_numpy_ndarrays()
        for reply in select_multikrum(replies, q, num_selected)
    ]
    median = np.median([vector for (vector,) in selected], axis=0)
    return _as_vector(aggregate_n_closest_weights([median], selected, num_selected - 2 * q))


def _replies(vectors: Vectors) -> list[tuple[list[Vectors], int]]:
    return [([vector], 1) for vector in vectors]


def _as_vector(aggregate: list[Any]) -> Vectors:
    return np.asarray(aggregate[0], np.float64)


_stock = partial(Rule, options={"hardened": "hardened"})

FLOWER: Mapping[str, Rule] = {
    "FedAvg": _stock("FedAvg", lambda vectors, q, _: vectors.mean(axis=0), **_same("FedAvg")),
    "FedMedian": _stock(
        "FedMedian",
        lambda vectors, q, _: _as_vector(aggregate_median(_replies(vectors))),
        **_same("FedMedian"),
    ),
    "FedTrimmedAvg": _stock(
        "FedTrimmedAvg",
        lambda vectors, q, _: _as_vector(
            aggregate_trimmed_avg(_replies(vectors), q / len(vectors))
        ),
        **_same("FedTrimmedAvg", beta=lambda m, q: q / m),
    ),
    "Krum": _stock(
        "Krum",
        _krum(lambda m, q: 0),
        lambda m, q: (message.Krum, {"num_malicious_nodes": q}),
        lambda m, q: (classic.Krum, {"num_malicious_clients": q}),
    ),
    "MultiKrum": _stock(
        "Multi-Krum",
        _krum(lambda m, q: m - q),
        lambda m, q: (
            message.MultiKrum,
            {"num_malicious_nodes": q, "num_nodes_to_select": m - q},
        ),
        lambda m, q: (classic.Krum, {"num_malicious_clients": q, "num_clients_to_keep": m - q}),
    ),
    "Bulyan": _stock(
        "Bulyan",
        _bulyan,
        lambda m, q: (message.Bulyan, {"num_malicious_nodes": q}),
        lambda m, q: (classic.Bulyan, {"num_malicious_clients": q, "to_keep": 0}),
    ),
    "RandomSubset": Rule(
        "random subset",
        lambda vectors, q, _: vectors.mean(axis=0),
        lambda m, q: (RandomSubset, {"num_selected": m - q}),
    ),
    "SmallestNorms": Rule(
        "smallest norms",
        lambda vectors, q, _: mean_of_smallest_norms(vectors, len(vectors) - q),
        lambda m, q: (SmallestNorms, {"num_selected": m - q}),
    ),
    "OneClient": Rule(
        "one client a round",
        lambda vectors, q, _: vectors.mean(axis=0),
        lambda m, q: (OneClient, {"num_selected": 1}),
    ),
}
