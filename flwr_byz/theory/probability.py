"""The probability that enough batches are good (the paper's Lemma 5)."""

from fractions import Fraction
from functools import lru_cache
from math import exp, expm1, floor, inf, lgamma, log, log1p, sqrt

import numpy as np

from ..checks import check_number
from .conditions import require, require_honest_majority

_HALVINGS, _LEAST_LOG = 50, -740.0
_FALL = 45.0  # logarithm by which the last term of a tail is smaller than the first


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
    alpha, share = float(alpha), num_byzantine / num_batches  # of any float type
    require(alpha > share, "α > q/k", alpha, share)
    require(alpha < 0.5, "α < 1/2", alpha, 0.5)
    require(delta > 0, "δ > 0", delta, 0.0)
    room = _room(num_batches, num_byzantine, alpha)
    require(delta <= room, "δ ≤ α − q/k", delta, room)


def _room(num_batches: int, num_byzantine: int, alpha: float) -> float:
    """Return α − q/k, in fractions or in floats: the larger one, so that δ may equal either."""
    exact = _simplest(alpha) - _simplest(num_byzantine) / _simplest(num_batches)
    return max(float(exact), float(alpha) - num_byzantine / num_batches)


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
    room = _room(num_batches, num_byzantine, alpha)
    return -expm1(-num_batches * binary_divergence(room, delta))


def exact_success_probability(
    num_batches: int, num_byzantine: int, *, alpha: float, delta: float
) -> float:
    """Return P{T ≥ k(1 − α) + q}, T ~ Binomial(k, 1 − δ), of (20); see `success_probability`."""
    check_lemma_5(num_batches, num_byzantine, alpha, delta)
    k = num_batches
    most_bad = floor(_simplest(alpha) * k) - num_byzantine
    return _at_most(k, delta, most_bad)


def _simplest(value: float) -> Fraction:
    """Return the fraction of the smallest denominator that rounds to a float: 5/12 of 5 / 12."""
    value = float(value)
    exact = Fraction(value)
    near = exact.limit_denominator(10**7)
    return near if float(near) == value else exact


@lru_cache(maxsize=4096)
def largest_delta(num_batches: int, num_bad: int, confidence: float) -> float:
    """Return the largest δ with P{B ≤ j} ≥ the confidence, B ~ Binomial(k, δ), rounded down.

    Where each of k batches is bad by chance with probability at most δ, at most j = `num_bad` are
    bad with this confidence. In the paper δ is e^(−d), far less than (20) needs. Room is
    left for rounding errors: P{B > j} is below 1 − the confidence by a part of about
    1e-12·(j + 1) + 1e-14·k.

    Raises ValueError unless k ≥ 1, 0 ≤ j < k and 0 < confidence < 1.
    """
    check_number("num_batches", num_batches, whole=True, least=1)
    check_number("num_bad", num_bad, whole=True, least=0, below=num_batches)
    check_number("confidence", confidence, above=0, below=1)
    low, high = _LEAST_LOG, 0.0  # of log δ
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = _keeps(num_batches, exp(middle), num_bad, confidence)
        low, high = (middle, high) if enough else (low, middle)
    return exp(low)


def _keeps(k: int, delta: float, most: int, confidence: float) -> bool:
    """Return whether P{B ≤ most} ≥ the confidence, B ~ Binomial(k, δ), however it is rounded."""
    rounding = 1e-14 * (k + 100)
    if delta == 1:
        return False
    if most + 1 < k * delta:
        return _at_most(k, delta, most) >= confidence * (1 + rounding)
    return _more(k, delta, most) <= (1 - confidence) * (1 - rounding)


def _at_most(k: int, delta: float, most: int) -> float:
    """Return P{B ≤ most}, B ~ Binomial(k, δ): by the tail that falls from its first term."""
    if most + 1 < k * delta:
        return min(_tail(k, log1p(-delta), log(delta), k - most), 1.0)
    return max(1.0 - _more(k, delta, most), 0.0)


def _more(k: int, delta: float, most: int) -> float:
    """Return P{B > most}, B ~ Binomial(k, δ), for most + 1 ≥ kδ."""
    return _tail(k, log(delta), log1p(-delta), most + 1)


def _tail(k: int, log_p: float, log_rest: float, least: int) -> float:
    """Return P{B ≥ least}, B ~ Binomial(k, p), for least ≥ kp: the terms fall from the first on."""
    if least > k:
        return 0.0
    log_ways = lgamma(k + 1) - lgamma(least + 1) - lgamma(k - least + 1)
    odds = exp(log_p - log_rest)
    left = max(1 - (k - least) / (least + 1) * odds, 1 / (20 * sqrt(k)))  # by which terms fall
    counts = np.arange(least, min(k, least + int(_FALL / left) + 1))
    ratios = (k - counts) / (counts + 1) * odds
    first = exp(log_ways + least * log_p + (k - least) * log_rest)
    return first * (1 + float(np.cumprod(ratios).sum()))
