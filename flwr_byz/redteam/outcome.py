"""Plays: what identifies one, and what came of it."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from .. import json_lines

PEACE = "nobody attacks"
OURS = "GeometricMedianOfMeans"
SOURCES = ("server", "evaluate", "train")

End = Literal["finished", "crashed", "hung", "not attacked"]


@dataclass(frozen=True)
class Play:
    """One run of an app, under one attack, with one strategy: what identifies it in a file.

    Attributes
    ----------
    app, digest : str
        The folder, and a hash of the app's files.
    run_config : str
        Overrides.
    num_nodes, num_byzantine, seed : int
    num_rounds : int or None
        None for as many as the app asks for.
    attack : str
        "nobody attacks", or as `parse_attack` reads it.
    strategy : {"own", "ours"}
    """

    app: str
    digest: str
    run_config: str
    num_nodes: int
    num_byzantine: int
    num_rounds: int | None
    seed: int
    attack: str
    strategy: Literal["own", "ours"]

    @property
    def title(self) -> str:
        """The name of the play's folder."""
        text = f"{self.attack}-{self.strategy}".lower()
        name = "-".join("".join(c if c.isalnum() else " " for c in text).split())
        identity = json.dumps(asdict(self), sort_keys=True).encode()
        return f"{name}-{hashlib.sha256(identity).hexdigest()[:8]}"


@dataclass(frozen=True)
class Outcome:
    """What came of a play.

    Attributes
    ----------
    play : Play
    end : {"finished", "crashed", "hung", "not attacked"}
        "not attacked": the attack could not be carried out on this app.
    reason : str
        Of an end that is not "finished".
    strategy : str
        The class that the app's own strategy has; empty where it never began to train.
    notes : tuple of str
        What the swap does not carry over.
    metrics : mapping
        Values by source ("server": evaluated there, "evaluate": by clients, "train"), name and
        round; NaN where they were not finite.
    moved : float or None
        ‖θ − θ'‖/‖θ' − θ0‖: how far the final model θ lies from the one of the app's own strategy
        where nobody attacks, θ', in units of what training moved that; infinity where it has
        another form.
    finite : bool
        Whether the final model holds finite numbers only.
    seconds : float
    """

    play: Play
    end: End
    reason: str = ""
    strategy: str = ""
    notes: tuple[str, ...] = ()
    metrics: Mapping[str, Mapping[str, Mapping[int, float]]] = field(default_factory=dict)
    moved: float | None = None
    finite: bool = True
    seconds: float = 0.0


Event = Mapping[str, Any]


def outcome_of(play: Play, events: Iterable[Event]) -> Outcome | None:
    """Put together what a play's process told; None where its end is missing."""
    metrics: dict[str, dict[str, dict[int, float]]] = {}
    strategy, notes, end = "", (), None
    for event in events:
        if event["event"] == "begun":
            strategy, notes = event["strategy"], tuple(event["notes"])
        elif event["event"] == "metrics":
            of_source = metrics.setdefault(event["source"], {})
            for name, value in event["values"].items():
                number = math.nan if value is None else float(value)
                of_source.setdefault(name, {})[event["round"]] = number
        elif event["event"] == "end":
            end = event
    if end is None:
        return None
    return Outcome(
        play=play,
        end=end["end"],
        reason=end["reason"],
        strategy=strategy,
        notes=notes,
        metrics=metrics,
        moved=math.inf if end["moved"] == "another form" else end["moved"],
        finite=end["finite"],
        seconds=end["seconds"],
    )


def append(path: Path, play: Play, events: Iterable[Event]) -> None:
    """Append a play that is over to a file of plays, a line an event."""
    json_lines.append(path, [{"play": asdict(play), **event} for event in events])


def load(path: Path, timeout: float) -> dict[Play, Outcome]:
    """Read the plays that a file holds whole; those that hung in a shorter time are left out."""
    events: dict[Play, list[Event]] = {}
    for entry in json_lines.read(path):
        try:
            play = Play(**entry.pop("play"))
        except (KeyError, TypeError):
            continue
        if entry.get("event") == "begun":
            events[play] = []  # a later play of the same is the one that counts
        events.setdefault(play, []).append(entry)
    outcomes = {play: outcome_of(play, told) for play, told in events.items()}
    return {
        play: outcome
        for play, outcome in outcomes.items()
        if outcome is not None and (outcome.end != "hung" or outcome.seconds >= timeout)
    }
