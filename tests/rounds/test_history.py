"""A training that is stopped goes on where it was: checkpoints, and the strategy that uses them."""

import errno
import json
import os
import random
import subprocess
import sys
import time
import tracemalloc
import zipfile
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error
from flwr.common import (
    Code,
    EvaluateRes,
    FitRes,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server import Server, SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flwr_byz import audit
from flwr_byz.history import Checkpoint, DamagedCheckpoint, History
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicStrategy
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans
from tests.support import malformed
from tests.support.answering_grid import AnsweringGrid, drift, model, summary, train

ONE_FOLDER = [HealthCheck.function_scoped_fixture]
ROOT = Path(__file__).parents[2]
ARRAYS = {
    "layer/1.weight": np.arange(12, dtype="f4").reshape(3, 4),
    "ä": np.array(7, dtype="i8"),
    "empty": np.zeros((0, 3), dtype="f2"),
    "big end": np.array([1.5, 2.5], dtype=">f8"),
}


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_a_checkpoint_comes_back_to_the_bit(tmp_path):
    rounds = {"train": {1: {"loss": 0.1 + 0.2, "list": [1, 2]}}, "evaluate": {}, "server": {}}
    Checkpoint(12, ARRAYS, rounds).save(tmp_path)
    back = Checkpoint.latest(tmp_path)
    assert (back.server_round, back.rounds) == (12, rounds)
    assert list(back.arrays) == list(ARRAYS)
    assert all(same(back.arrays[name], ARRAYS[name]) for name in ARRAYS)


def test_the_newest_two_are_kept_and_nothing_unfinished_is_left(tmp_path):
    for server_round in (8, 9, 10, 1_000_000):
        Checkpoint(server_round, ARRAYS).save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"round-000010.npz", "round-1000000.npz"}
    assert Checkpoint.latest(tmp_path).server_round == 1_000_000


def test_an_unfinished_file_is_no_checkpoint(tmp_path):
    (tmp_path / "round-000003.unfinished").write_bytes(b"half")
    assert Checkpoint.latest(tmp_path) is None
    assert Checkpoint.latest(tmp_path / "not there") is None


@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=300, deadline=None, suppress_health_check=ONE_FOLDER)
def test_a_changed_byte_is_noticed_or_harmless(tmp_path, position, flip):
    rounds = {"train": {1: {"x": 1}}, "evaluate": {}, "server": {}}
    path = Checkpoint(1, ARRAYS, rounds).save(tmp_path)
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= flip
    path.write_bytes(content)
    try:
        back = Checkpoint.read(path)
    except DamagedCheckpoint:
        return
    assert back.rounds == rounds  # a byte that means nothing, as a time stamp of the zip file
    assert all(same(back.arrays[name], ARRAYS[name]) for name in ARRAYS)


@given(length=st.floats(0, 1, exclude_max=True))
@settings(max_examples=100, deadline=None, suppress_health_check=ONE_FOLDER)
def test_a_file_that_is_cut_off_is_refused(tmp_path, length):
    path = Checkpoint(1, ARRAYS).save(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(length * len(content))])
    with pytest.raises(DamagedCheckpoint, match="round-000001"):
        Checkpoint.read(path)


def test_another_program_s_file_is_refused(tmp_path):
    path = tmp_path / "round-000001.npz"
    np.savez(path, head=np.array(json.dumps({"format": "other"})))
    with pytest.raises(DamagedCheckpoint, match="its format is 'other'"):
        Checkpoint.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("head.npy", b"\x93NUMPY")
    with pytest.raises(DamagedCheckpoint):
        Checkpoint.read(path)


def test_pickled_objects_are_never_loaded(tmp_path):
    path = tmp_path / "round-000001.npz"
    head = {"format": "flwr-byz checkpoint 1", "round": 1, "names": ["w"], "history": {}}
    objects = np.array([print], dtype=object)
    np.savez(path, **{"head": np.array(json.dumps(head)), "array-0": objects}, allow_pickle=True)
    with pytest.raises(DamagedCheckpoint, match=r"malformed \.npy header"):
        Checkpoint.read(path)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, caplog):
    Checkpoint(1, ARRAYS).save(tmp_path)
    Checkpoint(2, ARRAYS).save(tmp_path).write_bytes(b"PK")
    assert Checkpoint.latest(tmp_path).server_round == 1
    assert "round-000002.npz is no checkpoint that can be used" in caplog.text
    (tmp_path / "round-000001.npz").write_bytes(b"")
    with pytest.raises(DamagedCheckpoint, match="to start anew, empty the folder"):
        Checkpoint.latest(tmp_path)


