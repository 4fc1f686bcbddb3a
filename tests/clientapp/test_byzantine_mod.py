"""Existing apps of either API turned Byzantine by one line."""

import logging
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common.recorddict_compat import fitins_to_recorddict, recorddict_to_fitres

from flwr_byz import attacks
from flwr_byz.clientapp.mod import ByzantineMod
from tests.support import malformed

SENT = [np.full((2, 3), 5.0, "f4"), np.array([4, 4], "i8"), np.array(1.0, "f8")]


def one_more(array):
    return np.asarray(array + 1, array.dtype)


TRAINED = [one_more(array) for array in SENT]


class Client(NumPyClient):
    def fit(self, parameters, config):
        return [one_more(array) for array in parameters], 7, {"loss": 0.5}


def message_app(mod):
    app = ClientApp(mods=[mod])

    @app.train()
    def train(message, context):
        record = message.content["arrays"]
        trained = zip(record, record.to_numpy_ndarrays(), strict=True)
        made = {name: Array(one_more(array)) for name, array in trained}
        metrics = MetricRecord({"num-examples": 7, "loss": 0.5})
        content = RecordDict({"arrays": ArrayRecord(made), "metrics": metrics})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message, context):
        return Message(RecordDict({"arrays": message.content["arrays"]}), reply_to=message)

    return app


def classic_app(mod):
    return ClientApp(client_fn=lambda context: Client().to_client(), mods=[mod])


def context(node=3, run_config=None, run_id=11, **node_config):
    config = {"partition-id": node, "num-partitions": 10} | node_config
    return Context(run_id, 1000 + node, config, RecordDict(), run_config or {})


def ask(api, mod, server_round=1, kind="train", where=None):
    """Send one round's request to the app, and return arrays, number of examples and loss."""
    malformed.in_a_run()
    if api == "message":
        content = RecordDict(
            {
                "arrays": malformed.named(SENT),
                "config": ConfigRecord({"server-round": server_round}),
            }
        )
        message = Message(content, dst_node_id=1, message_type=kind)
        reply = message_app(mod)(message, where or context()).content
        metrics = reply.metric_records.get("metrics", {})
        arrays = reply["arrays"].to_numpy_ndarrays()
        return arrays, metrics.get("num-examples"), metrics.get("loss")
    ins = FitIns(ndarrays_to_parameters(SENT), {"server-round": server_round})
    content = fitins_to_recorddict(ins, keep_input=True)
    message = Message(content, dst_node_id=1, message_type=kind)
    reply = classic_app(mod)(message, where or context()).content
    result = recorddict_to_fitres(reply, keep_input=True)
    return parameters_to_ndarrays(result.parameters), result.num_examples, result.metrics["loss"]


BOTH = pytest.mark.parametrize("api", ["message", "classic"])


def attacked(arrays):
    return not np.array_equal(arrays[0], TRAINED[0])


@BOTH
def test_the_update_is_attacked_and_nothing_else_changes(api):
    arrays, num_examples, loss = ask(api, ByzantineMod(attacks.SignFlip(3.0)))
    assert np.allclose(arrays[0], 2.0)  # 5 − 3 · 1
    assert np.allclose(arrays[2], -2.0)
    assert arrays[1].tolist() == [5, 5]
    assert [(a.shape, a.dtype) for a in arrays] == [(a.shape, a.dtype) for a in TRAINED]
    assert (num_examples, loss) == (7, 0.5)


@BOTH
def test_gradients_are_attacked_as_they_are(api):
    arrays, _, _ = ask(api, ByzantineMod(attacks.SignFlip(3.0), reply="gradients"))
    assert np.allclose(arrays[0], -18.0)


def test_evaluation_stays_honest():
    arrays, _, _ = ask("message", ByzantineMod(attacks.Scale()), kind="evaluate")
    assert np.array_equal(arrays[0], SENT[0])


@BOTH
def test_a_schedule_says_in_which_rounds(api):
    mod = ByzantineMod(attacks.Scale(), when=attacks.Rotating(10, 2))
    byzantine = [attacked(ask(api, mod, server_round=r)[0]) for r in range(1, 6)]
    assert byzantine == [False, True, False, False, False]


@pytest.mark.parametrize("clients", [{3, 5}, [3], range(3, 6), np.array([3])], ids=str)
def test_a_collection_of_clients_attacks_in_every_round(clients):
    mod = ByzantineMod(attacks.Scale(), when=clients)
    for server_round in (1, 2):
        assert attacked(ask("message", mod, server_round)[0])
        assert not attacked(ask("message", mod, server_round, where=context(2))[0])


