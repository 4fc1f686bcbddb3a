"""One run of an app, under one attack, with one strategy: what identifies it, and its result."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import json_lines
from .flower_app import FlowerApp

NO_ATTACK = "no attack"
ROBUST = "GeometricMedianOfMeans"


@dataclass(frozen=True)
class Run:
    """One run of an app; all of it makes the name of the run's folder."""

    app: str  # its folder
    digest: str  # of its files
    run_config: str  # overrides
    num_nodes: int
    num_byzantine: int
    num_rounds: int | None  # None for as many as the app asks for
    seed: int
    attack: str  # as `parse_attack` reads it, or NO_ATTACK
    strategy: Literal["own", "robust"]

    @property
    def title(self) -> str:
        """The name of the run's folder."""
        name = re.sub(r"[\W_]+", " ", f"{self.attack}-{self.strategy}".lower()).split()
        identity = json.dumps(asdict(self), sort_keys=True).encode()
        return "-".join([*name, hashlib.sha256(identity).hexdigest()[:12]])

    @property
    def is_reference(self) -> bool:
        """Whether it is the clean run of the app's own strategy, which others are compared with."""
        return self.attack == NO_ATTACK and self.strategy == "own"

    @property
    def byzantine(self) -> frozenset[int]:
        """The partition ids of the clients that attack: the same under all attacks of a seed."""
        if self.attack == NO_ATTACK:
            return frozenset()
        rng = np.random.default_rng(self.seed)
        return frozenset(rng.choice(self.num_nodes, self.num_byzantine, replace=False).tolist())


@dataclass(frozen=True)
class Job:
    """A run, and what its process needs."""

    run: Run
    app: FlowerApp
    run_config: dict[str, Any]  # whole and flat
    num_actors: int  # clients that run at a time
    folder: Path  # of the run: its working directory, log and events
    reference: Path  # the initial and the final model of the reference run

    @property
    def events(self) -> Path:
        """The file that takes the events of the run, a line each."""
        return self.folder / "events.jsonl"

    def asked(self, server_round: int) -> Path:
        """Return the file that names the Byzantine clients asked in a round."""
        return self.folder / "asked" / f"round-{server_round}.json"


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    `metrics` are values by source ("server", "evaluate" by clients, "train"), name and round, NaN
    where not finite. `moved` is ‖θ − θ'‖/‖θ' − θ0‖, the distance of the final model θ from that of
    the reference run, θ', in units of what training moved that; infinity where the shapes differ.
    """

    run: Run
    end: Literal["finished", "crashed", "hung", "not attacked", "refused"]
    reason: str = ""  # of an end that is not "finished"
    strategy: str = ""  # the class of the app's own strategy; empty where no training began
    notes: tuple[str, ...] = ()  # what the swap does not carry over
    metrics: Mapping[str, Mapping[str, Mapping[int, float]]] = field(default_factory=dict)
    moved: float | None = None
    finite: bool = True  # whether the final model holds finite numbers only
    seconds: float = 0.0


def load(job: Job, timeout: float = 0.0) -> RunResult | None:
    """Return the result in a run's folder; None without an end, or if it hung in less time."""
    given: dict[str, Any] = {}
    metrics: dict[str, dict[str, dict[int, float]]] = {}
    for event in json_lines.read(job.events):
        kind = event.pop("event")
        if kind == "begun":
            given |= {"strategy": event["strategy"], "notes": tuple(event["notes"])}
        elif kind == "metrics":
            of_source = metrics.setdefault(event["source"], {})
            for name, value in event["values"].items():
                number = math.nan if value is None else float(value)
                of_source.setdefault(name, {})[event["round"]] = number
        elif kind == "end":  # the last one
            moved = None if event["moved"] is None else float(event["moved"])
            result = RunResult(job.run, **given | event | {"metrics": metrics, "moved": moved})
            return None if result.end == "hung" and result.seconds < timeout else result
    return None
