"""Settings that all tests share."""

import logging
import os

import pytest
from hypothesis import Phase, settings

os.environ["RAY_ADDRESS"] = "local"  # never the cluster of a test that runs beside this one

# Shrinking arrays of floats takes minutes; the first failing example says enough.
settings.register_profile(
    "flwr_byz",
    deadline=None,
    derandomize=True,  # the same examples in every run
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
settings.load_profile("flwr_byz")


def pytest_collection_modifyitems(items):
    """Begin with the slowest, so that two workers end at about the same time."""

    def rank(item):
        if item.path.parent.name == "trial":
            return 0
        return 1 if item.get_closest_marker("slow") else 2

    items.sort(key=rank)


@pytest.fixture(autouse=True)
def log_level_of_flower():
    """Undo what a command that runs in this process does to Flower's logger."""
    logger = logging.getLogger("flwr")
    level = logger.level
    yield
    logger.setLevel(level)
