"""The paper's orders of magnitude, without their constants (abstract, Theorem 1, Remarks 1, 2).

All functions raise ValueError out of their range.
"""

from math import log, sqrt

from ..checks import check_number
from .conditions import require_nonnegative, require_positive


def error_rate(dim: int, num_batches: int, num_samples: float) -> float:
    """Return √(dk/N), the order of the estimation error (Theorem 5)."""
    require_positive(dim=dim, num_batches=num_batches, num_samples=num_samples)
    return sqrt(dim * num_batches / num_samples)


def paper_rate(dim: int, num_byzantine: int, num_samples: float) -> float:
    """Return max{√(dq/N), √(d/N)}, the order of the error for k = 2(1+ε)q (abstract)."""
    require_nonnegative(num_byzantine=num_byzantine)
    return error_rate(dim, max(num_byzantine, 1), num_samples)


def minimax_rate(dim: int, num_samples: float) -> float:
    """Return √(d/N): no method does better, even without Byzantine clients (footnote 4)."""
    return error_rate(dim, 1, num_samples)


def rounds_to_floor(contraction: float, distance: float, floor: float) -> int:
    """Return the smallest t with contraction^t · distance ≤ floor: O(log N) rounds (Theorem 1).

    `contraction` in [0, 1) is the factor of a round, `distance` ‖θ0 − θ*‖ ≥ 0, and `floor` > 0 the
    error that remains. After t rounds the bound on the error is at most twice the floor.
    """
    require_nonnegative(distance=distance)
    require_positive(floor=floor)
    check_number("contraction", contraction, least=0, below=1)
    if distance <= floor:
        return 0
    if contraction == 0:
        return 1
    # Logarithms round, so they only give a starting value.
    rounds = max(int(log(distance / floor) / -log(contraction)) - 1, 1)
    while contraction**rounds * distance > floor:
        rounds += 1
    return rounds


def communication(num_clients: int, dim: int, rounds: float) -> float:
    """Return md·t, how many numbers clients send in t rounds; O(md log N) for t = O(log N)."""
    require_positive(num_clients=num_clients, dim=dim)
    require_nonnegative(rounds=rounds)
    return num_clients * dim * rounds


def client_computation(dim: int, num_clients: int, num_samples: float) -> float:
    """Return (N/m)·d, the order of a client's steps in a round."""
    require_positive(dim=dim, num_clients=num_clients, num_samples=num_samples)
    return num_samples / num_clients * dim


def server_computation(dim: int, num_clients: int, num_batches: int, num_samples: float) -> float:
    """Return md + kd log³N, the order of the server's steps in a round, with γ = 1/N.

    The abstract has k in it; section 1.4 and Remark 2 have q, which is the same for k = 2(1+ε)q.
    The method of [CLM+16] needs O(kd log³(1/γ)) for the median.
    """
    require_positive(
        dim=dim, num_clients=num_clients, num_batches=num_batches, num_samples=num_samples
    )
    return num_clients * dim + num_batches * dim * log(num_samples) ** 3
