"""Rounds under attack: vectors that cancel, sums that overflow, numbers of any size."""

import tracemalloc
import zlib
from unittest.mock import Mock

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from flwr_byz.aggregation import careful, geometric_median, geometric_median_of_means
from flwr_byz.round import distances_from
from flwr_byz.theory import sharp_c_alpha
from tests.support import colluders
from tests.support.apis import EVERY

DIM = 40
ZEROS = np.zeros(DIM, "f4")
REPLIES = pytest.mark.parametrize("reply", ["weights", "gradients"])
TRIMMED = pytest.mark.parametrize("trim_norm", [None, "auto"])


def one_array_round(api, vectors, model=ZEROS, **options):
    """A round in which each client replies one vector; the new model's vector, and metrics."""
    options = api.initial([model]) | options
    arrays, metrics = api.step([[vector] for vector in vectors], [model], **options)
    return arrays and arrays[0], metrics


def normal(m, d=DIM, dtype="f4"):
    return np.random.default_rng(0).normal(size=(m, d)).astype(dtype)


@REPLIES
@TRIMMED
@pytest.mark.parametrize("api", colluders.APIS)
def test_cancelling_vectors_lead_no_further_than_the_sharp_bound(tmp_path, api, trim_norm, reply):
    """Also where one hides behind two others, in a batch at the median of the honest ones."""
    fields = {"api": api, "trim_norm": trim_norm, "reply": reply}
    hidden = {"pattern": "around one", "target": "hidden", "honest": "symmetric"}
    rng = np.random.default_rng(zlib.crc32(repr(fields).encode()))
    for number in range(60):
        drawn = colluders.draw(rng, **fields | (hidden if number % 4 == 0 else {}))
        _, allowed, distance = drawn.play(tmp_path / f"{number}.jsonl")
        assert distance <= allowed, drawn


@EVERY
@REPLIES
@TRIMMED
@pytest.mark.parametrize(("dtype", "options"), [("f4", {}), ("f8", {"num_byzantine": 1})])
def test_a_batch_whose_sum_overflows_is_left_out(api, reply, trim_norm, dtype, options):
    vectors, sent = normal(10, dtype=dtype), np.zeros(DIM, dtype)
    without, _ = one_array_round(api, vectors[2:], sent, num_batches=4, reply=reply)
    vectors[:2] = np.finfo(dtype).max
    options = options | {"num_batches": 5, "reply": reply, "trim_norm": trim_norm}
    model, metrics = one_array_round(api, vectors, sent, **options)
    assert (metrics["byz-batches"], metrics["byz-trimmed"]) == (5, 1)
    assert np.allclose(model, without, atol=1e-6)


@EVERY
def test_batches_whose_sums_overflow_outvote_no_others_and_do_not_end_the_run(api):
    """Two of five batches are left out; of the others one may be Byzantine, and is outvoted."""
    vectors = normal(10)
    vectors[:4] = np.finfo("f4").max
    vectors[4:6] = 1e30
    model, metrics = one_array_round(api, vectors, num_batches=5, num_byzantine=2)
    assert metrics["byz-trimmed"] == 2
    assert metrics["byz-bound"] == pytest.approx(sharp_c_alpha(1 / 3), rel=1e-4)
    assert np.linalg.norm(model) <= 20.0
    vectors[2:] = np.finfo("f4").max
    model, _ = one_array_round(api, vectors, num_batches=5)
    assert model is None or np.isfinite(model).all()


WIDE = {np.dtype("complex128"), np.dtype("longdouble")} - {np.dtype("float64")}  # as of Windows


@EVERY
@pytest.mark.parametrize("dtype", sorted(WIDE, key=str))
def test_a_model_wider_than_float64_is_refused_by_name_and_a_reply_is_malformed(api, dtype):
    vectors = normal(10, dtype="f8")
    with pytest.raises(ValueError, match=dtype.name):
        one_array_round(api, vectors.astype(dtype), np.zeros(DIM, dtype), num_batches=5)
    vectors = [np.full(DIM, 1.0, dtype), *vectors[1:]]
    model, metrics = one_array_round(api, vectors, np.zeros(DIM), num_batches=5)
    assert metrics["byz-rejected"] == 1
    assert np.linalg.norm(model) <= 20.0