@pytest.mark.skipif(
    os.name != "posix", reason="Windows has no named pipes or device files among its files"
)
@pytest.mark.parametrize("kind", ["fifo", "folder", "endless", "socket name", "sparse"])
def test_what_is_no_regular_file_is_never_read(tmp_path, kind, caplog):
    Checkpoint(1, ARRAYS).save(tmp_path)
    path = tmp_path / "round-000002.npz"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "socket name":
        path.symlink_to(tmp_path / "not there")
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    assert Checkpoint.latest(tmp_path).server_round == 1
    assert "round-000002.npz is no checkpoint" in caplog.text
    for server_round in (3, 4, 5):  # nor does it keep later checkpoints from being tidied up
        Checkpoint(server_round, ARRAYS).save(tmp_path)
    assert Checkpoint.latest(tmp_path).server_round == 5
    assert not (tmp_path / "round-000003.npz").exists()


@pytest.mark.parametrize("lie", ["compressed", "shape", "directory"])
def test_a_checkpoint_that_claims_an_absurd_size_is_refused_before_it_is_read(tmp_path, lie):
    path = tmp_path / "round-000001.npz"
    rounds = {"train": {}, "evaluate": {}, "server": {}}
    history = {"rounds": rounds, "random": None}
    head = {"format": "flwr-byz checkpoint 1", "round": 1, "names": ["w"], "history": history}
    if lie == "compressed":
        zeros = np.zeros(20_000_000)
        np.savez_compressed(path, **{"head": np.array(json.dumps(head)), "array-0": zeros})
    else:
        np.savez(path, head=np.array(json.dumps(head)))
        data = malformed.BAD_TENSORS["header claims 4 TB"] if lie == "shape" else b"\0" * 1000
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("array-0.npy", data)
    if lie == "directory":
        content = path.read_bytes()
        place = content.rindex(b"PK\x01\x02") + 24  # the size of the last member
        path.write_bytes(content[:place] + (2**31).to_bytes(4, "little") + content[place + 4 :])
    tracemalloc.start()
    with pytest.raises(DamagedCheckpoint, match=r"directory|size"):
        Checkpoint.read(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "state",
    [None, 7, [], [3, [1, 2], None], [3, ["x"] * 625, None], [9, [], None], [3, None, None]],
)
def test_a_random_state_that_cannot_be_used_is_logged_and_left_out(tmp_path, caplog, state):
    Checkpoint(1, ARRAYS, random_state=state).save(tmp_path)
    random.seed(5)
    expected = random.getstate()
    with closing(History.resume(tmp_path)) as history:
        assert history.finished == 1
    assert random.getstate() == expected
    assert "the checkpoint's state of `random` cannot be used" in caplog.text


def test_a_random_state_whose_last_part_is_broken_changes_nothing(tmp_path):
    random.seed(6)
    version, numbers, _ = random.getstate()
    Checkpoint(1, ARRAYS, random_state=(version, numbers, "x")).save(tmp_path)
    random.seed(5)
    expected = random.getstate()
    History.resume(tmp_path).close()
    assert random.getstate() == expected


def test_rounds_of_another_form_make_a_damaged_checkpoint(tmp_path):
    Checkpoint(1, ARRAYS).save(tmp_path)
    for rounds in ({}, {"train": [], "evaluate": {}, "server": {}}):
        Checkpoint(2, ARRAYS, rounds).save(tmp_path)
        assert Checkpoint.latest(tmp_path).server_round == 1


