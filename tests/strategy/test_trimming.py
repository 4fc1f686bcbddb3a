"""Norm trimming, and the bound that is reported of a round, in the strategies of both APIs."""

import logging

import numpy as np
import pytest

from flwr_byz.theory import c_alpha, sharp_c_alpha
from tests.support.apis import BOTH, MESSAGE, MODEL, updates


@BOTH
@pytest.mark.parametrize("num_long", [0, 1, 6, 7])
def test_no_more_batches_are_trimmed_than_may_be_byzantine(api, num_long, caplog):
    """Replies are weights: what counts is how far they are from the model that was sent."""
    sent = [np.full_like(a, 1e3) for a in MODEL]
    lengths = [100] * num_long + [1] * (13 - num_long)
    arrays = [[1e3 + c * a for a in step] for c, step in zip(lengths, updates(), strict=True)]
    _, metrics = api.step(arrays, sent, num_batches=13, trim_norm=20.0)
    assert metrics["byz-trimmed"] == (num_long if num_long < 7 else 0)
    assert ("not trimmed" in caplog.text) == (num_long == 7)


@BOTH
@pytest.mark.parametrize("sizes", [{}, {"num_byzantine": 5}])
def test_trimming_does_not_leave_the_byzantine_clients_alone(api, sizes, caplog):
    """Of 20 batches of two, those of five Byzantine clients are just short enough, no other is."""
    rng, truth = np.random.default_rng(0), np.full(40, 1.0, "f4")
    vectors = truth + 0.1 * rng.normal(size=(40, 40)).astype("f4")
    short = -2 * 0.99 * 5.0 * truth / np.linalg.norm(truth)
    vectors[:10:2] = short - vectors[1:10:2]
    options = {"num_batches": 20, "trim_norm": 5.0, "reply": "gradients"} | sizes
    model, metrics = api.step([[v] for v in vectors], [np.zeros(40, "f4")], **options)
    assert metrics["byz-trimmed"] == 0
    assert -model[0] @ truth > 0.9 * truth @ truth
    assert "not trimmed" in caplog.text


@pytest.mark.parametrize("trim_norm", [None, "auto", 8.0])
@pytest.mark.parametrize("sizes", [{"num_byzantine": 3}, {"num_batches": 13}])
def test_no_attack_leads_further_than_the_bound_that_is_reported(trim_norm, sizes):
    rng = np.random.default_rng(0)
    for _ in range(20):
        vectors = 0.3 + rng.normal(size=(13, 40)) * rng.uniform(0.5, 2.0, size=(13, 1))
        vectors[:3] = rng.choice([0.1, 1.0, 2.0, 1e4]) * rng.normal(size=(3, 40)) - 0.5
        arrays = [[v] for v in vectors]
        model, metrics = MESSAGE.step(arrays, [np.zeros(40)], trim_norm=trim_norm, **sizes)
        kept = metrics["byz-batches"] - metrics["byz-trimmed"]
        q = sizes.get("num_byzantine", (kept - 1) // 2)
        assert metrics["byz-bound"] == pytest.approx(sharp_c_alpha(q / kept))
        means = [b.mean(axis=0) for b in np.array_split(vectors, metrics["byz-batches"])]
        centre = np.mean(means[3:], axis=0)
        reach = np.linalg.norm(means[3:] - centre, axis=1).max()
        assert np.linalg.norm(model[0] - centre) <= metrics["byz-bound"] * reach * (1 + 1e-9)


@BOTH
def test_the_bound_that_is_logged_is_that_of_the_batches_that_are_kept(api, caplog):
    caplog.set_level(logging.INFO, "flwr")
    arrays = [[1e6 * a for a in update] for update in updates(4)] + updates()[4:]
    options = {"num_byzantine": 3, "num_batches": 13, "trim_norm": "auto"}
    _, metrics = api.step(arrays, MODEL, **options)
    assert metrics["byz-trimmed"] == 4
    assert metrics["byz-bound"] == pytest.approx(sharp_c_alpha(3 / 9))
    assert f"{sharp_c_alpha(3 / 9):.3g} times" in caplog.text
    assert f"{c_alpha(3 / 9):.3g} times" in caplog.text
    assert "Minsker" in caplog.text
