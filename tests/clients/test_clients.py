import tomllib
from pathlib import Path

import numpy as np
import pytest

from clients.byzantine import Adversary, byzantine_reply
from clients.digits import Digits
from clients.numpy_client import ByzantineClient, HonestClient
from clients.regression import LinearRegression
from clients.rules import GMOM, KnownRule
from clients.run import Run, adversary_of, problem_of
from clients.run_config import RunConfig
from flwr_byz import attacks
from flwr_byz.attacks.arrays import flatten, unflatten
from flwr_byz.attacks.names import CLASSES

PROBLEMS = pytest.mark.parametrize(
    "problem",
    [LinearRegression(num_clients=8), Digits(num_clients=8)],
    ids=["regression", "digits"],
)
DEFAULTS = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
CONFIG = DEFAULTS | {"rule": "FedAvg"}


def fit(client, server_round=1):
    return client.fit(client.problem.initial_arrays(), {"server-round": server_round})


@PROBLEMS
def test_an_honest_reply_depends_on_seed_client_and_round_alone(problem):
    first, num_examples, metrics = fit(HonestClient(problem, 3))
    second, _, _ = fit(HonestClient(problem, 3))
    other, _, _ = fit(HonestClient(problem, 4))
    assert [a.tobytes() for a in first] == [a.tobytes() for a in second]
    assert not np.array_equal(flatten(first), flatten(other))
    assert num_examples > 0
    assert metrics["partition-id"] == 3
    assert np.isfinite(metrics["loss"])


@PROBLEMS
def test_a_reply_has_the_shapes_and_dtypes_of_the_model(problem):
    model = problem.initial_arrays()
    arrays, _, _ = fit(HonestClient(problem, 0))
    assert [(a.shape, a.dtype) for a in arrays] == [(a.shape, a.dtype) for a in model]


def test_the_gradient_is_that_of_the_empirical_risk():
    problem = LinearRegression(num_clients=3, dim=4)
    theta = [np.array([0.5, -1.0, 2.0, 0.1])]
    (gradient,), _, _ = problem.reply(1, theta, 1)
    for i in range(4):
        step = np.zeros(4)
        step[i] = 1e-5
        up, down = (problem.evaluate_client(1, [theta[0] + s])[0] for s in (step, -step))
        assert gradient[i] == pytest.approx((up - down) / 2e-5, rel=1e-5)


def test_gradient_descent_on_all_data_comes_within_the_statistical_error():
    problem = LinearRegression()
    model = problem.initial_arrays()
    for _ in range(30):
        gradients = [problem.reply(c, model, 1)[0][0] for c in range(40)]
        model = [model[0] - 0.5 * np.mean(gradients, axis=0)]
    assert problem.evaluate(model)["error"] < 2 * np.sqrt(20 / 2000)


def test_the_digits_of_all_clients_are_all_training_digits_once():
    problem = Digits(num_clients=5)
    sizes = [problem.reply(c, problem.initial_arrays(), 1)[1] for c in range(5)]
    assert sum(sizes) == 1347
    assert min(sizes) >= problem.batch_size


def test_training_on_digits_lowers_the_loss():
    problem = Digits(num_clients=4)
    model = problem.initial_arrays()
    before = problem.evaluate_client(0, model)[0]
    trained, _, _ = problem.reply(0, model, 1)
    assert problem.evaluate_client(0, trained)[0] < before


def test_a_model_that_is_not_finite_gets_no_digit_right():
    problem = Digits(num_clients=4)
    broken = [np.full_like(a, np.nan) for a in problem.initial_arrays()]
    assert problem.evaluate(broken)["accuracy"] == 0.0


@PROBLEMS
@pytest.mark.parametrize("name", CLASSES)
def test_a_byzantine_client_carries_out_every_attack(problem, name):
    adversary = Adversary(CLASSES[name](), attacks.Fixed({0}), 1, KnownRule(GMOM, 8, 1))
    client = ByzantineClient(problem, 0, adversary)
    if name == "Silent":
        with pytest.raises(ConnectionAbortedError, match="silent"):
            fit(client)
        return
    arrays, num_examples, metrics = fit(client)
    honest, honest_examples, _ = fit(HonestClient(problem, 0))
    same_form = [(a.shape, a.dtype) for a in arrays] == [(a.shape, a.dtype) for a in honest]
    assert same_form == (name != "Malformed")
    assert not np.array_equal(flatten(arrays), flatten(honest))
    assert num_examples == honest_examples
    assert metrics["partition-id"] == 0


