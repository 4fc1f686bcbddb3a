"""Existing apps of either API turned Byzantine by one line."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from flwr_byz import attacks
from flwr_byz.clientapp.mod import ByzantineMod
from tests.support.node import SENT, Node
from tests.support.table import table

SCALE = attacks.Scale()
BOTH = pytest.mark.parametrize("api", ["message", "classic"])


def attacks_of(api, mod, server_round=1, **node):
    return bool((Node(api, mod, **node).ask(1.0, server_round)[0] != 6.0).any())


@BOTH
@pytest.mark.parametrize("counter", ["i8", "f8"], ids=["counters", "counters that were averaged"])
def test_the_update_is_attacked_and_nothing_else_changes(api, counter):
    sent = [SENT[0], SENT[1].astype(counter), SENT[2]]
    made = Node(api, ByzantineMod(attacks.SignFlip(3.0))).ask(1.0, sent=sent, like=SENT)
    assert np.allclose(made[0], 5 - 3 * 1)
    assert np.allclose(made[2], 1 - 3 * 1)
    assert made[1].tolist() == [5, 5]
    assert [(a.shape, a.dtype) for a in made] == [(a.shape, a.dtype) for a in SENT]


@BOTH
def test_what_an_attack_sees_and_sends(api):
    gradients = ByzantineMod(attacks.SignFlip(3.0), reply="gradients")
    assert np.allclose(Node(api, gradients).ask(1.0)[0], -3 * 6)
    replacement = ByzantineMod(attacks.ModelReplacement(target=9.0), num_clients=4)
    assert np.allclose(Node(api, replacement).ask(1.0)[0], 5.0 + 4 * (9.0 - 5.0))
    config = {"byzantine-attack": "SignFlip", "byzantine-scale": 3.0}
    assert np.allclose(Node(api, ByzantineMod(), **config).ask(1.0)[0], 2.0)
    with pytest.raises(ConnectionAbortedError, match="silent"):
        Node(api, ByzantineMod(attacks.Silent())).ask()
    made = Node("message", ByzantineMod(SCALE)).ask(1.0, kind="evaluate")
    assert np.array_equal(made[0], SENT[0] + 1)


@BOTH
@pytest.mark.parametrize(
    ("when", "rounds"),
    [(clients, [1, 2, 3, 4]) for clients in ({3, 5}, [3], range(3, 6), np.array([3]))]
    + [(attacks.Rotating(10, 2), [2])],
)
def test_clients_attack_in_every_round_or_in_those_of_a_schedule(api, when, rounds):
    mod = ByzantineMod(SCALE, when=when)
    assert [r for r in range(1, 5) if attacks_of(api, mod, r)] == rounds
    assert not attacks_of(api, mod, 2, number=1)


def test_clients_that_do_not_exist_are_named_once_in_a_run_and_escaped(caplog):
    def named(run_id, when=None, attack=SCALE, nodes=""):
        caplog.clear()
        node = {"run_id": run_id, "run_config": {"byzantine-nodes": nodes}}
        for number in (3, 4):
            Node("message", ByzantineMod(attack, when=when), number=number, **node).ask()
        return re.findall(r"listed clients \{(.*)\} exists: .* from 0 to 9", caplog.text)

    assert [named(run_id, {12, 10}) for run_id in (901, 901, 902)] == [["10, 12"], [], ["10, 12"]]
    assert named(903, {12, 9}) == []
    assert named(911, nodes="10, \x1b[2J") == ["10, \\x1b[2J"]
    assert named(912, nodes=f"12 {2**62 + 1}") == []
    assert named(913, nodes="12", attack=None) == []


@BOTH
@pytest.mark.parametrize(
    ("config", "expected"),
    [(given, True) for given in ({}, {"nodes": "0, 3,5"}, {"nodes": "1003"}, {"from-round": 2})]
    + [(given, False) for given in (None, {"nodes": "0 5"}, {"from-round": 3})],
)
@pytest.mark.parametrize("where", ["run", "node"])
def test_a_config_says_who_attacks_from_when(api, config, expected, where):
    entries = {} if config is None else {"attack": "SignFlip", **config}
    config = {f"byzantine-{key}": value for key, value in entries.items()}
    node = {"run_config": config} if where == "run" else config
    assert attacks_of(api, ByzantineMod(), 2, **node) == expected


@BOTH
def test_colluders_on_one_machine_share_their_own_vectors(api, tmp_path):
    """Their updates are 1, 2 and 3, so the mean is 2, and the manipulated one −4."""
    colluding = {"colluders": tmp_path, "num_colluders": 3}
    mods = [ByzantineMod(attacks.InnerProductManipulation(2.0), **colluding) for _ in range(3)]
    nodes = [Node(api, mod, number=number) for number, mod in enumerate(mods)]
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(Node.ask, nodes, (1.0, 2.0, 3.0)))
    assert np.allclose([arrays[0] for arrays in made], 5 - 4)


@pytest.mark.parametrize(
    ("attack", "options", "sent"),
    [
        (attacks.Mimic(), {}, 9.0),  # the first of two vectors, in the order of their numbers
        (attacks.InnerProductManipulation(2.0), {}, -20.0),  # the first colluder's has another ε
        (attacks.Mimic(), {"when": {9, 10, 11}}, 10.0),
        (attacks.Mimic(), {"reply": "gradients"}, 10.0),
    ],
)
def test_colluders_share_with_mods_of_the_same_settings_alone(tmp_path, attack, options, sent):
    colluders = {"colluders": tmp_path, "num_colluders": 2, "timeout": 0.0}
    Node("message", ByzantineMod(type(attack)(), **colluders), number=9).ask(9.0)
    made = Node("message", ByzantineMod(attack, **colluders | options), number=10).ask(10.0)
    assert np.allclose(made[0], 5 + sent)


@pytest.mark.parametrize("kind", ["shape", "count", "dtype", "overflow", "empty", "bytes"])
@BOTH
def test_malformed_arrays_go_out_as_they_are(api, kind):
    made = Node(api, ByzantineMod(attacks.Malformed(kind))).ask()
    assert [(a.shape, a.dtype) for a in made] != [(a.shape, a.dtype) for a in SENT]
    assert kind != "overflow" or all((a > 1e38).all() for a in made)


WRONG = r"""
mod(SignFlip(), reply='models') : reply must be | mod(MinMax()) : MinMax needs
mod(SignFlip(), colluders='a') : give num_colluders or when | mod(SignFlip(), seed=-1) : seed must
mod(SignFlip(), when=3) : when must be a set of partition-ids such as {2, 7}
mod(SignFlip(), when='3') : got '3' | mod(SignFlip(), when={2.0}) : got {2.0}
mod(SignFlip(), when=Fixed) : when must be a set | mod(BatchTakeover()) : BatchTakeover needs
mod(Adaptive()) : Adaptive needs | mod(SignFlip(), timeout=-1) : timeout must
mod(SignFlip(), num_clients=0) : num_clients must | mod(LabelFlip()) : LabelFlip needs
mod(SignFlip) : an attack object, as in ByzantineMod(attacks.SignFlip()),
mod('NonFinite') : attack object, as in ByzantineMod(attacks.NonFinite()), got
mod({'scale': 10}) : attack object, as in ByzantineMod(attacks.SignFlip(scale=10)), got
named('Xyzzy') : no attack is called 'Xyzzy'; choose from ALittle | named('MinMax') : give colluders
"""


@pytest.mark.parametrize(("made", "said"), table(WRONG))
def test_a_wrong_attack_option_or_config_is_refused_at_once(made, said):
    def named(attack):
        Node("message", ByzantineMod(), **{"byzantine-attack": attack}).ask()

    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        eval(made, vars(attacks) | {"mod": ByzantineMod, "named": named})
