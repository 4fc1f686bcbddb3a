"""A few of the payloads of which ``python -m tests.long.fuzz`` reads a million."""

import numpy as np
import pytest

from tests.long import fuzz


@pytest.mark.slow
def test_every_payload_is_rejected_or_finite_within_two_models_of_memory():
    tally = fuzz.fuzz(6_000, seed=1)
    assert tally.outcomes["read"] > 1_000
    assert len(tally.outcomes) > 20
    assert tally.most_memory <= 2 * fuzz.SIZE + fuzz.SLACK
    assert tally.slowest < 1.0  # of the processor's time


@pytest.mark.parametrize(
    ("part", "faulty", "error"),
    [
        ("Model.check_finite", lambda model: None, ""),
        ("_read_array", lambda tensor, spec: np.load(tensor), r"(?i)magic|embedded|path|name|file"),
    ],
)
def test_the_fuzzer_notices_a_faulty_reader(monkeypatch, part, faulty, error):
    monkeypatch.setattr(f"flwr_byz.payload.{part}", faulty)
    with pytest.raises(Exception, match=error):
        fuzz.fuzz(2_000)
