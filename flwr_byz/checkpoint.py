"""What a server needs to go on where it was stopped: the model and the history, a file a round."""

import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from logging import WARNING
from pathlib import Path
from typing import Any

import numpy as np
from flwr.supercore import log
from numpy.typing import NDArray

_FORMAT = "flwr-byz checkpoint 1"
_NAME = re.compile(r"round-(\d{6,})\.npz")
_KEPT = 2


class DamagedCheckpoint(ValueError):
    """A checkpoint that cannot be read; its text says which file, and why."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a training after a round.

    Attributes
    ----------
    server_round : int
        The last round that was finished.
    arrays : dict of str to ndarray
        The model, in its order.
    history : dict
        What can be said in JSON of the rounds so far.
    """

    server_round: int
    arrays: Mapping[str, NDArray[Any]]
    history: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> Path:
        """Write ``round-000012.npz``: whole or not at all, even where power fails.

        The newest two checkpoints are kept. What JSON has no form for is null in the history, and
        named in the log.

        Raises
        ------
        OSError
            Where the folder cannot be written to.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"round-{self.server_round:06}.npz"
        head = {
            "format": _FORMAT,
            "round": self.server_round,
            "names": list(self.arrays),
            "history": self.history,
        }
        columns = {f"array-{i}": array for i, array in enumerate(self.arrays.values())}
        unfinished = path.with_suffix(".unfinished")
        try:
            with unfinished.open("wb") as file:
                text = json.dumps(head, default=_plain)
                np.savez(file, head=np.array(text), **columns)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            for rest in folder.glob("*.unfinished"):
                rest.unlink(missing_ok=True)
        _sync_folder(folder)
        for old in _by_age(folder)[_KEPT:]:
            old.unlink(missing_ok=True)
        return path

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Read a file that `save` wrote, and check every byte of it (CRC-32, as zip files have it).

        Raises
        ------
        DamagedCheckpoint
            Where it is cut off, changed, or something else. Nothing is unpickled.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"{damaged} is damaged")
            with np.load(path, allow_pickle=False) as file:
                head = json.loads(str(file["head"]))
                if head["format"] != _FORMAT:
                    raise ValueError(f"its format is {head['format']!r}, not {_FORMAT!r}")
                arrays = {name: file[f"array-{i}"] for i, name in enumerate(head["names"])}
            return cls(int(head["round"]), arrays, head["history"])
        except Exception as error:  # what a damaged zip file makes its readers raise is not listed
            raise DamagedCheckpoint(f"{path} is no checkpoint that can be used: {error}") from error

    @classmethod
    def latest(cls, folder: Path) -> "Checkpoint | None":
        """Read the newest checkpoint of a folder that is whole; None where none was ever written.

        A damaged one is named in the log, and the one before it taken.

        Raises
        ------
        DamagedCheckpoint
            Where there are checkpoints and every one is damaged: to start anew, empty the folder.
        """
        damaged = None
        for path in _by_age(folder):
            try:
                return cls.read(path)
            except DamagedCheckpoint as error:
                log(WARNING, "%s; the one before it is tried", error)
                damaged = error
        if damaged is not None:
            raise DamagedCheckpoint(
                f"no checkpoint in {folder} is whole; to start anew, empty the folder"
            ) from damaged
        return None


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    log(WARNING, "a checkpoint holds numbers and text, not the metric %.60r", value)
    return None


def _by_age(folder: Path) -> list[Path]:
    """List the checkpoints of a folder, the newest first."""
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.glob("*.npz"))
    numbered = [(int(match[1]), path) for match, path in matches if match]
    return [path for _, path in sorted(numbered, reverse=True)]


def _sync_folder(folder: Path) -> None:
    """Make a rename last; Windows, which cannot open folders, does so by itself."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
