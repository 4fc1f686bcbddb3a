"""One run of an app, under one attack, with one strategy: what identifies it, and its result."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import json_lines
from .flower_app import FlowerApp

NO_ATTACK = "no attack"
ROBUST = "GeometricMedianOfMeans"


@dataclass(frozen=True)
class Run:
    """One run of an app, identified by all but the folder of results."""

    app: FlowerApp
    run_config: Mapping[str, Any]  # whole and flat
    num_nodes: int
    num_byzantine: int
    num_rounds: int | None  # None for as many as the app asks for
    seed: int
    results: Path  # absolute
    attack: str = NO_ATTACK  # or as `parse_attack` reads it
    strategy: Literal["own", "robust", "pilot"] = "own"  # "pilot": its own keeps the first model

    @property
    def folder(self) -> Path:
        """The working directory of the run, which takes its log, too."""
        name = re.sub(r"[\W_]+", " ", f"{self.attack}-{self.strategy}".lower()).split()
        identity = json.dumps(asdict(replace(self, results=Path())), sort_keys=True, default=str)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        return self.results / "runs" / "-".join([*name, digest])

    @property
    def reference(self) -> Path:
        """The initial and the final model of the app's own clean run."""
        return replace(self, attack=NO_ATTACK, strategy="own").folder / "models.npz"

    def record(self, event: str, **details: Any) -> None:
        """Add a line to the events of the run."""
        json_lines.append(self.folder / "events.jsonl", [{"event": event, **details}])

    def asked(self, server_round: int) -> Path:
        """Return the file that names the Byzantine clients asked in a round."""
        return self.folder / f"asked-{server_round}.json"

    def replies(self, server_round: int) -> Path:
        """Return the file that holds the updates which clients replied in a round of a pilot."""
        return self.folder / f"replies-{server_round}.npz"

    @property
    def byzantine(self) -> frozenset[int]:
        """The partition ids of the clients that attack: the same under all attacks of a seed."""
        if self.attack == NO_ATTACK:
            return frozenset()
        rng = np.random.default_rng(self.seed)
        return frozenset(rng.choice(self.num_nodes, self.num_byzantine, replace=False).tolist())


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    `metrics` are values by source ("server", "evaluate" by clients, "train"), name and round, NaN
    where not finite. `moved` is ‖θ − θ'‖/‖θ' − θ0‖, the distance of the final model θ from that of
    the reference, θ', in units of what training moved that; infinity where the shapes differ.
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


def load(run: Run, timeout: float = 0.0) -> RunResult | None:
    """Return the result in a run's folder; None without an end, or if it hung in less time."""
    given: dict[str, Any] = {}
    metrics: dict[str, dict[str, dict[int, float]]] = {}
    for event in json_lines.read(run.folder / "events.jsonl"):
        kind = event.pop("event")
        if kind == "begun":
            given = {"strategy": event["strategy"], "notes": tuple(event["notes"])}
        elif kind == "metrics":
            for name, value in event["values"].items():
                by_round = metrics.setdefault(event["source"], {}).setdefault(name, {})
                by_round[event["round"]] = math.nan if value is None else float(value)
        elif kind == "end":  # the last one
            if "moved" in event:
                event["moved"] = float(event["moved"])  # "inf", for which JSON has no number
            result = RunResult(run, metrics=metrics, **given, **event)
            return None if result.end == "hung" and result.seconds < timeout else result
    return None
