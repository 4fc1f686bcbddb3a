"""Suspects are not asked any more, and no honest client becomes one by what others send."""

from functools import partial

import numpy as np
import pytest
from flwr.app import Error

from flwr_byz.rounds import RoundOptions, Rounds
from tests.support.answering_grid import M, model, record, run
from tests.support.apis import MESSAGE
from tests.support.strategies import KINDS, Q, nearby, ran, strategy

APIS = pytest.mark.parametrize("api", ["message", "classic"])
EVERYONE = set(range(M))
HONEST = EVERYONE - set(range(Q))


def far(client, server_round, arrays, num_far=Q):
    """The first clients send what is far away."""
    scale, near = 30.0 if client < num_far else 1.0, nearby(client, server_round, arrays)
    return [(a + scale * (b - a)).astype(a.dtype) for a, b in zip(arrays, near, strict=True)]


@pytest.mark.parametrize(("api", "kind"), KINDS)
def test_suspects_are_not_asked_any_more_but_in_every_tenth_round(api, kind, caplog):
    asked = ran(api, kind, 11, far, exclude_above=0.5).asked
    assert asked == dict.fromkeys(range(1, 12), HONEST) | dict.fromkeys((1, 2, 3, 10), EVERYONE)
    assert "client 0 is no longer asked: its suspicion is 1.0 over 3 rounds" in caplog.text
    assert "client 0 is again asked" in caplog.text


@APIS
@pytest.mark.parametrize(
    ("num_nodes", "num_far", "num_left"), [(2 * Q + 2, Q, 5), (2 * Q + 1, Q, 5), (20, 5, 18)]
)
def test_at_most_q_are_excluded_and_enough_are_left(api, num_nodes, num_far, num_left):
    reply = partial(far, num_far=num_far)
    asked = ran(api, "Hardened", 5, reply, num_nodes, exclude_above=0.5).asked
    assert [len(asked[r]) for r in (4, 5)] == [num_left] * 2


@APIS
def test_who_is_excluded_is_the_same_after_a_restart(api, tmp_path):
    def wavering(client, server_round, arrays):
        return far(client if server_round > 1 else client + Q, server_round, arrays)

    def asked(folder, num_rounds):
        options = {"exclude_above": 0.6, "checkpoints": tmp_path / folder}
        return ran(api, "Hardened", num_rounds, wavering, **options).asked

    whole = asked("whole", 8)
    assert len({len(nodes) for nodes in whole.values()}) == 2
    assert asked("halves", 4) | asked("halves", 8) == whole


def test_clients_that_have_left_take_no_place_of_those_excluded():
    rounds = Rounds(RoundOptions(num_byzantine=1, exclude_above=0.5))
    rounds.suspicion.scores = {"1": (5, 5.0), "2": (5, 4.0), "3": (5, 0.0)}
    assert rounds.admitted(4, [1, 2, 3, 4], 3) == [2, 3, 4]
    assert rounds.admitted(5, [2, 3, 4], 2) == [3, 4]
    assert rounds.admitted(6, [2, 3, 4], 3) == [2, 3, 4]


@APIS
def test_no_client_gets_an_honest_one_excluded_by_what_it_sends(api):
    """Malformed replies, errors, silence and odd metrics count against their own sender alone."""

    def hostile(node, server_round, arrays):
        if node >= Q:
            return nearby(node, server_round, arrays)
        return [Error(2, "x"), None, arrays[:1], [a * np.nan for a in arrays]][server_round % 4]

    asked = ran(api, "Hardened", 9, hostile, exclude_above=0.3).asked
    assert all(asked[r] >= HONEST for r in range(1, 10))


def test_counters_make_no_client_suspect(tmp_path):
    """FedAvg returns them as floats, which they then are in the model that is sent."""

    def counting(client, server_round, arrays):  # client 5 has by far the most data
        counter = arrays[0] + (10**6 if client == 5 else client)
        return [counter.astype("i8"), *far(client, server_round, arrays[1:])]

    def make():
        options = {"num_byzantine": Q, "exclude_above": 0.5, "checkpoints": tmp_path}
        return MESSAGE.own.Hardened(MESSAGE.flower.FedAvg(fraction_evaluate=0.0), **options)

    initial = record([np.zeros(3, "i8"), *model().to_numpy_ndarrays()])
    run("message", make, 3, counting, initial=initial)
    rest = run("message", make, 6, counting, initial=initial)  # after a restart, too
    assert rest.asked == dict.fromkeys([4, 5, 6], HONEST)


@pytest.mark.parametrize("above", [0, 1, -0.5, "0.5", True])
def test_exclude_above_has_to_be_a_suspicion(above):
    with pytest.raises((TypeError, ValueError), match="exclude_above must be a finite number"):
        strategy("message", "Hardened", exclude_above=above)()
