"""The planner's time to target, beside simulated trainings."""

import json
from dataclasses import replace
from functools import cache
from math import inf, log

import numpy as np
import pytest

from clients.latency import make_latency
from clients.run import Run
from flwr_byz import theory
from simulations.process import train
from tests.support.table import table

FAST_AND_SLOW, CLASSES = "TwoSpeed(jitter=0)", "DeviceClasses(jitter=0)"
LATENCIES = ("Equal", FAST_AND_SLOW, CLASSES)
ROUNDS = 4  # after which much of the distance is left beside the error that remains

SETTINGS = (  # m, q, samples of a client and k, with options of the steps
    ((20, 4, 1000, 20), ()),
    ((20, 4, 1000, 20), (("keep_steps", 0),)),
    ((20, 4, 1000, 20), (("quorum", 14),)),
    ((40, 5, 100, 20), (("staleness_exponent", 1.0),)),
    ((12, 2, 500, 12), (("max_staleness", 3),)),
    ((24, 0, 200, 12), (("quorum", 6),)),
)


def plan(**changes):
    sizes = {"num_clients": 20, "num_byzantine": 4, "samples_per_client": 1000, "dim": 20}
    return theory.plan(**sizes | changes)


def simulated(sizes, latency, attack, steps=None, options=()):
    """Return errors and times of rounds, or of so many asynchronous steps."""
    m, q, samples, k = sizes
    rule = f"GeometricMedianOfMeans(num_batches={k}, trim_norm=None)"
    if steps is not None:
        rule = f"Async{rule[:-1]}" + "".join(f", {n}={value}" for n, value in options) + ")"
    run = Run(
        problem=f"LinearRegression(samples_per_client={samples})",
        rule=rule,
        attack=attack,
        num_clients=m,
        num_byzantine=q,
        num_rounds=steps or ROUNDS,
        seed=1,
        latency=latency,
    )
    outcome = train(run)
    return np.array(outcome.values), np.array(outcome.times)


@cache
def compared(sizes, options, latency, attack="none"):
    """Return the estimate, the times of a simulation, and when it is as near as its rounds are."""
    m, q, samples, k = sizes
    planned = plan(num_clients=m, num_byzantine=q, samples_per_client=samples, num_batches=k)
    each = [make_latency(latency)(client, m, 1, 1) for client in range(m)]
    found = theory.time_to_target(replace(planned, rounds=ROUNDS), each, **dict(options))
    near, seconds = simulated(sizes, latency, attack)
    assert (found.rounds, found.synchronous_seconds) == (ROUNDS, seconds[-1])
    errors, times = simulated(sizes, latency, attack, 3 * found.steps + 30, options)
    last = np.flatnonzero(~(errors <= 1.02 * near[-1]))[-1]
    return found, times, times[last + 1] if last + 1 < len(times) else inf


@pytest.mark.parametrize("latency", LATENCIES)
@pytest.mark.parametrize(("sizes", "options"), SETTINGS)
def test_the_seconds_of_rounds_and_steps_are_those_of_a_simulation(sizes, options, latency):
    found, times, _ = compared(sizes, options, latency)
    assert found.asynchronous_seconds == pytest.approx(times[found.steps])
    assert found.seconds_per_step == pytest.approx(times[found.steps] / found.steps)


def test_without_an_attack_most_times_are_within_30_percent_of_a_simulation():
    offs = []
    for sizes, options in SETTINGS:
        for latency in LATENCIES:
            found, _, seconds = compared(sizes, options, latency)
            offs.append(abs(log(found.asynchronous_seconds / seconds)))
    assert np.mean(np.array(offs) < log(1.3)) >= 0.75
    assert max(offs) < log(2)


def test_under_attack_most_times_are_within_a_factor_of_2():
    offs = []
    for attack in ("SignFlip(scale=10)", "AwayFromTruth"):
        for latency in LATENCIES:
            found, _, seconds = compared(*SETTINGS[1], latency, attack)
            offs.append(abs(log(found.asynchronous_seconds / seconds)))
    assert np.mean(np.array(offs) < log(2)) >= 0.75


def test_steps_that_wait_for_all_batches_are_rounds():
    made = plan(samples_per_client=50)
    found = theory.time_to_target(made, [1.0] * 15 + [7.0] * 5, quorum=20)
    assert (found.steps, found.seconds_per_step) == (made.rounds, 7)
    assert found.asynchronous_seconds == found.synchronous_seconds == 7 * made.rounds
    assert (found.mean_age, found.fresh_share, found.hints) == (0, 1, ())


