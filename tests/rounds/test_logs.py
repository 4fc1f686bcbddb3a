"""What clients send reaches the log on one line, printable and short."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_byz.logs import escaped
from tests.support.apis import CLASSIC

ESCAPED = [
    ("plain ä 7\\n", "plain ä 7\\\\n"),
    ("a\n\r\u2028\u202e\x9b\x00\ud800", "a\\n\\r\\u2028\\u202e\\x9b\\x00\\ud800"),
    (ValueError("x\ny"), "x\\ny"),
    ("x" * 200, "x" * 200),
    ("x" * 201, "x" * 199 + "…"),
    ("\n" * 200, "\\n" * 99 + "\\…"),
]


@pytest.mark.parametrize(("text", "shown"), ESCAPED)
def test_a_text_is_escaped_and_cut(text, shown):
    assert escaped(text) == shown


@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")), st.integers(1, 300))
def test_no_text_breaks_a_line_or_the_limit(text, limit):
    shown = escaped(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit


def test_a_cid_and_an_error_of_a_metrics_function_are_escaped_in_the_log(caplog):
    evil = "7\nINFO : all is well\x1b[2K" + "x" * 1000

    def fail(claims):
        raise type("Odd", (Exception,), {"__repr__": lambda error: evil})

    replies = {**CLASSIC.honest(), evil: CLASSIC.reply([np.zeros(3)])}
    options = {"num_byzantine": 1, "fit_metrics_aggregation_fn": fail}
    CLASSIC.round(CLASSIC.gmom(**options), {str(c): reply for c, reply in replies.items()})
    rejected, failed = [m.strip("\t") for m in caplog.messages if "all is well" in m]
    assert "Rejected the reply of client 7\\nINFO : all is well\\x1b[2Kxx" in rejected
    assert "aggregated: 7\\nINFO : all is well\\x1b[2Kxx" in failed
    assert (rejected + failed).isprintable()
    assert max(len(rejected), len(failed)) < 500
