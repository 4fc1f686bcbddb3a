"""What clients send reaches the log on one line, printable and short."""

import logging

import numpy as np
import pytest
from flwr.common import ndarrays_to_parameters
from hypothesis import given
from hypothesis import strategies as st

from flwr_byz.logs import escaped
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicStrategy
from tests.support import malformed
from tests.support.server import Proxy, classic_round, message_round


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 7", "plain ä 7"),
        ("a\nb\r", "a\\nb\\r"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\u2028 \u202e \x9b \x00", "\\u2028 \\u202e \\x9b \\x00"),
        ("\\n", "\\\\n"),
        ("\ud800", "\\ud800"),
        (7, "7"),
        (ValueError("x\ny"), "x\\ny"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 199 + "…"),
        ("\n" * 200, "\\n" * 99 + "\\…"),
    ],
)
def test_a_text_is_escaped_and_cut(text, shown):
    assert escaped(text) == shown


@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")), st.integers(1, 300))
def test_no_text_breaks_a_line_or_the_limit(text, limit):
    shown = escaped(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit


def check(caplog):
    assert caplog.records
    for record in caplog.records:
        if "Rejected" in record.getMessage() or "could not be" in record.getMessage():
            assert record.getMessage().strip("\t").isprintable()
            assert len(record.getMessage()) < 500


def test_a_cid_and_a_reason_are_escaped_in_the_log(caplog):
    caplog.set_level(logging.INFO, "flwr")
    evil = "7\nINFO : all is well\x1b[2K" + "x" * 1000
    model = malformed.model_arrays()
    results = [(Proxy(str(c)), malformed.fit_res(malformed.honest_arrays(c))) for c in range(4)]
    results.append((Proxy(evil), malformed.fit_res([np.zeros(3)])))
    strategy = ClassicStrategy(num_byzantine=1, initial_parameters=ndarrays_to_parameters(model))
    strategy.aggregate_fit(1, results, [])
    assert "Rejected the reply of client 7\\nINFO : all is well\\x1b[2K" in caplog.text
    check(caplog)


def test_a_reason_that_a_node_makes_up_is_escaped_in_the_log(caplog):
    contents = {c: malformed.content() for c in range(4)}
    contents[4] = malformed.MESSAGE_MALFORMED["no arrays"].copy()
    contents[4] = malformed.RecordDict({"a\n\x1b[1m": malformed.named(malformed.honest_arrays(0))})
    message_round(malformed.named(malformed.model_arrays()), contents, num_byzantine=1)
    check(caplog)


def test_an_error_of_a_metrics_function_is_escaped_in_the_log(caplog):
    class Odd(Exception):
        def __repr__(self):
            return "odd\n\x1b[2J" + "x" * 1000

    def fail(claims):
        raise Odd

    results = {c: malformed.fit_res(malformed.honest_arrays(c)) for c in range(4)}
    classic_round(
        malformed.model_arrays(), results, num_byzantine=1, fit_metrics_aggregation_fn=fail
    )
    assert "could not be aggregated: odd\\n\\x1b[2J" in caplog.text
    check(caplog)