@pytest.fixture
def warnings_of(caplog):
    """Return what asks in a run of its own, and returns the warnings since the last call."""
    caplog.set_level(logging.WARNING, "flwr")

    def warnings_of(mod, run_id, **run_config):
        caplog.clear()
        for node in (3, 4):
            ask("message", mod, where=context(node, run_config, run_id))
        return [r.getMessage() for r in caplog.records if "exists" in r.getMessage()]

    return warnings_of


def test_clients_that_do_not_exist_are_named_once_in_a_run(warnings_of):
    mod = ByzantineMod(attacks.Scale(), when={12, 10})
    said = "none of the listed clients {10, 12} exists: partition-ids run from 0 to 9"
    assert warnings_of(mod, 901) == [said]
    assert warnings_of(mod, 901) == []
    assert warnings_of(mod, 902) == [said]
    assert warnings_of(ByzantineMod(attacks.Scale(), when={12, 9}), 903) == []


def test_a_run_config_that_lists_no_client_is_named_escaped(warnings_of):
    mod = ByzantineMod(attacks.Scale())
    (said,) = warnings_of(mod, 911, **{"byzantine-nodes": "10, \x1b[2J"})
    assert said.startswith("none of the listed clients {10, \\x1b[2J} exists")
    assert warnings_of(mod, 912, **{"byzantine-nodes": f"12 {2**62 + 1}"}) == []
    assert warnings_of(ByzantineMod(), 913, **{"byzantine-nodes": "12"}) == []


@BOTH
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, False),
        ({"byzantine-attack": "SignFlip"}, True),
        ({"byzantine-attack": "SignFlip", "byzantine-nodes": "0, 3,5"}, True),
        ({"byzantine-attack": "SignFlip", "byzantine-nodes": "1003"}, True),
        ({"byzantine-attack": "SignFlip", "byzantine-nodes": "0 5"}, False),
        ({"byzantine-attack": "SignFlip", "byzantine-from-round": 2}, True),
        ({"byzantine-attack": "SignFlip", "byzantine-from-round": 3}, False),
    ],
)
@pytest.mark.parametrize("where", ["run", "node"])
def test_a_config_says_who_attacks_from_when(api, config, expected, where):
    place = context(run_config=config) if where == "run" else context(**config)
    assert attacked(ask(api, ByzantineMod(), server_round=2, where=place)[0]) == expected


def test_a_config_gives_the_attack_s_parameters():
    config = {"byzantine-attack": "SignFlip", "byzantine-scale": 3.0}
    assert np.allclose(ask("message", ByzantineMod(), where=context(**config))[0][0], 2.0)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"byzantine-attack": "Xyzzy"}, "no attack is called 'Xyzzy'; choose from ALittle"),
        ({"byzantine-attack": "Attack"}, "no attack is called 'Attack'"),
        ({"byzantine-attack": "sign-flop"}, "did you mean 'SignFlip'"),
        ({"byzantine-attack": "MinMax"}, "give colluders"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(config, said):
    with pytest.raises(ValueError, match=said):
        ask("message", ByzantineMod(), where=context(**config))


@pytest.mark.parametrize(
    "attack",
    [attacks.MinMax(), attacks.BatchTakeover(), attacks.Adaptive(), attacks.LabelFlip()],
    ids=repr,
)
def test_an_attack_that_needs_what_no_mod_knows_is_refused_at_once(attack):
    with pytest.raises(ValueError, match=f"{type(attack).__name__} needs"):
        ByzantineMod(attack)


@BOTH
def test_colluders_on_one_machine_share_their_own_vectors(api, tmp_path):
    """Their updates are all one, so the mean is 1, and the manipulated one −2."""
    made = {}

    def reply_of(node):
        mod = ByzantineMod(
            attacks.InnerProductManipulation(2.0), colluders=tmp_path, num_colluders=3
        )
        made[node] = ask(api, mod, where=context(node))[0]

    malformed.in_a_run()
    threads = [threading.Thread(target=reply_of, args=(node,)) for node in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.allclose(made[node][0], 3.0) for node in range(3))
    assert len(list(tmp_path.rglob("*.npy"))) == 3


def test_colluders_that_do_not_come_are_not_waited_for_forever(tmp_path):
    mod = ByzantineMod(attacks.Mimic(), colluders=tmp_path, num_colluders=2, timeout=0.1)
    assert np.allclose(ask("message", mod)[0][0], TRAINED[0])


@dataclass(frozen=True)
class Sees(attacks.Attack):
    """Keeps the sample of honest vectors that it gets."""

    requires = frozenset({"honest"})
    strength: float = 1.0
    seen: list = field(default_factory=list, repr=False)

    def __call__(self, knowledge):
        if len(knowledge.honest) == 2:
            self.seen.append(knowledge.honest[:, 0].tolist())
        return knowledge.own


def share(attack, node, folder, **options):
    """Ask a client whose update is its number, with colluders that do not wait."""
    malformed.in_a_run()
    mod = ByzantineMod(attack, colluders=folder, num_colluders=2, timeout=0.0, **options)
    content = {"arrays": malformed.named([np.zeros(1)]), "config": ConfigRecord()}
    message = Message(RecordDict(content), dst_node_id=1, message_type="train")

    def train(message, context):
        content = RecordDict({"arrays": malformed.named([np.full(1, float(node))])})
        return Message(content, reply_to=message)

    mod(message, context(node), train)


def test_colluders_stand_by_their_numbers(tmp_path):
    attack = Sees()
    for node in (10, 9):
        share(attack, node, tmp_path)
    assert attack.seen == [[9.0, 10.0]]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((Sees(1.0), {}), (Sees(2.0), {})),
        ((Sees(), {"when": {1, 2}}), (Sees(), {"when": {1, 2, 3}})),
        ((Sees(), {"reply": "weights"}), (Sees(), {"reply": "gradients"})),
    ],
    ids=["attack", "when", "reply"],
)
def test_two_mods_of_one_app_do_not_share_vectors(tmp_path, one, other):
    for node, (attack, options) in ((1, one), (2, other)):
        share(attack, node, tmp_path, **options)
    assert one[0].seen == other[0].seen == []


