"""Runs through Flower's simulation, all in one, beside the same runs in process."""

import json
import shutil
import subprocess
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation

from clients.rules import GMOM
from clients.run import Run
from flwr_byz import audit
from flwr_byz.serverapp.strategy import AsyncGeometricMedianOfMeans
from simulations.flower import BACKEND, train_through_flower
from simulations.process import train
from tests.support import app_grid
from tests.support.apis import MESSAGE
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


def take_three_seconds(message, context, call_next):
    """A mod of the slow node, that of partition 5."""
    if context.node_config["partition-id"] == 5:
        time.sleep(3.0)
    return call_next(message, context)


def train_in_steps(audit, sender):
    server_app = ServerApp()

    @server_app.main()
    def main(grid, context):
        strategy = AsyncGeometricMedianOfMeans(
            num_byzantine=1,
            num_batches=6,
            quorum=5,
            max_staleness=1000,  # a step takes a tenth of a second
            audit=audit,
            min_available_nodes=6,
            stop_when=lambda _, metrics: metrics["train"]["byz-staleness"] >= 2,
        )
        result = strategy.start(grid, ArrayRecord(app_grid.MODEL), 1000)
        sender.send({step: dict(of) for step, of in result.train_metrics_clientapp.items()})

    client_app = app_grid.client_app(MESSAGE, [take_three_seconds])
    run_simulation(server_app, client_app, 6, backend_config=BACKEND)


@pytest.mark.slow
def test_steps_in_flower_s_simulation_do_not_wait_for_a_slow_node_and_use_its_late_reply(tmp_path):
    processes = get_context("spawn")
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=train_in_steps, args=(tmp_path / "audit.jsonl", sender))
    process.start()
    sender.close()
    try:
        metrics = receiver.recv()
    finally:
        process.kill()
        process.join()
    used = [{*line["clients"]} for line in audit.read(tmp_path / "audit.jsonl")]
    last = max(metrics)
    assert len(used) == last
    staleness = metrics[last]["byz-staleness"]
    assert staleness >= 2
    (late,) = used[-1] - used[-2]  # five of the six nodes are in each step
    assert all(late not in nodes for nodes in used[-1 - staleness : -1])


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
