"""Settings that all tests share."""

import logging
import os
import signal

import pytest
from hypothesis import Phase, settings
from xdist.scheduler import LoadScopeScheduling

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


class SomeFilesTogether(LoadScopeScheduling):
    """Gives all tests of some files to one worker; the others as workers are free.

    Deployments must meet deadlines. xdist begins with what has most
    tests: those deployments, which take longer than anything else. (Its own groups come to nothing
    in pytest 9.2, where a test's id cannot be changed.)
    """

    def _split_scope(self, nodeid):
        file = nodeid.partition("::")[0]
        return file if file == "tests/trial/test_trial.py" else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return SomeFilesTogether(config, log)


def pytest_collection_modifyitems(items):
    """Begin with what is slow, for the workers to end together."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def log_level_of_flower():
    """Undo what a command that runs in this process does to Flower's logger."""
    logger = logging.getLogger("flwr")
    level = logger.level
    yield
    logger.setLevel(level)
