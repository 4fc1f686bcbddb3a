"""What pre-aggregation costs a round: ``python -m benchmarks.mixing``."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from flwr.app import ArrayRecord, ConfigRecord

from flwr_byz.aggregation import AdaptiveClipping, NearestNeighborMixing, SpectralFilter
from flwr_byz.serverapp.strategy import RobustFedAvg

from . import measure, report
from .contestants import Contestant, Replies, train

CELLS = ((100, 10**6, 50), (100, 10**6, 100))
PEER = "ByzFL: NNM + GeometricMedian"
_MIXED: dict[str, Any] = {"pre_aggregation": [AdaptiveClipping(), NearestNeighborMixing()]}
_FILTER: dict[str, Any] = {"rule": SpectralFilter()}
RULES: dict[str, dict[str, Any]] = {
    "geometric median": {},
    "ARC + NNM + geometric median": _MIXED,
    "spectral filter": _FILTER,
    "ARC + NNM + spectral filter": _FILTER | _MIXED,
}
_BARE = {"ARC + NNM + geometric median": "geometric median"} | {
    "ARC + NNM + spectral filter": "spectral filter"
}
_ROOM = 12e9  # bytes that the peer's k (k − q) d numbers may take


def main(
    results: Annotated[Path, typer.Option(help="Folder for the table.")] = (
        Path(__file__).parent / "results"
    ),
) -> None:
    """Time whole rounds of RobustFedAvg with and without pre-aggregation, q a tenth of k.

    Where ByzFL is installed, its mixing and median are timed on the batch means, once.
    """
    table = pd.DataFrame([row for cell in CELLS for row in rows(*cell)])
    report.write_csv(table, results / "mixing.csv")


def rows(m: int, d: int, k: int) -> Iterator[dict[str, Any]]:
    """Yield the median seconds of each rule, and the ratio to the same without pre-aggregation.

    The peer's ratio is that to the whole round of RobustFedAvg with mixing.
    """
    replies, q = Replies(m, d), k // 10
    contestants = []
    for name, options in RULES.items():
        least = {"min_train_nodes": m, "min_available_nodes": m}
        strategy = RobustFedAvg(num_batches=k, num_byzantine=q, **least, **options)
        strategy.configure_train(1, ArrayRecord({"0": replies.model}), ConfigRecord(), replies)
        contestants.append(Contestant(name, "message", partial(train, strategy), replies.messages))
    times = measure.interleaved(contestants)
    seconds = dict(zip(RULES, map(np.array, times), strict=True))
    size = {"m": m, "d": d, "k": k, "q": q}
    for name, taken in seconds.items():
        ratio = np.median(taken / seconds[_BARE.get(name, name)])
        yield (
            size
            | {"rule": name, "seconds": round(float(np.median(taken)), 6)}
            | {"/ without": round(float(ratio), 2)}
        )
    if 4.0 * k * (k - q) * d <= _ROOM and (peer := _peer(q)) is not None:
        means = np.stack([np.mean(b, axis=0) for b in np.array_split(replies.vectors, k)])
        taken = measure.once(Contestant(PEER, "", lambda _: peer(means)))
        bare = float(np.median(seconds["ARC + NNM + geometric median"]))
        yield size | {
            "rule": PEER,
            "seconds": round(taken, 6),
            "/ RobustFedAvg": round(taken / bare, 1),
        }


def _peer(q: int) -> Any:
    """Return ByzFL's rule; None where it is not installed."""
    try:
        from byzfl import NNM, GeometricMedian
    except ImportError:
        return None
    return lambda vectors: GeometricMedian()(NNM(q)(vectors))


if __name__ == "__main__":
    typer.run(main)
