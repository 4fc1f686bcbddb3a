"""What a step costs beside a round: ``python -m benchmarks.async_steps``."""

from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from flwr.app import ArrayRecord, ConfigRecord, Message

from flwr_byz.serverapp.strategy import AsyncGeometricMedianOfMeans, GeometricMedianOfMeans

from . import measure, report
from .contestants import Contestant, Replies

CELLS = ((20, 10**6), (100, 10**5), (100, 10**6))
ROUND = "round of all clients"


class Course:
    """A strategy and its nodes, of which a part replies in turn: the others are late by a part."""

    def __init__(self, strategy: Any, replies: Replies, num_parts: int = 1) -> None:
        self._strategy, self._replies, self._num_parts = strategy, replies, num_parts
        self._at_work: dict[int, Message] = {}
        self._model, self._steps = ArrayRecord({"0": replies.model}), count(1)

    def get_node_ids(self) -> list[int]:
        """Return all nodes."""
        return self._replies.get_node_ids()

    def send(self, messages: Iterable[Message]) -> None:
        """Let nodes begin to work."""
        self._at_work |= {message.metadata.dst_node_id: message for message in messages}

    def go_on(self, _: None = None) -> Any:
        """Make steps until every node has replied once more; return the metrics of the last."""
        for part in range(self._num_parts):
            step = next(self._steps)
            self.send(self._strategy.configure_train(step, self._model, ConfigRecord(), self))
            nodes = self.get_node_ids()[part :: self._num_parts]
            _, metrics = self._strategy.aggregate_train(step, map(self._reply, nodes))
        return metrics

    def _reply(self, node: int) -> Message:
        return self._replies.reply(node, self._at_work.pop(node))


def main(
    results: Annotated[Path, typer.Option(help="Folder for the table.")] = (
        Path(__file__).parent / "results"
    ),
) -> None:
    """Time rounds, and steps in which every client replies once, of a batch for each client.

    In two steps of half of the clients, each reply is one step old: it is an update of a model that
    comes from a file.
    """
    table = pd.DataFrame([row for cell in CELLS for row in rows(*cell)])
    report.write_csv(table, results / "async-steps.csv")


def rows(m: int, d: int) -> list[dict[str, Any]]:
    """Return the median seconds of a reply of every client, and the ratio to a round."""
    replies, q = Replies(m, d), m // 10
    every = {"min_train_nodes": m, "min_available_nodes": m}
    of_each: dict[str, Any] = {"num_byzantine": q, "num_batches": m}
    courses = {
        ROUND: Course(GeometricMedianOfMeans(streaming=True, **of_each, **every), replies),
        "step of all clients": Course(AsyncGeometricMedianOfMeans(quorum=m, **of_each), replies),
        "two steps of half of them": Course(
            AsyncGeometricMedianOfMeans(quorum=m // 2, **of_each), replies, 2
        ),
    }
    contestants = [Contestant(name, "message", course.go_on) for name, course in courses.items()]
    times = np.array(measure.interleaved(contestants))
    return [
        {"m": m, "d": d, "what": name}
        | {"seconds": round(float(np.median(taken)), 6)}
        | {"/ round": round(float(np.median(taken / times[0])), 2)}
        for name, taken in zip(courses, times, strict=True)
    ]


if __name__ == "__main__":
    typer.run(main)
