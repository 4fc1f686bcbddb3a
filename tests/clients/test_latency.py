"""How long clients take in simulated time."""

import math
import re
from collections import Counter

import numpy as np
import pytest

from clients.latency import DeviceClasses, Equal, HeavyTail, Lognormal, TwoSpeed, make_latency

ALL = Equal(), Lognormal(), HeavyTail(), TwoSpeed(), DeviceClasses()


def times(latency, clients=20, tasks=100, seed=0):
    """Return the times of all clients' replies, a row for each client."""
    rows = [[latency(c, clients, seed, task) for task in range(tasks)] for c in range(clients)]
    return np.array(rows)


@pytest.mark.parametrize("latency", ALL)
def test_a_time_is_positive_and_follows_from_its_arguments_alone(latency):
    found = times(latency, tasks=5)
    assert (found > 0).all()
    assert (found == times(make_latency(type(latency).__name__), tasks=5)).all()
    if latency != Equal():
        assert len(np.unique(found)) == found.size
        assert (found != times(latency, tasks=5, seed=1)).all()


def test_times_are_distributed_as_they_say():
    assert set(times(Equal()).flat) == {1.0}
    logarithms = np.log(times(Lognormal(sigma=0.5)))
    assert (logarithms.mean(), logarithms.std()) == pytest.approx((0, 0.5), abs=0.04)
    heavy = times(HeavyTail(alpha=1.5))
    assert heavy.min() >= 1
    assert (heavy > 4).mean() == pytest.approx(4**-1.5, abs=0.03)


def test_slow_clients_stay_slow_and_the_seed_draws_them():
    sets = []
    for seed in range(4):
        medians = np.median(times(TwoSpeed(share=0.3, factor=8), 10, seed=seed), axis=1)
        sets.append({*np.flatnonzero(medians > 4)})
        assert sorted(np.round(medians)) == [1] * 7 + [8] * 3
    assert len({frozenset(slow) for slow in sets}) > 1
    medians = np.median(times(DeviceClasses(), 9), axis=1)
    nearest = [min((1, 3, 10), key=lambda t, m=m: abs(math.log(t / m))) for m in medians]
    assert Counter(nearest) == {1: 3, 3: 3, 10: 3}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "Slow",
            "latency must be one of Equal, Lognormal, HeavyTail, TwoSpeed, DeviceClasses, got",
        ),
        ("TwoSpeed(times=10)", "TwoSpeed has no option times, got 'TwoSpeed(times=10)'"),
    ],
)
def test_a_latency_that_is_not_known_is_named(text, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        make_latency(text)
