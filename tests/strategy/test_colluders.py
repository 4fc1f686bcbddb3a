"""Colluders of one batch whose vectors cancel, or whose sum leaves the range of their dtype."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_byz.aggregation import geometric_median_of_means
from flwr_byz.theory import sharp_c_alpha
from tests.support.colluders import APIS as PLAYED
from tests.support.colluders import DTYPES, HONEST, PATTERNS, TARGETS, Round
from tests.support.colluders import draw as draw_round
from tests.support.malformed import fit_res, named
from tests.support.server import as_content, classic_round, message_round

DIM = 40


def play(api, vectors, model=None, **options):
    """Play a round of clients that reply one vector each; the new model's vector and metrics."""
    model = [np.zeros(DIM, "f4")] if model is None else model
    if api == "classic":
        replies = {client: fit_res([v]) for client, v in enumerate(vectors)}
        arrays, metrics = classic_round(model, replies, **options)
    else:
        streaming = {"streaming": True} if api == "streamed" else {}
        contents = {node: as_content([v], 5) for node, v in enumerate(vectors, start=1)}
        arrays, metrics = message_round(named(model), contents, **streaming, **options)
    return None if arrays is None else arrays[0], metrics


APIS = pytest.mark.parametrize("api", ["classic", "message", "streamed"])
REPLIES = pytest.mark.parametrize("reply", ["weights", "gradients"])
TRIMMED = pytest.mark.parametrize("trim_norm", [None, "auto"])


def symmetric_batches(size, dtype="f4"):
    """Four honest batches whose means lie evenly about the origin, so that it is their median."""
    rows = np.random.default_rng(0).normal(size=(2, DIM))
    return np.repeat(np.concatenate([rows, -rows]), size, axis=0).astype(dtype)


def test_the_mean_of_two_vectors_that_cancel_is_applied_as_it_was_judged():
    vectors = np.ones((20, 50))
    vectors[0], vectors[1] = 1e20, -1e20
    result = geometric_median_of_means(vectors, 10)
    assert np.allclose(result.point, 1.0, atol=1e-6)
    assert result.gap <= 1e-9


@APIS
@REPLIES
@TRIMMED
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_a_vector_hidden_behind_two_that_cancel_does_not_become_the_step(
    api, reply, trim_norm, rate
):
    hidden = np.stack([np.full(DIM, x, "f4") for x in (2.0**40, 1e4, -(2.0**40))])
    vectors = np.concatenate([hidden, symmetric_batches(3)])
    options = {"reply": reply, "trim_norm": trim_norm, "server_learning_rate": rate}
    model, _ = play(api, vectors, num_batches=5, **options)
    assert np.linalg.norm(model) <= 20.0


@TRIMMED
def test_colluders_cannot_name_one_of_theirs_the_centre_of_all_vectors(trim_norm):
    vectors = 1000.0 + 0.1 * np.random.default_rng(0).normal(size=(20, DIM))
    honest = vectors[2:].mean(axis=0)
    vectors[0], vectors[1] = 2.0**46, 2 * honest - 2.0**46
    point = geometric_median_of_means(vectors, 10, trim_norm=trim_norm).point
    assert np.linalg.norm(point - honest) <= 1.0


@TRIMMED
def test_a_centre_that_is_far_off_where_nobody_samples_is_not_taken(trim_norm):
    """The first of two vectors looks like the rest but in a few of many coordinates."""
    vectors = np.full((20, 5000), 1000.0)
    vectors[0, 1000:1010] = 1e25
    vectors[1, 1000:1010] = -1e25
    result = geometric_median_of_means(vectors, 10, trim_norm=trim_norm)
    assert np.allclose(result.point, 1000.0)


LARGEST = np.finfo("f4").max


