"""Robust rules that others have published, on vectors: what the benchmark compares with.

All take vectors (n, d), float64, of which q may be Byzantine. Where ByzFL 0.0.11 has the rule, the
result is the same.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]


def nearest_neighbor_mixing(vectors: Vectors, q: int) -> Vectors:
    """Replace each vector by the mean of its n − q nearest, itself included (n, d).

    Allouah et al. 2023, "Fixing by mixing".
    """
    gram = vectors @ vectors.T
    squares = np.diag(gram)
    nearest = np.argsort(squares[:, None] + squares - 2 * gram, axis=1, kind="stable")
    return np.stack([vectors[chosen].mean(axis=0) for chosen in nearest[:, : len(vectors) - q]])


def adaptive_clipping(vectors: Vectors, q: int) -> Vectors:
    """Clip all vectors to the norm of the longest but ⌊2(q/n)(n − q)⌋ (n, d).

    Allouah et al. 2025, "Adaptive gradient clipping for robust federated learning" (ARC).
    """
    n = len(vectors)
    norms = np.linalg.norm(vectors, axis=1)
    return _clipped(vectors, float(np.sort(norms)[n - 1 - 2 * q * (n - q) // n]))


def bucketing(vectors: Vectors, size: int, order: NDArray[np.int64]) -> Vectors:
    """Return the means of so many vectors at a time, in a random order (⌈n/size⌉, d).

    Karimireddy, He, Jaggi 2022. The last bucket may be smaller. `order` permutes 0 … n − 1.
    """
    starts = range(0, len(vectors), size)
    return np.stack([vectors[order[start : start + size]].mean(axis=0) for start in starts])


def trimmed_mean(vectors: Vectors, q: int) -> Vectors:
    """Average each coordinate without its q smallest and q largest numbers (Yin et al. 2018)."""
    return np.asarray(np.sort(vectors, axis=0)[q : len(vectors) - q].mean(axis=0))


def coordinate_median(vectors: Vectors) -> Vectors:
    """Return the median of each coordinate (Yin et al. 2018)."""
    return np.asarray(np.median(vectors, axis=0))


def smoothed_weiszfeld(vectors: Vectors, num_steps: int = 3, smoothing: float = 0.1) -> Vectors:
    """Approximate the geometric median in a few steps from 0 (Pillutla, Kakade, Harchaoui 2022).

    No distance counts as less than `smoothing`. ByzFL's default, without an accuracy.
    """
    point = np.zeros_like(vectors[0])
    for _ in range(num_steps):
        weights = 1 / np.maximum(np.linalg.norm(vectors - point, axis=1), smoothing)
        point = weights @ vectors / weights.sum()
    return point


def centered_clipping(
    vectors: Vectors, center: Vectors, radius: float | None = 100.0, num_steps: int = 1
) -> Vectors:
    """Add to a center the mean of all differences from it, clipped to a radius, in each step.

    Karimireddy, He, Jaggi 2021; radius 100 and one step are ByzFL's. None takes the median
    distance from the center.
    """
    for _ in range(num_steps):
        differences = vectors - center
        distances = np.linalg.norm(differences, axis=1)
        within = float(np.median(distances)) if radius is None else radius
        center = center + _clipped(differences, within).mean(axis=0)
    return center


def fltrust(vectors: Vectors, own: Vectors) -> Vectors:
    """Average the vectors, scaled to the length of the server's own, by their cosine with it.

    Cao et al. 2021: those with a negative cosine have weight 0; where all have, so is the result.
    """
    norms = np.maximum(np.linalg.norm(vectors, axis=1), np.finfo(np.float64).tiny)
    directions = vectors / norms[:, None]
    weights = np.maximum(directions @ own, 0)
    if not (total := weights.sum()) > 0:
        return np.zeros_like(own)
    return np.linalg.norm(own) * (weights @ directions) / total


def fedgreed(vectors: Vectors, loss: Callable[[Vectors], float]) -> Vectors:
    """Average the vectors of least loss, as many as the loss of their mean falls with each.

    Kritharakis et al. 2025. `loss` is that on data that the server trusts.
    """
    losses = np.nan_to_num([loss(vector) for vector in vectors], nan=np.inf)
    first, *others = np.argsort(losses, kind="stable")
    mean, least = vectors[first], losses[first]
    for count, each in enumerate(others, start=2):
        wider = mean + (vectors[each] - mean) / count
        if not (lower := loss(wider)) < least:
            break
        mean, least = wider, lower
    return mean


def _clipped(vectors: Vectors, radius: float) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1)
    longer = norms > radius
    factors = np.ones_like(norms)
    factors[longer] = radius / norms[longer]
    return vectors * factors[:, None]