def test_a_checkpoint_of_version_0_1_0_is_read(tmp_path):
    rounds = {"train": {"1": {"loss": 0.5}}, "evaluate": {}, "server": {"0": [1.0, {}]}}
    history = {"rounds": rounds, "random": random.getstate()}
    names = list(ARRAYS)
    head = {"format": "flwr-byz checkpoint 1", "round": 1, "names": names, "history": history}
    columns = {f"array-{i}": array for i, array in enumerate(ARRAYS.values())}
    np.savez(tmp_path / "round-000001.npz", head=np.array(json.dumps(head)), **columns)
    with closing(History.resume(tmp_path)) as back:
        assert (back.finished, back.train, back.server) == (1, {1: {"loss": 0.5}}, {0: [1.0, {}]})
        assert all(same(back.arrays[name], ARRAYS[name]) for name in ARRAYS)


# The lock. -------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from flwr_byz.history import History
history = History.resume(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_server_in_the_folder_is_refused_until_the_first_is_closed(tmp_path):
    first = History.resume(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match="is in use: stop the server"):
        History.resume(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match="is in use"):
        train(tmp_path, 1)
    first.close()
    first.close()
    train(tmp_path, 1)
    History.resume(tmp_path / "checkpoints").close()


def test_a_server_of_another_process_holds_the_folder_until_it_is_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="is in use"):
            History.resume(tmp_path)
        holder.kill()
        holder.wait()
        History.resume(tmp_path).close()


