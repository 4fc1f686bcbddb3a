"""Problems whose data are pooled and split over clients."""

import itertools
import random
import socket
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as Picture

from clients.convolution import Convolution
from clients.digits import Digits
from clients.partition import partition
from clients.perceptron import Perceptron
from clients.pooled_regression import PooledRegression
from clients.pools import Hub, least_class, mnist1d, pool
from clients.regression import LinearRegression

LABELS = np.random.default_rng(0).integers(10, size=1000)
SPLITS = ["iid", "dirichlet-1.0", "dirichlet-0.3", "sorted"]


@pytest.mark.parametrize("split", SPLITS)
def test_every_sample_goes_to_one_client_by_the_seed_alone(split):
    first, again, other = (
        [share.tolist() for share in partition(LABELS, 20, split, seed)] for seed in (3, 3, 4)
    )
    assert sorted(itertools.chain(*first)) == list(range(len(LABELS)))
    assert first == again != other


def test_splits_come_in_the_order_of_how_unlike_they_make_clients():
    def unlikeness(split):
        clients = [LABELS[share] for share in partition(LABELS, 20, split, seed=0)]
        mixes = [np.bincount(own, minlength=10) / len(own) for own in (LABELS, *clients)]
        return np.abs(np.subtract(mixes[1:], mixes[0])).sum(axis=1).mean() / 2

    found = [unlikeness(split) for split in SPLITS]
    assert found == sorted(found)
    assert found[0] < 0.2
    assert found[-1] > 0.8


def test_a_round_of_the_perceptron_is_what_pytorch_computes():
    problem = Perceptron(num_clients=4, split="dirichlet-1.0", local_steps=3, learning_rate=0.5)
    model, data = problem.initial_arrays(), pool("digits")
    for client, own in enumerate(partition(data.labels, 4, "dirichlet-1.0", 0)):
        rng = np.random.default_rng([0, client, 7])
        arrays = [torch.tensor(array, requires_grad=True) for array in model]
        descent = torch.optim.SGD(arrays, lr=0.5)
        for batch in own[rng.integers(len(own), size=(3, 32))]:
            images, labels = map(torch.from_numpy, (data.images[batch], data.labels[batch]))
            hidden = torch.relu(images @ arrays[0] + arrays[1])
            loss = torch.nn.functional.cross_entropy(hidden @ arrays[2] + arrays[3], labels)
            descent.zero_grad()
            loss.backward()
            descent.step()
        reply, num_examples, metrics = problem.reply(client, model, 7)
        for array, expected in zip(reply, arrays, strict=True):
            assert array.dtype == np.float32
            np.testing.assert_allclose(array, expected.detach().numpy(), atol=2e-6)
        assert num_examples == len(own)
        assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("kind", [Digits, Perceptron])
def test_digits_are_learnt_and_a_lost_model_gets_none_right(kind):
    problem = kind(num_clients=4)
    model = problem.initial_arrays()
    for server_round in range(1, 11):
        replies = [problem.reply(client, model, server_round)[0] for client in range(4)]
        model = [np.mean(arrays, axis=0) for arrays in zip(*replies, strict=True)]
    figures = problem.evaluate(model)
    assert figures["accuracy"] > 0.9
    assert 0.5 < figures["least-class"] < figures["accuracy"]
    loss, _, metrics = problem.evaluate_client(1, model)
    assert loss < 0.5
    assert metrics["accuracy"] > 0.9
    assert problem.relabelled().evaluate_client(1, model)[2]["accuracy"] < 0.2
    lost = [np.full_like(array, np.nan) for array in model]
    assert problem.evaluate(lost) == {"accuracy": 0.0, "least-class": 0.0}
    constant = [np.zeros_like(array) for array in model]  # one class is always right
    assert problem.evaluate(constant)["least-class"] == 0.0 < problem.evaluate(constant)["accuracy"]


def test_the_worst_class_is_that_of_the_least_share_of_right_answers():
    right, labels = np.array([1, 1, 0, 1, 0, 0]) > 0, np.array([0, 0, 3, 3, 3, 0])
    assert least_class(right, labels) == pytest.approx(1 / 3)
    assert least_class(right[:2], labels[:2]) == 1.0


