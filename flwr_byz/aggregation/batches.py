"""Grouping m clients into k batches (the paper's Algorithm 2, step 1) and choosing k."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def num_batches(num_clients: int, num_byzantine: int, *, epsilon: float = 1.0) -> int:
    """Choose the number of batches k from the number of Byzantine clients q.

    Each Byzantine client corrupts at most one batch, so the geometric median of the k batch means
    is robust while 2q < k. The paper (Theorem 1, Remark 1) asks for 2(1+ε)q ≤ k ≤ m.

    Parameters
    ----------
    num_clients : int
        m, at least 1.
    num_byzantine : int
        q, the most Byzantine clients in any one round; 0 ≤ 2q < m.
    epsilon : float, default 1.0
        ε > 0 of the paper. A larger ε gives more batches: less averaging of honest noise within a
        batch, but more distance to the breakdown point.

    The result is the smallest k ≥ 2(1+ε)q, at most m; for q = 0 it is 1, which makes the rule the
    mean. Raises ValueError where an argument is out of range, or 2q ≥ m: no rule is robust then.
    """
    if num_clients < 1:
        raise ValueError(f"num_clients must be at least 1, got {num_clients}")
    if num_byzantine < 0:
        raise ValueError(f"num_byzantine must be at least 0, got {num_byzantine}")
    if not 0 < epsilon < float("inf"):
        raise ValueError(f"epsilon must be positive and finite, got {epsilon}")
    if 2 * num_byzantine >= num_clients:
        raise ValueError(
            f"num_byzantine = {num_byzantine} of num_clients = {num_clients}: no rule is robust "
            f"against half of the clients or more; at most {(num_clients - 1) // 2} are allowed"
        )
    # Exact arithmetic on the decimal the caller wrote: 2 * 1.1 * 5 is 11, not 11.000000000000002.
    wanted = ceil(2 * (1 + Fraction(repr(float(epsilon)))) * num_byzantine)
    return min(max(wanted, 1), num_clients)


def split_into_batches(clients: Sequence[Item], num_batches: int) -> list[Sequence[Item]]:
    """Split clients, in their order, into k batches of neighbours.

    Parameters
    ----------
    clients : sequence of length m
        Identities, vectors or other items.
    num_batches : int
        k, with 1 ≤ k ≤ m.

    Batch l holds clients l·b … (l+1)·b − 1 with b = m/k, as in the paper's Algorithm 2. Where k
    does not divide m, sizes differ by at most one and the larger batches come first. Raises
    ValueError where k is not between 1 and m.
    """
    if not 1 <= num_batches <= len(clients):
        bounds = f"between 1 and the number of clients {len(clients)}"
        raise ValueError(f"num_batches must be {bounds}, got {num_batches}")
    size, larger = divmod(len(clients), num_batches)
    cuts = [size * batch + min(batch, larger) for batch in range(num_batches + 1)]
    return [clients[start:end] for start, end in pairwise(cuts)]


def permute_clients(clients: Sequence[Item], seed: int, server_round: int) -> list[Item]:
    """Put clients into a random order before they are split into batches.

    The honest clients that share a batch, and average out their differences there, then change from
    round to round (Karimireddy, He, Jaggi 2022, "Byzantine-Robust Learning on Heterogeneous
    Datasets via Bucketing", Algorithm 1).

    Parameters
    ----------
    clients : sequence of length m
        In an order that does not depend on when they reply.
    seed, server_round : int
        At least 0. They alone determine the permutation.

    Raises ValueError where `seed` or `server_round` is negative.
    """
    for name, value in (("seed", seed), ("server_round", server_round)):
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    order = np.random.default_rng([seed, server_round]).permutation(len(clients))
    return [clients[index] for index in order]


def check_count(name: str, value: int | None, *, least: int) -> None:
    """Raise ValueError unless a value is None or an integer of at least `least`."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_honest_majority(num_byzantine: int | None, num_batches: int) -> None:
    """Raise ValueError unless q Byzantine batches are fewer than half of k."""
    if num_byzantine is not None and num_batches < (least := 2 * num_byzantine + 1):
        raise ValueError(
            f"num_batches must be at least 2·num_byzantine + 1 = {least}, got {num_batches}"
        )
