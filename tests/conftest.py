"""Settings that all tests share."""

import os

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