def test_mnist_1d_is_made_offline_and_leaves_the_global_generators_as_they_were(monkeypatch):
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, None)
    monkeypatch.setattr(socket, "getaddrinfo", None)
    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first, again = mnist1d(), mnist1d()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # noqa: NPY002
    arrays = [(p.images, p.labels, p.held_out, p.held_out_labels) for p in (first, again)]
    for array, other in zip(*arrays, strict=True):
        np.testing.assert_array_equal(array, other)
    images, labels, held_out, held_out_labels = arrays[0]
    assert (images.shape, held_out.shape, images.dtype) == ((4000, 40), (1000, 40), np.float32)
    assert np.bincount(np.concatenate([labels, held_out_labels])).tolist() == [500] * 10
    everything = np.concatenate([images, held_out])
    assert (everything.mean(), everything.std()) == pytest.approx((0, 1), abs=1e-4)
    assert len(np.unique(everything, axis=0)) == 5000


def test_a_convolution_s_reply_follows_from_seed_client_and_round_alone():
    problem = Convolution(num_clients=4, split="dirichlet-1.0", local_steps=2)
    model = problem.initial_arrays()
    assert sum(array.size for array in model) == 6710
    torch.manual_seed(9)  # and from no state of PyTorch

    def reply(client=1, server_round=7, **changed):
        made = replace(problem, **changed).reply(client, model, server_round)
        return [array.tobytes() for array in made[0]], *made[1:]

    first = reply()
    assert reply() == first
    others = [reply(client=2), reply(server_round=8), reply(seed=1), reply(labels="flipped")]
    assert all(arrays != first[0] for arrays, *_ in others)
    sizes = [problem.reply(client, model, 1)[1] for client in range(4)]
    assert sum(sizes) == 4000
    assert len(set(sizes)) > 1


def test_a_convolution_learns_signals_and_a_lost_model_gets_none_right():
    problem = Convolution(num_clients=4)
    model = problem.initial_arrays()
    for server_round in range(1, 13):
        replies = [problem.reply(client, model, server_round)[0] for client in range(4)]
        model = [np.mean(arrays, axis=0) for arrays in zip(*replies, strict=True)]
    assert problem.evaluate(model)["accuracy"] > 0.6
    _, size, metrics = problem.evaluate_client(1, model)
    assert size == 1000
    assert metrics["accuracy"] > 0.6
    assert problem.relabelled().evaluate_client(1, model)[2]["accuracy"] < 0.2
    lost = [np.full_like(array, np.nan) for array in model]
    assert problem.evaluate(lost)["accuracy"] == 0.0


def test_the_regression_s_pool_holds_the_samples_of_the_even_one():
    split = PooledRegression(num_clients=5, split="sorted", seed=2)
    even = LinearRegression(num_clients=5, seed=2)
    for column in (0, 1):
        of = [np.concatenate([p.data(c)[column].ravel() for c in range(5)]) for p in (split, even)]
        np.testing.assert_array_equal(*map(np.sort, of))
    means = [split.data(client)[1].mean() for client in range(5)]
    assert np.ptp(means) > 5  # clients hold a fifth of the range each
    np.testing.assert_array_equal(split.optimum(), even.optimum())


def test_images_as_the_hub_stores_them_are_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "hub").mkdir()
    features, labels = Features({"picture": Image(), "kind": Value("int64")}), [0, 1, 2, 3] * 10
    pixels = np.random.default_rng(0).integers(256, size=(2, 40, 6, 5, 3), dtype=np.uint8)
    kinds = labels, labels[::-1]
    for split, images, kind in zip(("train", "test"), pixels, kinds, strict=True):
        columns = {"picture": [Picture.fromarray(image) for image in images], "kind": kind}
        Dataset.from_dict(columns, features).to_parquet(tmp_path / f"hub/{split}.parquet")
    hub = Hub(str(tmp_path / "hub"), image="picture", label="kind")
    loaded, held_back = hub.load(), replace(hub, test=None).load()
    assert (loaded.num_classes, loaded.images.dtype) == (4, np.float32)
    expected = pixels.reshape(2, 40, -1).astype(np.float32) / 255
    np.testing.assert_array_equal([loaded.images, loaded.held_out], expected)
    assert (loaded.labels.tolist(), loaded.held_out_labels.tolist()) == kinds
    assert len(held_back.images) == 30
    assert sorted(np.bincount(held_back.held_out_labels)) == [2, 2, 3, 3]
