"""What the process of a play is told to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .flower_app import FlowerApp
from .outcome import PEACE, Play


@dataclass(frozen=True)
class Order:
    """One play, and where it takes place.

    Attributes
    ----------
    play : Play
    app : FlowerApp
    run_config : dict
        The whole, flat.
    byzantine : frozenset of int
        The partition ids of the Byzantine clients.
    num_actors : int
        How many clients run at a time.
    folder : Path
        Of the play: its working directory, its log, and what it tells.
    reference : Path
        The models of the app's own strategy where nobody attacks, the initial and the final one.
    """

    play: Play
    app: FlowerApp
    run_config: dict[str, Any]
    byzantine: frozenset[int]
    num_actors: int
    folder: Path
    reference: Path

    @property
    def is_reference(self) -> bool:
        """Whether this play makes the models that others are compared with."""
        return self.play.attack == PEACE and self.play.strategy == "own"

    @property
    def events(self) -> Path:
        """The file to which the play tells what happens."""
        return self.folder / "events.jsonl"

    @property
    def log(self) -> Path:
        """The file that takes what the app prints."""
        return self.folder / "log.txt"

    def asked(self, server_round: int) -> Path:
        """Return the file that names the Byzantine clients asked in a round."""
        return self.folder / "asked" / f"round-{server_round}.json"

    def failed_attacks(self) -> list[Path]:
        """Return the files in which clients say why an attack failed."""
        return sorted(self.folder.glob("attack-failed-*.txt"))
