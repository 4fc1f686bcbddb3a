"""The command ``flwr-byz``, as a shell runs it."""

import json
import subprocess
import sys
import time
from importlib.metadata import version

import pytest

from flwr_byz import theory

EXAMPLE = ["plan", "--clients", "40", "--byzantine", "5", "--samples", "50", "--dim", "20"]


def run(*arguments, before=""):
    code = f"{before}\nimport sys\nfrom flwr_byz.cli import main\nsys.argv[0] = 'flwr-byz'\nmain()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)


def test_the_plan_is_printed_with_what_is_expected_and_what_is_proved():
    ran = run(*EXAMPLE)
    assert ran.returncode == 0
    assert ran.stderr == ""
    expected = theory.plan(num_clients=40, num_byzantine=5, samples_per_client=50, dim=20)
    assert f"{expected.expected_error:.3g}" in ran.stdout
    assert f"{expected.trim_norm:.3g}" in ran.stdout
    assert "no proof" in ran.stdout
    assert "Theorem 4" in ran.stdout


def test_json_is_the_plan_and_nothing_else():
    ran = run("plan", "-m", 40, "-q", 5, "-n", 50, "-d", 20, "--epsilon", "0.5", "--json")
    expected = theory.plan(
        num_clients=40, num_byzantine=5, samples_per_client=50, dim=20, epsilon=0.5
    )
    assert json.loads(ran.stdout) == expected.to_dict()
    assert ran.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--byzantine", "20"], "num_byzantine=20"),
        (["--byzantine", "-1"], "num_byzantine"),
        (["--samples", "0"], "samples_per_client"),
        (["--clients", "many"], "'many'"),
        (["--dim", "2.5"], "'2.5'"),
        (["--dim", "-3"], "dim"),
        (["--epsilon", "nan"], "epsilon"),
        (["--colour", "red"], "--colour"),
        (["--plot", "/nowhere/at/all.png"], "/nowhere/at/all.png"),
        (["--plot", "curve.nonsense"], "nonsense"),
    ],
)
def test_nonsense_gets_one_line_on_stderr_and_exit_code_2(arguments, named):
    ran = run(*EXAMPLE, *arguments)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1
    assert named in ran.stderr


@pytest.mark.parametrize("arguments", [[], ["plan"], ["plan", "-m", "40"], ["nonsense"]])
def test_a_command_that_lacks_something_gets_one_line(arguments):
    ran = run(*arguments)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1


def test_the_version_is_that_of_the_installed_package():
    ran = run("--version")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{version('flwr-byz')}\n", "")


def test_help_is_no_error():
    for arguments in (["--help"], ["plan", "--help"]):
        ran = run(*arguments)
        assert ran.returncode == 0
        assert "Usage" in ran.stdout


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_plot_is_drawn(tmp_path, ending):
    path = tmp_path / f"curve.{ending}"
    assert run(*EXAMPLE, "--json", "--plot", path).returncode == 0
    start = path.read_bytes()[:200]
    assert (b"PNG" if ending == "png" else b"<?xml") in start


def test_a_plot_without_matplotlib_says_what_to_install(tmp_path):
    path = tmp_path / "curve.png"
    ran = run(*EXAMPLE, "--plot", path, before="import sys; sys.modules['matplotlib'] = None")
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert "flwr-byz[plots]" in ran.stderr
    assert not path.exists()


def test_a_plan_needs_neither_flower_nor_torch_nor_ray():
    strangers = ["flwr", "torch", "ray", "scipy", "matplotlib"]
    ran = run(
        *EXAMPLE,
        "--json",
        before=(
            "import atexit, sys\n"
            f"strangers = lambda: [m for m in {strangers} if m in sys.modules]\n"
            "atexit.register(lambda: print(strangers(), file=sys.stderr))"
        ),
    )
    assert ran.returncode == 0
    assert ran.stderr == "[]\n"


def test_a_plan_answers_within_seconds_for_ten_thousand_clients():
    start = time.perf_counter()
    assert run("plan", "-m", 10_000, "-q", 2_000, "-n", 50, "-d", 1_000, "--json").returncode == 0
    assert time.perf_counter() - start < 10
