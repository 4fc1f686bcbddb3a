"""Suspects are not asked any more, and no honest client becomes one by what others send."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error
from flwr.serverapp import strategy as message

from flwr_byz.rounds import RoundOptions, Rounds
from flwr_byz.serverapp.strategy import Hardened
from tests.rounds.test_round_ends import MESSAGE, RUNS, M, Q, classic_run, drift, message_run
from tests.support.answering_grid import AnsweringGrid, model


def far(client, server_round, arrays):
    """Clients 0 and 1 send what is far away."""
    sign = 30.0 if client < Q else 1.0
    return [
        (a + sign * (new - a)).astype(a.dtype)
        for a, new in zip(arrays, drift(client, server_round, arrays), strict=True)
    ]


def everyone(nodes=M):
    return {str(node) for node in range(nodes)}


@pytest.mark.parametrize(("run", "name"), RUNS)
def test_suspects_are_not_asked_any_more_but_in_every_tenth_round(run, name, caplog):
    _, asked = run(name, 12, far, exclude_above=0.5)
    honest = everyone() - {"0", "1"}
    assert [asked[r] for r in range(1, 4)] == [everyone()] * 3
    assert [asked[r] for r in range(4, 10)] == [honest] * 6
    assert asked[10] == everyone()
    assert asked[11] == honest
    assert "client 0 is no longer asked: its suspicion is 1.0 over 3 rounds" in caplog.text
    assert "client 0 is again asked" in caplog.text


@pytest.mark.parametrize("run", [message_run, classic_run])
def test_never_so_many_are_excluded_that_too_few_are_left(run):
    _, asked = run("Hardened", 6, far, nodes=2 * Q + 2, exclude_above=0.5)
    assert [len(asked[r]) for r in range(4, 7)] == [2 * Q + 1] * 3
    _, asked = run("Hardened", 6, far, nodes=2 * Q + 1, exclude_above=0.5)
    assert [len(asked[r]) for r in range(4, 7)] == [2 * Q + 1] * 3


@pytest.mark.parametrize("run", [message_run, classic_run])
def test_at_most_q_are_excluded(run):
    def five(client, server_round, arrays):
        return far(0 if client < 5 else client, server_round, arrays)

    _, asked = run("Hardened", 6, five, nodes=20, exclude_above=0.5)
    assert [len(asked[r]) for r in range(4, 7)] == [20 - Q] * 3


@pytest.mark.parametrize("run", [message_run, classic_run])
def test_who_is_excluded_is_the_same_after_a_restart(run, tmp_path, monkeypatch):
    def wavering(client, server_round, arrays):
        return far(client if server_round > 1 else client + Q, server_round, arrays)

    _, whole = run("Hardened", 8, wavering, exclude_above=0.6, checkpoints=tmp_path / "whole")
    assert len({len(nodes) for nodes in whole.values()}) == 2
    options = {"exclude_above": 0.6, "checkpoints": tmp_path / "halves"}
    _, halves = run("Hardened", 4, wavering, **options)
    _, rest = run("Hardened", 8, wavering, **options)
    assert halves | rest == whole


def test_clients_that_have_left_take_no_place_of_those_excluded():
    rounds = Rounds(RoundOptions(num_byzantine=1, exclude_above=0.5))
    rounds.suspicion.scores = {"1": (5, 5.0), "2": (5, 4.0), "3": (5, 0.0)}
    assert rounds.admitted(4, [1, 2, 3, 4], 3) == [2, 3, 4]
    assert rounds.admitted(5, [2, 3, 4], 2) == [3, 4]
    assert rounds.admitted(6, [2, 3, 4], 3) == [2, 3, 4]


def test_no_client_gets_an_honest_one_excluded_by_what_it_sends():
    """Malformed replies, errors, silence and odd metrics count against their own sender alone."""

    def hostile(node, server_round, arrays):
        if node >= Q:
            return drift(node, server_round, arrays)
        return [Error(2, "x"), None, arrays[:1], [a * np.nan for a in arrays]][server_round % 4]

    _, asked = message_run("Hardened", 9, hostile, exclude_above=0.3)
    assert all(asked[r] >= everyone() - {"0", "1"} for r in range(1, 10))
    _, asked = classic_run("Hardened", 9, hostile, exclude_above=0.3)
    assert all(asked[r] >= everyone() - {"0", "1"} for r in range(1, 10))


def counting(client, server_round, arrays):
    """Client 5 has by far the most data, so that it counts the most batches."""
    counter = arrays[0] + (10**6 if client == 5 else client)
    return [counter.astype("i8"), *far(client, server_round, arrays[1:])]


def test_counters_make_no_client_suspect(tmp_path):
    """FedAvg returns them as floats, which they then are in the model that is sent."""
    start = [np.zeros(3, "i8"), *model().to_numpy_ndarrays()]
    for rounds in (3, 6):  # after a restart, too
        asked = {}

        def answer(node, server_round, arrays, asked=asked):
            asked.setdefault(server_round, set()).add(str(node))
            return counting(node, server_round, arrays)

        options = {"num_byzantine": Q, "exclude_above": 0.5, "checkpoints": tmp_path}
        Hardened(message.FedAvg(fraction_evaluate=0.0), **options).start(
            AnsweringGrid(M, answer),
            ArrayRecord({f"a{i}": Array(a) for i, a in enumerate(start)}),
            rounds,
        )
    assert asked == dict.fromkeys([4, 5, 6], everyone() - {"0", "1"})


@pytest.mark.parametrize("above", [0, 1, -0.5, "0.5", True])
def test_exclude_above_has_to_be_a_suspicion(above):
    with pytest.raises((TypeError, ValueError), match="exclude_above must be a finite number"):
        MESSAGE["Hardened"](num_byzantine=2, exclude_above=above)
