"""The attacks in real clients, the table of all of them and the search for the worst."""

import csv
import dataclasses
import math
from typing import get_args

import pytest
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from rich.console import Console
from typer import Typer
from typer.testing import CliRunner

from clients.app import ChoosingClientApp, classic_client_app, message_client_app
from clients.experiments import ATTACKS, EXPERIMENTS, AttackName
from clients.server_rule import RuleName, ServerRule
from flwr_byz.attacks import Fixed
from flwr_byz.clientapp.mod import ByzantineMod
from simulations import attack_table, worst_case
from simulations.play import BACKEND, adversary_of, simulate
from simulations.results import Run, RunResult
from simulations.rules import Plan
from simulations.serve import serve

OURS = "geometric-median-of-means"
RUN = Run("linear-regression", OURS, "none", "message", 8, 1, 3, 0)


def play(*runs):
    results = []
    simulate(runs, results.append, lambda: None)
    return results


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["linear-regression", "digits"])
def test_every_attack_runs_in_real_clients_and_ours_learns_on(experiment):
    api = {"linear-regression": "message", "digits": "classic"}[experiment]
    run = dataclasses.replace(RUN, experiment=experiment, api=api, num_rounds=2)
    results = play(*(dataclasses.replace(run, attack=name) for name in get_args(AttackName)))
    for result in results:
        assert len(result.values) == 3
        better = result.values[0] < result.final
        assert better == (experiment == "digits"), result
    peace, *attacked = (result.values for result in results)
    assert all(values != peace for values in attacked)  # each attack does something


@pytest.mark.slow
@pytest.mark.parametrize("api", ["classic", "message"])
def test_every_attack_that_a_mod_can_know_enough_for_runs_as_a_mod(api, tmp_path):
    """Two of eight collude in one round each; ours learns through each of them."""
    setup = EXPERIMENTS["linear-regression"]
    problem = setup.problem(8, 0)
    make_app = classic_client_app if api == "classic" else message_client_app
    possible = {
        name: make()
        for name, make in ATTACKS.items()
        if make().requires <= {"honest", "model"} and name != "a-little-is-enough"
    }
    assert len(possible) >= 14
    apps = {
        name: make_app(
            problem,
            mods=[
                ByzantineMod(
                    attack,
                    when=Fixed({0, 4}),
                    reply=problem.reply_kind,
                    colluders=tmp_path / name,
                )
            ],
        )
        for name, attack in possible.items()
    }
    server_app = ServerApp()
    measured = {}

    @server_app.main()
    def main(grid, context):
        for name in possible:
            values = measured.setdefault(name, [])

            def evaluate(server_round, arrays, values=values):
                values.append(problem.evaluate(arrays)[setup.measure])
                return {}

            plan = Plan(OURS, api, 2, 1, setup.server_learning_rate, {"run": name})
            serve(plan, problem, grid, context, evaluate)

    def choose(message, context):
        records = message.content.config_records.values()
        played = [str(record["run"]) for record in records if "run" in record]
        return apps[played[0] if played else "sign-flip"]

    run_simulation(server_app, ChoosingClientApp(choose), 8, backend_config=BACKEND)
    assert set(measured) == set(possible)
    for name, (before, after) in measured.items():
        assert (after > before) == (setup.measure == "accuracy"), name
    shared = {path.name for path in tmp_path.iterdir()}
    assert shared == {name for name, attack in possible.items() if "honest" in attack.requires}


@pytest.mark.slow
def test_a_moving_set_is_another_one_in_each_round_and_ours_holds():
    run = dataclasses.replace(RUN, attack="sign-flip", byzantine="fresh", num_rounds=6)
    ours, fedavg = play(run, dataclasses.replace(run, rule="fedavg"))
    when = adversary_of(run).when
    assert len({when(r) for r in range(1, 7)}) > 2
    assert ours.final < ours.values[0] / 3
    assert fedavg.final > 10 * ours.final


@pytest.mark.slow
def test_a_rule_that_raises_has_lost_the_model_and_the_next_run_goes_on():
    run = dataclasses.replace(RUN, rule="fedmedian", attack="malformed")
    broken, fine = play(run, dataclasses.replace(run, attack="none"))
    assert broken.values[1:] == [math.inf] * 3
    assert fine.final < fine.values[0]


