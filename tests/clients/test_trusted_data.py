"""A server that holds a few images, and the rules that use them."""

import re
from dataclasses import replace

import numpy as np
import pytest

from clients.byzantine import byzantine_reply
from clients.momentum import WithMomentum
from clients.peer_rules import PEERS
from clients.perceptron import Perceptron, client_images, server_images
from clients.pools import pool
from clients.problem import make_problem
from clients.rule import trusted_in
from clients.rules import message_strategy, needs_trusted_data, title
from clients.run import Run, adversary_of, problem_of
from clients.vector_strategy import FunctionStrategy
from flwr_byz import attacks
from flwr_byz.attacks.arrays import flatten
from flwr_byz.robust_server import RobustServer
from simulations.process import train

LAST = "RobustFedAvg(rule='SpectralFilter', trusted=True)"
SPLITS = pytest.mark.parametrize("split", ["iid", "dirichlet-0.3", "sorted"])
LABELS = pool("digits").labels
RUN = Run(
    problem="Perceptron(trusted=50)",
    split="dirichlet-0.3",
    rule="FLTrust",
    attack="Adaptive",
    num_clients=8,
    num_byzantine=2,
    num_rounds=3,
)


@SPLITS
@pytest.mark.parametrize("classes", [0, 3])
def test_no_client_has_an_image_of_the_server(split, classes):
    problem = Perceptron(num_clients=8, split=split, trusted=50, trusted_classes=classes)
    own, clients = server_images(problem), np.concatenate(client_images(problem))
    assert len(set(own)) == 50
    assert not set(own) & set(clients)
    assert len(set(clients)) == len(clients)
    assert len(clients) > len(LABELS) - 50 - 8  # "sorted" leaves out fewer than m
    counts = np.bincount(LABELS[own], minlength=10)
    assert np.ptp(counts[: classes or 10]) <= 1
    assert counts[: classes or 10].sum() == 50


def test_the_server_s_images_follow_from_the_seed_and_none_leaves_all_to_clients():
    first, again, other = (
        server_images(Perceptron(seed=seed, trusted=20)).tolist() for seed in (3, 3, 4)
    )
    assert first == again != other
    assert sorted(np.concatenate(client_images(Perceptron(num_clients=8)))) == list(
        range(len(LABELS))
    )
    few = np.bincount(LABELS[server_images(Perceptron(trusted=1000))])
    assert few.sum() == 1000
    assert np.ptp(few) <= 1


def test_the_server_trains_as_a_client_would_with_its_images(monkeypatch):
    problem = Perceptron(num_clients=4, trusted=50, local_steps=3)
    model = problem.initial_arrays()
    update = problem.server_update(7, model)
    monkeypatch.setattr("clients.perceptron.client_images", lambda _: [server_images(problem)] * 5)
    reply, _, _ = replace(problem, num_clients=5).reply(4, model, 7)
    for array, expected in zip(update, reply, strict=True):
        np.testing.assert_allclose(array, expected, atol=1e-6)
    assert not np.array_equal(problem.server_update(8, model)[0], update[0])
    np.testing.assert_array_equal(problem.relabelled().server_update(7, model)[0], update[0])


def test_the_loss_on_trusted_images_falls_as_the_server_trains():
    problem = Perceptron(trusted=50)
    arrays = problem.initial_arrays()
    losses = [problem.trusted_loss(arrays)]
    for server_round in range(1, 11):
        arrays = problem.server_update(server_round, arrays)
        losses.append(problem.trusted_loss(arrays))
    assert losses[0] == pytest.approx(np.log(10), rel=0.2)
    assert losses[-1] < 0.2 * losses[0]
    trusted = trusted_in(problem, 11, arrays)
    assert trusted.loss(np.zeros_like(trusted.update)) == pytest.approx(losses[-1], rel=1e-5)
    assert trusted.loss(trusted.update) < losses[-1]


def test_trusted_data_pass_through_momentum():
    problem = make_problem("Perceptron(trusted=50)", 4, 0)
    moved, model = WithMomentum(problem, 0.9), problem.initial_arrays()
    assert moved.trusted == 50
    assert moved.trusted_loss(model) == problem.trusted_loss(model)
    np.testing.assert_array_equal(
        flatten(moved.server_update(2, model)), flatten(problem.server_update(2, model))
    )


@pytest.mark.parametrize("rule", [*PEERS, "CenteredClipping(radius=None, num_steps=3)", LAST])
def test_every_rule_of_peers_is_run_against_an_attack_that_knows_it(rule):
    outcome = train(replace(RUN, rule=rule, momentum=0.5, split="iid"))
    assert not outcome.stopped
    assert len(outcome.values) == 4
    assert outcome.values[-1] > 0.3 or rule == "CenteredClipping"  # which clips at 100
    clean = train(replace(RUN, rule=rule, attack="none", num_rounds=8, split="iid"))
    assert clean.values[-1] > clean.values[0] + 0.3


