"""The three ways to a strategy of this package, in both APIs, trained by `answering_grid.run`."""

import numpy as np
from flwr.server import strategy as classic
from flwr.serverapp import strategy as message

from flwr_byz.server import strategy as classic_byz
from flwr_byz.serverapp import strategy as message_byz
from tests.support.answering_grid import M, run

Q = 2
KINDS = [
    (api, kind)
    for api in ("message", "classic")
    for kind in ("Hardened", "GeometricMedianOfMeans", "robust")
]


def strategy(api, kind, fraction_evaluate=0.0, **options):
    """Return what makes a strategy; a classic one takes its initial model and its evaluation."""
    stock, byz = (message, message_byz) if api == "message" else (classic, classic_byz)
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
