"""Files of checkpoints, and the lock of their folder."""

import errno
import json
import os
import random
import signal
import tracemalloc
import zipfile
from contextlib import closing, suppress
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from flwr.server.client_manager import SimpleClientManager

from flwr_byz.history import Checkpoint, DamagedCheckpoint, History
from tests.support.answering_grid import train
from tests.support.apis import CLASSIC

ARRAYS = {
    "layer/1.weight": np.arange(12, dtype="f4").reshape(3, 4),
    "ä": np.array(7, dtype="i8"),
    "empty": np.zeros((0, 3), dtype="f2"),
    "big end": np.array([1.5, 2.5], dtype=">f8"),
}
ROUNDS = {"train": {1: {"loss": 0.1 + 0.2, "list": [1, 2]}}, "evaluate": {}, "server": {}}


def exact(arrays):
    return [(n, a.dtype, a.shape, a.tobytes()) for n, a in arrays.items()]


def test_the_newest_two_are_kept_to_the_bit_and_nothing_unfinished_counts(tmp_path):
    assert Checkpoint.latest(tmp_path / "not there") is None
    (tmp_path / "round-2000000.unfinished").write_bytes(b"half")
    assert Checkpoint.latest(tmp_path) is None
    for server_round in (8, 9, 10, 1_000_000):
        Checkpoint(server_round, ARRAYS, ROUNDS).save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"round-000010.npz", "round-1000000.npz"}
    back = Checkpoint.latest(tmp_path)
    assert (back.server_round, back.rounds) == (1_000_000, ROUNDS)
    assert exact(back.arrays) == exact(ARRAYS)


