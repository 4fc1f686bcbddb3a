"""Where honest replies are rejected, the log and the audit trail hold the reason and the remedy."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict
from flwr.common import Code, EvaluateRes, FitRes, Parameters, Status, ndarrays_to_parameters
from flwr.server import Server
from flwr.server.client_manager import SimpleClientManager
from flwr.server.strategy import FedAdam as ClassicFedAdam
from flwr.server.strategy import FedAvg as ClassicFedAvg
from flwr.serverapp.strategy import FedAdam, FedAvg

from flwr_byz import audit
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicStrategy
from flwr_byz.server.strategy import Hardened as ClassicHardened
from flwr_byz.server.strategy import robust as classic_robust
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans, Hardened, robust
from tests.support import malformed
from tests.support.answering_grid import AnsweringGrid
from tests.support.malformed import content, fit_res, honest_arrays, model_arrays, npy
from tests.support.server import Grid, Proxy, classic_round, message_round

APIS = pytest.mark.parametrize("api", ["classic", "message"])
NUM_CLIENTS = 7
RAISED = "<class 'KeyError'>:<'image'>"


def an_error(api, reason):
    """Return what the server gets of a client whose app raised."""
    if api == "message":
        return Error(code=2, reason=reason)
    return FitRes(Status(Code.FIT_NOT_IMPLEMENTED, reason), Parameters([], ""), 0, {})


def a_round(api, wrong, **options):
    """Run a round in which the first clients reply otherwise: `wrong` has their replies."""
    options = {"num_byzantine": 1} | options
    clients = range(len(wrong), NUM_CLIENTS)
    if api == "message":
        replies = {c: content(malformed.named(honest_arrays(c))) for c in clients}
        replies |= dict(enumerate(wrong))
        return message_round(malformed.named(model_arrays()), replies, **options)
    failed = [result.status.code != Code.OK for result in wrong]
    failures = [(Proxy(str(c)), result) for c, result in enumerate(wrong) if failed[c]]
    results = {c: fit_res(honest_arrays(c)) for c in clients}
    results |= {c: result for c, result in enumerate(wrong) if not failed[c]}
    return classic_round(model_arrays(), results, failures, **options)


def lines(caplog, part):
    return [r.getMessage() for r in caplog.records if part in r.getMessage()]


@APIS
def test_the_error_of_a_client_stands_in_the_log_and_in_the_trail(api, caplog, tmp_path):
    path = tmp_path / "audit.jsonl"
    a_round(api, [an_error(api, RAISED)], audit=path)
    (line,) = lines(caplog, "Rejected the reply of client 0")
    assert line.endswith(RAISED)
    (trail,) = audit.read(path)
    assert trail["clients"]["0"]["reply"] == "error"
    assert trail["clients"]["0"]["reason"].endswith(RAISED)


@APIS
def test_a_reason_is_one_printable_line_of_bounded_length(api, caplog, tmp_path):
    path = tmp_path / "audit.jsonl"
    a_round(api, [an_error(api, "a\n\x1b[2J" + "b" * 10_000)], audit=path)
    (line,) = lines(caplog, "Rejected")
    (trail,) = audit.read(path)
    for text in (line.strip("\t"), trail["clients"]["0"]["reason"]):
        assert text.isprintable()
        assert "a\\n\\x1b[2Jbbb" in text
        assert len(text) < 400


@APIS
def test_errors_of_an_evaluation_are_counted_and_logged(api, caplog):
    if api == "message":
        malformed.in_a_run()
        strategy = GeometricMedianOfMeans(num_byzantine=1)
        model = malformed.named(model_arrays())
        sent = strategy.configure_evaluate(1, model, ConfigRecord(), Grid(range(5)))
        made = [malformed.reply_to(message, Error(code=2, reason=RAISED)) for message in sent]
        metrics = strategy.aggregate_evaluate(1, made)
    else:
        failed = EvaluateRes(Status(Code.EVALUATE_NOT_IMPLEMENTED, RAISED), 0.0, 0, {})
        failures = [(Proxy(str(c)), failed) for c in range(5)]
        _, metrics = ClassicStrategy(num_byzantine=1).aggregate_evaluate(1, [], failures)
    assert metrics["byz-rejected"] == 5
    assert len(lines(caplog, "Rejected the reply of client")) == 5
    (line,) = lines(caplog, "5 of 5 clients failed alike")
    assert "this looks like your app, not an attack" in line
    assert RAISED in line


def test_a_layout_error_names_two_arrays_that_are_missing_and_two_that_are_extra(caplog):
    names = [f"base_model.model.layers.{n}.self_attn.q_proj.lora_A.weight" for n in range(5)]
    arrays = ArrayRecord({name: Array(np.zeros(1, "f4")) for name in names})
    a_round("message", [content(arrays)])
    (line,) = lines(caplog, "its arrays are not the model's")
    assert "missing 'w', 'v' and 1 more" in line
    assert "layers.0.self_attn" in line
    assert "layers.1.self_attn" in line
    assert line.endswith("and 3 more")


@APIS
def test_a_layout_error_names_the_shape_that_came(api, caplog):
    arrays = [np.zeros((5, 5), "f4"), *honest_arrays(0)[1:]]
    a_round(api, [fit_res(arrays) if api == "classic" else content(malformed.named(arrays))])
    assert lines(caplog, "has shape (5, 5), not (2, 3)")


def test_a_layout_error_names_the_numbers_of_arrays(caplog):
    a_round("classic", [fit_res(honest_arrays(0)[:2])])
    assert lines(caplog, "2 arrays instead of 3")


@APIS
def test_a_reply_in_bfloat16_is_asked_for_in_float32(api, caplog):
    tensors = [npy(np.zeros((2, 3), "V2")), *map(npy, honest_arrays(0)[1:])]
    result = fit_res(honest_arrays(0))
    result.parameters = Parameters(tensors, "numpy.ndarray")
    pairs = zip(malformed.NAMES, tensors, strict=True)
    record = ArrayRecord({name: Array("", (), "numpy.ndarray", data) for name, data in pairs})
    a_round(api, [result if api == "classic" else content(record)])
    assert lines(caplog, "has dtype |V2 (as bfloat16 and float8 arrive: send float32)")


@APIS
def test_a_missing_number_of_examples_is_named(api, caplog):
    if api == "classic":
        a_round(api, [fit_res(honest_arrays(0), num_examples=None)])
    else:
        a_round(api, [content(metrics={"loss": 0.5})])
    assert lines(
        caplog, "num_examples is missing" if api == "classic" else "num-examples is missing"
    )


@APIS
@pytest.mark.parametrize("number", [3, 4])
def test_one_other_layout_of_most_clients_looks_like_the_app(api, number, caplog):
    arrays = honest_arrays(0)[:2]
    wrong = fit_res(arrays) if api == "classic" else content(malformed.named(arrays))
    a_round(api, [wrong] * number)
    expected = f"{number} of 7 clients sent the same other layout: this looks like your app, not"
    assert len(lines(caplog, expected)) == (number > NUM_CLIENTS / 2)


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ({"model": malformed.named(honest_arrays(0))}, "'model'"),
        ({"arrays": malformed.named(honest_arrays(0)), "more": ArrayRecord()}, "'arrays', 'more'"),
        ({}, "none"),
    ],
    ids=["another", "two", "none"],
)
def test_records_of_arrays_that_are_not_the_strategys_get_a_line_that_says_what_to_do(
    records, found, caplog
):
    metrics = MetricRecord({"num-examples": 10})
    a_round("message", [RecordDict({**records, "metrics": metrics})] * 5)
    (line,) = lines(caplog, "5 of 7 clients sent the same other layout")
    assert f"its ArrayRecords are {found}, not 'arrays' alone: let clients reply under" in line
    assert "or give the strategy arrayrecord_key" in line


def test_a_reply_without_metrics_gets_a_line_that_says_what_to_do(caplog):
    a_round("message", [RecordDict({"arrays": malformed.named(honest_arrays(0))})])
    assert lines(caplog, "its MetricRecords are none: let clients reply with one, which has 'num-")


@pytest.mark.parametrize(
    "make",
    [
        lambda: GeometricMedianOfMeans(num_byzantine=1),
        lambda: Hardened(FedAvg()),
        lambda: robust(FedAdam, num_byzantine=1),
    ],
)
def test_a_run_in_which_no_step_was_made_returns_the_initial_arrays(make):
    grid = AnsweringGrid(5, lambda *_: Error(code=2, reason=RAISED))
    initial = ArrayRecord({f"a{i}": Array(a) for i, a in enumerate(model_arrays())})
    result = make().start(grid, initial, num_rounds=2)
    assert result.arrays == initial


@pytest.mark.parametrize(
    "make",
    [
        lambda model: ClassicStrategy(num_byzantine=1, initial_parameters=model),
        lambda model: ClassicHardened(ClassicFedAvg(initial_parameters=model)),
        lambda model: classic_robust(ClassicFedAdam, num_byzantine=1, initial_parameters=model),
    ],
)
def test_a_classic_run_in_which_no_step_was_made_keeps_the_initial_parameters(make):
    class Broken(Proxy):
        def fit(self, *args, **kwargs):
            raise KeyError("image")

        evaluate = fit

    manager = SimpleClientManager()
    for cid in range(5):
        manager.register(Broken(str(cid)))
    model = ndarrays_to_parameters(model_arrays())
    server = Server(client_manager=manager, strategy=make(model))
    server.fit(2, None)
    assert server.parameters == model