@pytest.mark.skipif(
    not hasattr(os, "fork"), reason="Windows has no fork: no process inherits an open lock"
)
def test_a_forked_process_does_not_hold_the_folder(tmp_path):
    history = History.resume(tmp_path)
    ready, release = os.pipe(), os.pipe()
    if (child := os.fork()) == 0:
        os.write(ready[1], b"x")
        os.read(release[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        history.close()
        History.resume(tmp_path).close()
    finally:
        os.write(release[1], b"x")
        os.waitpid(child, 0)


def test_a_history_that_cannot_be_resumed_lets_go_of_the_folder(tmp_path):
    path = Checkpoint(1, ARRAYS).save(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match="is of another model"):
            History.resume(tmp_path, {"w": np.zeros(2)})
    path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(DamagedCheckpoint):
            History.resume(tmp_path)


def test_a_folder_on_a_file_system_without_locks_is_used_all_the_same(
    tmp_path, monkeypatch, caplog
):
    fcntl = pytest.importorskip("fcntl")

    def unsupported(descriptor, operation):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    History.resume(tmp_path).close()
    assert "cannot be locked against a second server" in caplog.text


def test_a_classic_strategy_that_is_initialised_again_takes_its_own_folder(tmp_path):
    options = {
        "num_batches": 1,
        "checkpoints": tmp_path,
        "initial_parameters": ndarrays_to_parameters([np.zeros(3)]),
    }
    strategy = ClassicStrategy(**options)
    manager = SimpleClientManager()
    strategy.initialize_parameters(manager)
    strategy.initial_parameters = options["initial_parameters"]  # Flower lets go of them
    strategy.initialize_parameters(manager)
    with pytest.raises(ValueError, match="is in use"):
        ClassicStrategy(**options).initialize_parameters(manager)
    del strategy
    ClassicStrategy(**options).initialize_parameters(manager)


# The strategy. ---------------------------------------------------------------------------------


class Stop(Exception):
    pass


@pytest.mark.parametrize("last", [0, 1, 4])
def test_a_training_that_is_stopped_ends_as_one_that_is_not(tmp_path, last):
    whole = summary(train(tmp_path / "whole", 6))

    def until(node, server_round, arrays):
        if server_round > last:
            raise Stop
        return drift(node, server_round, arrays)

    with pytest.raises(Stop):
        train(tmp_path / "halves", 6, until)
    asked = []

    def rest(node, server_round, arrays):
        asked.append(server_round)
        return drift(node, server_round, arrays)

    assert summary(train(tmp_path / "halves", 6, rest)) == whole
    assert min(asked) == last + 1
    assert set(whole["train"]) == {1, 2, 3, 4, 5, 6}
    assert set(whole["evaluate"]) == {0, 1, 2, 3, 4, 5, 6}


def test_a_training_that_is_done_is_only_told_again(tmp_path):
    whole = summary(train(tmp_path, 3))
    assert summary(train(tmp_path, 3, reply=None)) == whole


def test_a_resumed_training_can_be_longer_but_not_shorter(tmp_path):
    train(tmp_path, 3)
    assert len(train(tmp_path, 5).train_metrics_clientapp) == 5
    with pytest.raises(ValueError, match="is of round 5, after num_rounds=4"):
        train(tmp_path, 4)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    other = {name: array.numpy() for name, array in model().items()} | {"a1": np.zeros(6)}
    History(tmp_path / "checkpoints").keep(2, other)
    with pytest.raises(ValueError, match="is of another model"):
        train(tmp_path, 3)


def test_an_array_s_name_counts(tmp_path):
    record = ArrayRecord({"x": Array(np.zeros((3, 4), "f4")), "a1": Array(np.zeros(5))})
    History(tmp_path / "checkpoints").keep(2, {n: a.numpy() for n, a in record.items()})
    with pytest.raises(ValueError, match="is of another model"):
        train(tmp_path, 3)


def test_evaluation_by_clients_is_remembered_too(tmp_path):
    def run(reply):
        strategy = GeometricMedianOfMeans(num_batches=3, checkpoints=tmp_path)
        return strategy.start(AnsweringGrid(5, reply), model(), 2)

    first = run(drift)
    assert set(first.evaluate_metrics_clientapp) == {1, 2}
    again = run(lambda *_: Error(2, "nobody is asked again"))
    assert again.evaluate_metrics_clientapp == first.evaluate_metrics_clientapp


# The classic strategy. --------------------------------------------------------------------------


class Client(ClientProxy):
    """Answers in this process what `reply` makes of (client, round, model)."""

    def __init__(self, number, reply):
        super().__init__(str(number))
        self.reply = reply

    def fit(self, ins, timeout, group_id):
        arrays = self.reply(int(self.cid), group_id, parameters_to_ndarrays(ins.parameters))
        if not isinstance(arrays, list):
            raise ConnectionError
        return FitRes(Status(Code.OK, ""), ndarrays_to_parameters(arrays), 10, {"loss": 0.5})

    def evaluate(self, ins, timeout, group_id):
        mean = float(parameters_to_ndarrays(ins.parameters)[0].mean())
        return EvaluateRes(Status(Code.OK, ""), mean, 10, {"round": group_id})

    def get_properties(self, *args): ...
    def get_parameters(self, *args): ...
    def reconnect(self, *args): ...


def classic_train(folder, num_rounds, reply=drift, arrays=None, **options):
    """Train with Flower's own Server; return everything that it comes to."""
    arrays = model().to_numpy_ndarrays() if arrays is None else arrays
    strategy = ClassicStrategy(
        num_byzantine=2,
        checkpoints=folder / "checkpoints",
        audit=folder / "audit.jsonl",
        initial_parameters=ndarrays_to_parameters(arrays),
        evaluate_fn=lambda r, arrays, config: (float(arrays[1].sum()), {"round": np.float32(r)}),
        **options,
    )
    manager = SimpleClientManager()
    for number in range(11):
        manager.register(Client(number, reply))
    server = Server(client_manager=manager, strategy=strategy)
    history, _ = server.fit(num_rounds, None)
    return vars(history), server.parameters.tensors


@pytest.mark.parametrize("fraction_evaluate", [0.0, 1.0])
@pytest.mark.parametrize("last", [0, 1, 4])
def test_a_classic_training_that_is_stopped_ends_as_one_that_is_not(
    tmp_path, last, fraction_evaluate, monkeypatch
):
    whole = classic_train(tmp_path / "whole", 6, fraction_evaluate=fraction_evaluate)
    with monkeypatch.context() as patch:

        def stop(strategy, server_round, *args):
            if server_round > last:
                raise Stop
            return aggregate(strategy, server_round, *args)

        aggregate = ClassicStrategy.aggregate_fit
        patch.setattr(ClassicStrategy, "aggregate_fit", stop)
        with pytest.raises(Stop):
            classic_train(tmp_path / "halves", 6, fraction_evaluate=fraction_evaluate)
    asked = []

    def rest(client, server_round, arrays):
        asked.append(server_round)
        return drift(client, server_round, arrays)

    again = classic_train(tmp_path / "halves", 6, rest, fraction_evaluate=fraction_evaluate)
    assert again == whole
    assert min(asked) == last + 1
    suspicions = [
        {c: entry["suspicion"] for c, entry in audit.read(folder)[-1]["clients"].items()}
        for folder in (tmp_path / "whole" / "audit.jsonl", tmp_path / "halves" / "audit.jsonl")
    ]
    assert suspicions[0] == suspicions[1]


def test_a_classic_checkpoint_of_another_model_is_refused(tmp_path):
    classic_train(tmp_path, 2)
    with pytest.raises(ValueError, match="is of another model"):
        classic_train(tmp_path, 2, arrays=[np.zeros(3)])


def test_a_metric_that_no_checkpoint_can_hold_is_null_there_and_named(tmp_path, caplog):
    history = History(tmp_path)
    history.train[1] = {"blob": b"1", "loss": 0.5}
    history.keep(1, ARRAYS)
    with closing(History.resume(tmp_path)) as back:
        assert back.train == {1: {"blob": None, "loss": 0.5}}
    assert "not the metric b'1'" in caplog.text


def test_what_a_failed_write_leaves_behind_is_removed(tmp_path, monkeypatch):
    (tmp_path / "round-000001.unfinished").write_bytes(b"of a process that was killed")

    def full(file, **columns):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space left"):
        Checkpoint(2, ARRAYS).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_clients_that_are_drawn_are_those_of_a_training_that_is_not_stopped(tmp_path):
    def asked(folder, *, stop_after):
        drawn = {}

        def reply(node, server_round, arrays):
            if server_round > stop_after:
                raise Stop
            drawn.setdefault(server_round, set()).add(node)
            return drift(3 + node, server_round, arrays)

        with suppress(Stop):
            train(folder, 6, reply, 20, fraction_train=0.3)
        return drawn

    random.seed(7)
    whole = asked(tmp_path / "whole", stop_after=6)
    random.seed(7)
    halves = asked(tmp_path / "halves", stop_after=3)
    random.seed(7)  # as a new process of the same app does
    halves |= asked(tmp_path / "halves", stop_after=6)
    assert halves == whole
    assert len({frozenset(nodes) for nodes in whole.values()}) > 1
    trails = [audit.read(tmp_path / name / "audit.jsonl")[-1] for name in ("whole", "halves")]
    of_client = [{c: e["rounds"] for c, e in line["clients"].items()} for line in trails]
    assert of_client[0] == of_client[1]
    assert max(of_client[0].values()) > 1


def test_a_training_of_which_nothing_is_left_says_so(tmp_path, caplog):
    train(tmp_path, 2)
    train(tmp_path, 2)
    assert "nothing is left to train" in caplog.text


def test_a_full_disk_does_not_end_the_training(tmp_path, monkeypatch, caplog):
    whole = summary(train(tmp_path / "whole", 3))
    save = Checkpoint.save

    def full(checkpoint, folder):
        if checkpoint.server_round == 2:
            raise OSError("no space left")
        return save(checkpoint, folder)

    monkeypatch.setattr(Checkpoint, "save", full)
    assert summary(train(tmp_path / "full", 3)) == whole
    assert "round 2 is not in a checkpoint: no space left" in caplog.text


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(OSError, match="checkpoints"):
        train(tmp_path, 2)


@pytest.mark.slow
def test_a_server_that_is_killed_five_times_ends_as_one_that_is_not(tmp_path):
    rounds, random_numbers = 120, random.Random(0)
    whole = summary(train(tmp_path / "whole", rounds))
    folder = tmp_path / "killed"
    folder.mkdir()
    kills, checkpoints = 0, set()
    while not (folder / "ended.json").exists():
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.answering_grid", str(folder), str(rounds)],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        before = time.monotonic()
        while kills < 5 and server.poll() is None:
            written = {path.name for path in (folder / "checkpoints").glob("*.npz")}
            if written - checkpoints:  # it has begun
                time.sleep(random_numbers.uniform(0, 0.1))
                server.kill()
                kills += 1
                checkpoints = {path.name for path in (folder / "checkpoints").glob("*.npz")}
            assert time.monotonic() - before < 60
            time.sleep(0.001)
        server.wait()
    assert kills == 5
    ended = json.loads((folder / "ended.json").read_text())
    assert ended == json.loads(json.dumps(whole))
    rounds_told = [
        json.loads(line)["round"]
        for line in (folder / "audit.jsonl").read_text().splitlines()
        if line.endswith("}")
    ]
    assert set(rounds_told) == set(range(1, rounds + 1))