@APIS
@REPLIES
@TRIMMED
@pytest.mark.parametrize("options", [{"num_batches": 5}, {"num_byzantine": 1, "num_batches": 5}])
def test_a_batch_whose_sum_overflows_is_left_out(api, reply, trim_norm, options):
    vectors = np.random.default_rng(0).normal(size=(10, DIM)).astype("f4")
    without, _ = play(api, vectors[2:], num_batches=4, reply=reply)
    vectors[:2] = LARGEST
    options = options | {"reply": reply, "trim_norm": trim_norm}
    model, metrics = play(api, vectors, **options)
    assert metrics["byz-batches"] == 5
    assert metrics["byz-trimmed"] == 1
    assert np.allclose(model, without, atol=1e-6)


@APIS
def test_a_batch_whose_sum_overflows_outvotes_nobody(api):
    """Two of five batches are left out; of the others one may be Byzantine, and is outvoted."""
    vectors = np.random.default_rng(0).normal(size=(10, DIM)).astype("f4")
    vectors[:4] = LARGEST
    vectors[4:6] = 1e30
    model, metrics = play(api, vectors, num_batches=5, num_byzantine=2)
    assert metrics["byz-trimmed"] == 2
    assert metrics["byz-bound"] == 1.0  # both Byzantine batches have shown themselves
    assert np.linalg.norm(model) <= 20.0


@APIS
def test_a_round_in_which_most_sums_overflow_does_not_end_the_run(api):
    vectors = np.full((10, DIM), LARGEST)
    vectors[:2] = 1.0
    model, _ = play(api, vectors, num_batches=5)
    assert model is None or np.isfinite(model).all()


def test_clients_at_the_end_of_float64_do_not_end_the_run():
    vectors = np.random.default_rng(0).normal(size=(15, 50))
    vectors[:3] = np.finfo("f8").max
    result = geometric_median_of_means(vectors, 5)
    assert result.gap <= 1e-9
    assert result.batch_weights[0] <= 1e-100
    radius = np.linalg.norm([b.mean(axis=0) for b in np.split(vectors[3:], 4)], axis=1).max()
    assert np.linalg.norm(result.point) <= 1.04 * radius  # alpha = 1/5


@APIS
def test_four_clients_at_the_end_of_float64_do_not_end_the_run(api):
    vectors = np.random.default_rng(0).normal(size=(20, DIM))
    vectors[:4] = np.finfo("f8").max
    model, metrics = play(api, vectors, [np.zeros(DIM)], num_batches=5)
    assert metrics["byz-trimmed"] == 1
    assert np.linalg.norm(model) <= 20.0


WIDE = np.dtype("longdouble")
NO_WIDE = "longdouble is float64 on Windows and on ARM Macs: there is no wider dtype to refuse"


@pytest.mark.skipif(WIDE.itemsize <= 8, reason=NO_WIDE)
@APIS
def test_a_model_wider_than_float64_is_refused_by_name(api):
    vectors = np.full((10, DIM), 1.0, WIDE)
    vectors[:4] = np.finfo(WIDE).max
    with pytest.raises(ValueError, match=WIDE.name):
        play(api, vectors, [np.zeros(DIM, WIDE)], num_batches=5)


@pytest.mark.skipif(WIDE.itemsize <= 8, reason=NO_WIDE)
@APIS
def test_a_reply_wider_than_float64_is_malformed(api):
    vectors = list(np.random.default_rng(0).normal(size=(10, DIM)))
    vectors[0] = np.full(DIM, 1.0, WIDE)
    model, metrics = play(api, vectors, [np.zeros(DIM)], num_batches=5)
    assert metrics["byz-rejected"] == 1
    assert np.linalg.norm(model) <= 20.0


@APIS
@pytest.mark.parametrize("error", [np.linalg.LinAlgError("no convergence"), ZeroDivisionError()])
def test_whatever_a_solver_raises_keeps_the_model(monkeypatch, caplog, api, error):
    def fail(*args, **kwargs):
        raise error

    for name in ("eigh", "eigvalsh", "qr", "norm", "solve"):
        monkeypatch.setattr(np.linalg, name, fail)
    vectors = np.random.default_rng(0).normal(size=(10, 4)).astype("f4")
    model, metrics = play(api, vectors, [np.zeros(4, "f4")], num_batches=5)
    assert model is None
    assert metrics["byz-batches"] == 5
    assert "the model is kept" in caplog.text