@EVERY
def test_whatever_a_solver_raises_keeps_the_model(monkeypatch, caplog, api):
    for name in ("eigh", "eigvalsh", "qr", "norm", "solve"):
        monkeypatch.setattr(np.linalg, name, Mock(side_effect=ZeroDivisionError))
    model, metrics = one_array_round(api, normal(10, 4), ZEROS[:4], num_batches=5)
    assert model is None
    assert metrics["byz-batches"] == 5
    assert "the model is kept" in caplog.text


SPANS = [((a, b), "f8", "f8") for a, b in [(-310, -310), (-300, 300), (200, 200), (-160, -160)]]
SPANS += [((-38, -9), "f8", "f4"), ((-38, -9), "f8", "f2"), ((-38, -9), "f4", "f2")]


@EVERY
@TRIMMED
@pytest.mark.parametrize(("exponents", "dtype", "of_model"), SPANS)
@pytest.mark.parametrize("num_batches", [5, 10])
def test_numpy_that_raises_ends_no_round(api, trim_norm, exponents, dtype, of_model, num_batches):
    vectors = (normal(10, dtype="f8") * 10.0 ** np.linspace(*exponents, num=DIM)).astype(dtype)
    options = {"num_batches": num_batches, "trim_norm": trim_norm}
    with np.errstate(all="raise"):
        model, metrics = one_array_round(api, vectors, np.zeros(DIM, of_model), **options)
    assert model is not None
    assert metrics["byz-rejected"] == 0
    assert 0.0 < metrics["byz-aggregate-norm"] < np.inf


@pytest.mark.parametrize("exponent", [-310, -200, 0, 200, 300])
@pytest.mark.parametrize("dim", [40, 40_000])
def test_the_norm_of_the_aggregate_is_right_at_any_size(exponent, dim):
    norm = geometric_median_of_means(np.ones((5, dim)) * 10.0**exponent, 5).norm
    assert norm == pytest.approx(np.sqrt(dim) * 10.0**exponent, rel=1e-9)


def test_distances_in_the_audit_do_not_depend_on_the_threads_of_blas():
    vectors = [[v] for v in np.random.default_rng(0).normal(size=(20, 200_000)).astype("f4")]
    measured = set()
    for limit in (1, 2, 4):
        with threadpool_limits(limit, user_api="blas"):
            measured.add(tuple(distances_from(vectors, None, np.zeros(200_000, "f4"))))
    assert len(measured) == 1


@pytest.mark.parametrize("attack", ["alike", "huge and tiny"])
def test_colluders_do_not_make_the_threads_hold_much_more_than_the_rows(monkeypatch, attack):
    monkeypatch.setenv("FLWR_BYZ_NUM_THREADS", "16")
    points = np.random.default_rng(0).normal(size=(60, 300_000)).astype("f4")
    sizes = np.float32(10.0) ** np.linspace(-30, 30, 29, dtype="f4")[:, None]
    points[:29] = points[29] if attack == "alike" else points[:29] * sizes
    tracemalloc.start()
    try:
        geometric_median(points)
        assert tracemalloc.get_traced_memory()[1] <= points.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("num_points", "dim", "seed"),
    [(60, 2000, 1881432204), (100, 200, 1290695447), (100, 2000, 1655660902)],
)
def test_colluders_do_not_keep_the_solver_busy_with_roundings(monkeypatch, num_points, dim, seed):
    """Nearly half of the points lie within a few roundings of one place; each is certified once."""
    rng = np.random.default_rng(seed)
    place, spread = rng.uniform(0, 4), 10.0 ** rng.uniform(-10, -5)
    points, direction = rng.normal(size=(num_points, dim)), rng.normal(size=dim)
    num_near = (num_points - 1) // 2
    points[:num_near] = place * direction + spread * points[:num_near]
    certify = Mock(wraps=careful._certified)
    monkeypatch.setattr(careful, "_certified", certify)
    result = geometric_median(points.astype("f4"))
    calls = [call.args[3].tobytes() for call in certify.call_args_list]
    assert result.gap <= 1e-9
    assert result.iterations <= 300
    assert len(calls) == len(set(calls))
    assert calls or dim != 2000