@BOTH
def test_counters_that_averaging_has_made_floats_are_no_part_of_the_update(api, monkeypatch):
    monkeypatch.setitem(globals(), "SENT", [SENT[0], SENT[1].astype("f8"), SENT[2]])
    dtypes = {array.shape: array.dtype for array in TRAINED}
    as_trained = lambda array: np.asarray(array + 1, dtypes[array.shape])  # noqa: E731
    monkeypatch.setitem(globals(), "one_more", as_trained)
    arrays, _, _ = ask(api, ByzantineMod(attacks.SignFlip(3.0)))
    assert np.allclose(arrays[0], 2.0)
    assert (arrays[1].dtype, arrays[1].tolist()) == ("i8", [5, 5])


def test_the_model_that_was_sent_is_known():
    mod = ByzantineMod(attacks.ModelReplacement(target=9.0), num_clients=4)
    assert np.allclose(ask("message", mod)[0][0], 5.0 + 4 * (9.0 - 5.0))


def test_a_client_that_stays_silent_raises():
    with pytest.raises(ConnectionAbortedError, match="silent"):
        ask("message", ByzantineMod(attacks.Silent()))


@pytest.mark.parametrize("kind", ["shape", "count", "dtype", "overflow", "empty", "bytes"])
@BOTH
def test_malformed_arrays_go_out_as_they_are(api, kind):
    arrays, _, _ = ask(api, ByzantineMod(attacks.Malformed(kind)))
    assert [(a.shape, a.dtype) for a in arrays] != [(a.shape, a.dtype) for a in TRAINED]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reply": "models"}, "reply must be"),
        ({"colluders": "folder"}, "give num_colluders or when"),
        ({"when": 3}, "when must be a set of partition-ids such as {2, 7}"),
        ({"when": "3"}, "got '3'"),
        ({"when": {2.0}}, "got {2.0}"),
        ({"when": attacks.Fixed}, "when must be a set"),
    ],
)
def test_an_option_out_of_range_is_refused(options, said):
    with pytest.raises((TypeError, ValueError), match=said):
        ByzantineMod(attacks.SignFlip(), **options)


@pytest.mark.parametrize(
    ("attack", "write"),
    [
        (attacks.SignFlip, "as in ByzantineMod(attacks.SignFlip()), got"),
        ("NonFinite", "as in ByzantineMod(attacks.NonFinite()), got"),
        ({"scale": 10}, "as in ByzantineMod(attacks.SignFlip(scale=10)), got"),
    ],
    ids=["class", "string", "dict"],
)
def test_an_attack_that_is_no_object_gets_an_error_with_what_to_write(attack, write):
    with pytest.raises(TypeError, match="attack must be an attack object") as error:
        ByzantineMod(attack)
    assert write in str(error.value)
