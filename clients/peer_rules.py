"""The rules of `peers` in the registry."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from .peers import (
    adaptive_clipping,
    centered_clipping,
    coordinate_median,
    fedgreed,
    fltrust,
    nearest_neighbor_mixing,
    smoothed_weiszfeld,
    trimmed_mean,
)
from .rule import Rule, ServerSide, Trusted, Vectors
from .vector_strategy import FunctionStrategy


def _nnm_trimmed_mean(vectors: Vectors, q: int, _: ServerSide) -> Vectors:
    return trimmed_mean(nearest_neighbor_mixing(vectors, q), q)


def _nnm_median(vectors: Vectors, q: int, _: ServerSide) -> Vectors:
    return coordinate_median(nearest_neighbor_mixing(vectors, q))


def _arc_nnm_geometric_median(vectors: Vectors, q: int, _: ServerSide) -> Vectors:
    return smoothed_weiszfeld(nearest_neighbor_mixing(adaptive_clipping(vectors, q), q))


def _about_last(vectors: Vectors, q: int, server: ServerSide, **options: Any) -> Vectors:
    last = np.zeros_like(vectors[0]) if server.last is None else server.last
    return centered_clipping(vectors, last, **options)


def _about_own(
    vectors: Vectors, q: int, server: ServerSide, radius: float | None = None, **options: Any
) -> Vectors:
    return centered_clipping(vectors, _trusted(server).update, radius, **options)


def _fltrust(vectors: Vectors, q: int, server: ServerSide) -> Vectors:
    return fltrust(vectors, _trusted(server).update)


def _fedgreed(vectors: Vectors, q: int, server: ServerSide) -> Vectors:
    return fedgreed(vectors, _trusted(server).loss)


def _alone(vectors: Vectors, q: int, server: ServerSide) -> Vectors:
    return _trusted(server).update


def _trusted(server: ServerSide) -> Trusted:
    if server.trusted is None:
        raise ValueError("the rule needs what the server makes of data that it trusts")
    return server.trusted


_peer = partial(Rule, message=lambda m, q: (FunctionStrategy, {}))
_trusting = partial(_peer, needs_trusted_data=True)
_CLIPPING = {"radius": "radius {}", "num_steps": "{} steps"}

PEERS: Mapping[str, Rule] = {
    "NNMTrimmedMean": _peer("NNM + trimmed mean", _nnm_trimmed_mean),
    "NNMMedian": _peer("NNM + median", _nnm_median),
    "ARCNNMGeometricMedian": _peer("ARC + NNM + GM", _arc_nnm_geometric_median),
    "CenteredClipping": _peer("centred clipping", _about_last, options=_CLIPPING),
    "CenteredClippingAboutServer": _trusting(
        "centred clipping about the server", _about_own, options=_CLIPPING
    ),
    "FLTrust": _trusting("FLTrust", _fltrust),
    "FedGreed": _trusting("FedGreed", _fedgreed),
    "ServerAlone": _trusting("the server alone", _alone),
}
