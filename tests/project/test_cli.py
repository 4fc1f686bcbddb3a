"""The command ``flwr-byz``."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

from flwr_byz import cli, theory
from tests.support.table import table

EXAMPLE = ("plan", "--clients", "40", "--byzantine", "5", "--samples", "50", "--dim", "20")


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        """Return the exit code, what is on stdout, and what is on stderr."""
        monkeypatch.setattr(sys, "argv", ["flwr-byz", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def test_the_plan_is_printed_with_what_is_expected_and_what_is_proved(run):
    code, out, err = run(*EXAMPLE)
    expected = theory.plan(num_clients=40, num_byzantine=5, samples_per_client=50, dim=20)
    figures = f"{expected.expected_error:.3g}", f"{expected.trim_norm:.3g}"
    assert (code, err) == (0, "")
    assert all(text in out for text in (*figures, "no proof", "Theorem 4"))


WRONG = """
plan : --clients | plan -m 40 : --byzantine | nonsense : nonsense
{} --byzantine 20 : num_byzantine=20 | {} --samples 0 : samples_per_client
{} --clients many : 'many' | {} --dim 2.5 : '2.5' | {} --epsilon nan : epsilon
{} --colour red : --colour | {} --plot curve.nonsense : nonsense
{} --plot /nowhere/at/all.png : /nowhere/at/all.png
"""


@pytest.mark.parametrize(("arguments", "named"), [*table(WRONG), ("", "command")])
def test_nonsense_gets_one_line_on_stderr_and_exit_code_2(run, arguments, named):
    code, out, err = run(*arguments.format(" ".join(EXAMPLE)).split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert named in err


def test_version_and_help_are_no_errors(run):
    assert run("--version") == (0, f"{version('flwr-byz')}\n", "")
    for arguments in (["--help"], ["plan", "--help"]):
        code, out, _ = run(*arguments)
        assert (code, "Usage" in out) == (0, True)


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_a_plot_is_drawn(run, tmp_path, ending, start):
    path = tmp_path / f"curve.{ending}"
    assert run(*EXAMPLE, "--json", "--plot", path)[0] == 0
    assert path.read_bytes().startswith(start)


def test_a_plot_without_matplotlib_says_what_to_install(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run(*EXAMPLE, "--plot", tmp_path / "curve.png")
    assert (code, err.count("\n"), list(tmp_path.iterdir())) == (2, 1, [])
    assert "flwr-byz[plots]" in err


def test_a_plan_for_ten_thousand_clients_is_json_and_loads_no_heavy_library():
    program = (
        "import atexit, sys; from flwr_byz.cli import main\n"
        "heavy = {'flwr', 'torch', 'ray', 'scipy', 'matplotlib'}\n"
        "atexit.register(lambda: print(sys.modules.keys() & heavy, file=sys.stderr)); main()"
    )
    sizes = ["-m", "10000", "-q", "2000", "-n", "50", "-d", "1000", "--epsilon", "0.5"]
    command = [sys.executable, "-c", program, "plan", *sizes, "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    asked = {"num_clients": 10_000, "num_byzantine": 2000, "samples_per_client": 50, "dim": 1000}
    assert json.loads(ran.stdout) == theory.plan(**asked, epsilon=0.5).to_dict()
    assert ran.stderr == "set()\n"
