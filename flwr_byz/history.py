"""The rounds of a training, kept in a folder so that a server that was stopped can go on.

Each finished round is a checkpoint, a file ``round-000012.npz``: the model, and as JSON (null for
what it has no form for) the metrics of all rounds so far and the state of Python's `random`, with
which Flower draws the clients of a round. The newest two are kept, and a lock keeps others out.
"""

import json
import os
import random
import re
import sys
import weakref
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from logging import ERROR, INFO, WARNING
from pathlib import Path
from typing import Any

import numpy as np
from flwr.supercore import log
from numpy.typing import NDArray

from .audit import Scores
from .payload import read_npy
from .state import State

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

Arrays = Mapping[str, NDArray[Any]]
Rounds = dict[int, Any]  # metrics by round

_FORMAT = "flwr-byz checkpoint 1"
_NAME = re.compile(r"round-(\d{6,})\.npz")
_KINDS = ("train", "evaluate", "server")
BEST = "best.npz"


@dataclass(eq=False)
class History:
    """The rounds of a training so far: what a strategy of either API replays after a restart."""

    folder: Path | None = None  # where a checkpoint is written after each round, if anywhere
    finished: int = -1  # the last round that was finished before this start
    arrays: Arrays = field(default_factory=dict)  # the model after that round
    train: Rounds = field(default_factory=dict)
    evaluate: Rounds = field(default_factory=dict)  # by clients
    server: Rounds = field(default_factory=dict)  # of the evaluation at the server
    state: State = field(default_factory=State)  # of the strategy's optimizer, after that round
    suspicion: Scores = field(default_factory=dict)  # of each client
    _release: Callable[[], object] | None = field(default=None, init=False, repr=False)

    @classmethod
    def resume(cls, folder: Path | None, initial: Arrays | None = None) -> "History":
        """Lock a folder and go on from its newest checkpoint, or begin anew.

        The lock is held until `close`, or until the process ends, however it ends. Raises OSError,
        and ValueError where another server uses the folder, its model differs from the initial one
        in names, shapes, order or dtypes (other than wider ones), or no checkpoint of it is whole.
        """
        history = cls(folder)
        if folder is not None:
            try:
                history._lock(folder)
                history._go_on(folder, initial)
            except BaseException:
                history.close()
                raise
        return history

    def close(self) -> None:
        """Let other servers use the folder."""
        if self._release:
            self._release()

    def keep(
        self, server_round: int, arrays: Arrays, state: State | None = None, is_best: bool = False
    ) -> None:
        """Write a checkpoint of a finished round, with the state of the strategy's optimizer.

        Where the model is the best so far, it also becomes ``best.npz``. An OSError is raised in
        round 0, and logged later on: it must not end a training.
        """
        assert self.folder is not None
        rounds = {kind: getattr(self, kind) for kind in _KINDS}
        kept = random.getstate(), state or State(), self.suspicion
        checkpoint = Checkpoint(server_round, arrays, rounds, *kept)
        try:
            if is_best:  # first: a round in a checkpoint is not evaluated again after a restart
                checkpoint.write(self.folder / BEST)
            checkpoint.save(self.folder)
        except OSError as error:
            if server_round == 0:
                raise
            log(ERROR, "round %d is not in a checkpoint: %s", server_round, error)

    def metrics(self, server_round: int) -> dict[str, dict[str, Any]]:
        """Return the metrics of a round by kind: "train", "evaluate", "server"."""
        return {kind: _named(getattr(self, kind).get(server_round)) for kind in _KINDS}

    def _go_on(self, folder: Path, initial: Arrays | None) -> None:
        if (checkpoint := Checkpoint.latest(folder)) is None:
            return
        if initial is not None and not _can_become(initial, checkpoint.arrays):
            raise ValueError(
                f"the checkpoint in {folder} is of another model: {_form(checkpoint.arrays)}, "
                f"where the initial one is {_form(initial)}"
            )
        log(INFO, "going on after round %d of %s", checkpoint.server_round, folder)
        self.finished, self.arrays = checkpoint.server_round, checkpoint.arrays
        self.train, self.evaluate, self.server = checkpoint.rounds.values()
        self.state, self.suspicion = checkpoint.state, checkpoint.suspicion
        _set_random(checkpoint.random_state)

    def _lock(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        self._release = weakref.finalize(self, os.close, descriptor)
        try:
            if sys.platform == "win32":
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            else:
                os.register_at_fork(after_in_child=self._release)  # a fork must not hold the lock
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise ValueError(
                f"the folder {folder} is in use: stop the server that uses it (or delete its "
                "strategy, where that is in this process), or give another folder"
            ) from None
        except OSError as error:
            log(WARNING, "%s cannot be locked against a second server: %s", folder, error)


class DamagedCheckpoint(ValueError):
    """A checkpoint that cannot be read; its text says which file, and why."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a training after a round, as a file has it.

    `rounds` has the metrics of the kinds "train", "evaluate" and "server", in this order.
    """

    server_round: int
    arrays: Arrays  # the model, in its order
    rounds: Mapping[str, Rounds] = field(default_factory=lambda: {kind: {} for kind in _KINDS})
    random_state: Any = None  # what `random.getstate` returned; unchecked in one that was read
    state: State = field(default_factory=State)  # of the strategy's optimizer
    suspicion: Scores = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """The metrics of the round by kind: "train", "evaluate", "server"."""
        return {kind: _named(self.rounds[kind].get(self.server_round)) for kind in _KINDS}

    def save(self, folder: Path) -> Path:
        """Write the file of the round, and remove the older ones but one."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"round-{self.server_round:06}.npz"
        self.write(path)
        older = [old for n, old in _by_age(folder) if n < self.server_round and old.is_file()]
        for old in older[1:]:
            old.unlink(missing_ok=True)
        return path

    def write(self, path: Path) -> None:
        """Write a file: whole or not at all, even where power fails."""
        folder = path.parent
        history = {"rounds": self.rounds, "random": self.random_state, "state": self.state.tree}
        history["suspicion"] = self.suspicion
        names = list(self.arrays)
        head = {"format": _FORMAT, "round": self.server_round, "names": names, "history": history}
        columns = {f"array-{i}": array for i, array in enumerate(self.arrays.values())}
        columns |= {f"state-{i}": array for i, array in enumerate(self.state.arrays)}
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
        if os.name == "posix":  # make the rename last, as Windows does by itself
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Read a file that `save` wrote; raise DamagedCheckpoint where it was changed since.

        Its bytes are checked (CRC-32 of the zip file). Nothing is unpickled, and no more is read
        than the file takes on the disk.
        """
        try:
            if not path.is_file():
                raise ValueError("it is no file")
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
                size = sum(entry.file_size for entry in entries)
                if size > path.stat().st_size or any(entry.compress_type for entry in entries):
                    raise ValueError(f"it is not of the {size} bytes that its directory says")
                head = json.loads(str(read_npy(archive.read("head.npy"), "head")))
                if head["format"] != _FORMAT:
                    raise ValueError(f"its format is {head['format']!r}, not {_FORMAT!r}")
                names = enumerate(head["names"])
                arrays = {n: read_npy(archive.read(f"array-{i}.npy"), n) for i, n in names}
                parts = sum(entry.filename.startswith("state-") for entry in entries)
                state = [read_npy(archive.read(f"state-{i}.npy"), "state") for i in range(parts)]
            history = head["history"]
            rounds = {k: {int(n): m for n, m in history["rounds"][k].items()} for k in _KINDS}
            tree = State(history.get("state", {}), state)
            scores = {c: (int(n), float(x)) for c, (n, x) in history.get("suspicion", {}).items()}
            return cls(int(head["round"]), arrays, rounds, history.get("random"), tree, scores)
        except Exception as error:  # what a damaged zip file makes its readers raise is not listed
            raise DamagedCheckpoint(f"{path} is no checkpoint that can be used: {error}") from error

    @classmethod
    def latest(cls, folder: Path) -> "Checkpoint | None":
        """Read the newest whole checkpoint of a folder; None where none was ever written.

        The log names those that are damaged; where all are, that is a DamagedCheckpoint.
        """
        by_age = _by_age(folder)
        for _, path in by_age:
            try:
                return cls.read(path)
            except DamagedCheckpoint as error:
                log(WARNING, "%s; the one before it is tried", error)
        if by_age:
            hint = "to start anew, empty the folder"
            raise DamagedCheckpoint(f"no checkpoint in {folder} is whole; {hint}")
        return None


def _named(metrics: Any) -> dict[str, Any]:
    """Return metrics as a mapping: those of the classic API come as a loss and other metrics."""
    if isinstance(metrics, tuple | list):
        return {"loss": metrics[0], **metrics[1]}
    return dict(metrics or {})


def _can_become(initial: Arrays, arrays: Arrays) -> bool:
    """Say whether a training from a model can have come to arrays: some strategies widen dtypes."""
    return list(initial) == list(arrays) and all(
        before.shape == arrays[name].shape and np.can_cast(before.dtype, arrays[name].dtype)
        for name, before in initial.items()
    )


def _form(arrays: Arrays) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(name, str(array.dtype), array.shape) for name, array in arrays.items()]


def _set_random(state: Any) -> None:
    before = random.getstate()
    try:
        version, numbers, gauss = state
        random.setstate((version, tuple(numbers), None if gauss is None else float(gauss)))
    except Exception as error:  # whatever `random` trips over
        random.setstate(before)
        log(WARNING, "the checkpoint's state of `random` cannot be used: %s", error)


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    log(WARNING, "a checkpoint holds numbers and text, not the metric %.60r", value)
    return None


def _by_age(folder: Path) -> list[tuple[int, Path]]:
    """List the checkpoints of a folder and their rounds, the newest first."""
    paths = (path for path in folder.glob("*.npz") if _NAME.fullmatch(path.name))
    return sorted(((int(path.stem.partition("-")[2]), path) for path in paths), reverse=True)
