"""The two selection rules of the paper's section 6, left there as an open question.

Both average a subset of the vectors, and resist weaker adversaries than the geometric median of
means: one that cannot foresee the server's random bits, and one whose replies are long. Neither has
a guarantee in the paper.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .median_of_means import mean
from .vectors import Vectors, as_vectors, check_finite, norms


def mean_of_random_subset(
    vectors: ArrayLike | Sequence[ArrayLike], num_selected: int, *, seed: int
) -> NDArray[np.float64]:
    """Average a uniformly random subset of the vectors.

    Parameters
    ----------
    vectors : array-like (m, d) or sequence of m equal-length vectors
        Real, finite.
    num_selected : int
        Size of the subset, between 1 and m.
    seed : int
        Seed of the choice.

    Returns
    -------
    ndarray (d,), float64

    Raises
    ------
    ValueError
        Where `num_selected` is out of range, or a vector is not finite or of another length.
    """
    rows = _checked(vectors, num_selected)
    chosen = np.random.default_rng(seed).choice(len(rows), size=num_selected, replace=False)
    return mean([rows[i] for i in sorted(chosen)])


def mean_of_smallest_norms(
    vectors: ArrayLike | Sequence[ArrayLike], num_selected: int
) -> NDArray[np.float64]:
    """Average the vectors of smallest Euclidean norm (the first ones among equal norms).

    Parameters, result and errors are those of `mean_of_random_subset`. With `num_selected` = m − q,
    as many vectors are left out as there may be Byzantine clients.
    """
    rows = _checked(vectors, num_selected)
    chosen = np.argsort(norms(rows), kind="stable")[:num_selected]
    return mean([rows[i] for i in sorted(chosen)])


def _checked(vectors: ArrayLike | Sequence[ArrayLike], num_selected: int) -> Vectors:
    rows = as_vectors(vectors, "vectors")
    check_finite(rows, "vectors")
    if not 1 <= num_selected <= len(rows):
        raise ValueError(
            f"num_selected must be between 1 and the number of vectors {len(rows)}, "
            f"got {num_selected}"
        )
    return rows
