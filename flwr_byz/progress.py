"""How far a training has come: what a strategy of either API plays over after a restart."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from logging import ERROR, INFO
from pathlib import Path
from typing import Any

from flwr.supercore import log
from numpy.typing import NDArray

from .checkpoint import Checkpoint

Arrays = Mapping[str, NDArray[Any]]


@dataclass
class Progress:
    """The rounds of a training so far, kept in a folder so that another process can go on.

    Beside the model and the metrics that is the state of Python's `random`, with which Flower draws
    the clients of a round.

    Attributes
    ----------
    folder : Path or None
        Where a checkpoint is written after each round; None for nowhere.
    finished : int
        The last round that was finished before this start; −1 where there was none.
    arrays : mapping of str to ndarray
        The model after that round.
    train, evaluate, server : dict
        Metrics by round: of the training, of the evaluation by clients, and of the one at the
        server. What JSON has no form for is null in a checkpoint.
    """

    folder: Path | None = None
    finished: int = -1
    arrays: Arrays = field(default_factory=dict)
    train: dict[int, Any] = field(default_factory=dict)
    evaluate: dict[int, Any] = field(default_factory=dict)
    server: dict[int, Any] = field(default_factory=dict)

    @classmethod
    def resume(cls, folder: Path | None) -> "Progress":
        """Take up the newest checkpoint of a folder; begin where there is none.

        Raises
        ------
        DamagedCheckpoint
            A ValueError: where there are checkpoints, and none of them is whole.
        """
        checkpoint = None if folder is None else Checkpoint.latest(folder)
        if checkpoint is None:
            return cls(folder)
        log(INFO, "going on after round %d of %s", checkpoint.server_round, folder)
        version, numbers, gauss = checkpoint.history["random"]
        random.setstate((version, tuple(numbers), gauss))
        history = {
            name: {int(number): metrics for number, metrics in rounds.items()}
            for name, rounds in checkpoint.history["rounds"].items()
        }
        return cls(folder, checkpoint.server_round, checkpoint.arrays, **history)

    def check_fits(self, initial: Arrays) -> None:
        """Check that the model taken up is of the form that the caller trains.

        Raises
        ------
        ValueError
            Where names, dtypes, shapes or their order differ.
        """
        if self.finished >= 0 and _form(self.arrays) != _form(initial):
            raise ValueError(
                f"the checkpoint in {self.folder} is of another model: {_form(self.arrays)}, where "
                f"the initial one is {_form(initial)}"
            )

    def finish(self, server_round: int, arrays: Arrays) -> None:
        """Write a checkpoint of a round that is finished.

        Raises
        ------
        OSError
            Where that of round 0 cannot be written. Later on an error of the disk is logged: it
            must not end a training.
        """
        if self.folder is None:
            return
        rounds = {"train": self.train, "evaluate": self.evaluate, "server": self.server}
        history = {"rounds": rounds, "random": random.getstate()}
        try:
            Checkpoint(server_round, arrays, history).save(self.folder)
        except OSError as error:
            if server_round == 0:
                raise
            log(ERROR, "round %d is not in a checkpoint: %s", server_round, error)


def _form(arrays: Arrays) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(name, str(array.dtype), array.shape) for name, array in arrays.items()]
