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
    first, again, other = (
        [share.tolist() for share in partition(LABELS, 20, split, seed)] for seed in (3, 3, 4)
    )
    assert sorted(itertools.chain(*first)) == list(range(len(LABELS)))
    assert first == again != other


def test_splits_come_in_the_order_of_how_unlike_they_make_clients():
    def mix(labels):
        return np.bincount(labels, minlength=10) / len(labels)

    def unlikeness(split):
        shares = partition(LABELS, 20, split, seed=0)
        return np.mean([np.abs(mix(LABELS[share]) - mix(LABELS)).sum() / 2 for share in shares])

    found = [unlikeness(split) for split in SPLITS]
    assert found == sorted(found)
    assert found[0] < 0.2
    assert found[-1] > 0.8


@pytest.mark.parametrize("split", ["", "iids", *("dirichlet" + a for a in ("", "-0", "--1", "-x"))])
def test_an_unknown_split_is_named(split):
    with pytest.raises(ValueError, match=f"got '{split}'"):
        partition(LABELS, 4, split, seed=0)


def test_a_round_of_the_perceptron_is_what_pytorch_computes():
    problem = Perceptron(num_clients=4, split="dirichlet-1.0", local_steps=3, learning_rate=0.5)
    model, data = problem.initial_arrays(), pool("digits")
    for client, own in enumerate(partition(data.labels, 4, "dirichlet-1.0", 0)):
        rng = np.random.default_rng([0, client, 7])
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
    for column in (0, 1):
        of = [np.concatenate([p.data(c)[column].ravel() for c in range(5)]) for p in (split, even)]
        np.testing.assert_array_equal(*map(np.sort, of))
    means = [split.data(client)[1].mean() for client in range(5)]
    assert np.ptp(means) > 5  # clients hold a fifth of the range each
    np.testing.assert_array_equal(split.relabelled().data(3)[1], -split.data(3)[1])
    np.testing.assert_array_equal(split.optimum(), even.optimum())


@pytest.mark.parametrize(("shape", "test"), [((6, 5), "test"), ((6, 5, 3), None)])
def test_images_as_the_hub_stores_them_are_loaded(tmp_path, monkeypatch, shape, test):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    written = {}
    for split in ("train", "test") if test else ("train",):
        pixels = np.random.default_rng(len(split)).integers(256, size=(40, *shape), dtype=np.uint8)
        labels = np.arange(len(split), 40 + len(split)) % 4
        columns = {"picture": [Picture.fromarray(p) for p in pixels], "kind": labels.tolist()}
        features = Features({"picture": Image(), "kind": Value("int64")})
        Dataset.from_dict(columns, features).to_parquet(tmp_path / f"{split}.parquet")
        written[split] = pixels.reshape(40, -1).astype(np.float32) / 255, labels
    loaded = Hub(str(tmp_path), image="picture", label="kind", test=test).load()
    assert loaded.num_classes == 4
    assert loaded.images.dtype == np.float32
    if test:
        read = (loaded.images, loaded.labels), (loaded.held_out, loaded.held_out_labels)
        for found, expected in zip(sum(read, ()), sum(written.values(), ()), strict=True):
            np.testing.assert_array_equal(found, expected)
    else:
        assert len(loaded.images) == 30
        assert sorted(np.bincount(loaded.held_out_labels)) == [2, 2, 3, 3]
