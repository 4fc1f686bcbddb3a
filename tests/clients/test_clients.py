import tomllib
from pathlib import Path

import numpy as np
import pytest

from clients.byzantine import Adversary, Scheduled
from clients.digits import Digits
from clients.numpy_client import ByzantineClient, HonestClient
from clients.regression import LinearRegression
from clients.run import Run, adversary_of, problem_of
from clients.run_config import RunConfig
from flwr_byz import attacks
from flwr_byz.attacks.arrays import flatten, unflatten
from simulations.process import train
from tests.support.table import table

PROBLEMS = pytest.mark.parametrize("problem", [kind(8) for kind in (LinearRegression, Digits)])
DEFAULTS = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
WRONG = """
problem : 'MNIST' : problem must be one of LinearRegression | api : 'grpc' : 'message' or 'classic'
rule : 'best' : rule must be one of FedAvg | attack : 'Nonsense' : choose from
num-byzantine : -2 : greater than or equal to -1 | num-rounds : 0 : greater than or equal to 1
num-byzantine : 5 : at most 4, fewer than half of the 10 nodes | unknown : 1 : not permitted
num-clients : -1 : greater than or equal to 0 | seed : -1 : greater than or equal to 0
audit : 'trail.jsonl' : only the rules GeometricMedianOfMeans, RobustFedAvg,
checkpoints : 'folder' : only the rules GeometricMedianOfMeans, RobustFedAvg,
round-timeout : 0 : greater than 0
"""


def fit(client):
    return client.fit(client.problem.initial_arrays(), {"server-round": 1})


def test_gradient_descent_on_all_data_comes_within_the_statistical_error():
    sizes = {"num_clients": 40, "num_byzantine": 0, "num_rounds": 30}
    run = Run(problem="LinearRegression", rule="FedAvg", **sizes)
    assert train(run).values[-1] < 2 * np.sqrt(20 / 2000)


def test_the_digits_of_all_clients_are_all_training_digits_once():
    problem = Digits(num_clients=5)
    sizes = [problem.reply(c, problem.initial_arrays(), 1)[1] for c in range(5)]
    assert sum(sizes) == 1347


@PROBLEMS
def test_attacks_act_on_updates_or_gradients_and_the_omniscient_recompute_the_honest_ones(problem):
    model = problem.initial_arrays()
    origin = flatten(model) if problem.reply_kind == "weights" else 0.0
    replies = [fit(HonestClient(problem, client)) for client in range(8)]
    honest = np.stack([flatten(arrays) - origin for arrays, *_ in replies])
    mean = np.delete(honest, [0, 4], axis=0).mean(axis=0)
    for attack, expected in (
        (attacks.SignFlip(2.0), -2 * honest[4]),
        (attacks.InnerProductManipulation(1.0), -mean),
    ):
        client = ByzantineClient(problem, 4, Adversary(attack, Scheduled(attacks.Fixed({0, 4})), 2))
        (arrays, *others), (_, *expected_others) = fit(client), replies[4]
        forms = [[(a.shape, a.dtype) for a in made] for made in (arrays, model)]
        assert forms[0] == forms[1]
        assert np.allclose(flatten(arrays) - origin, expected, atol=1e-5)
        assert others == expected_others
        assert others[1]["partition-id"] == 4
    client.adversary = Adversary(attacks.Silent(), Scheduled(attacks.Fixed({4})), 1)
    with pytest.raises(ConnectionAbortedError, match="silent"):
        fit(client)


def test_a_number_that_overflows_its_dtype_is_infinite():
    (made,) = unflatten(np.array([1e300]), [np.array(2.0, "f2")])
    assert (made.dtype, made) == ("f2", np.inf)


@pytest.mark.parametrize(("key", "value", "allowed"), table(WRONG))
def test_a_wrong_run_config_is_one_line_naming_key_value_and_what_is_allowed(key, value, allowed):
    with pytest.raises(ValueError, match=f"^wrong run config: .*{key}.*") as caught:
        RunConfig.parse(DEFAULTS | {"rule": "FedAvg", key: eval(value)}).run(10)
    message = str(caught.value)
    assert "\n" not in message
    assert value.strip("'") in message
    assert allowed in message


def test_an_eighth_of_the_nodes_is_byzantine_by_default_spread_over_the_batches():
    runs = [RunConfig.parse(DEFAULTS).run(m) for m in (7, 20, 40)]
    assert [run.num_byzantine for run in runs] == [0, 2, 5]
    few, _, many = [adversary_of(run, problem_of(run)) for run in runs]
    assert few is None
    assert sorted(many.choose(1, [])) == [0, 8, 16, 24, 32]
