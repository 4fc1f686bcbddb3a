"""The three ways to a strategy of this package, in both APIs, trained by `answering_grid.run`."""

import itertools

import numpy as np

from tests.support.answering_grid import M, run
from tests.support.apis import BY_NAME

Q = 2
KINDS = [*itertools.product(BY_NAME, ["Hardened", "GeometricMedianOfMeans", "robust"])]


def strategy(api, kind, fraction_evaluate=0.0, **options):
    """Return what makes a strategy; a classic one takes its initial model and its evaluation."""
    stock, byz = BY_NAME[api].flower, BY_NAME[api].own
    options |= {"num_byzantine": Q}

    def make(**given):
        given |= {"fraction_evaluate": fraction_evaluate}
        if kind == "Hardened":
            return byz.Hardened(stock.FedMedian(**given), **options)
        if kind == "robust":
            return byz.robust(stock.FedProx, proximal_mu=0.1, **given, **options)
        return byz.GeometricMedianOfMeans(**given, **options)

    return make


def nearby(node, server_round, arrays):
    """Move by a tenth, with noise."""
    rng = np.random.default_rng([node, server_round])
    return [(a + 0.1 + 0.01 * rng.normal(size=a.shape)).astype(a.dtype) for a in arrays]


def ran(api, kind, num_rounds, reply=nearby, num_nodes=M, **options):
    return run(api, strategy(api, kind, **options), num_rounds, reply, num_nodes)
