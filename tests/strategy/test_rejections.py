"""Where honest replies are rejected, the log and the audit trail hold the reason and the remedy."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, RecordDict
from flwr.common import Code, EvaluateRes, FitRes, Parameters, Status

from flwr_byz import audit
from tests.support.apis import BOTH, CLASSIC, MESSAGE
from tests.support.malformed import content, fit_res, honest_arrays, model_arrays, named

NUM_CLIENTS = 7
RAISED = "<class 'KeyError'>:<'image'>"
METRICS = content()["metrics"]


def round_with(api, wrong, **options):
    """Run a round in which the first clients reply otherwise: `wrong` has their replies."""
    replies = {c: api.reply(honest_arrays(c)) for c in range(NUM_CLIENTS)} | dict(enumerate(wrong))
    return api.round(api.gmom(num_byzantine=1, **options), replies, model_arrays())


def lines(caplog, part):
    return [r.getMessage() for r in caplog.records if part in r.getMessage()]


@BOTH
def test_an_error_of_a_client_is_a_printable_line_in_log_and_trail(api, caplog, tmp_path):
    path, reason = tmp_path / "audit.jsonl", "a\n\x1b[2J" + "b" * 10_000
    failed = FitRes(Status(Code.FIT_NOT_IMPLEMENTED, reason), Parameters([], ""), 0, {})
    round_with(api, [failed if api is CLASSIC else Error(code=2, reason=reason)], audit=path)
    (line,) = lines(caplog, "Rejected the reply of client 0")
    (trail,) = audit.read(path)
    assert trail["clients"]["0"]["reply"] == "error"
    for text in (line.strip("\t"), trail["clients"]["0"]["reason"]):
        assert text.isprintable()
        assert "a\\n\\x1b[2Jbbb" in text
        assert len(text) < 400


@BOTH
def test_errors_of_an_evaluation_are_counted_and_logged(api, caplog):
    failed = EvaluateRes(Status(Code.EVALUATE_NOT_IMPLEMENTED, RAISED), 0.0, 0, {})
    error = failed if api is CLASSIC else Error(code=2, reason=RAISED)
    metrics = api.evaluation(api.gmom(num_byzantine=1), dict.fromkeys(range(5), error))
    assert metrics["byz-rejected"] == 5
    assert len(lines(caplog, "Rejected the reply of client")) == 5
    (line,) = lines(caplog, "5 of 5 clients failed alike")
    assert "this looks like your app, not an attack" in line
    assert RAISED in line


LAYERS = [f"base_model.model.layers.{n}.self_attn.q_proj.lora_A.weight" for n in range(5)]
WRONG_ARRAYS = [np.zeros((5, 5), "f4"), *honest_arrays(0)[1:]]
BFLOAT16 = [np.zeros((2, 3), "V2"), *honest_arrays(0)[1:]]
OTHER_KEY = ["let clients reply under 'arrays'", "or give the strategy arrayrecord_key"]
REASONS = {
    "layers": (
        *(MESSAGE, content(ArrayRecord({n: Array(np.zeros(1, "f4")) for n in LAYERS}))),
        ["missing 'w', 'v' and 1 more", "layers.0.self_attn", "layers.1.self_attn", "and 3 more"],
    ),
    "shape": (MESSAGE, content(named(WRONG_ARRAYS)), ["has shape (5, 5), not (2, 3)"]),
    "number of arrays": (CLASSIC, fit_res(honest_arrays(0)[:2]), ["2 arrays instead of 3"]),
    "bfloat16": (MESSAGE, content(named(BFLOAT16)), ["dtype |V2", "float8 arrive: send float32)"]),
    "no number": (MESSAGE, content(metrics={"loss": 0.5}), ["num-examples is missing"]),
    "another record": (
        *(MESSAGE, RecordDict({"model": named(honest_arrays(0)), "metrics": METRICS})),
        ["its ArrayRecords are 'model', not 'arrays' alone", *OTHER_KEY],
    ),
    "no record": (MESSAGE, RecordDict({"metrics": METRICS}), ["are none, not", *OTHER_KEY]),
    "no metrics": (
        *(MESSAGE, RecordDict({"arrays": named(honest_arrays(0))})),
        ["its MetricRecords are none: let clients reply with one, which has 'num-"],
    ),
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_reason_names_what_came_and_what_to_do(kind, caplog):
    api, wrong, expected = REASONS[kind]
    round_with(api, [wrong])
    (line,) = lines(caplog, "Rejected the reply of client 0")
    assert all(part in line for part in expected)


@pytest.mark.parametrize("kind", ["number of arrays", "layers", "another record", "no record"])
@pytest.mark.parametrize("number", [3, 4])
def test_one_other_layout_of_most_clients_looks_like_the_app(kind, number, caplog):
    api, wrong, expected = REASONS[kind]
    round_with(api, [wrong] * number)
    found = lines(caplog, f"{number} of 7 clients sent the same other layout: this looks like your")
    assert len(found) == (number > NUM_CLIENTS / 2)
    assert all(part in line for line in found for part in expected)
