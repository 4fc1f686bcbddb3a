"""Grouping m clients into k batches (the paper's Algorithm 2, step 1) and choosing k."""

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import TypeVar

import numpy as np

from ..checks import check_number

Item = TypeVar("Item")


def num_batches(num_clients: int, num_byzantine: int, *, epsilon: float = 1.0) -> int:
    """Choose the number of batches k from the number of Byzantine clients q.

    Each Byzantine client corrupts at most one batch, so the geometric median of the k batch means
    is robust while 2q < k. The paper (Theorem 1, Remark 1) asks for 2(1+ε)q ≤ k ≤ m.

    Parameters
    ----------
    num_clients, num_byzantine : int
        m ≥ 1, and q, the most Byzantine clients in any one round; 0 ≤ 2q < m.
    epsilon : float, default 1.0
        ε > 0 of the paper. A larger ε gives more batches: less averaging of honest noise within a
        batch, but more distance to the breakdown point.

    Returns the smallest k ≥ 2(1+ε)q, at most m; for q = 0 it is 1, which makes the rule the mean.
    Raises TypeError where an argument is no number, ValueError where one is out of range.
    """
    check_number("num_clients", num_clients, whole=True, least=1)
    check_number("num_byzantine", num_byzantine, whole=True, least=0)
    check_number("epsilon", epsilon, above=0)
    if 2 * num_byzantine >= num_clients:
        raise ValueError(
            f"num_byzantine={num_byzantine} of num_clients={num_clients}: no rule is robust "
            f"against half of the clients or more; give at most {(num_clients - 1) // 2}"
        )
    # Exact arithmetic on the decimal the caller wrote: 2 * 1.1 * 5 is 11, not 11.000000000000002.
    wanted = ceil(2 * (1 + Fraction(repr(float(epsilon)))) * num_byzantine)
    return min(max(wanted, 1), num_clients)


def split_into_batches(clients: Sequence[Item], num_batches: int) -> list[Sequence[Item]]:
    """Split m clients (identities, vectors or other items) into k batches of neighbours.

    Batch l holds clients l·b … (l+1)·b − 1 with b = m/k, as in the paper's Algorithm 2. Where k
    does not divide m, sizes differ by at most one and the larger batches come first. Raises
    ValueError unless 1 ≤ k ≤ m.
    """
    note = ", the number of clients"
    check_number("num_batches", num_batches, whole=True, least=1, most=len(clients), note=note)
    size, larger = divmod(len(clients), num_batches)
    cuts = [size * batch + min(batch, larger) for batch in range(num_batches + 1)]
    return [clients[start:end] for start, end in pairwise(cuts)]


def permute_clients(clients: Sequence[Item], seed: int, server_round: int) -> list[Item]:
    """Put clients into a random order before they are split into batches.

    The honest clients that share a batch, and average out their differences there, then change from
    round to round (Karimireddy, He, Jaggi 2022, "Byzantine-Robust Learning on Heterogeneous
    Datasets via Bucketing", Algorithm 1). `seed` and `server_round` alone determine the
    permutation; give clients in an order that does not depend on when they reply.

    Raises ValueError where `seed` or `server_round` is negative.
    """
    check_number("seed", seed, whole=True, least=0)
    check_number("server_round", server_round, whole=True, least=0)
    order = np.random.default_rng([seed, server_round]).permutation(len(clients))
    return [clients[index] for index in order]


def check_batches(num_byzantine: int | None, num_batches: int | None) -> None:
    """Check q and k, where they are given, and that q batches are fewer than half of k."""
    if num_byzantine is not None:
        check_number("num_byzantine", num_byzantine, whole=True, least=0)
    if num_batches is not None:
        q = num_byzantine or 0
        note = f" (2q + 1 for num_byzantine={q})" if q else ""
        check_number("num_batches", num_batches, whole=True, least=2 * q + 1, note=note)


def replies_that_fill(batch_of: Iterable[int]) -> dict[int, int]:
    """Return how many replies fill each batch, half of its clients, from the batch of each."""
    return {batch: (size + 1) // 2 for batch, size in Counter(batch_of).items()}


def default_quorum(num_batches: int, num_byzantine: int) -> int:
    """Return how many of k batches a step waits for: more than half, at least 2q + 1 if it can."""
    return min(max(num_batches // 2, 2 * num_byzantine) + 1, num_batches)
