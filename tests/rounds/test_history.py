"""A training that is stopped goes on where it was, with all that it had found out."""

import multiprocessing
import os
import random
import time

import numpy as np
import pytest

from flwr_byz import audit
from flwr_byz.history import Checkpoint, History
from tests.support.answering_grid import Stop, step_to_the_end, train, train_to_the_end

HOW = {
    "message": ("message", {"fraction_evaluate": 1.0}),
    "drawn": ("message", {"fraction_train": 0.6}),
    "streamed": ("message", {"streaming": True, "bucketing_seed": 3}),
    "classic": ("classic", {"fraction_evaluate": 1.0}),
    "classic, drawn": ("classic", {"fraction_fit": 0.6, "bucketing_seed": 3}),
}


def clients(folder):
    """Return what the trail has on clients in each round; where one was run again, the last."""
    return {line["round"]: line["clients"] for line in audit.read(folder / "audit.jsonl")}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("last", [0, 1, 3])
def test_a_training_that_is_stopped_ends_as_one_that_is_not(tmp_path, how, last):
    api, options = HOW[how]

    def run(folder, stop_after=None):
        random.seed(7)  # as a new process of the same app does
        return train(tmp_path / folder, 5, api=api, num_nodes=20, stop_after=stop_after, **options)

    whole = run("whole")
    with pytest.raises(Stop):
        run("halves", last)
    rest = run("halves")
    assert all(map(np.allclose, rest.arrays, whole.arrays))
    trails = [clients(tmp_path / folder) for folder in ("halves", "whole")]
    if how != "streamed":  # where the last rounding is by the order of arrival
        assert rest.history == whole.history
        assert trails[0] == trails[1]
    batches = [{(r, c): of[c]["batch"] for r, of in t.items() for c in of} for t in trails]
    assert batches[0] == batches[1]
    assert set(whole.asked) == {1, 2, 3, 4, 5}
    assert rest.asked == {r: nodes for r, nodes in whole.asked.items() if r > last}
    assert (len({frozenset(nodes) for nodes in whole.asked.values()}) > 1) == ("drawn" in how)


def test_a_training_that_is_done_can_be_longer_but_not_shorter(tmp_path, caplog):
    whole = train(tmp_path, 2).history
    assert train(tmp_path, 2, reply=None).history == whole
    assert "nothing is left to train" in caplog.text
    assert set(train(tmp_path, 4).asked) == {3, 4}
    with pytest.raises(ValueError, match="is of round 4, after num_rounds=3"):
        train(tmp_path, 3)


@pytest.mark.parametrize(
    ("api", "first", "second", "size"),
    [("message", "a0", "a1", 6), ("message", "x", "a1", 5), ("classic", "0", "1", 6)],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path, api, first, second, size):
    other = {first: np.zeros((3, 4), "f4"), second: np.zeros(size)}
    History(tmp_path / "checkpoints").keep(2, other)
    with pytest.raises(ValueError, match="is of another model"):
        train(tmp_path, 3, api=api)


def test_a_full_disk_does_not_end_the_training(tmp_path, monkeypatch, caplog):
    whole = train(tmp_path / "whole", 3).history
    save = Checkpoint.save

    def full(checkpoint, folder):
        if checkpoint.server_round == 2:
            raise OSError("no space left")
        return save(checkpoint, folder)

    monkeypatch.setattr(Checkpoint, "save", full)
    (tmp_path / "audit").touch()  # a file, where a folder is needed
    assert train(tmp_path / "full", 3, audit=tmp_path / "audit" / "trail").history == whole
    assert "round 2 is not in a checkpoint: no space left" in caplog.text
    assert "round 1 is missing in the audit trail" in caplog.text


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(OSError, match="checkpoints"):
        train(tmp_path, 2)


def killed(num_kills, target, folder, num_rounds, most_seconds=0.1):
    """Return what a training ends with whose process is killed so often, at random moments.

    While it lives, it also holds the folder against other processes.
    """
    delays = random.Random(0)
    context = multiprocessing.get_context("spawn" if os.name == "nt" else "forkserver")
    context.set_forkserver_preload(["tests.support.answering_grid"])
    for kills_left in reversed(range(num_kills + 1)):
        connection, its_end = context.Pipe()
        server = context.Process(target=target, args=(folder, num_rounds, its_end))
        server.start()
        assert connection.recv() == "begun"
        with pytest.raises(ValueError, match="is in use"):
            History.resume(folder / "checkpoints")
        if kills_left:
            time.sleep(delays.uniform(0, most_seconds))
            server.kill()
        else:
            connection.send("end")
            ended = connection.recv()
        server.join()
    assert set(clients(folder)) == set(range(1, num_rounds + 1))
    return ended


@pytest.mark.slow
def test_a_server_that_is_killed_five_times_ends_as_one_that_is_not(tmp_path):
    whole = train(tmp_path / "whole", 30).history
    assert killed(5, train_to_the_end, tmp_path / "killed", 30) == whole


@pytest.mark.slow
def test_a_server_that_makes_steps_and_is_killed_ten_times_misses_none(tmp_path):
    ended = killed(10, step_to_the_end, tmp_path, 40, 0.3)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "audit.jsonl"}
    metrics = ended["train_metrics_clientapp"]
    assert list(metrics) == list(range(1, 41))
    assert list(ended["evaluate_metrics_serverapp"]) == list(range(41))
    assert min(of_step["byz-clients"] for of_step in metrics.values()) >= 5
    assert max(of_step["byz-staleness"] for of_step in metrics.values()) >= 3
    assert ended["evaluate_metrics_serverapp"][40]["mean"] == pytest.approx(1.0, abs=0.1)
