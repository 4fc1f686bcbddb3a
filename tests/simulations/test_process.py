"""Runs in process: rules, attacks, momentum, and what is lost or stopped."""

import math
from dataclasses import replace

import numpy as np
import pytest

from clients.flower_rules import FLOWER
from clients.momentum import WithMomentum
from clients.own_rules import ASYNC
from clients.problem import make_problem
from clients.rules import GMOM, RULES, KnownRule, batches_of, is_async, title
from clients.run import Run, adversary_of, problem_of
from flwr_byz.attacks.arrays import flatten
from flwr_byz.attacks.names import CLASSES
from flwr_byz.clientapp.mod import momentum
from simulations.process import train

REBUCKETED = f"{GMOM}(batch_size=2, rebucketed=True)"
FILTERED = "RobustFedAvg(rule='SpectralFilter')"
MIXED = "RobustFedAvg(pre_aggregation='AdaptiveClipping NearestNeighborMixing')"
OWN = (GMOM, f"{GMOM}(batch_size=1, trim_norm=None)", REBUCKETED, FILTERED, MIXED, ASYNC)
WITHOUT_DATA = [name for name, rule in RULES.items() if not rule.needs_trusted_data]
IN_ROUNDS = [name for name in WITHOUT_DATA if not is_async(name)]
SIZES = {"num_clients": 8, "num_byzantine": 1, "num_rounds": 3}
IMAGES = Run(problem="Perceptron", split="iid", rule=GMOM, attack="SignFlip(scale=10)", **SIZES)
REGRESSION = replace(IMAGES, problem="PooledRegression", num_rounds=6)


@pytest.mark.parametrize("rule", [*WITHOUT_DATA, *OWN])
def test_each_rule_learns_without_attack(rule):
    images = train(replace(IMAGES, rule=rule, attack="none", num_rounds=8))
    regression = train(replace(REGRESSION, rule=rule, attack="none"))
    assert images.values[-1] > images.values[0] + 0.2
    assert regression.values[-1] < 0.3 * regression.values[0]
    assert len(regression.values) == 7
    assert not images.stopped
    assert math.isnan(images.seconds) if is_async(rule) else 0 < images.seconds < 1


@pytest.mark.parametrize("rule", [*sorted(set(WITHOUT_DATA) - {"OneClient"}), *OWN])
def test_one_malformed_reply_stops_each_of_flower_s_rules_and_no_other(rule):
    if rule in FLOWER and rule not in ("RandomSubset", "SmallestNorms"):
        outcome = train(replace(IMAGES, rule=rule, attack="Malformed"))
        assert outcome.stopped.startswith("round 1: ")
        assert outcome.values[1:] == [0.0] * 3
        return
    for attack in ("Malformed", "NonFinite", "Silent"):
        outcome = train(replace(REGRESSION, rule=rule, attack=attack))
        assert not outcome.stopped
        assert outcome.values[-1] < 0.3 * outcome.values[0]


@pytest.mark.parametrize("rule", ["FedMedian", "MultiKrum", "FedTrimmedAvg"])
def test_behind_our_checks_flower_s_rules_survive_a_malformed_reply(rule):
    run = replace(IMAGES, rule=f"{rule}(hardened=True)", num_rounds=8)
    assert title(run.rule).endswith(", hardened")
    for attack in ("none", "Malformed", "NonFinite", "Silent"):
        outcome = train(replace(run, attack=attack))
        assert not outcome.stopped
        assert outcome.values[-1] > outcome.values[0] + 0.2
    clean = train(replace(run, attack="none")).values
    assert clean == train(replace(run, rule=rule, attack="none")).values


@pytest.mark.parametrize("attack", CLASSES)
def test_every_attack_does_something_and_the_geometric_median_learns_on(attack):
    for run in (replace(IMAGES, num_rounds=2), replace(REGRESSION, num_rounds=2)):
        clean = train(replace(run, attack="none")).values
        attacked = train(replace(run, attack=attack)).values
        assert attacked != clean
        assert (attacked[-1] > attacked[0]) == (run.problem == "Perceptron")
    for rule, beta in ((REBUCKETED, 0.9), ("SmallestNorms", 0.0), ("Bulyan", 0.5)):
        run = replace(REGRESSION, rule=rule, momentum=beta, attack=attack, num_rounds=2)
        assert len(train(run).values) == 3


@pytest.mark.parametrize("placement", ["spread", "one per batch", "packed", "fresh", "rotating"])
def test_sign_flips_from_anywhere_ruin_the_mean_alone(placement):
    run = replace(REGRESSION, placement=placement)
    mean = train(replace(run, rule="FedAvg")).values
    assert mean[-1] > mean[0]
    for rule in OWN:
        assert train(replace(run, rule=rule)).values[-1] < 0.3 * mean[0]
    sets = {adversary_of(run, problem_of(run)).choose(r, []) for r in range(1, 7)}
    assert (len(sets) > 1) == (placement in ("fresh", "rotating"))
    assert {len(each) for each in sets} == {1}


