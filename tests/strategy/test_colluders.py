"""Colluders of one batch whose vectors cancel, or whose sum leaves the range of their dtype."""

import zlib
from unittest.mock import Mock

import numpy as np
import pytest

from flwr_byz.aggregation import geometric_median_of_means
from flwr_byz.theory import sharp_c_alpha
from tests.support.colluders import APIS, draw
from tests.support.server import APIS as SERVER_APIS
from tests.support.server import a_round

DIM = 40
LARGEST, ZEROS = np.finfo("f4").max, np.zeros(DIM, "f4")
EVERY_API = pytest.mark.parametrize("api", SERVER_APIS)
REPLIES = pytest.mark.parametrize("reply", ["weights", "gradients"])
TRIMMED = pytest.mark.parametrize("trim_norm", [None, "auto"])


def one_array_round(api, vectors, model=ZEROS, **options):
    """A round in which each client replies one vector; the new model's vector, and metrics."""
    replies = {client: [vector] for client, vector in enumerate(vectors)}
    arrays, metrics = a_round(api, [model], replies, **options)
    return arrays and arrays[0], metrics


def normal(m, d=DIM, dtype="f8"):
    return np.random.default_rng(0).normal(size=(m, d)).astype(dtype)


@EVERY_API
@REPLIES
@TRIMMED
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_a_vector_hidden_behind_two_that_cancel_does_not_become_the_step(
    api, reply, trim_norm, rate
):
    """The means of the honest batches lie evenly about the origin, which so is their median."""
    hidden = np.stack([np.full(DIM, x, "f4") for x in (2.0**40, 1e4, -(2.0**40))])
    rows = normal(2, dtype="f4")
    vectors = np.concatenate([hidden, np.repeat(np.concatenate([rows, -rows]), 3, axis=0)])
    options = {"reply": reply, "trim_norm": trim_norm, "server_learning_rate": rate}
    model, _ = one_array_round(api, vectors, num_batches=5, **options)
    assert np.linalg.norm(model) <= 20.0


@TRIMMED
def test_the_mean_of_two_vectors_that_cancel_is_applied_as_it_was_judged(trim_norm):
    for vectors, size, total, places in (
        (np.ones((20, 50)), 1e20, 0.0, slice(None)),
        (1000.0 + 0.1 * normal(20), 2.0**46, 2000.0, slice(None)),
        (np.full((20, 5000), 1000.0), 1e25, 0.0, slice(1000, 1010)),  # of which samples see none
    ):
        honest = vectors[2:].mean(axis=0)
        vectors[0, places], vectors[1, places] = size, total - size
        result = geometric_median_of_means(vectors, 10, trim_norm=trim_norm)
        assert np.linalg.norm(result.point - honest) <= 1.0
        assert result.gap <= 1e-9


@EVERY_API
@REPLIES
@TRIMMED
@pytest.mark.parametrize("options", [{}, {"num_byzantine": 1}])
def test_a_batch_whose_sum_overflows_is_left_out(api, reply, trim_norm, options):
    vectors = normal(10, dtype="f4")
    without, _ = one_array_round(api, vectors[2:], num_batches=4, reply=reply)
    vectors[:2] = LARGEST
    options = options | {"num_batches": 5, "reply": reply, "trim_norm": trim_norm}
    model, metrics = one_array_round(api, vectors, **options)
    assert (metrics["byz-batches"], metrics["byz-trimmed"]) == (5, 1)
    assert np.allclose(model, without, atol=1e-6)


@EVERY_API
def test_batches_whose_sums_overflow_outvote_no_others_and_do_not_end_the_run(api):
    """Two of five batches are left out; of the others one may be Byzantine, and is outvoted."""
    vectors = normal(10, dtype="f4")
    vectors[:4] = LARGEST
    vectors[4:6] = 1e30
    model, metrics = one_array_round(api, vectors, num_batches=5, num_byzantine=2)
    assert metrics["byz-trimmed"] == 2
    assert metrics["byz-bound"] == 1.0  # both Byzantine batches have shown themselves
    assert np.linalg.norm(model) <= 20.0
    vectors[2:] = LARGEST
    model, _ = one_array_round(api, vectors, num_batches=5)
    assert model is None or np.isfinite(model).all()