@PROBLEMS
def test_the_attack_acts_on_the_update_or_the_gradient(problem):
    model = problem.initial_arrays()
    adversary = Adversary(attacks.SignFlip(2.0), attacks.Fixed({1}), 1)
    arrays, _, _ = byzantine_reply(problem, adversary, 1, model, 1)
    sent = flatten(model) if problem.reply_kind == "weights" else 0.0
    honest = flatten(problem.reply(1, model, 1)[0]) - sent
    assert np.allclose(flatten(arrays) - sent, -2 * honest, atol=1e-5)


@PROBLEMS
def test_omniscient_clients_recompute_what_the_honest_ones_send(problem):
    model = problem.initial_arrays()
    adversary = Adversary(attacks.InnerProductManipulation(1.0), attacks.Fixed({0, 4}), 2)
    sent = flatten(model) if problem.reply_kind == "weights" else 0.0
    honest = [c for c in range(8) if c not in adversary.when(1)]
    mean = np.mean([flatten(problem.reply(c, model, 1)[0]) - sent for c in honest], axis=0)
    replies = [byzantine_reply(problem, adversary, c, model, 1)[0] for c in adversary.when(1)]
    for arrays in replies:
        assert np.allclose(flatten(arrays) - sent, -mean, atol=1e-5)


def test_byzantine_clients_are_spread_over_the_batches():
    run = Run(
        problem="LinearRegression",
        rule=GMOM,
        attack="SignFlip",
        num_clients=40,
        num_byzantine=5,
        num_rounds=1,
    )
    assert sorted(adversary_of(run, problem_of(run)).when(1)) == [0, 8, 16, 24, 32]


def test_unflatten_undoes_flatten_and_lets_overflow_be_infinite():
    arrays = [np.arange(6, dtype="f4").reshape(2, 3), np.array(2.0, "f2")]
    back = unflatten(flatten(arrays), arrays)
    assert [a.tolist() for a in back] == [a.tolist() for a in arrays]
    assert [a.dtype for a in back] == [a.dtype for a in arrays]
    assert np.isinf(unflatten(np.full(7, 1e300), arrays)[1])


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("problem", "MNIST", "problem must be one of LinearRegression"),
        ("api", "grpc", "'message' or 'classic'"),
        ("rule", "best", "rule must be one of FedAvg"),
        ("attack", "Nonsense", "choose from"),
        ("num-byzantine", -2, "greater than or equal to -1"),
        ("num-byzantine", 5, "at most 4, fewer than half of the 10 nodes"),
        ("num-rounds", 0, "greater than or equal to 1"),
        ("seed", -1, "greater than or equal to 0"),
        ("unknown", 1, "not permitted"),
        ("num-clients", -1, "greater than or equal to 0"),
        ("round-timeout", 0, "greater than 0"),
        ("audit", "trail.jsonl", "only the rule GeometricMedianOfMeans writes it"),
        ("checkpoints", "folder", "only the rule GeometricMedianOfMeans writes it"),
    ],
)
def test_a_wrong_run_config_is_one_line_naming_key_value_and_what_is_allowed(key, value, allowed):
    with pytest.raises(ValueError, match=key) as caught:
        RunConfig.parse(CONFIG | {key: value}).run(10)
    message = str(caught.value)
    assert message.startswith("wrong run config: ")
    assert "\n" not in message
    assert str(value) in message
    assert allowed in message


def test_an_eighth_of_the_nodes_is_byzantine_by_default():
    config = RunConfig.parse(DEFAULTS)
    assert [config.run(m).num_byzantine for m in (2, 20, 40)] == [0, 2, 5]
    few = config.run(2)
    assert adversary_of(few, problem_of(few)) is None
