"""The command ``flwr-byz advise``, and the pilot that it runs."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from flwr.common import ndarrays_to_parameters
from flwr.server import Server, SimpleClientManager
from flwr.server import strategy as classic
from flwr.serverapp import strategy as message

from flwr_byz.redteam import simulate
from flwr_byz.redteam.advise import read_pilot
from flwr_byz.redteam.runs import RunResult
from tests.support.answering_grid import AnsweringGrid, Client, record
from tests.support.table import table

ROOT = Path(__file__).parents[2]
APP = ROOT / "tests/apps/quickstart-message"
START = [np.full(3, 2.0, "f4"), np.array([7], "i8")]


@pytest.fixture
def ask(command, tmp_path):
    """Return what runs the command, with a folder of results."""
    return lambda *arguments: command("advise", *arguments, "--results", tmp_path / "results")


WRONG = """
/nowhere/at : /nowhere/at | {root}/docs : no pyproject.toml
{app} --nodes 2 : half of the 2 nodes | {app} --num-byzantine 5 : below 5 (half of the 10 nodes)
{app} --byzantine 0 : byzantine must be a whole number of at least 1 | {app} --seed -1 : seed
{app} --timeout 0 : timeout | {app} --trusted -1 : trusted | {app} --run-config rate=1 : no rate
"""


@pytest.mark.parametrize(("arguments", "named"), table(WRONG))
def test_nonsense_gets_one_line_and_nothing_is_run(ask, tmp_path, arguments, named):
    code, _, error = ask(*(each.format(root=ROOT, app=APP) for each in arguments.split()))
    assert (code, error.count("\n")) == (2, 1)
    assert named in error
    assert not (tmp_path / "results").exists()


def pilot_of(updates, rejected=(), api="serverapp", rounds=2):
    """Return what stands for a run in which clients reply these updates (r, m, d)."""

    def run_apart(run, timeout):
        run.folder.mkdir(parents=True)
        for number in range(1, rounds + 1):
            named = {f"{client}": each for client, each in enumerate(updates[number - 1])}
            np.savez(run.replies(number), **named)
            run.record("replies", round=number, api=api, rejected=list(rejected))
        run.record("end", end="finished", reason="", seconds=1.0)
        return RunResult(run, "finished")

    return run_apart


def gaussian(between, m=10):
    rng = np.random.default_rng(0)
    means = rng.normal(scale=np.sqrt(between), size=(m, 500))
    return means + rng.normal(size=(2, m, 500))


@pytest.mark.parametrize("api", ["serverapp", "server"])
def test_the_measure_is_printed_and_the_strategy_for_it_from_one_pilot(ask, monkeypatch, api):
    monkeypatch.setattr(simulate, "run_apart", pilot_of(gaussian(30.0), api=api))
    code, out, error = ask(APP, "--num-byzantine", 2)
    assert (code, error) == (0, "")
    for named in (
        "quickstart-message with 10 clients, at most 2 of them Byzantine",
        "strongly unlike",
        f"from flwr_byz.{api}.strategy import RobustFedAvg",
        "(--trusted)",
    ):
        assert named in out
    assert re.search(r"between / within +│ (2[5-9]|3[0-5])", out)
    monkeypatch.setattr(simulate, "run_apart", None)  # the pilot is there
    code, out, _ = ask(APP, "--num-byzantine", 1, "--trusted", 50)
    assert code == 0
    assert "    server_update_fn=train_on_trusted,\n" in out
    assert "Uncertain" not in out


def ends(end, reason):
    return lambda run, timeout: RunResult(run, end, reason)


@pytest.mark.parametrize(
    ("run_apart", "named"),
    [
        (ends("refused", "it collects no trees"), "it collects no trees"),
        (ends("crashed", "OSError: disk"), "fails without any attack: OSError: disk; its log is"),
        (
            pilot_of(gaussian(1.0, m=4), ["bad"] * 6),
            "more than 4 clients with finite updates",
        ),
        (pilot_of(gaussian(1.0, m=4), ["an odd shape"] * 6), "; an odd shape; the log is"),
        (pilot_of(gaussian(1.0), rounds=1), "ended after 1 of 2 rounds"),
        (pilot_of(np.ones((2, 10, 3))), "most updates are equal"),
    ],
)
def test_a_pilot_that_shows_nothing_is_an_error_of_one_line(ask, monkeypatch, run_apart, named):
    monkeypatch.setattr(simulate, "run_apart", run_apart)
    code, _, error = ask(APP)
    assert (code, error.count("\n")) == (2, 1)
    assert named in error


def test_clients_without_two_replies_are_counted(ask, monkeypatch):
    monkeypatch.setattr(simulate, "run_apart", pilot_of(gaussian(5.0, m=9)))
    code, out, _ = ask(APP, "-q", 1)
    assert code == 0
    assert "- 1 of 10 clients were not asked, or sent no two usable replies." in out


def reply(node, server_round, arrays):
    """Move by the number of the node and a tenth of the round; node 3 sends another shape."""
    if node == 3:
        return [np.ones(4, "f4"), *arrays[1:]]
    return [(arrays[0] + node + 0.1 * server_round).astype("f4"), arrays[1] + 1]


def check(watched, api):
    found, rejected, updates = read_pilot(watched.run)
    assert found == api
    assert len(rejected) == 2
    assert all("shape" in reason for reason in rejected)
    assert set(updates) == {"4", "5", "6", "8", "9", "10"}  # partitions: node 3 is 7
    for node in (0, 1, 2, 4, 5, 6):
        first, second = updates[f"{10 - node}"]
        assert first == pytest.approx(np.full(3, node + 0.1), abs=1e-5)
        assert second == pytest.approx(np.full(3, node + 0.2), abs=1e-5)  # from the same model


class NeverAggregates(message.FedAvg):
    def aggregate_train(self, server_round, replies):
        raise AssertionError("the app's own rule")


def test_a_pilot_keeps_the_model_and_the_replies_of_the_message_api(watch):
    watched = watch(strategy="pilot")
    grid = AnsweringGrid(7, reply)
    result = NeverAggregates(fraction_evaluate=0.0).start(grid, record(START), num_rounds=5)
    check(watched, "serverapp")
    assert (result.arrays["a0"].numpy() == 2).all()
    assert watched.has_begun


def test_a_pilot_keeps_the_model_and_the_replies_of_the_classic_api(watch):
    watched, manager = watch(strategy="pilot"), SimpleClientManager()
    for number in range(7):
        manager.register(Client(number, reply))
    own = classic.FedAvg(initial_parameters=ndarrays_to_parameters(START), fraction_evaluate=0.0)
    server = Server(client_manager=manager, strategy=own)
    server.set_max_workers(1)
    server.fit(5, None)
    check(watched, "server")


def test_a_pilot_asks_the_same_clients_in_both_rounds(watch):
    watched = watch(strategy="pilot")
    own = message.FedAvg(fraction_train=0.6, min_train_nodes=4, fraction_evaluate=0.0)
    own.start(AnsweringGrid(7, lambda *args: [reply(1, *args[1:])[0], START[1]]), record(START))
    with np.load(watched.run.replies(1)) as first, np.load(watched.run.replies(2)) as second:
        assert set(first) == set(second)
        assert len(set(first)) == 4


MINI_BATCHES = """    for _ in range(epochs):
        drawn = np.random.randint(len(data[1]), size=16)
        images, labels = data[0][drawn], data[1][drawn]
"""


@pytest.mark.slow
def test_an_app_is_asked_as_it_is_in_a_simulation(ask, tmp_path):
    app = tmp_path / "app"
    shutil.copytree(APP, app)
    model, task = (app / "quickstart_message" / name for name in ("model.py", "task.py"))
    text = model.read_text(encoding="utf-8")
    model.write_text(text.replace("    for _ in range(epochs):\n", MINI_BATCHES), encoding="utf-8")
    assert MINI_BATCHES in model.read_text(encoding="utf-8")
    by_label = "np.argsort(np.argsort(labels)) * num_partitions // len(labels) == partition"
    text = task.read_text(encoding="utf-8")
    task.write_text(
        re.sub("np.random.default_rng.* == partition", by_label, text), encoding="utf-8"
    )
    assert by_label in task.read_text(encoding="utf-8")
    code, out, error = ask(app, "--nodes", 6, "--byzantine", 1, "--trusted", 50)
    assert (code, error) == (0, "")
    assert "strongly unlike" in out
    assert "    server_update_fn=train_on_trusted,\n" in out
    assert "6 clients are few" in out
