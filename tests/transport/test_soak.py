"""A long training takes no more at its end than at its beginning."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_five_hundred_rounds_with_faulty_replies_leak_neither_memory_nor_descriptors():
    ran = subprocess.run(
        [sys.executable, "-m", "tests.long.soak", "process"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(ran.stdout)
    before, after = figures["descriptors"]
    assert figures["rounds"] == 501
    assert figures["growth"] <= 0.05
    assert after <= before
