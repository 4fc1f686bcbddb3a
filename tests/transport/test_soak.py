"""A long training takes no more at its end than at its beginning."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_three_hundred_rounds_with_faulty_replies_leak_neither_memory_nor_descriptors():
    command = [sys.executable, "-m", "tests.long.soak", "process", "--rounds", "300"]
    root = Path(__file__).parents[2]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(ran.stdout)
    before, after = figures["descriptors"]
    assert figures["rounds"] == 301
    assert figures["growth"] <= 0.05
    assert after <= before
