"""Settings that all tests share."""

import logging
import os
import signal
import sys

import pytest
from hypothesis import Phase, settings

from flwr_byz import cli

os.environ["RAY_ADDRESS"] = "local"  # never the cluster of a test that runs beside this one
# Ray is started by a fork, which ends OpenBLAS' threads: a product that is under way meanwhile,
# such as that of an evaluation before the first round, would wait for them for ever.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job in a shell's background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # commands under test inherit it

# Shrinking arrays of floats takes minutes; the first failing example says enough.
settings.register_profile(
    "flwr_byz",
    deadline=None,
    derandomize=True,  # the same examples in every run
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
settings.load_profile("flwr_byz")

LONGEST = ["trial", "apps", "simulations", "redteam"]  # folders


def pytest_collection_modifyitems(items):
    """Begin with what takes longest, for the workers to end together.

    All tests of a file run in one worker (``--dist loadfile``), so those that need a deployment or
    a simulation can share it through a fixture of their module.
    """

    def place(item):
        folder = item.path.parent.name
        place_of_folder = LONGEST.index(folder) if folder in LONGEST else len(LONGEST)
        return place_of_folder, item.get_closest_marker("slow") is None

    items.sort(key=place)


@pytest.fixture
def command(monkeypatch, capsys):
    """Return what runs ``flwr-byz`` in this process: for its exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["flwr-byz", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture(autouse=True)
def log_level_of_flower():
    """Undo what a command that runs in this process does to Flower's logger."""
    logger = logging.getLogger("flwr")
    level = logger.level
    yield
    logger.setLevel(level)
