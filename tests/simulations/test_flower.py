"""Runs through Flower's simulation, all in one, beside the same runs in process."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from clients.rules import GMOM
from clients.run import Run
from simulations.flower import train_through_flower
from simulations.process import train
from trial.deployment import Deployment, free_port

ROOT = Path(__file__).parents[2]
SIZES = {"num_clients": 8, "num_byzantine": 1, "num_rounds": 3, "through": "flower"}
RUN = Run(problem="LinearRegression", rule=GMOM, attack="SignFlip(scale=10)", **SIZES)
RUNS = [
    RUN,
    replace(RUN, attack="none"),
    replace(RUN, rule="FedMedian", attack="Malformed"),  # it raises, and the next run goes on
    replace(RUN, attack="Silent"),
    replace(RUN, attack="NonFinite"),
    replace(RUN, attack="Adaptive", placement="fresh", num_byzantine=2),
    replace(RUN, rule=f"{GMOM}(batch_size=2, rebucketed=True)", seed=3),
    replace(RUN, problem="Digits", attack="InnerProductManipulation(epsilon=10)"),
    replace(RUN, problem="Perceptron", split="sorted", attack="GaussianNoise"),
    replace(RUN, problem="Convolution(local_steps=2)", split="sorted", attack="ALittleIsEnough"),
]


@pytest.fixture(scope="module")
def outcomes():
    both = [replace(run, api=api) for api in ("message", "classic") for run in RUNS]
    return dict(train_through_flower(both))


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_a_run_in_process_is_that_of_flower_s_simulation_in_both_apis_to_the_bit(outcomes, run):
    alone = train(replace(run, through="process"))
    assert outcomes[run].values == alone.values
    assert bool(outcomes[run].stopped) == bool(alone.stopped)
    if run.rule != "FedMedian":  # the classic one leaves out what it cannot read
        assert outcomes[replace(run, api="classic")].values == alone.values


@pytest.fixture
def flwr(tmp_path):
    """Flower's command line on a copy of this app; a SuperLink is up, whose start Flower limits."""
    ignored = shutil.ignore_patterns(".git", ".venv", "results", ".hypothesis", "*cache*", "tests")
    app = shutil.copytree(ROOT, tmp_path / "flwr-byz", ignore=ignored)
    deployment = Deployment(tmp_path, 0, app)
    addresses = "--host=127.0.0.1", f"--control-api-address=127.0.0.1:{free_port()}"
    deployment.start_superlink("--insecure", "--simulation", *addresses)
    port = {"FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": f"{deployment.port}"}
    options = {"cwd": app, "env": deployment.environment | port, "text": True}
    yield lambda *words: subprocess.run(["flwr", *words], capture_output=True, **options)
    deployment.stop()


@pytest.mark.slow
def test_the_flower_app_runs_and_fails_a_wrong_config_in_one_line(flwr, tmp_path):
    nodes = "num-supernodes=6 client-resources-num-cpus=1 init-args-num-cpus=2"
    config = f"num-rounds=2 results='{tmp_path / 'results'}'"
    ran = flwr("run", ".", "--stream", "--federation-config", nodes, "--run-config", config)
    assert "round 2: error" in ran.stdout + ran.stderr
    (line,) = (tmp_path / "results" / "runs.jsonl").read_text().splitlines()
    assert len(json.loads(line)["values"]) == 3

    ran = flwr("run", ".", "--stream", "--run-config", "attack='Magic'")
    output = ran.stdout + ran.stderr
    assert [line for line in output.splitlines() if "no attack is called 'Magic'" in line]
    assert "Traceback" not in output
    listed = json.loads(flwr("list", "--format", "json").stdout)["runs"]
    assert [run["status"] for run in listed] == ["finished:failed", "finished:completed"]
