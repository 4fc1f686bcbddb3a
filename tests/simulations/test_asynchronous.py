"""Runs in simulated time: when replies come, and what asynchronous rules make of them."""

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest

from clients.latency import TwoSpeed, make_latency
from clients.own_rules import ASYNC
from clients.rules import GMOM, title
from clients.run import Run, problem_of
from flwr_byz.attacks.arrays import flatten
from simulations import process
from simulations.outcome import append, load
from simulations.process import train
from simulations.simulated_nodes import SimulatedNodes

RUN = Run(
    problem="LinearRegression",
    rule=f"{ASYNC}(batch_size=1)",
    num_clients=10,
    num_byzantine=2,
    num_rounds=30,
    attack="SignFlip(scale=10)",
    latency="TwoSpeed",
)
ONE_FAST = "TwoSpeed(share=0.9, factor=100)"  # of ten clients
BYZANTINE = {0, 5}


@dataclass(frozen=True)
class Arrival:
    """A reply that was read: in which step, and that of its model; when, and when it was sent."""

    client: int
    step: int
    sent_in: int
    time: float
    sent_at: float


@pytest.fixture
def recorded(monkeypatch):
    """Return a function that carries out a run; it returns the outcome and what arrived."""
    arrived = []

    class Nodes(SimulatedNodes):
        def begin(self, server_round, arrays, before):
            super().begin(server_round, arrays, before)
            self.step = server_round

        def send(self, messages):
            messages = list(messages)
            sent = {m.metadata.dst_node_id - 1: (self.step, self.now) for m in messages}
            self.sent = getattr(self, "sent", {}) | sent
            super().send(messages)

        def arrivals(self):
            for reply in super().arrivals():
                client = reply.metadata.src_node_id - 1
                sent_in, sent_at = self.sent[client]
                arrived.append(Arrival(client, self.step, sent_in, self.now, sent_at))
                yield reply

    monkeypatch.setattr(process, "SimulatedNodes", Nodes)

    def run_and_record(run):
        arrived.clear()
        return train(run), list(arrived)

    return run_and_record


def of_attackers(arrivals):
    return [each for each in arrivals if each.client in BYZANTINE]


@pytest.mark.parametrize("latency", ["Equal", "Lognormal", "TwoSpeed"])
def test_a_round_that_waits_lasts_as_long_as_its_slowest_client(latency):
    outcome, took = train(replace(RUN, rule=GMOM, latency=latency)), make_latency(latency)
    rounds = [max(took(client, 10, 0, task) for client in range(10)) for task in range(1, 31)]
    np.testing.assert_allclose(outcome.times, np.cumsum([0, *rounds]))
    same = train(replace(RUN, rule=GMOM, latency=""))
    assert (same.values, same.times) == (outcome.values, [])


def test_a_step_that_waits_for_a_quorum_is_over_with_its_last_batch(recorded):
    outcome, arrivals = recorded(replace(RUN, attack="none"))
    took, number = make_latency(RUN.latency), Counter()
    for each in arrivals:
        number[each.client] += 1
        needed = took(each.client, 10, 0, number[each.client])
        assert each.time - each.sent_at == pytest.approx(needed)
    per_step = Counter(each.step for each in arrivals)
    assert set(per_step.values()) == {6}  # more than half of the clients
    assert outcome.times[1:] == [max(e.time for e in arrivals if e.step == s) for s in per_step]
    assert max(each.step - each.sent_in for each in arrivals) > 5


def test_fast_attackers_reply_at_once_to_every_model(recorded):
    _, arrivals = recorded(replace(RUN, timing="fast"))
    fast = of_attackers(arrivals)
    assert Counter(each.step for each in fast) == dict.fromkeys(range(1, 31), 2)
    assert all(each.time == each.sent_at for each in fast)
    honest = [each for each in arrivals if each.client not in BYZANTINE]
    assert all(each.time > each.sent_at for each in honest)


def test_stale_attackers_reply_exactly_as_late_as_is_still_taken(recorded):
    rule = f"{ASYNC}(batch_size=1, max_staleness=4)"
    outcome, arrivals = recorded(replace(RUN, rule=rule, timing="stale"))
    stale = of_attackers(arrivals)
    assert {each.step - each.sent_in for each in stale} == {4}
    assert len(stale) == 2 * 6  # in steps 5, 10, …, 30
    assert outcome.values != train(replace(RUN, rule=rule, attack="Silent")).values


def test_last_attackers_complete_the_quorum_to_the_same_effect_as_fast_ones(recorded):
    run = replace(RUN, rule=f"{ASYNC}(batch_size=1, max_staleness=30)")  # each reply is used
    outcome, arrivals = recorded(replace(run, timing="last"))
    for step in range(1, 31):
        clients = [each.client for each in arrivals if each.step == step]
        assert {*clients[-2:]} == BYZANTINE
        assert len(clients) == 6
    fast = train(replace(run, timing="fast"))
    assert (outcome.values, outcome.times) == (fast.values, fast.times)