@pytest.mark.parametrize("exponent", [100, 200, 267, 300, 307])
@pytest.mark.parametrize("d", [5, 40])
def test_vectors_that_cancel_at_any_size_do_not_drown_the_honest_ones(exponent, d):
    """What is left of such a sum is still too far off for float64 to hold it beside the others."""
    vectors = 1.0 + 0.01 * np.random.default_rng(0).normal(size=(27, d))
    honest = vectors[9:].reshape(6, 3, d).mean(axis=1)
    vectors[:9] = 10.0**exponent * np.random.default_rng(1).normal(size=(9, d)) / 4
    vectors[2] = honest[0] - vectors[:2].sum(axis=0)
    vectors[3:6] = honest[1] + 0.5
    point = geometric_median_of_means(vectors, 9, num_byzantine=3).point
    centre = honest.mean(axis=0)
    reach = np.linalg.norm(honest - centre, axis=1).max()
    assert np.linalg.norm(point - centre) <= sharp_c_alpha(3 / 9) * reach


@st.composite
def rounds(draw, **given_fields):
    k = draw(st.integers(3, 9))
    num_colluders = draw(st.integers(2, 5))
    model = draw(st.sampled_from(DTYPES))
    return Round(
        **given_fields,
        model=model,
        replies=draw(st.sampled_from([model, "mixed", *DTYPES])),
        reply=draw(st.sampled_from(["weights", "gradients"])),
        trim_norm=draw(st.sampled_from([None, "auto"])),
        audited=draw(st.booleans()),
        rate=draw(st.sampled_from([1.0, 0.5])),
        gives_q=draw(st.booleans()),
        dim=draw(st.integers(20, 50)),
        num_batches=k,
        batch_size=num_colluders + draw(st.integers(0, 2)),
        num_bad=draw(st.integers(1, (k - 1) // 2)),
        num_colluders=num_colluders,
        exponent=draw(st.sampled_from([0.0, 0.1, 0.3, 1.0]) | st.floats(0.0, 1.0)),
        pattern=draw(st.sampled_from(PATTERNS)),
        target=draw(st.sampled_from(TARGETS)),
        hidden=draw(st.floats(0.0, 1.0)),
        sparse=draw(st.booleans()),
        honest=draw(st.sampled_from(HONEST)),
        offset=draw(st.sampled_from([0.0, 1.0, 30.0, 1000.0])),
        spread=draw(st.sampled_from([1e-3, 0.1, 1.0, 10.0])),
        sent_nearby=draw(st.booleans()),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@pytest.mark.parametrize("api", PLAYED)
def test_colluders_whose_vectors_cancel_lead_no_further_than_the_sharp_bound(tmp_path, api):
    @settings(max_examples=100)
    @given(rounds(api=api))
    def check(played):
        audit = tmp_path / "audit.jsonl"
        audit.unlink(missing_ok=True)
        _, allowed, distance = played.play(audit)
        assert distance <= allowed

    check()


@REPLIES
@TRIMMED
@pytest.mark.parametrize("audited", [False, True])
@pytest.mark.parametrize("api", PLAYED)
def test_rounds_drawn_at_random_stay_within_the_sharp_bound(
    tmp_path, api, audited, trim_norm, reply
):
    rng = np.random.default_rng(zlib.crc32(f"{api} {audited} {trim_norm} {reply}".encode()))
    fields = {"api": api, "audited": audited, "trim_norm": trim_norm, "reply": reply}
    for number in range(30):
        played = replace(draw_round(rng), **fields)
        _, allowed, distance = played.play(tmp_path / f"{number}.jsonl")
        assert distance <= allowed, played
