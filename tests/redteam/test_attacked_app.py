"""An app's clients, honest and Byzantine, in this process."""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from flwr_byz.redteam.attacked_app import ROLL_CALL, AttackedApp
from flwr_byz.redteam.flower_app import FlowerApp
from flwr_byz.redteam.runs import NO_ATTACK, Job, Run
from tests.support import malformed

SEED = 1

CLIENT_APP = """
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
import random

app = ClientApp()

@app.train()
def train(message, context):
    if context.run_config["fails"]:
        raise RuntimeError("the app's own")
    made = {n: Array(a.numpy() + 1) for n, a in message.content["arrays"].items()}
    context.state["seen"] = MetricRecord({"random": random.random()})
    records = {f"arrays{i}": ArrayRecord(made) for i in range(context.run_config["records"])}
    return Message(RecordDict(records), reply_to=message)

@app.evaluate()
def evaluate(message, context):
    return Message(RecordDict({"arrays": message.content["arrays"]}), reply_to=message)
"""


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Return what asks client 1, of whom 1 and 2 are Byzantine, and returns the job, too."""
    malformed.in_a_run()
    package = f"app_of_{tmp_path.name}".replace("-", "_")
    (tmp_path / package).mkdir()
    (tmp_path / package / "client_app.py").write_text(CLIENT_APP, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    reference = f"{package}.client_app:app"

    def ask(attack, kind="train", client=1, fails=False, records=1):
        run = Run("app", "", "", 5, 2, None, SEED, attack, "own")
        assert run.byzantine == (set() if attack == NO_ATTACK else {1, 2})
        config = {"fails": fails, "records": records}
        app = FlowerApp(tmp_path, reference, reference)
        job = Job(run, app, config, 1, tmp_path, tmp_path / "m.npz")
        job.asked(4).parent.mkdir(exist_ok=True)
        job.asked(4).write_text(json.dumps([1, 2]), encoding="utf-8")
        arrays = ArrayRecord({"w": Array(np.full(2, 5.0))})
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 4})})
        node_config = {"partition-id": client, "num-partitions": 5}
        context = Context(1, 77, node_config, RecordDict(), {})
        message = Message(content, dst_node_id=77, message_type=kind)
        try:
            return AttackedApp(job)(message, context).content, context, job
        except (RuntimeError, ValueError, ConnectionAbortedError) as error:
            return error, context, job

    return ask


def weights(content):
    (record,) = content.array_records.values()
    return record["w"].numpy().tolist()


def test_only_byzantine_clients_attack_and_only_in_training(ask):
    attack = "SignFlip(scale=10)"
    assert weights(ask(attack)[0]) == [-5.0, -5.0]
    assert weights(ask(attack, client=3)[0]) == [6.0, 6.0]
    assert weights(ask(attack, kind="evaluate")[0]) == [5.0, 5.0]
    assert weights(ask(NO_ATTACK)[0]) == [6.0, 6.0]


def test_colluders_run_one_at_a_time_do_not_wait_for_each_other(ask):
    assert weights(ask("InnerProductManipulation(epsilon=10)")[0]) == [-5.0, -5.0]


def test_flowers_context_keeps_its_run_config_and_takes_the_apps_state(ask):
    _, context, _ = ask(NO_ATTACK)
    assert context.run_config == {}
    drawn = context.state["seen"]["random"]
    assert ask(NO_ATTACK)[1].state["seen"]["random"] == drawn
    assert ask(NO_ATTACK, client=3)[1].state["seen"]["random"] != drawn


def test_the_roll_call_is_answered_with_the_partition(ask):
    content, _, _ = ask(NO_ATTACK, kind=ROLL_CALL, client=3)
    assert content["client"]["partition-id"] == 3


def test_an_attack_that_cannot_be_carried_out_is_noted(ask):
    error, _, job = ask("SignFlip", records=2)
    assert isinstance(error, ValueError)
    (path,) = job.folder.glob("attack-failed-*")
    assert "one ArrayRecord" in path.read_text(encoding="utf-8")


def test_silence_and_an_error_of_the_apps_own_are_no_failed_attack(ask):
    error, _, job = ask("Silent")
    assert isinstance(error, ConnectionAbortedError)
    error, _, job = ask("SignFlip", fails=True)
    assert str(error) == "the app's own"
    assert list(job.folder.glob("attack-failed-*")) == []
