"""The command ``flwr-byz``."""

import json
import sys
from importlib.metadata import version

import pytest

from flwr_byz import theory
from tests.support.table import table

EXAMPLE = ("plan", "--clients", "40", "--byzantine", "5", "--samples", "50", "--dim", "20")
SHORT = ("plan", "-m", "40", "-q", "5", "-n", "50", "-d", "20")
PLANNED = {"num_clients": 40, "num_byzantine": 5, "samples_per_client": 50, "dim": 20}


def test_the_plan_is_printed_with_what_is_expected_and_what_is_proved_or_as_json(command):
    plan, (code, out, err) = theory.plan(**PLANNED), command(*EXAMPLE)
    figures = (
        f"{plan.expected_error:.3g}",
        f"{plan.trim_norm:.3g}",
        "no proof",
        "no bound",
        plan.hints[0][:40],
    )
    assert (code, err) == (0, "")
    assert all(text in out for text in figures)
    code, out, err = command(*SHORT, "--epsilon", "0.5", "--json")
    planned = json.loads(json.dumps(theory.plan(**PLANNED, epsilon=0.5).to_dict()))
    assert (code, json.loads(out), err) == (0, planned, "")


def test_the_plan_finds_what_a_target_takes_and_takes_a_size_for_each_client(command):
    options = ["plan", "-m4", "-q1", "-d5", "--local-steps=3", "--step=0.9", "--json"]
    of_each = command(*options, *(f"-n{size}" for size in (100, 200, 300, 400)))
    assert json.loads(of_each[1])["samples_per_client"] == [100, 200, 300, 400]
    code, out, _ = command(*options, "--target-error", "0.1")
    found = json.loads(out)
    assert (code, found["local_steps"], found["step_size"]) == (0, 3, 0.9)
    assert found["expected_error"] <= 0.1


def test_the_time_to_target_is_printed_for_both_modes_or_as_json(command):
    latencies = [1.0] * 32 + [10.0] * 7 + [float("inf")]
    times = theory.time_to_target(theory.plan(**PLANNED), latencies, quorum=20, timeout=12)
    options = ("--latencies", "32x1,7x10,inf", "--quorum", "20", "--timeout", "12")
    code, out, err = command(*SHORT, *options, "--json")
    assert (code, json.loads(out)["time_to_target"], err) == (0, times.to_dict(), "")
    code, out, _ = command(*SHORT, *options)
    figures = f"{times.synchronous_seconds:.3g} s", f"{times.steps} steps of"
    assert (code, all(text in out for text in figures)) == (0, True)
    code, out, _ = command(*SHORT, "--latencies", "39x1,inf")
    assert (code, "never" in out, "wait forever for 1 of" in out) == (0, True, True)


WRONG = """
plan : --dim | plan -d 20 -m 40 : needs --byzantine and --samples | nonsense : nonsense
{} --batches 20 --target-error 1 : leave one | {} --target-error 0.01 : out of reach
{} --byzantine 20 : num_byzantine=20 | {} --samples 0 : samples_per_client
{} --clients many : 'many' | {} --dim 2.5 : '2.5' | {} --epsilon nan : epsilon
{} --colour red : --colour | {} --plot curve.nonsense : nonsense
{} --plot /nowhere/at/all.png : /nowhere/at/all.png
{} --latencies 3xa : 3xa | {} --latencies 39x1 : 39 clients | {} --latencies 40x0 : latencies
{} --quorum 20 : --latencies | {} --latencies 40x1 --quorum 3 : quorum must
"""


@pytest.mark.parametrize(("arguments", "named"), [*table(WRONG), ("", "command")])
def test_nonsense_gets_one_line_on_stderr_and_exit_code_2(command, arguments, named):
    code, out, err = command(*arguments.format(" ".join(EXAMPLE)).split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert named in err


def test_version_and_help_are_no_errors(command):
    assert command("--version") == (0, f"{version('flwr-byz')}\n", "")
    for arguments in (["--help"], ["plan", "--help"]):
        code, out, _ = command(*arguments)
        assert (code, "Usage" in out) == (0, True)


def test_a_plot_is_drawn(command, tmp_path):
    for path, start in ((tmp_path / "k.png", b"\x89PNG"), (tmp_path / "k.svg", b"<?xml")):
        assert command(*EXAMPLE, "--json", "--plot", path)[0] == 0
        assert path.read_bytes().startswith(start)


def test_a_plot_without_matplotlib_says_what_to_install(command, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = command(*EXAMPLE, "--plot", tmp_path / "curve.png")
    assert (code, err.count("\n"), list(tmp_path.iterdir())) == (2, 1, [])
    assert "flwr-byz[plots]" in err