@pytest.mark.slow
def test_the_adversary_knows_every_rule_as_flower_carries_it_out():
    run = dataclasses.replace(RUN, attack="small-inner-product-manipulation")
    setup = EXPERIMENTS[run.experiment]
    problem = setup.problem(8, 0)
    results = play(*(dataclasses.replace(run, rule=rule) for rule in get_args(RuleName)))
    assert len({result.final for result in results}) == len(get_args(RuleName))
    for result in results:
        rule = ServerRule(result.run.rule, 8, 1)
        measures = worst_case.train(
            problem, adversary_of(result.run), rule, 3, setup.server_learning_rate
        )
        assert measures["error"] == pytest.approx(result.final, rel=1e-4), result.run.rule


def made_up(experiment):
    """Results in which sign flips break FedAvg, and ours loses a little to Min-Max."""
    calm, broken = (0.1, math.inf) if experiment == "linear-regression" else (0.9, 0.1)
    for run in attack_table.planned_runs(experiment, 0):
        value = calm
        if run.rule == "fedavg" and run.attack == "sign-flip":
            value = broken
        if run.rule == OURS and run.attack == "min-max":
            value = calm * 1.5 if experiment == "linear-regression" else calm * 0.9
        yield RunResult(run, [value] * (run.num_rounds + 1))


@pytest.mark.parametrize("experiment", ["linear-regression", "digits"])
def test_the_table_says_which_attack_breaks_which_rule(experiment, tmp_path):
    console = Console(record=True, width=300)
    attack_table.report(console, list(made_up(experiment)), tmp_path)
    text = console.export_text()
    assert "FedAvg is broken by 1: sign-flip" in text
    assert "Krum is broken by 0: nothing" in text
    with (tmp_path / f"attacks-{experiment}.csv").open() as file:
        rows = {row["attack"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(get_args(AttackName))
    assert rows["none"]["ours"] == {"linear-regression": "0.1", "digits": "0.9"}[experiment]
    assert (tmp_path / f"attacks-{experiment}.png").stat().st_size > 20_000
    if experiment == "linear-regression":  # d = 20, k = 20, N = 40 · 50; the error is 0.15
        assert "ours: at most 0.34 times √(dk/N) = 0.447, under min-max" in text


@pytest.mark.parametrize(
    ("value", "measure", "reference", "expected"),
    [
        (0.99, "error", 0.1, False),
        (1.0, "error", 0.1, True),
        (math.inf, "error", 0.1, True),
        (math.nan, "error", 0.1, True),
        (0.45, "accuracy", 0.9, True),
        (0.46, "accuracy", 0.9, False),
    ],
)
def test_broken_is_ten_times_the_error_or_half_the_accuracy(value, measure, reference, expected):
    assert attack_table.is_broken(value, measure, reference) == expected


@pytest.fixture
def worst():
    app = Typer()
    app.command()(worst_case.main)
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


def test_the_worst_of_all_attacks_is_reported_beside_the_paper_s_rate(worst, tmp_path):
    ran = worst("--m", 12, "--q", 2, "--rounds", 2, "--results", tmp_path)
    assert ran.exit_code == 0
    assert "times the paper's rate √(dk/N)" in " ".join(ran.output.split())
    with (tmp_path / "worst-case-linear-regression-m12-q2-k8.csv").open() as file:
        rows = list(csv.DictReader(file))
    errors = [float(row["error"]) for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert {row["placement"] for row in rows} == {
        "",
        "packed",
        "fresh each round",
        "rotating",
        "one per batch",
    }
    calm = next(float(row["error"]) for row in rows if row["attack"] == "nobody attacks")
    assert errors[0] > 1.2 * calm


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--experiment", "cifar"), "linear-regression, digits"),
        (("--m", 10, "--q", 5), "less than half of m = 10"),
        (("--m", 10, "--q", 2, "--k", 11), "at most m = 10"),
    ],
)
def test_a_search_that_cannot_be_is_refused(worst, arguments, said):
    ran = worst(*arguments)
    assert ran.exit_code == 2
    assert said in ran.output
