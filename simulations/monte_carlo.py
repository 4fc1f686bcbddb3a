"""The paper's Algorithm 2 on linear regression against an adversary that knows θ*."""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from flwr_byz.aggregation import geometric_median_of_means, split_into_batches
from flwr_byz.aggregation.pre_aggregation import TrimNorm


def descend(
    *,
    num_clients: int,
    num_byzantine: int,
    num_batches: int,
    samples_per_client: int,
    dim: int,
    rounds: int,
    distance: float,
    reach: float,
    seed: int,
    step: float = 0.5,
    trim_norm: TrimNorm = None,
    gamma: float = 1e-9,
) -> NDArray[np.float64]:
    """Run Algorithm 2 and return ‖θt − θ*‖ before and after each round.

    Data are those of the paper's section 4: y = ⟨w, θ*⟩ + ζ with w ~ N(0, I) and ζ ~ N(0, 1). In
    each round one client is Byzantine in each of the q batches that would bring the model nearest
    to θ*. It takes the mean of its batch to where that pushes the model straight away from θ*, at a
    norm of `reach`.

    Parameters
    ----------
    num_clients, num_byzantine, num_batches, samples_per_client, dim : int
        m, q ≤ k, k, N/m and d.
    rounds : int
    distance : float
        ‖θ0 − θ*‖ > 0, in a random direction.
    reach : float
        The norm of a Byzantine batch's mean.
    seed : int
        Of data and start.
    step : float, default 0.5
        η; by default L/(2M²) with L = M = 1.
    trim_norm, gamma
        Of the rule; see `flwr_byz.aggregation.geometric_median_of_means`.

    Returns
    -------
    ndarray (rounds + 1,), float64
    """
    rng = np.random.default_rng(seed)
    hessians = np.empty((num_clients, dim, dim))
    offsets = np.empty((num_clients, dim))
    for client in range(num_clients):
        features = rng.normal(size=(samples_per_client, dim))
        noise = rng.normal(size=samples_per_client)
        hessians[client] = features.T @ features / samples_per_client
        offsets[client] = features.T @ noise / samples_per_client
    from_optimum = rng.normal(size=dim)
    from_optimum *= distance / np.linalg.norm(from_optimum)
    batches = [list(batch) for batch in split_into_batches(range(num_clients), num_batches)]
    errors = [distance]
    for _ in range(rounds):
        gradients = hessians @ from_optimum - offsets
        away = -from_optimum / errors[-1]
        pushes = [gradients[batch].mean(axis=0) @ away for batch in batches]
        for taken in np.argsort(pushes)[:num_byzantine]:
            first, *others = batches[taken]
            target = len(batches[taken]) * reach * away
            gradients[first] = target - gradients[others].sum(axis=0)
        aggregate = geometric_median_of_means(
            gradients, num_batches, trim_norm=trim_norm, gamma=gamma
        ).point
        from_optimum = from_optimum - step * aggregate
        errors.append(float(np.linalg.norm(from_optimum)))
    return np.array(errors)


def root_mean_square(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the root mean square of two values or more, and its standard error."""
    squares = np.square(values)
    mean = float(squares.mean())
    return sqrt(mean), float(squares.std(ddof=1)) / sqrt(len(squares) * mean) / 2