@pytest.mark.parametrize("api", APIS)
def test_clients_at_the_end_of_float64_do_not_end_the_run(api):
    vectors = normal(20)
    vectors[:4] = np.finfo("f8").max
    if api == "function":
        result = geometric_median_of_means(vectors, 5)
        assert result.gap <= 1e-9
        assert result.batch_weights[0] <= 1e-100
        model = result.point
    else:
        model, metrics = one_array_round(api, vectors, np.zeros(DIM), num_batches=5)
        assert metrics["byz-trimmed"] == 1
    radius = np.linalg.norm([b.mean(axis=0) for b in np.split(vectors[4:], 4)], axis=1).max()
    assert np.linalg.norm(model) <= 1.04 * radius  # alpha = 1/5


WIDE = np.dtype("longdouble")


@pytest.mark.skipif(WIDE.itemsize <= 8, reason="no dtype is wider than float64 here")
@EVERY_API
def test_a_model_wider_than_float64_is_refused_by_name_and_a_reply_is_malformed(api):
    vectors = normal(10)
    with pytest.raises(ValueError, match=WIDE.name):
        one_array_round(api, vectors.astype(WIDE), np.zeros(DIM, WIDE), num_batches=5)
    vectors = [np.full(DIM, 1.0, WIDE), *vectors[1:]]
    model, metrics = one_array_round(api, vectors, np.zeros(DIM), num_batches=5)
    assert metrics["byz-rejected"] == 1
    assert np.linalg.norm(model) <= 20.0


@EVERY_API
@pytest.mark.parametrize("error", [np.linalg.LinAlgError("no convergence"), ZeroDivisionError()])
def test_whatever_a_solver_raises_keeps_the_model(monkeypatch, caplog, api, error):
    for name in ("eigh", "eigvalsh", "qr", "norm", "solve"):
        monkeypatch.setattr(np.linalg, name, Mock(side_effect=error))
    model, metrics = one_array_round(api, normal(10, 4, "f4"), ZEROS[:4], num_batches=5)
    assert model is None
    assert metrics["byz-batches"] == 5
    assert "the model is kept" in caplog.text


@pytest.mark.parametrize("exponent", [100, 200, 267, 300, 307])
@pytest.mark.parametrize("d", [5, 40])
def test_vectors_that_cancel_at_any_size_do_not_drown_the_honest_ones(exponent, d):
    """What is left of such a sum is still too far off for float64 to hold it beside the others."""
    vectors = 1.0 + 0.01 * normal(27, d)
    honest = vectors[9:].reshape(6, 3, d).mean(axis=1)
    vectors[:9] = 10.0**exponent * np.random.default_rng(1).normal(size=(9, d)) / 4
    vectors[2] = honest[0] - vectors[:2].sum(axis=0)
    vectors[3:6] = honest[1] + 0.5
    point = geometric_median_of_means(vectors, 9, num_byzantine=3).point
    centre = honest.mean(axis=0)
    reach = np.linalg.norm(honest - centre, axis=1).max()
    assert np.linalg.norm(point - centre) <= sharp_c_alpha(3 / 9) * reach


@REPLIES
@TRIMMED
@pytest.mark.parametrize("audited", [False, True])
@pytest.mark.parametrize("api", APIS)
def test_colluders_whose_vectors_cancel_lead_no_further_than_the_sharp_bound(
    tmp_path, api, audited, trim_norm, reply
):
    fields = {"api": api, "audited": audited, "trim_norm": trim_norm, "reply": reply}
    rng = np.random.default_rng(zlib.crc32(repr(fields).encode()))
    for number in range(35):
        drawn = draw(rng, **fields)
        _, allowed, distance = drawn.play(tmp_path / f"{number}.jsonl")
        assert distance <= allowed, drawn
