"""A minute of the fuzzing that ``python -m tests.long.fuzz`` does at length."""

import numpy as np
import pytest

from tests.long import fuzz


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_every_payload_is_rejected_or_finite_within_two_models_of_memory(seed):
    tally = fuzz.fuzz(15_000, seed)
    assert tally.outcomes["read"] > 3_000
    assert len(tally.outcomes) > 4
    assert tally.most_memory <= 2 * fuzz.SIZE + fuzz.SLACK
    assert tally.slowest < 1.0


def test_the_fuzzer_notices_a_reader_that_lets_nan_through(monkeypatch):
    monkeypatch.setattr("flwr_byz.payload.Model.check_finite", lambda model: None)
    with pytest.raises(AssertionError):
        fuzz.fuzz(2_000)


def test_the_fuzzer_notices_a_reader_that_fails_in_another_way(monkeypatch):
    def read(tensor, spec):
        return np.load(tensor)

    monkeypatch.setattr("flwr_byz.payload._read_array", read)
    with pytest.raises(Exception, match=r"(?i)magic|embedded|path|name|file"):
        fuzz.fuzz(500)
