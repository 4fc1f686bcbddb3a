"""The probability that enough batches are good (the paper's Lemma 5)."""

from collections.abc import Iterable
from fractions import Fraction
from math import exp, expm1, floor, fsum, inf, lgamma, log, log1p

from ..checks import check_number
from .conditions import require, require_honest_majority


def binary_divergence(a: float, b: float) -> float:
    """Return D(a‖b) = a log(a/b) + (1 − a) log((1 − a)/(1 − b)), in nats (Theorem 1).

    a and b are in [0, 1]. 0 log 0 is 0; where b is 0 or 1 and a is not, D is infinite.
    """
    for name, value in (("a", a), ("b", b)):
        check_number(name, value, least=0, most=1)
    pairs = ((a, b), (1 - a, 1 - b))
    return max(sum(x * log(x / y) if y > 0 else inf for x, y in pairs if x > 0), 0.0)


def check_lemma_5(num_batches: int, num_byzantine: int, alpha: float, delta: float) -> None:
    """Check the conditions of Lemma 5."""
    require_honest_majority(num_batches, num_byzantine)
    share = num_byzantine / num_batches
    require(alpha > share, "α > q/k", alpha, share)
    require(alpha < 0.5, "α < 1/2", alpha, 0.5)
    require(delta > 0, "δ > 0", delta, 0.0)
    require(delta <= alpha - share, "δ ≤ α − q/k", delta, alpha - share)


def success_probability(
    num_batches: int, num_byzantine: int, *, alpha: float, delta: float
) -> float:
    """Return 1 − exp(−k·D(α − q/k‖δ)), equation (19): Chernoff's bound on (20).

    With at least this probability k(1 − α) + q batches or more are good, so that the bounds hold in
    every round for any set of Byzantine clients (Lemma 5). α is the fraction of batches that may be
    bad, Byzantine ones included, and δ the probability with which a batch is bad by chance. Raises
    ConditionFails unless q/k < α < 1/2 and 0 < δ ≤ α − q/k.
    """
    check_lemma_5(num_batches, num_byzantine, alpha, delta)
    room = alpha - num_byzantine / num_batches
    return -expm1(-num_batches * binary_divergence(room, delta))


def exact_success_probability(
    num_batches: int, num_byzantine: int, *, alpha: float, delta: float
) -> float:
    """Return P{T ≥ k(1 − α) + q}, T ~ Binomial(k, 1 − δ), of (20); see `success_probability`."""
    check_lemma_5(num_batches, num_byzantine, alpha, delta)
    k = num_batches
    # At most kα − q are bad, in exact arithmetic on the decimal that the caller wrote.
    most_bad = floor(Fraction(repr(float(alpha))) * k) - num_byzantine
    # Sum the tail that falls from its first term on.
    if most_bad < k * delta:
        return min(_tail(k, delta, range(most_bad, -1, -1)), 1.0)
    return max(1.0 - _tail(k, delta, range(most_bad + 1, k + 1)), 0.0)


def _tail(k: int, delta: float, counts: Iterable[int]) -> float:
    """Return the probability of these numbers of successes in k, given the likeliest first."""
    terms: list[float] = []
    for j in counts:
        ways = lgamma(k + 1) - lgamma(j + 1) - lgamma(k - j + 1)
        terms.append(exp(ways + j * log(delta) + (k - j) * log1p(-delta)))
        if terms[-1] < 1e-20 * terms[0]:
            break
    return fsum(terms)