@pytest.fixture
def seen(monkeypatch):
    """The server's rule in each round, as the attack knows it."""
    rules, attack = [], attacks.Adaptive.__call__

    def attacked(self, knowledge):
        rules.append(knowledge.rule)
        return attack(self, knowledge)

    monkeypatch.setattr(attacks.Adaptive, "__call__", attacked)
    return rules


def assert_they_map(seen, made, atol):
    """Every rule maps the replies of its round to the step that is made."""
    assert len(seen) == len(made) == 3
    for rule_known, (vectors, step) in zip(seen, made, strict=True):
        np.testing.assert_allclose(rule_known(vectors), step, atol=atol)


@pytest.mark.parametrize("rule", [*PEERS, "CenteredClipping(radius=0.3)"])
def test_the_adversary_tries_the_very_rule_of_the_round(rule, seen, monkeypatch):
    made, combine = [], FunctionStrategy.combine

    def combined(self, vectors, server_round):
        made.append((vectors, combine(self, vectors, server_round)))
        return made[-1][1]

    monkeypatch.setattr(FunctionStrategy, "combine", combined)
    train(replace(RUN, rule=rule, seed=11))
    assert_they_map(seen, made, 1e-5)


OWN = [
    "GeometricMedianOfMeans",
    "GeometricMedianOfMeans(batch_size=2)",
    "RobustFedAvg(rule='SpectralFilter')",
    "RobustFedAvg(pre_aggregation='AdaptiveClipping NearestNeighborMixing', batch_size=1)",
    LAST,
]


@pytest.mark.parametrize("rule", OWN)
def test_the_adversary_tries_the_very_rule_of_this_package_too(rule, seen, monkeypatch):
    made, aggregate = [], RobustServer.aggregate

    def aggregated(self, server_round, replies, *args, **options):
        replies = sorted(replies, key=lambda reply: reply.metrics["partition-id"])
        sent = np.concatenate(self.rounds.sent.floats())
        vectors = np.stack([np.concatenate(r.model.floats()) - sent for r in replies])
        model, metrics = aggregate(self, server_round, replies, *args, **options)
        made.append((vectors.astype("f8"), np.concatenate(model.floats()) - sent))
        return model, metrics

    monkeypatch.setattr(RobustServer, "aggregate", aggregated)
    train(replace(RUN, rule=rule, seed=11))
    assert_they_map(seen, made, 1e-4)


@pytest.mark.parametrize("rule", PEERS)
@pytest.mark.parametrize("attack", ["Silent", "Malformed", "NonFinite"])
def test_what_is_left_of_the_replies_is_aggregated_even_where_it_is_fewer_than_twice_q(
    rule, attack
):
    run = replace(RUN, rule=rule, attack=attack, num_byzantine=3, num_clients=7, num_rounds=8)
    outcome = train(replace(run, split="iid"))
    assert not outcome.stopped
    assert outcome.values[-1] > outcome.values[0] + 0.3


@pytest.mark.parametrize("problem", ["Perceptron", "PooledRegression"])
def test_a_rule_without_the_trusted_data_that_it_needs_is_a_clear_error(problem):
    for rule in (*PEERS, LAST):
        run = replace(RUN, rule=rule, problem=problem)
        if not needs_trusted_data(rule):
            run.check()
            continue
        for make in (run.check, lambda run=run: message_strategy(run.rule, problem_of(run), 2)):
            with pytest.raises(
                ValueError, match=f"^{re.escape(rule)} needs a problem whose server holds data"
            ):
                make()


def test_what_the_server_cannot_hold_is_an_error():
    with pytest.raises(ValueError, match="at least 0"):
        Perceptron(trusted=-1)
    problem = Perceptron(trusted=400, trusted_classes=2)
    with pytest.raises(ValueError, match=r"from 1 to 2\d\d"):
        problem.trusted_loss(problem.initial_arrays())
    with pytest.raises(ValueError, match="got 0"):
        Perceptron().server_update(1, Perceptron().initial_arrays())


def test_without_the_model_before_the_adversary_takes_the_server_to_have_no_last_aggregate():
    run = replace(RUN, rule="CenteredClipping(radius=0.01)")
    problem = problem_of(run)
    adversary, model = adversary_of(run, problem), problem.initial_arrays()
    before = [array - np.float32(0.1) for array in model]
    without, first, later = (
        flatten(byzantine_reply(problem, adversary, 0, model, 2, *rest)[0])
        for rest in ((), (None,), (before,))
    )
    np.testing.assert_array_equal(without, first)
    assert not np.array_equal(later, first)


def test_options_are_in_the_titles():
    assert title("CenteredClipping(radius=0.5)") == "centred clipping, radius 0.5"
    assert title("CenteredClipping(radius=None, num_steps=3)").endswith("radius median, 3 steps")
    assert title("FLTrust") == "FLTrust"
    with pytest.raises(ValueError, match="FLTrust has no option radius"):
        title("FLTrust(radius=1)")
