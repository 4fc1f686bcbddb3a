"""Problems whose data are pooled and split over clients."""

import itertools

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as Picture
from torch import nn

from clients.partition import partition
from clients.perceptron import Perceptron
from clients.pooled_regression import PooledRegression
from clients.pools import Hub, pool
from clients.regression import LinearRegression

LABELS = np.random.default_rng(0).integers(10, size=1000)
SPLITS = ["iid", "dirichlet-1.0", "dirichlet-0.3", "sorted"]


@pytest.mark.parametrize("split", SPLITS)
def test_every_sample_goes_to_one_client_by_the_seed_alone(split):
    shares = partition(LABELS, 20, split, seed=3)
    assert sorted(itertools.chain(*shares)) == list(range(len(LABELS)))
    for share, again in zip(shares, partition(LABELS, 20, split, seed=3), strict=True):
        np.testing.assert_array_equal(share, again)
    other = partition(LABELS, 20, split, seed=4)
    assert any(list(a) != list(b) for a, b in zip(shares, other, strict=True))


def test_splits_come_in_the_order_of_how_unlike_they_make_clients():
    everywhere = np.bincount(LABELS, minlength=10) / len(LABELS)

    def unlikeness(split):
        shares = partition(LABELS, 20, split, seed=0)
        own = [np.bincount(LABELS[share], minlength=10) / len(share) for share in shares]
        return np.mean([np.abs(mix - everywhere).sum() / 2 for mix in own])

    found = [unlikeness(split) for split in SPLITS]
    assert found == sorted(found)
    assert found[0] < 0.2
    assert found[-1] > 0.8


@pytest.mark.parametrize(
    "split", ["", "iids", "dirichlet", "dirichlet-0", "dirichlet--1", "dirichlet-x"]
)
def test_an_unknown_split_is_named(split):
    with pytest.raises(ValueError, match=f"got '{split}'"):
        partition(LABELS, 4, split, seed=0)


def test_a_round_of_the_perceptron_is_what_pytorch_computes():
    problem = Perceptron(num_clients=4, split="dirichlet-1.0", local_steps=3, learning_rate=0.5)
    model = problem.initial_arrays()
    data = pool("digits")
    for client in range(4):
        rng = np.random.default_rng([0, client, 7])
        own = partition(data.labels, 4, "dirichlet-1.0", 0)[client]
        network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        with torch.no_grad():
            for parameter, array in zip(network.parameters(), model, strict=True):
                parameter.copy_(torch.from_numpy(array.T))
        optimiser = torch.optim.SGD(network.parameters(), lr=0.5)
        for batch in own[rng.integers(len(own), size=(3, 32))]:
            optimiser.zero_grad()
            images, labels = map(torch.from_numpy, (data.images[batch], data.labels[batch]))
            loss = nn.functional.cross_entropy(network(images), labels)
            loss.backward()
            optimiser.step()
        reply, num_examples, metrics = problem.reply(client, model, 7)
        for array, parameter in zip(reply, network.parameters(), strict=True):
            assert array.dtype == np.float32
            np.testing.assert_allclose(array, parameter.detach().numpy().T, atol=2e-6)
        assert num_examples == len(own)
        assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)


def test_the_perceptron_learns_and_a_lost_one_scores_nothing():
    problem = Perceptron(num_clients=4, learning_rate=0.5)
    model = problem.initial_arrays()
    for server_round in range(1, 25):
        replies = [problem.reply(client, model, server_round)[0] for client in range(4)]
        model = [np.mean(arrays, axis=0) for arrays in zip(*replies, strict=True)]
    assert problem.evaluate(model)["accuracy"] > 0.9
    loss, _, metrics = problem.evaluate_client(1, model)
    assert loss < 0.5
    assert metrics["accuracy"] > 0.9
    assert problem.relabelled().evaluate_client(1, model)[2]["accuracy"] < 0.2
    lost = [np.full_like(array, np.nan) for array in model]
    assert problem.evaluate(lost)["accuracy"] == 0.0


def test_the_regression_s_pool_holds_the_samples_of_the_even_one():
    split = PooledRegression(num_clients=5, split="sorted", seed=2)
    even = LinearRegression(num_clients=5, seed=2)

    def all_of(problem, column):
        return np.sort(np.concatenate([problem.data(c)[column].ravel() for c in range(5)]))

    for column in (0, 1):
        np.testing.assert_array_equal(all_of(split, column), all_of(even, column))
    means = [split.data(client)[1].mean() for client in range(5)]
    assert np.ptp(means) > 5  # clients hold a fifth of the range each
    np.testing.assert_array_equal(split.relabelled().data(3)[1], -split.data(3)[1])
    np.testing.assert_array_equal(split.optimum(), even.optimum())


@pytest.mark.parametrize(("mode", "test"), [("L", "test"), ("RGB", None)])
def test_images_as_the_hub_stores_them_are_loaded(tmp_path, monkeypatch, mode, test):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    shape = (6, 5) if mode == "L" else (6, 5, 3)
    written = {}
    for split, number in (("train", 40), ("test", 20))[: 2 if test else 1]:
        pixels = rng.integers(256, size=(number, *shape), dtype=np.uint8)
        labels = np.arange(number) % 4
        columns = {"picture": [Picture.fromarray(p) for p in pixels], "kind": labels.tolist()}
        features = Features({"picture": Image(), "kind": Value("int64")})
        data = Dataset.from_dict(columns, features)
        data.to_parquet(tmp_path / f"{split}.parquet")
        written[split] = pixels.reshape(number, -1).astype(np.float32) / 255, labels
    loaded = Hub(str(tmp_path), image="picture", label="kind", test=test).load()
    assert loaded.num_classes == 4
    assert loaded.images.dtype == np.float32
    if test:
        np.testing.assert_array_equal(loaded.images, written["train"][0])
        np.testing.assert_array_equal(loaded.labels, written["train"][1])
        np.testing.assert_array_equal(loaded.held_out, written["test"][0])
        np.testing.assert_array_equal(loaded.held_out_labels, written["test"][1])
    else:
        assert len(loaded.images) == 30
        assert sorted(np.bincount(loaded.held_out_labels)) == [2, 2, 3, 3]
