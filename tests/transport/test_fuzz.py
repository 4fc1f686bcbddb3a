"""Short runs of what ``python -m tests.long.fuzz`` and ``tests.long.soak`` do at length."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.long import fuzz


@pytest.mark.slow
def test_every_payload_is_rejected_or_finite_within_two_models_of_memory():
    tally = fuzz.fuzz(range(6_000), seed=1)
    assert tally.outcomes["read"] > 1_000
    assert len(tally.outcomes) > 20
    assert tally.slowest < 1.0  # of the processor's time


@pytest.mark.slow
def test_three_hundred_rounds_with_faulty_replies_leak_neither_memory_nor_descriptors():
    command = [sys.executable, "-m", "tests.long.soak", "process", "--rounds", "300"]
    root = Path(__file__).parents[2]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr  # it compares the end with the beginning
    assert json.loads(ran.stdout)["rounds"] == 301
