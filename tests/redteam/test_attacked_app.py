"""An app's clients, honest and Byzantine, in this process."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flwr_byz.redteam.attacked_app import ROLL_CALL, AttackedApp
from flwr_byz.redteam.flower_app import FlowerApp
from flwr_byz.redteam.runs import NO_ATTACK, Run
from tests.support import malformed
from tests.support.app_grid import context

app = ClientApp()


@app.train()
@app.evaluate()
def reply(message, context):
    if context.run_config["fails"]:
        raise RuntimeError("the app's own")
    made = {name: Array(array.numpy() + 1) for name, array in message.content["arrays"].items()}
    context.state["seen"] = MetricRecord({"random": random.random()})
    records = {f"arrays{i}": ArrayRecord(made) for i in range(context.run_config["records"])}
    return Message(RecordDict(records), reply_to=message)


@pytest.fixture
def ask(tmp_path):
    """Return what asks client 1, of whom 1 and 2 are Byzantine: for the reply and the context."""
    malformed.in_a_run()
    flower_app = FlowerApp(Path(__file__).parents[2], "", f"{__name__}:app")

    def ask(attack, kind="train", client=1, fails=False, records=1):
        config = {"fails": fails, "records": records}
        run = Run(flower_app, config, 5, 2, None, 1, tmp_path, attack)
        assert run.byzantine == (set() if attack == NO_ATTACK else {1, 2})
        run.folder.mkdir(parents=True, exist_ok=True)
        run.asked(4).write_text(json.dumps([1, 2]), encoding="utf-8")
        records = {"arrays": malformed.named([np.full(2, 5.0)])}
        records["config"] = ConfigRecord({"server-round": 4})
        message = Message(RecordDict(records), dst_node_id=client, message_type=kind)
        node = context(client, 5)
        return AttackedApp(run)(message, node).content, node

    return ask


def weights(asked):
    (record,) = asked[0].array_records.values()
    return record["w"].numpy().tolist()


def test_only_byzantine_clients_attack_only_in_training_and_wait_for_none_that_runs_later(
    ask, monkeypatch, caplog
):
    attack = "SignFlip(scale=10)"
    assert weights(ask(attack)) == [-5.0, -5.0]
    assert weights(ask(attack, client=3)) == [6.0, 6.0]
    assert weights(ask(attack, kind="evaluate")) == [6.0, 6.0]
    assert weights(ask(NO_ATTACK)) == [6.0, 6.0]
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert weights(ask("InnerProductManipulation(epsilon=10)")) == [-5.0, -5.0]
    assert "colluders are there" not in caplog.text


def test_flowers_context_takes_the_apps_state_alone_and_the_roll_call_is_answered(ask):
    _, node = ask(NO_ATTACK)
    assert node.run_config == {}
    drawn = node.state["seen"]["random"]
    assert ask(NO_ATTACK)[1].state["seen"]["random"] == drawn
    assert ask(NO_ATTACK, client=3)[1].state["seen"]["random"] != drawn
    assert ask(NO_ATTACK, kind=ROLL_CALL, client=3)[0]["client"]["partition-id"] == 3


def test_an_attack_that_cannot_be_carried_out_is_noted_silence_and_an_apps_own_error_are_not(
    ask, tmp_path
):
    with pytest.raises(ConnectionAbortedError):
        ask("Silent")
    with pytest.raises(RuntimeError, match="the app's own"):
        ask("SignFlip", fails=True)
    assert list(tmp_path.glob("runs/*/attack-failed-*")) == []
    with pytest.raises(ValueError, match="one ArrayRecord"):
        ask("SignFlip", records=2)
    (path,) = tmp_path.glob("runs/*/attack-failed-*")
    assert "one ArrayRecord" in path.read_text(encoding="utf-8")
