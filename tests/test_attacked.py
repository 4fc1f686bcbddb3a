"""Rounds under attack whose result or report once was not what it should be."""

import numpy as np
from threadpoolctl import threadpool_limits

from flwr_byz.round import distances_from


def test_distances_in_the_audit_do_not_depend_on_the_threads_of_blas():
    vectors = [[v] for v in np.random.default_rng(0).normal(size=(20, 200_000)).astype("f4")]
    point = np.zeros(200_000, "f4")
    measured = []
    for limit in (1, 2, 4):
        with threadpool_limits(limit, user_api="blas"):
            measured.append(distances_from(vectors, None, point))
    assert measured[0] == measured[1] == measured[2]