def test_a_greedy_set_harms_more_than_one_placed_blindly_and_settles():
    run = replace(REGRESSION, problem="LinearRegression", split="", attack="AwayFromTruth")
    run = replace(run, num_clients=16, num_byzantine=3, num_rounds=12, rule=OWN[1])
    ends = {
        placement: [train(replace(run, placement=placement, seed=seed)) for seed in range(8)]
        for placement in ("spread", "greedy", "settled")
    }
    blind, greedy, settled = ([each.values[-1] for each in outs] for outs in ends.values())
    assert np.mean(greedy) > 1.05 * np.mean(blind)
    assert settled == pytest.approx(greedy, rel=0.1)
    kept = adversary_of(settled_run := replace(run, placement="settled"), problem_of(settled_run))
    assert len({kept.choose(r, []) for r in (1, 2)}) == 1
    with pytest.raises(ValueError, match="known optimum"):
        replace(IMAGES, placement="greedy").check()


def test_one_round_of_one_client_in_one_shot_is_that_client_s_own_fit():
    run = Run(problem="OneShotRegression(samples_per_client=30, dim=5)", rule="OneClient", **SIZES)
    problem = problem_of(run)
    own = [problem.reply(client, problem.initial_arrays(), 1)[0] for client in range(8)]
    errors = [problem.evaluate(arrays)["error"] for arrays in own]
    ends = [train(replace(run, num_rounds=rounds)).values[-1] for rounds in (1, 40)]
    assert min(abs(ends[0] - np.array(errors))) < 1e-6
    assert ends[1] < np.mean(errors)


def test_the_same_run_gives_the_same_values_and_another_seed_others():
    run = replace(IMAGES, attack="GaussianNoise", rule=REBUCKETED, momentum=0.5)
    assert train(run).values == train(run).values
    assert train(run).values != train(replace(run, seed=1)).values
    mean = replace(REGRESSION, rule="FedAvg", attack="none")  # whose sum depends on the order
    assert train(mean).values == train(mean).values


def test_a_lost_regression_has_infinite_error_to_the_end():
    outcome = train(replace(REGRESSION, rule="FedAvg", attack="Scale", num_rounds=60))
    assert outcome.values[-1] == math.inf
    assert len(outcome.values) == 61
    assert not outcome.stopped


@pytest.mark.parametrize("rule", [*sorted(set(IN_ROUNDS) - {"RandomSubset", "OneClient"}), GMOM])
@pytest.mark.parametrize("q", [1, 2])  # Bulyan makes no step of fewer than 4q + 3 replies
def test_the_rule_that_an_adversary_knows_is_the_one_that_the_server_carries_out(rule, q):
    run = replace(REGRESSION, problem="LinearRegression", split="", rule=rule, num_byzantine=q)
    problem = problem_of(run)
    model = problem.initial_arrays()
    vectors = np.stack([flatten(problem.reply(c, model, 1)[0]) for c in range(8)])
    stepped = flatten(model) - 0.5 * KnownRule(rule, 8, q)(vectors)
    error = problem.evaluate([stepped])["error"]
    values = train(replace(run, attack="none", num_rounds=1)).values
    assert values[1] == pytest.approx(error, rel=1e-4)
    assert (values[0] == values[1]) == ((rule, q) == ("Bulyan", 2))


def test_a_batch_size_gives_way_where_so_few_batches_would_not_outvote_the_byzantine_clients():
    assert [batches_of(REBUCKETED, 20, q) for q in (0, 2, 4, 6, 8)] == [10, 10, 10, 13, 17]
    assert [batches_of(OWN[1], 20, q) for q in (0, 8)] == [20, 20]
    assert batches_of(f"{GMOM}(num_batches=7)", 20, 2) == 7
    assert title(REBUCKETED) == "GMoM, batches of 2, re-bucketed"


@pytest.mark.parametrize("text", ["Perceptron", "LinearRegression"])
def test_momentum_is_that_of_every_client_s_own_updates(text):
    inner = make_problem(text, 8, 0)
    problem, rng, expected = WithMomentum(inner, 0.75), np.random.default_rng(0), None
    for server_round in (1, 2, 3):
        model = [rng.normal(size=a.shape).astype("f4") for a in inner.initial_arrays()]
        origin = flatten(model) if inner.reply_kind == "weights" else 0
        update = flatten(inner.reply(2, model, server_round)[0]) - origin
        expected = momentum(expected, update, 0.75)
        for _ in range(2):  # asked again, it is the same
            sent = flatten(problem.reply(2, model, server_round)[0]) - origin
            np.testing.assert_allclose(sent, expected, atol=1e-5)
    flipped = problem.relabelled().reply(2, model, 3)[0]
    np.testing.assert_array_equal(flipped[0], inner.relabelled().reply(2, model, 3)[0][0])
    assert problem.relabelled() is problem.relabelled()
