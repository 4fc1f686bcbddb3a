"""Settings that all tests share."""

import logging
import os
import signal

import pytest
from hypothesis import Phase, settings

os.environ["RAY_ADDRESS"] = "local"  # never the cluster of a test that runs beside this one

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


def pytest_collection_modifyitems(items):
    """Begin with what is slow, and run no two deployments at a time: their nodes have deadlines."""
    for item in items:
        if item.path.parent.name == "trial":
            item.add_marker(pytest.mark.xdist_group("deployments"))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def log_level_of_flower():
    """Undo what a command that runs in this process does to Flower's logger."""
    logger = logging.getLogger("flwr")
    level = logger.level
    yield
    logger.setLevel(level)