def test_fedbuff_steps_along_the_scaled_mean_of_the_first_replies_and_asks_again_at_once(recorded):
    run = replace(RUN, rule="FedBuff(buffer_size=3)", attack="none", num_rounds=40)
    outcome, arrivals = recorded(run)
    problem, errors = problem_of(run), []
    models = [problem.initial_arrays()]
    for step in range(1, 41):
        here = [each for each in arrivals if each.step == step]
        assert len(here) == 3
        gradients = [
            flatten(problem.reply(each.client, models[each.sent_in - 1], each.sent_in)[0])
            / math.sqrt(1 + step - each.sent_in)
            for each in here
        ]
        after = flatten(models[-1]) - 0.5 * np.mean(gradients, axis=0)
        models.append([after.astype(np.float32)])
        errors.append(problem.evaluate(models[-1])["error"])
    np.testing.assert_allclose(outcome.values[1:], errors, rtol=1e-4)
    assert max(each.step - each.sent_in for each in arrivals) > 5
    last = dict.fromkeys(range(10), 0.0)
    for each in arrivals:
        assert each.sent_at == last[each.client]
        last[each.client] = each.time


def test_a_fast_client_fills_fedbuff_s_buffer_and_one_place_of_a_quorum(recorded):
    (fast,) = (c for c in range(10) if TwoSpeed(share=0.9, factor=100)(c, 10, 0, 1) < 50)
    run = replace(RUN, attack="none", latency=ONE_FAST)
    _, arrivals = recorded(replace(run, rule="FedBuff"))
    assert Counter(each.client for each in arrivals)[fast] > 0.9 * len(arrivals)
    _, arrivals = recorded(run)
    most = Counter((each.client, each.step) for each in arrivals)
    assert set(most.values()) == {1}


@pytest.mark.parametrize("attack", ["SignFlip(scale=10)", "BatchTakeover"])
@pytest.mark.parametrize("q", [1, 2])  # with q = 1, a step waits for two honest clients of nine
def test_a_fast_attacker_moves_the_model_no_more_than_a_slow_one(q, attack, recorded):
    run = replace(RUN, num_byzantine=q, attack=attack, num_rounds=60)
    ends = {}
    for timing in ("own", "fast", "stale"):
        outcome, arrivals = recorded(replace(run, timing=timing))
        assert set(Counter((e.client, e.step) for e in arrivals).values()) == {1}
        ends[timing] = outcome.values[-1]
    waiting = train(replace(run, rule=f"{GMOM}(batch_size=1)")).values[-1]
    assert max(ends.values()) < 1.5 * waiting
    buffered = train(replace(run, rule="FedBuff", timing="fast", attack="SignFlip(scale=10)"))
    assert buffered.values[-1] == math.inf


@pytest.mark.parametrize("problem", ["LinearRegression", "Perceptron"])
@pytest.mark.parametrize("attack", ["none", "SignFlip(scale=10)"])
@pytest.mark.parametrize(("options", "quorum"), [("batch_size=1", 10), ("num_batches=9", 9)])
def test_with_equal_latencies_and_all_batches_steps_are_the_rounds_bit_for_bit(
    problem, attack, options, quorum
):
    run = replace(RUN, problem=problem, attack=attack, latency="Equal", num_rounds=8)
    waiting = train(replace(run, rule=f"{GMOM}({options})"))
    stepping = train(replace(run, rule=f"{ASYNC}({options}, quorum={quorum})"))
    assert stepping.values == waiting.values
    assert stepping.times == waiting.times == list(range(9))


def test_an_outcome_is_read_back_with_its_times(tmp_path):
    runs = [
        RUN,
        replace(RUN, rule="FedBuff", timing="fast", attack="Scale", num_rounds=300),
        replace(RUN, rule=GMOM),
    ]
    for run in runs:
        append(tmp_path / "runs.jsonl", run, train(run))
    found = load(tmp_path / "runs.jsonl")
    assert list(found) == runs
    again = {run: train(run) for run in runs}
    assert [found[run].times for run in runs] == [again[run].times for run in runs]
    assert [found[run].values for run in runs] == [again[run].values for run in runs]
    assert found[runs[1]].times[-1] == math.inf


def test_rules_that_differ_in_an_option_have_titles_that_do():
    names = "quorum=7", "concurrency=7", "max_staleness=7", "staleness_exponent=7", "keep_steps=7"
    titles = {title(f"{ASYNC}({options})") for options in ("", *names)}
    assert len(titles) == 6