def test_the_first_steps_of_three_clients_are_those_worked_out_by_hand():
    """They are made at 2, 3 and 4 s, of rows that are 0 and 0, 0, 1 and 1, 0, 1 and 2 steps old.

    Where a plan has no rounds, so many steps are taken as a model can count in.
    """
    made = replace(plan(num_clients=3, num_byzantine=0, num_batches=3), rounds=None)
    settings = {"quorum": 2, "max_staleness": 1, "keep_steps": 1}
    found = theory.time_to_target(made, [1.0, 2.0, 3.0], **settings)
    assert (found.steps, found.rounds, found.seconds_per_round) == (None, None, 3)
    expected = 4 / 3, (0 + 2 / 3 + 1) / 3, 2 / 3
    assert (found.seconds_per_step, found.mean_age, found.fresh_share) == pytest.approx(expected)
    assert found.hints == ()


def test_steps_that_do_not_converge_do_with_a_larger_quorum_or_a_smaller_step():
    sizes = {"num_byzantine": 0, "num_batches": 10}
    made, latencies = plan(**sizes), [1.0] * 20
    lost = theory.time_to_target(made, latencies, quorum=1)
    assert (lost.steps, lost.asynchronous_seconds) == (None, inf)
    assert lost.synchronous_seconds == made.rounds
    assert "do not converge" in lost.hints[0]
    larger = theory.time_to_target(made, latencies, quorum=4)
    assert larger.steps
    assert "take longer" in larger.hints[0]
    assert theory.time_to_target(plan(**sizes, step_size=0.1), latencies).steps


def test_a_step_too_long_for_old_replies_along_the_steepest_direction_does_not_converge():
    statistics = theory.Statistics(L=0.1)
    for step, converges in ((0.1, True), (1.9, False)):
        made = plan(num_byzantine=2, statistics=statistics, step_size=step)
        found = theory.time_to_target(made, [1.0] * 20, statistics=statistics)
        assert (found.steps is not None) == converges


def test_clients_that_never_reply_hold_up_rounds_and_not_steps():
    made = plan()
    silent = [inf] * 4 + [1.0] * 16
    found = theory.time_to_target(made, silent)
    assert (found.rounds, found.synchronous_seconds) == (None, inf)
    assert found.asynchronous_seconds < 100
    assert found.hints == ("without a timeout, rounds wait forever for 4 of the clients",)
    limited = theory.time_to_target(made, silent, timeout=5)
    assert limited.synchronous_seconds == 5 * made.rounds
    assert limited.asynchronous_seconds == found.asynchronous_seconds
    late = theory.time_to_target(made, [5.1] * 4 + [1.0] * 16, timeout=5)
    assert late == limited
    waiting = theory.time_to_target(made, silent, quorum=17)
    assert (waiting.asynchronous_seconds, waiting.seconds_per_step) == (inf, inf)
    assert "wait for 17 batches" in waiting.hints[1]
    assert theory.time_to_target(made, silent, quorum=17, timeout=5).seconds_per_step == 5
    few = theory.time_to_target(made, [inf] * 12 + [1.0] * 8, timeout=5)
    assert (few.synchronous_seconds, few.asynchronous_seconds) == (inf, inf)
    assert few.hints == ("only 8 batches ever hold a reply, 2q + 1 = 9 are needed",)
    none = theory.time_to_target(made, [inf] * 20)
    assert json.dumps(none.to_dict(), allow_nan=False).count("null") == 8


def test_clients_whose_replies_are_always_too_old_are_counted():
    found = theory.time_to_target(plan(), [1.0] * 17 + [9.0] * 3, max_staleness=2)
    assert found.num_too_old == 3
    assert "3 of the clients" in found.hints[-1]
    assert theory.time_to_target(plan(), [1.0] * 17 + [9.0] * 3).num_too_old == 0


def test_numbers_may_be_of_numpy():
    latencies = np.r_[np.ones(15), np.full(5, 3)]
    found = theory.time_to_target(plan(), latencies)
    assert found == theory.time_to_target(plan(), latencies.tolist())


WRONG = """
[1.0] * 19 : 19 clients | [0.0] * 20 : latencies | [float("nan")] * 20 : latencies
[1.0] * 20, quorum=8 : at least 9 | [1.0] * 20, quorum=21 : at most 20
[1.0] * 20, timeout=0 : timeout | [1.0] * 20, keep_steps=-1 : keep_steps
[1.0] * 20, max_staleness=-1 : max_staleness | [1.0] * 20, staleness_exponent=-1 : exponent
[1.0] * 20, statistics=theory.Statistics(M=5.0) : give the statistics
"""


@pytest.mark.parametrize(("arguments", "named"), table(WRONG))
def test_wrong_values_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        eval(f"theory.time_to_target(plan(), {arguments})")


@pytest.mark.parametrize("latency", ["1", None, True])
def test_latencies_of_a_wrong_kind_are_named(latency):
    with pytest.raises(TypeError, match="latencies"):
        theory.time_to_target(plan(), [latency] * 20)