def test_a_changed_byte_is_noticed_or_harmless_and_a_cut_is_noticed(tmp_path):
    path = Checkpoint(1, ARRAYS, ROUNDS).save(tmp_path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        flipped = bytes([whole[place] ^ (1 + place % 255)])
        for changed in (whole[:place], whole[:place] + flipped + whole[place + 1 :]):
            path.write_bytes(changed)
            with suppress(DamagedCheckpoint):
                back = Checkpoint.read(path)
                assert len(changed) == len(whole)
                assert back.rounds == ROUNDS
                assert exact(back.arrays) == exact(ARRAYS)  # it means nothing, as a time stamp's


def head(**changed):
    history = {"rounds": {kind: {} for kind in ROUNDS}, "random": None}
    made = {"format": "flwr-byz checkpoint 1", "round": 2, "names": ["w"], "history": history}
    return np.array(json.dumps(made | changed))


def claim_gigabytes(path):
    """Write an archive whose list of members claims another size for an array."""
    np.savez(path, head=head())
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("array-0.npy", bytes(1000))
        file.infolist()[-1].file_size = 2**31


PICKLED = {"head": head(), "array-0": np.array([None], object)}
ZEROS = {"head": head(), "array-0": np.zeros(20_000_000)}
DAMAGED = {
    "": lambda path: path.write_bytes(b""),
    "its format is 'other'": lambda path: np.savez(path, head=head(format="other")),
    r"malformed \.npy header": lambda path: np.savez(path, allow_pickle=True, **PICKLED),
    "not of the 160": lambda path: np.savez_compressed(path, **ZEROS),
    "not of the 21": claim_gigabytes,
    "'train'": lambda path: Checkpoint(2, ARRAYS, {}).save(path.parent),
    "'items'": lambda path: Checkpoint(2, ARRAYS, ROUNDS | {"train": []}).save(path.parent),
    "it is no file": Path.mkdir,
    "not a zip file": lambda path: (path.touch(), os.truncate(path, 1 << 26)),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_no_whole_checkpoint_is_refused_in_little_memory(tmp_path, kind, caplog):
    path = tmp_path / "round-000002.npz"
    DAMAGED[kind](path)
    tracemalloc.start()
    with pytest.raises(DamagedCheckpoint, match="round-000002") as raised:
        Checkpoint.read(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert raised.match(kind)
    with pytest.raises(DamagedCheckpoint, match="to start anew, empty the folder"):
        History.resume(tmp_path)  # which lets go of the folder
    Checkpoint(1, ARRAYS).save(tmp_path)
    with closing(History.resume(tmp_path)) as history:
        assert history.finished == 1
    assert "round-000002.npz is no checkpoint that can be used" in caplog.text
    for server_round in (3, 4, 5):  # nor does it keep later checkpoints from being tidied up
        Checkpoint(server_round, ARRAYS).save(tmp_path)
    assert Checkpoint.latest(tmp_path).server_round == 5
    assert not (tmp_path / "round-000003.npz").exists()


@pytest.mark.parametrize("state", [7, [3, [1, 2], 0.5], (*random.Random(6).getstate()[:2], "x")])
def test_a_random_state_that_cannot_be_used_is_logged_and_left_out(tmp_path, caplog, state):
    Checkpoint(1, ARRAYS, random_state=state).save(tmp_path)
    expected = random.getstate()
    with closing(History.resume(tmp_path)) as history:
        assert history.finished == 1
    assert random.getstate() == expected
    assert "the checkpoint's state of `random` cannot be used" in caplog.text


def test_a_checkpoint_of_version_0_1_0_is_read(tmp_path):
    rounds = {"train": {"1": {"loss": 0.5}}, "evaluate": {}, "server": {"0": [1.0, {}]}}
    history = {"rounds": rounds, "random": random.getstate()}
    columns = {f"array-{i}": array for i, array in enumerate(ARRAYS.values())}
    made = head(round=1, names=list(ARRAYS), history=history)
    np.savez(tmp_path / "round-000001.npz", head=made, **columns)
    with closing(History.resume(tmp_path)) as back:
        assert (back.finished, back.train, back.server) == (1, {1: {"loss": 0.5}}, {0: [1.0, {}]})
        assert exact(Checkpoint.latest(tmp_path).arrays) == exact(ARRAYS)


def test_a_metric_that_no_checkpoint_can_hold_is_null_there_and_named(tmp_path, caplog):
    history = History(tmp_path)
    history.train[1] = {"blob": b"1", "loss": 0.5}
    history.keep(1, ARRAYS)
    assert Checkpoint.latest(tmp_path).rounds["train"] == {1: {"blob": None, "loss": 0.5}}
    assert "not the metric b'1'" in caplog.text


@pytest.mark.parametrize(("owner", "step"), [(np, "savez"), (Path, "replace")])
def test_what_a_failed_write_leaves_behind_is_removed(tmp_path, monkeypatch, owner, step):
    (tmp_path / "round-000001.unfinished").write_bytes(b"of a process that was killed")

    def full(file, *to, **columns):
        if columns:
            file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(owner, step, full)
    with pytest.raises(OSError, match="no space left"):
        Checkpoint(2, ARRAYS).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork, which Windows does not have")
def test_a_folder_is_held_until_its_history_is_closed_whatever_forked_process_lives(tmp_path):
    history, (ready, begun) = History.resume(tmp_path / "checkpoints"), os.pipe()
    with pytest.raises(ValueError, match="is in use: stop the server"):
        train(tmp_path, 1)
    if (child := os.fork()) == 0:
        os.write(begun, b"x")
        os._exit(signal.pause())
    os.read(ready, 1)
    for _ in range(2):
        history.close()
    try:
        train(tmp_path, 1)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    History.resume(tmp_path / "checkpoints").close()


def test_a_folder_on_a_file_system_without_locks_is_used_too(tmp_path, monkeypatch, caplog):
    unsupported = Mock(side_effect=OSError(errno.ENOTSUP, "not supported"))
    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", unsupported)
    History.resume(tmp_path).close()
    assert "cannot be locked against a second server" in caplog.text


def test_a_classic_strategy_that_is_initialised_again_takes_its_own_folder(tmp_path):
    initial = CLASSIC.initial()
    strategy = CLASSIC.gmom(num_batches=1, checkpoints=tmp_path, **initial)
    for _ in range(2):
        strategy.initial_parameters = initial["initial_parameters"]  # Flower lets go of them
        strategy.initialize_parameters(SimpleClientManager())
